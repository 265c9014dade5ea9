"""One web origin with OHIF and an archive behind it, on this machine only, as a hospital's viewer would be set up."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import need_program
from tests.interop.orthanc import Orthanc, free_port, listening, stop

CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "archive",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "archive",
            "configuration": {
                "friendlyName": "archive",
                "name": "archive",
                "wadoUriRoot": "/dicom-web",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
"""What OHIF is told: one archive, at its own origin. The names are OHIF's."""

# Without the isolation headers OHIF's workers get no shared memory.
NGINX = """
{user}daemon off; worker_processes 1; pid {run}/nginx.pid; error_log {run}/error.log warn;
events {{ worker_connections 256; }}
http {{
  include /etc/nginx/mime.types;
  access_log off; client_max_body_size 0;
  client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
  add_header Cross-Origin-Opener-Policy same-origin always;
  add_header Cross-Origin-Embedder-Policy require-corp always;
  add_header Cross-Origin-Resource-Policy same-origin always;
  server {{
    listen 127.0.0.1:{port};
    root {dist};
    location = /app-config.js {{ alias {run}/app-config.js; }}
    location /dicom-web/ {{
      proxy_pass {archive};
      proxy_set_header Host $http_host;
      proxy_set_header Forwarded "for=127.0.0.1;host=$http_host;proto=http";
      proxy_buffering off;
    }}
    location / {{ try_files $uri $uri/ /index.html; }}
  }}
}}
"""


@contextlib.contextmanager
def viewer_site(ohif: Path, archive: Orthanc) -> Iterator[str]:
    """Serve a viewer with an archive behind it; yields the URL.

    Args:
        ohif: the unpacked npm package.
    """
    nginx = need_program("nginx", "/usr/sbin/nginx")
    with tempfile.TemporaryDirectory(prefix="viewer-") as name:
        run = Path(name)
        (run / "app-config.js").write_text(f"window.config = {json.dumps(CONFIGURATION)};\n")
        port = free_port()
        # Started by root its worker would be nobody, who may not enter root's cache; anybody else has no choice.
        user = "user root;\n" if os.geteuid() == 0 else ""
        text = NGINX.format(user=user, run=run, dist=ohif / "dist", port=port, archive=archive.url)
        (run / "nginx.conf").write_text(text)
        with (run / "output").open("wb") as output:
            command = [nginx, "-p", name, "-c", str(run / "nginx.conf"), "-e", str(run / "error.log")]
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 20
            while not listening(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("nginx did not start: " + (run / "output").read_text(errors="replace")[-2000:])
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


def upload(archive: Orthanc, files: list[Path]) -> None:
    """Put files into the archive."""
    for file in files:
        answer: requests.Response = archive.session.post(f"{archive.url}/instances", data=file.read_bytes(), timeout=60)
        answer.raise_for_status()
