from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.dimse import send
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.settings import Destination
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.series import PLANES, phantom_uid, plane_affine, save, slice_datasets

CALLER = "DICOMNODE"
STUDY, SERIES = "1.2.3", "1.2.3.4"
OBJECTS = [ResultObject("seg", f"{SERIES}.{n}", "1.2.840.10008.5.1.4.1.1.66.4", SERIES, Path()) for n in (1, 2)]


@dataclass
class Web:
    """A DICOMweb server that gives one answer to everything, and keeps what it was asked."""

    status: int = 200
    body: bytes = b"[]"
    url: str = ""
    stalls: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[str], bytes] | None = None

    def destination(self, **more: Any) -> Destination:
        return Destination(
            name="pacs",
            ae_title="PACS",
            host="127.0.0.1",
            port=104,
            confirm="qido",
            dicomweb_url=self.url,
            **{"timeout_seconds": 5, **more},
        )


@pytest.fixture
def web() -> Iterator[Web]:
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.headers.append(dict(self.headers))
            if state.stalls is not None:
                state.stalls.wait(30)
            body = state.answer(self.path) if state.answer else state.body
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(body) if state.status != 204 else 0))
            self.end_headers()
            if state.status != 204:
                # The client may have given up on us.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/dicom-web/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            if state.stalls is not None:
                state.stalls.set()
            server.shutdown()
            thread.join()


def _json(*uids: str) -> bytes:
    return json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()


def test_nothing_is_asked_where_nothing_is_offered() -> None:
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    assert confirm(destination, CALLER, OBJECTS, STUDY) == set()


def test_no_objects_need_no_question(web: Web) -> None:
    assert confirm(web.destination(), CALLER, [], STUDY) == set()
    assert web.asked == []


def test_qido_asks_for_each_instance_in_its_series(web: Web) -> None:
    web.answer = lambda path: _json(OBJECTS[0].SOPInstanceUID) if path.endswith(".1") else _json()

    assert confirm(web.destination(), CALLER, OBJECTS, STUDY) == {OBJECTS[0].SOPInstanceUID}

    base = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances?SOPInstanceUID={SERIES}"
    assert web.asked == [f"{base}.1", f"{base}.2"]
    assert {h["Accept"] for h in web.headers} == {"application/dicom+json"}


def test_qido_from_a_server_that_ignores_the_key(web: Web) -> None:
    web.body = _json(OBJECTS[1].SOPInstanceUID, "1.2.3.4.99")
    assert confirm(web.destination(), CALLER, OBJECTS, STUDY) == {OBJECTS[1].SOPInstanceUID}


@pytest.mark.parametrize("status", [204, 404])
def test_qido_finds_nothing(web: Web, status: int) -> None:
    web.status = status
    assert confirm(web.destination(), CALLER, OBJECTS, STUDY) == set()


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (403, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_qido_is_refused(web: Web, status: int, retryable: bool) -> None:
    web.status = status
    with pytest.raises(PeerError, match=f"HTTP {status}") as caught:
        confirm(web.destination(), CALLER, OBJECTS, STUDY)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("body", [b"<html>please wait</html>", b"{}x", b'[{"00080018": {"vr": "UI"}}]', b"[1]", b'"x"'])
def test_qido_answer_that_is_no_dicom_json(web: Web, body: bytes) -> None:
    web.body = body
    with pytest.raises(PeerError, match="DICOM JSON") as caught:
        confirm(web.destination(), CALLER, OBJECTS, STUDY)
    assert caught.value.retryable


def test_qido_time_out(web: Web) -> None:
    web.stalls = threading.Event()
    with pytest.raises(PeerError, match=r"within 0\.3 s") as caught:
        confirm(web.destination(timeout_seconds=0.3), CALLER, OBJECTS, STUDY)
    assert caught.value.retryable


def test_qido_server_is_down(web: Web) -> None:
    destination = web.destination().model_copy(update={"dicomweb_url": "http://127.0.0.1:9/dicom-web"})
    with pytest.raises(PeerError, match="no connection") as caught:
        confirm(destination, CALLER, OBJECTS, STUDY)
    assert caught.value.retryable


@pytest.mark.parametrize("url", [None, "pacs/dicom-web", "ftp://pacs/dicom-web"])
def test_qido_without_a_usable_url(web: Web, url: str | None) -> None:
    destination = web.destination().model_copy(update={"dicomweb_url": url})
    with pytest.raises(PeerError) as caught:
        confirm(destination, CALLER, OBJECTS, STUDY)
    assert not caught.value.retryable


def test_qido_credentials_come_from_the_environment(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_USER", "node")
    monkeypatch.setenv("PACS_PASSWORD", "s3cret")

    confirm(web.destination(username_env="PACS_USER", password_env="PACS_PASSWORD"), CALLER, OBJECTS, STUDY)

    assert web.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"node:s3cret").decode()


def test_qido_without_its_credentials(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACS_USER", raising=False)
    with pytest.raises(PeerError, match="PACS_USER is not set") as caught:
        confirm(web.destination(username_env="PACS_USER"), CALLER, OBJECTS, STUDY)
    assert not caught.value.retryable
    assert web.asked == []


def test_qido_at_our_own_host_takes_no_proxy(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    for host in ("127.0.0.1", "localhost"):
        destination = web.destination().model_copy(update={"dicomweb_url": web.url.replace("127.0.0.1", host)})
        assert confirm(destination, CALLER, OBJECTS, STUDY) == set()


@pytest.fixture
def sent(tmp_path: Path) -> list[ResultObject]:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    datasets = slice_datasets(np.zeros((2, 8, 8), np.uint16), affine, key="confirm")
    return [
        ResultObject("seg", ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, path)
        for ds, path in zip(datasets, save(tmp_path, datasets), strict=True)
    ]


def _find(pacs: FakePacs) -> Destination:
    return Destination(
        name="pacs", ae_title="FAKEPACS", host="127.0.0.1", port=pacs.port, confirm="find", timeout_seconds=5
    )


def test_find_from_an_archive_that_knows_no_image_level(sent: list[ResultObject]) -> None:
    with FakePacs(find_levels=["STUDY", "SERIES"]) as pacs:
        destination = _find(pacs)
        send(destination, CALLER, [sent[0].path])
        study = pacs.received[sent[0].SOPInstanceUID].StudyInstanceUID
        assert confirm(destination, CALLER, sent, study) == set()
        send(destination, CALLER, [sent[1].path])
        assert confirm(destination, CALLER, sent, study) == {o.SOPInstanceUID for o in sent}


def test_find_from_an_archive_that_answers_no_level(sent: list[ResultObject]) -> None:
    with FakePacs(find_levels=[]) as pacs, pytest.raises(PeerError, match="SERIES query with 0xA900") as caught:
        confirm(_find(pacs), CALLER, sent, phantom_uid("confirm", "study"))
    assert not caught.value.retryable
