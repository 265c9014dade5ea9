"""Starts a real Orthanc with its DICOMweb plugin, on free ports, with a storage of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import need_program

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 30.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc.

    Attributes:
        session: for its REST API, with the first user's credentials.
    """

    ae_title: str
    dicom_port: int
    http_port: int
    session: requests.Session

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str, **more: Any) -> requests.Response:
        """GET of the REST API; the answer is a success."""
        answer = self.session.get(f"{self.url}{path}", timeout=10, **more)
        answer.raise_for_status()
        return answer


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listening(port: int) -> bool:
    """Whether something accepts connections at that port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, and wait for it."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def orthanc(
    *,
    ae_title: str = "ORTHANC",
    callers: Sequence[str] = ("DICOMNODE",),
    users: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """An Orthanc that takes C-STORE from any AE title; skips (fails with CI=true) where it is not installed.

    Args:
        callers: AE titles that may also query and retrieve.
        users: names and passwords for HTTP; None: no authentication.
        more: of Orthanc's configuration.
    """
    program = need_program("Orthanc", "/usr/sbin/Orthanc")
    if not PLUGIN.exists():
        need_program(PLUGIN.name)  # a plugin is not to be found as a program: this skips or fails with the reason
    with tempfile.TemporaryDirectory(prefix="orthanc-") as folder, requests.Session() as session:
        session.trust_env = False
        session.auth = next(iter(users.items())) if users else None
        process, server = _start(program, Path(folder), ae_title, callers, users, session, more or {})
        try:
            yield server
        finally:
            stop(process)


def _start(
    program: str,
    folder: Path,
    ae_title: str,
    callers: Sequence[str],
    users: Mapping[str, str] | None,
    session: requests.Session,
    more: Mapping[str, Any],
) -> tuple[subprocess.Popen[bytes], Orthanc]:
    log = folder / "orthanc.log"
    for _ in range(3):  # another process may take a free port before Orthanc does
        server = Orthanc(ae_title, free_port(), free_port(), session)
        configuration = folder / "orthanc.json"
        configuration.write_text(json.dumps({**_configuration(server, folder, callers, users), **more}))
        with log.open("wb") as output:
            process = subprocess.Popen([program, str(configuration)], stdout=output, stderr=output, cwd=folder)
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(server):
                return process, server
            time.sleep(0.05)
        stop(process)
    pytest.fail("Orthanc did not start: " + log.read_text(errors="replace")[-2000:])


def _answers(server: Orthanc) -> bool:
    try:
        server.get("/system")
    except requests.RequestException:
        return False
    return listening(server.dicom_port)


def _configuration(
    server: Orthanc, folder: Path, callers: Sequence[str], users: Mapping[str, str] | None
) -> dict[str, Any]:
    return {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": server.ae_title,
        # Debian's Orthanc listens on all interfaces; so only this machine is answered over HTTP.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": bool(users),
        "RegisteredUsers": dict(users or {}),
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        # FIND and GET are refused from an AE title that is not listed.
        "DicomModalities": {caller: [caller, "127.0.0.1", 104] for caller in callers},
        "StableAge": 1,
    }
