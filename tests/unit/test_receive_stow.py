"""STOW-RS in: what is kept, what is answered, and who may send."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import trustme
from pydicom import Dataset

from dicom_node.errors import ConfigurationError
from dicom_node.model.states import StudyState
from dicom_node.receive.web import WebListener
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.listening import Listening, listening, wait_for, web_listening

EDGE = "edge-of-a-part"
TYPE = f'multipart/related; type="application/dicom"; boundary="{EDGE}"'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path / "node") as running:
        yield running


@pytest.fixture
def web(node: Listening) -> Iterator[WebListener]:
    with web_listening(node) as running:
        yield running


@pytest.fixture
def datasets() -> list[Dataset]:
    pixels = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64) % 4096
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key="stow in")


@pytest.fixture
def files(tmp_path: Path, datasets: list[Dataset]) -> list[bytes]:
    return [path.read_bytes() for path in save(tmp_path / "files", datasets)]


def body(parts: Sequence[bytes], content_type: str = "application/dicom") -> bytes:
    head = f"--{EDGE}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{EDGE}--".encode()


def head_of(message: bytes) -> bytes:
    """The head of a request with this body."""
    lines = ["POST /dicom-web/studies HTTP/1.1", "Host: x", f"Content-Type: {TYPE}", f"Content-Length: {len(message)}"]
    return "\r\n".join([*lines, "", ""]).encode()


def post(web: WebListener, data: Any, study: str = "", **more: Any) -> requests.Response:
    url = f"{more.pop('scheme', 'http')}://127.0.0.1:{web.port}/dicom-web/studies{study and '/' + study}"
    headers = {"Content-Type": TYPE, "Accept": "application/dicom+json", **more.pop("headers", {})}
    return requests.post(url, data=data, headers=headers, timeout=30, **more)


def told(answer: requests.Response) -> tuple[int, list[str], dict[str, int]]:
    """Status, the UIDs of what was stored, and the failure reason of each of the others."""
    ds = Dataset.from_json(answer.json())
    failed = {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in ds.get("FailedSOPSequence", [])}
    failed |= {str(n): int(i.FailureReason) for n, i in enumerate(ds.get("OtherFailuresSequence", []))}
    stored = [str(i.ReferencedSOPInstanceUID) for i in ds.get("ReferencedSOPSequence", [])]
    return answer.status_code, stored, failed


def uids(datasets: Sequence[Dataset]) -> list[str]:
    return [str(ds.SOPInstanceUID) for ds in datasets]


def test_instances_are_kept_as_they_came(
    node: Listening, web: WebListener, datasets: list[Dataset], files: list[bytes]
) -> None:
    assert told(post(web, body(files))) == (200, uids(datasets), {})
    assert told(post(web, body(files))) == (200, uids(datasets), {})  # the same again changes nothing

    kept = node.instances()
    assert sorted(kept) == sorted(uids(datasets))
    assert {(i.source, i.called) for i in kept.values()} == {("", "DICOMNODE")}
    for uid, sent in zip(uids(datasets), files, strict=True):
        stored = node.files.path(kept[uid].path).read_bytes()
        assert stored.endswith(sent[sent.index(b"\x08\x00") :][-1000:])
    assert [s.state for s in node.index.studies()] == [StudyState.RECEIVING]
    assert node.is_clean()


def test_each_instance_has_its_own_answer(
    node: Listening, web: WebListener, datasets: list[Dataset], files: list[bytes]
) -> None:
    assert told(post(web, body(files[:1]))) == (200, uids(datasets)[:1], {})
    other = bytearray(files[0])
    other[-1] ^= 1

    answer = post(web, body([bytes(other), files[1], files[2][:-100], b"no DICOM at all"]))

    first, second, third = uids(datasets)
    assert told(answer) == (202, [second], {first: 0xC001, third: 0xC000, "0": 0xC000})
    assert sorted(node.instances()) == sorted([first, second])
    assert node.is_clean()


def test_nothing_stored_is_a_conflict(node: Listening, web: WebListener, files: list[bytes]) -> None:
    assert told(post(web, body([files[0][:2000]])))[0] == 409
    assert told(post(web, body(files[:1], "application/pdf"))) == (409, [], {"0": 0xC000})
    assert node.instances() == {}


def test_a_request_for_one_study_takes_no_other(
    node: Listening, web: WebListener, datasets: list[Dataset], files: list[bytes]
) -> None:
    study = str(datasets[0].StudyInstanceUID)
    assert told(post(web, body(files[:1]), "1.2.3")) == (409, [], {uids(datasets)[0]: 0xC000})
    assert node.instances() == {}
    assert told(post(web, body(files[:1]), study)) == (200, uids(datasets)[:1], {})
    assert post(web, body(files[:1]), "..%2f..").status_code in (400, 404)


@pytest.mark.parametrize("data", [b"", b"no boundary", f"--{EDGE}--".encode()])
def test_what_is_no_store_request(web: WebListener, data: bytes) -> None:
    assert post(web, data).status_code == 400


@pytest.mark.parametrize("content_type", ["application/dicom", "multipart/form-data; boundary=x", "multipart/related"])
def test_another_content_type(web: WebListener, files: list[bytes], content_type: str) -> None:
    assert post(web, files[0], headers={"Content-Type": content_type}).status_code == 415


def test_a_message_that_breaks_off_keeps_what_was_whole(
    node: Listening, web: WebListener, datasets: list[Dataset], files: list[bytes]
) -> None:
    half = body(files[:2])[: -len(files[1]) // 2]

    assert told(post(web, half)) == (202, uids(datasets)[:1], {"0": 0xC000})
    assert sorted(node.instances()) == uids(datasets)[:1]
    assert node.is_clean()


def test_a_sender_that_hangs_up_leaves_nothing_half_written(
    node: Listening, web: WebListener, datasets: list[Dataset], files: list[bytes]
) -> None:
    message = body(files[:2])
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as sender:
        sender.sendall(head_of(message) + message[:-3000])
    assert wait_for(lambda: not list(node.files.folder.rglob("*.part")))
    assert set(node.instances()) <= set(uids(datasets)[:1])
    assert told(post(web, message)) == (200, uids(datasets)[:2], {})


def test_a_sender_that_stops_is_ended(node: Listening, files: list[bytes]) -> None:
    message = body(files[:1])
    with web_listening(node, idle_seconds=0.2) as web, socket.create_connection(("127.0.0.1", web.port)) as sender:
        sender.settimeout(10)
        sender.sendall(head_of(message) + message[:-3000])
        assert sender.recv(100).startswith(b"HTTP/1.1 408")
    assert node.is_clean()


def test_a_slow_sender_is_heard_to_the_end(node: Listening, files: list[bytes]) -> None:
    message = body(files[:1])
    step = len(message) // 8 + 1

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(message), step):
            wait_for(lambda: False, 0.1)
            yield message[at : at + step]

    with web_listening(node, idle_seconds=0.6) as web:
        assert told(post(web, slowly()))[0] == 200


def test_a_full_disk_asks_to_try_again(node: Listening, web: WebListener, files: list[bytes]) -> None:
    node.files.reserve_bytes = 1 << 62
    status, stored, failed = told(post(web, body(files)))
    assert (status, stored, set(failed.values())) == (503, [], {0xA700})
    node.files.reserve_bytes = 0
    assert told(post(web, body(files)))[0] == 200


def test_safety_by_association_is_by_request(
    tmp_path: Path, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path / "other", durability="association") as node, web_listening(node) as web:
        synced: list[str] = []
        monkeypatch.setattr(node.files, "sync", synced.extend)
        assert told(post(web, body(files)))[0] == 200
        assert sorted(synced) == sorted(i.path for i in node.instances().values())


def test_an_object_is_never_in_memory_as_a_whole(node: Listening, web: WebListener, files: list[bytes]) -> None:
    size = 48_000_000
    whole = files[0][: files[0].index(b"\xe0\x7f\x10\x00")]
    pixels = b"\xe0\x7f\x10\x00OW\x00\x00" + size.to_bytes(4, "little")
    start, end = body([b"cut"]).split(b"cut")

    def pieces() -> Iterator[bytes]:
        yield start + whole + pixels
        for _ in range(size // 1_000_000):
            yield bytes(1_000_000)
        yield end

    tracemalloc.start()
    try:
        status, stored, _ = told(post(web, pieces()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (status, len(stored)) == (200, 1)
    assert next(iter(node.instances().values())).size > size
    assert peak < 16_000_000


def test_credentials(node: Listening, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOW_USER", "modality 1")
    monkeypatch.setenv("STOW_PASSWORD", "söcret")
    monkeypatch.setenv("STOW_TOKEN", "t0ken")
    keys = {"username_env": "STOW_USER", "password_env": "STOW_PASSWORD", "token_env": "STOW_TOKEN"}
    right = (b"modality 1", "söcret".encode())
    with web_listening(node, **keys) as web:
        for wrong in (None, ("modality 1", "guess"), ("", ""), (b"other", right[1])):
            answer = post(web, body(files[:1]), auth=wrong)
            assert (answer.status_code, "Basic" in answer.headers["WWW-Authenticate"]) == (401, True)
        assert post(web, body(files[:1]), headers={"Authorization": "Bearer t0kem"}).status_code == 401
        assert post(web, body(files[:1]), headers={"Authorization": "Basic ???"}).status_code == 401
        assert node.instances() == {}
        assert post(web, body(files[:1]), auth=right).status_code == 200
        assert post(web, body(files[1:2]), headers={"Authorization": "Bearer t0ken"}).status_code == 200
    assert {i.source for i in node.instances().values()} == {"modality_1", "STOW-RS"}


def test_mutual_tls(node: Listening, files: list[bytes], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("127.0.0.1", "sender.example"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    keys = {"certificate": tmp_path / "127.0.0.1.pem", "client_ca_file": tmp_path / "ca.pem"}
    known = {"scheme": "https", "verify": str(tmp_path / "ca.pem")}
    with web_listening(node, **keys) as web:
        with pytest.raises(requests.ConnectionError):
            post(web, body(files), **known)
        assert post(web, body(files), cert=str(tmp_path / "sender.example.pem"), **known).status_code == 200


def test_a_port_that_is_taken_is_told(node: Listening, web: WebListener) -> None:
    with pytest.raises(ConfigurationError, match=r"dicomweb\.port: cannot listen on 127\.0\.0\.1 port"):
        web_listening(node, port=web.port).__enter__()


def test_a_certificate_that_is_none_is_told(node: Listening, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(ConfigurationError, match=r"dicomweb\.certificate: cannot be used"):
        web_listening(node, certificate=tmp_path / "none.pem").__enter__()
