"""Whatever DICOMweb service the node is a client of (STOW-RS, QIDO-RS, WADO-RS, UPS-RS): the same troubles, told alike.

Each way is tried against a server that fails, and then, where that is the point, against one that has recovered.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from pydicom import Dataset

from dicom_node.deliver.send import send
from dicom_node.errors import PeerError
from dicom_node.peer.archive import StudyFound, StudyQuery, find_studies
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.ups import search_workitems
from dicom_node.receive.fetch import fetch_study
from dicom_node.settings import Destination, Source, Worklist
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.listening import Listening, listening
from tests.web_server import Answer, Request, web_server

WAYS = ("stow", "qido", "wado", "ups")
CREDENTIALS = {"username_env": "WEB_USER", "password_env": "WEB_PASSWORD"}
KINDS = ({"value": "C", "scheme": "S", "algorithm": "a"},)


@dataclass
class Archive:
    """A DICOMweb server with one study and one workitem.

    Attributes:
        fault: what is answered instead; None: the truth.
        bend: what becomes of a true answer on its way.
    """

    images: list[Dataset]
    files: list[Path]
    fault: Answer | None = None
    bend: Callable[[Answer], Answer] = field(default=lambda answer: answer)
    asked: int = 0

    @property
    def study(self) -> str:
        return str(self.images[0].StudyInstanceUID)

    def __call__(self, request: Request) -> Answer:
        self.asked += 1
        if self.fault is not None:
            return self.fault
        return self.bend(self._truth(request))

    def _truth(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        if request.method == "POST":
            stored = [{"00081155": {"vr": "UI", "Value": [str(i.SOPInstanceUID)]}} for i in self.images]
            return Answer(200, json.dumps({"00081199": {"vr": "SQ", "Value": stored}}).encode())
        if path == "/workitems":
            return _json({"00080018": "1.2.3.9"})
        if path == "/studies":
            return _json({"0020000D": self.study})
        part = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
        body = b"".join(part + file.read_bytes() + b"\r\n" for file in self.files) + b"--edge--"
        return Answer(200, body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=edge'})


def _json(uids: dict[str, str]) -> Answer:
    item = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
    return Answer(200, json.dumps([item]).encode(), {"Content-Type": "application/dicom+json"})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    pixels = np.zeros((2, 4, 4), np.uint16)
    images = slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key="web")
    return Archive(images, save(tmp_path / "files", images))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path / "node") as node:
        yield node


def go(way: str, url: str, archive: Archive, node: Listening, **more: Any) -> None:
    """One successful use of a service."""
    values = {"name": "web", "dicomweb_url": url, "timeout_seconds": 5, **more}
    if way == "stow":
        assert not any(send(Destination(kind="stow", **values), "NODE", archive.files).values())
    elif way == "qido":
        found = find_studies(Source(kind="dicomweb", **values), "NODE", StudyQuery(AccessionNumber="A1"))
        assert found == [StudyFound(archive.study, None)]
    elif way == "wado":
        fetched = fetch_study(Source(kind="dicomweb", **values), "NODE", archive.study, node.intake)
        assert (fetched.kept, fetched.refused) == (2, 0)
        assert len(node.instances()) == 2
    else:
        with HttpPeer(Worklist(workitems=KINDS, **values), url) as web:
            assert [item.uid for item in search_workitems(web, {"ProcedureStepState": "SCHEDULED"})] == ["1.2.3.9"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_told_and_not_tried_again(
    way: str, status: int, archive: Archive, node: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_USER", "node")
    monkeypatch.setenv("WEB_PASSWORD", "s3cret")
    archive.fault = Answer(status)
    with web_server(archive) as server, pytest.raises(PeerError, match=f"HTTP {status}") as caught:
        go(way, server.url, archive, node, **CREDENTIALS)
    assert not caught.value.retryable
    assert "s3cret" not in str(caught.value)
    assert archive.asked == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_storm_of_errors_passes(way: str, archive: Archive, node: Listening) -> None:
    with web_server(archive) as server:
        for status in (500, 502, 503, 504):
            archive.fault = Answer(status)
            with pytest.raises(PeerError, match=f"HTTP {status}") as caught:
                go(way, server.url, archive, node)
            assert caught.value.retryable
        archive.fault = None
        go(way, server.url, archive, node)


HALVES = [(way, honest) for way in WAYS for honest in (True, False) if (way, honest) != ("stow", False)]
"""Each way, with a Content-Length that says that something is missing or does not. A 200 to STOW-RS whose words cannot
be read still says that all is stored (``confirm`` asks): that is no half answer."""


@pytest.mark.parametrize(("way", "honest"), HALVES)
def test_half_an_answer_keeps_nothing_half(way: str, honest: bool, archive: Archive, node: Listening) -> None:
    """For WADO-RS the answer is multipart."""

    def half(answer: Answer) -> Answer:
        cut = len(answer.body) // 3
        return Answer(answer.status, answer.body[:-cut], answer.headers, missing=cut * honest)

    archive.bend = half
    with web_server(archive) as server:
        with pytest.raises(PeerError) as caught:
            go(way, server.url, archive, node)
        assert caught.value.retryable
        assert node.is_clean()
        archive.bend = lambda answer: answer
        go(way, server.url, archive, node)


@pytest.mark.parametrize("way", WAYS)
def test_an_expired_certificate_is_told_until_it_is_renewed(
    way: str, archive: Archive, node: Listening, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    past = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2020, 1, 2, tzinfo=UTC)}
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", **past).configure_cert(tls)
    with web_server(archive, tls) as server:
        with pytest.raises(PeerError, match="its certificate is not valid: certificate has expired") as caught:
            go(way, server.url, archive, node, ca_file=tmp_path / "ca.pem")
        assert caught.value.retryable
        assert archive.asked == 0
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        go(way, server.url, archive, node, ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_link_is_waited_for_and_a_dead_one_is_not(way: str, archive: Archive, node: Listening) -> None:
    """``timeout_seconds`` is for each piece: an answer that takes longer as a whole arrives."""
    with web_server(archive) as server:
        archive.bend = lambda answer: slower(answer, 4)
        started = time.monotonic()
        go(way, server.url, archive, node, timeout_seconds=3)
        assert time.monotonic() - started > 3
        archive.bend = lambda answer: slower(answer, 3600 * len(answer.body))
        with pytest.raises(PeerError, match=r"did not answer within 0\.3 s") as caught:
            go(way, server.url, archive, node, timeout_seconds=0.3)
        assert caught.value.retryable


def slower(answer: Answer, seconds: float) -> Answer:
    """The same, spread over so many seconds."""
    return Answer(answer.status, answer.body, answer.headers, pause=seconds / len(answer.body))
