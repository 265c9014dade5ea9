"""STOW-RS out: what is sent, and what each answer means for each object."""

from __future__ import annotations

import json
import tracemalloc
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.deliver.files import read_stored
from dicom_node.deliver.send import send
from dicom_node.deliver.stow import multipart_body
from dicom_node.errors import PeerError
from dicom_node.peer.outcomes import Failure
from dicom_node.receive.header import file_head
from dicom_node.settings import Destination
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.web_server import Answer, Request, WebServer, web_server


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    datasets = slice_datasets(
        np.zeros((3, 8, 8), np.uint16), plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key="stow"
    )
    return save(tmp_path / "files", datasets)


def uid(path: Path) -> str:
    return read_stored(path).SOPInstanceUID


def parts(request: Request) -> list[bytes]:
    """The bodies of a multipart request's parts, by another reader than ours."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + request.body)
    return [part.get_payload(decode=True) for part in message.get_payload()]


def answer(*stored: str, failed: dict[str, int] | None = None, status: int = 200) -> Answer:
    """A Store Instances Response in DICOM JSON."""
    said: dict[str, Any] = {}
    if stored:
        said["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [u]}} for u in stored]}
    if failed:
        items = [
            {"00081155": {"vr": "UI", "Value": [u]}, "00081197": {"vr": "US", "Value": [r]}} for u, r in failed.items()
        ]
        said["00081198"] = {"vr": "SQ", "Value": items}
    return Answer(status, json.dumps(said).encode(), {"Content-Type": "application/dicom+json"})


def deliver(server: WebServer, files: list[Path], **more: Any) -> dict[str, Failure]:
    values = {"name": "pacs", "kind": "stow", "dicomweb_url": f"{server.url}/dw/", "timeout_seconds": 5, **more}
    return send(Destination(**values), "DICOMNODE", files)


def test_files_leave_as_they_are_in_batches_by_size(files: list[Path]) -> None:
    everything = [uid(f) for f in files]
    batch_mb = 2.5 * files[0].stat().st_size / 1e6
    with web_server(lambda _: answer(*everything)) as server:
        assert deliver(server, files, batch_mb=batch_mb) == dict.fromkeys(everything, "")
        first, second = server.requests
    assert (first.path, first.headers["accept"]) == ("/dw/studies", "application/dicom+json")
    assert 'type="application/dicom"' in first.headers["content-type"]
    assert "transfer-encoding" not in first.headers
    assert [*parts(first), *parts(second)] == [f.read_bytes() for f in files]
    assert len(parts(first)) == 2


def test_a_partial_failure_is_told_for_each_instance(files: list[Path]) -> None:
    a, b, c = map(uid, files)
    with web_server(lambda _: answer(a, failed={b: 0xA700, c: 0xC001}, status=409)) as server:
        outcome = deliver(server, files)
    assert outcome[a] == ""
    assert (str(outcome[b]), outcome[b].retryable) == ("refused with 0xA700 out of resources", True)
    assert (str(outcome[c]), outcome[c].retryable) == ("refused with 0xC001 cannot understand", False)


def test_a_duplicate_counts_as_stored(files: list[Path]) -> None:
    with web_server(lambda _: answer(failed={uid(files[0]): 0x0111}, status=409)) as server:
        assert deliver(server, files[:1]) == {uid(files[0]): ""}


def test_an_instance_that_the_answer_passes_over_is_tried_again(files: list[Path]) -> None:
    with web_server(lambda _: answer(uid(files[0]))) as server:
        outcome = deliver(server, files)
    assert [bool(outcome[uid(f)]) for f in files] == [False, True, True]
    assert outcome[uid(files[1])].retryable


@pytest.mark.parametrize(
    ("status", "body", "stored"),
    [
        (200, b"", True),
        (200, b"<NativeDicomModel/>", True),
        (202, b"", False),
        (409, b"<html>", False),
        (202, b"{}", False),
    ],
)
def test_an_answer_without_words(files: list[Path], status: int, body: bytes, stored: bool) -> None:
    with web_server(lambda _: Answer(status, body)) as server:
        outcome = deliver(server, files)
    assert [not failure for failure in outcome.values()] == [stored] * 3
    assert stored or all(failure.retryable for failure in outcome.values())


def test_a_batch_that_is_too_large_goes_one_by_one(files: list[Path]) -> None:
    def limited(request: Request) -> Answer:
        found = parts(request)
        return Answer(413) if len(found) > 1 else answer(uid(files[len(server.requests) - 2]))

    with web_server(limited) as server:
        assert deliver(server, files) == dict.fromkeys(map(uid, files), "")
        assert [len(parts(r)) for r in server.requests] == [3, 1, 1, 1]


def test_one_bad_object_does_not_spoil_the_others(files: list[Path]) -> None:
    bad = files[1].read_bytes()
    with web_server(lambda r: Answer(400) if bad in parts(r) else answer(*map(uid, files))) as server:
        outcome = deliver(server, files)
    assert [str(outcome[uid(f)]) for f in files] == ["", "refused with HTTP 400", ""]
    assert not outcome[uid(files[1])].retryable


def test_a_storm_of_errors_ends_the_attempt_and_keeps_what_was_stored(files: list[Path]) -> None:
    def storm(_: Request) -> Answer:
        return answer(uid(files[0])) if len(server.requests) == 1 else Answer(503)

    with web_server(storm) as server:
        outcome = deliver(server, files, batch_mb=1e-6)
        assert len(server.requests) == 2
    assert [bool(outcome[uid(f)]) for f in files] == [False, True, True]
    assert all(outcome[uid(f)].retryable for f in files[1:])
    with web_server(lambda _: Answer(500)) as server, pytest.raises(PeerError, match="HTTP 500") as caught:
        deliver(server, files)
    assert caught.value.retryable


def test_wrong_credentials_are_final(files: list[Path]) -> None:
    with web_server(lambda _: Answer(401)) as server, pytest.raises(PeerError, match="HTTP 401") as caught:
        deliver(server, files)
    assert not caught.value.retryable


def test_a_half_answer_is_tried_again(files: list[Path]) -> None:
    half = Answer(200, b'{"00081199"', missing=100)
    with web_server(lambda _: half) as server, pytest.raises(PeerError) as caught:
        deliver(server, files)
    assert caught.value.retryable


def test_a_large_object_is_never_in_memory(tmp_path: Path) -> None:
    large = tmp_path / "large.dcm"
    with large.open("wb") as file:
        file.write(file_head(SOPClassUID="1.2.3", SOPInstanceUID="1.2.3.4", TransferSyntaxUID="1.2.840.10008.1.2.1"))
        file.truncate(64_000_000)
    stored = read_stored(large)
    tracemalloc.start()
    try:
        body = multipart_body([stored, stored], "edge")
        length = sum(len(piece) for piece in body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == len(body) > 128_000_000
    assert peak < 1_000_000
