"""What a destination does, and what ``deliver`` makes of it: the fake PACS, Orthanc and DCMTK's storescp alike."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage

from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.dimse import send
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.settings import Destination
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.conftest import need_program
from tests.interop.orthanc import free_port, listening, orthanc, stop

CALLER = "DICOMNODE"
UNKNOWN_SOP_CLASS = "2.25.330000000000000000000000000000000001"


@dataclass(frozen=True)
class Peer:
    """A running destination. ``held``: the dataset's bytes that it stored, by SOP Instance UID."""

    destination: Destination
    held: Callable[[str], bytes]


def _destination(port: int, ae_title: str) -> Destination:
    return Destination(name="peer", ae_title=ae_title, host="127.0.0.1", port=port, confirm="find", timeout_seconds=10)


@contextlib.contextmanager
def _fake() -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as folder, FakePacs(Path(folder)) as pacs:

        def held(uid: str) -> bytes:
            return dataset_bytes((Path(folder) / f"{uid}.dcm").read_bytes())

        yield Peer(_destination(pacs.port, "FAKEPACS"), held)


@contextlib.contextmanager
def _orthanc() -> Iterator[Peer]:
    with orthanc(callers=[CALLER]) as server:

        def held(uid: str) -> bytes:
            found = server.session.post(f"{server.url}/tools/lookup", data=uid, timeout=10).json()
            return dataset_bytes(server.get(f"{found[0]['Path']}/file").content)

        yield Peer(_destination(server.dicom_port, server.ae_title), held)


@contextlib.contextmanager
def _storescp() -> Iterator[Peer]:
    program = need_program("storescp")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = subprocess.Popen([program, "--quiet", "+B", "-aet", "STORESCP", "-od", folder, str(port)])
        try:
            deadline = time.monotonic() + 10
            while not listening(port):
                assert process.poll() is None
                assert time.monotonic() < deadline, "storescp does not listen"
                time.sleep(0.02)

            def held(uid: str) -> bytes:
                (path,) = Path(folder).glob(f"*.{uid}")
                return dataset_bytes(path.read_bytes())

            yield Peer(_destination(port, "STORESCP"), held)
        finally:
            stop(process)


PEERS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
    "fake": _fake,
    "orthanc": _orthanc,
    "storescp": _storescp,
}
every_peer = pytest.mark.parametrize("peer", PEERS, indirect=True)
every_archive = pytest.mark.parametrize("peer", ["fake", "orthanc"], indirect=True)


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with PEERS[request.param]() as running:
        yield running


def dataset_bytes(part10: bytes) -> bytes:
    """What follows the file meta information (PS3.10 section 7.1)."""
    file = BytesIO(part10)
    pydicom.filereader.read_preamble(file, False)
    group_length = pydicom.filereader._read_file_meta_info(file).FileMetaInformationGroupLength
    # Preamble and prefix, then the group length's own element of 12 bytes.
    return part10[132 + 12 + group_length :]


@pytest.fixture
def objects(tmp_path: Path, request: pytest.FixtureRequest) -> list[ResultObject]:
    """Two CT images of a series of this test's own."""
    return _objects(tmp_path, request.node.name)


def _objects(folder: Path, key: str, sop_class: str = CTImageStorage) -> list[ResultObject]:
    pixels = np.arange(2 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8)
    datasets = slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key=key, sop_class=sop_class)
    for ds in datasets:
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    return [
        ResultObject("seg", ds.SOPInstanceUID, sop_class, ds.SeriesInstanceUID, path)
        for ds, path in zip(datasets, save(folder / key[:8], datasets), strict=True)
    ]


def _study(objects: list[ResultObject]) -> str:
    return str(pydicom.dcmread(objects[0].path).StudyInstanceUID)


@every_peer
def test_the_bytes_on_disk_arrive(peer: Peer, objects: list[ResultObject]) -> None:
    outcome = send(peer.destination, CALLER, [o.path for o in objects])

    assert outcome == {o.SOPInstanceUID: "" for o in objects}
    for o in objects:
        assert peer.held(o.SOPInstanceUID) == dataset_bytes(o.path.read_bytes())


@every_peer
def test_sent_twice_is_there_once_and_unchanged(peer: Peer, objects: list[ResultObject]) -> None:
    for _ in range(2):
        outcome = send(peer.destination, CALLER, [o.path for o in objects])
        assert outcome == {o.SOPInstanceUID: "" for o in objects}

    for o in objects:
        assert peer.held(o.SOPInstanceUID) == dataset_bytes(o.path.read_bytes())


@every_peer
def test_a_sop_class_that_is_not_accepted_is_named_and_final(peer: Peer, tmp_path: Path) -> None:
    unknown = _objects(tmp_path, "unknown", UNKNOWN_SOP_CLASS)

    with pytest.raises(PeerError, match=UNKNOWN_SOP_CLASS) as caught:
        send(peer.destination, CALLER, [o.path for o in unknown])

    assert not caught.value.retryable


@every_peer
def test_what_is_accepted_is_sent_beside_what_is_not(peer: Peer, objects: list[ResultObject], tmp_path: Path) -> None:
    unknown = _objects(tmp_path, "unknown2", UNKNOWN_SOP_CLASS)[0]

    outcome = send(peer.destination, CALLER, [unknown.path, *(o.path for o in objects)])

    assert not outcome[unknown.SOPInstanceUID].retryable
    assert UNKNOWN_SOP_CLASS in outcome.pop(unknown.SOPInstanceUID)
    assert outcome == {o.SOPInstanceUID: "" for o in objects}


@every_archive
def test_find_confirms_what_was_sent(peer: Peer, objects: list[ResultObject]) -> None:
    send(peer.destination, CALLER, [o.path for o in objects])

    assert confirm(peer.destination, CALLER, objects, _study(objects)) == {o.SOPInstanceUID for o in objects}


@every_archive
def test_find_confirms_only_what_was_sent(peer: Peer, objects: list[ResultObject], tmp_path: Path) -> None:
    sent, unsent = objects
    stranger = _objects(tmp_path, "stranger")[0]

    send(peer.destination, CALLER, [sent.path])

    assert confirm(peer.destination, CALLER, [sent, unsent], _study(objects)) == {sent.SOPInstanceUID}
    assert confirm(peer.destination, CALLER, [stranger], _study([stranger])) == set()
    moved = replace(sent, SeriesInstanceUID=stranger.SeriesInstanceUID)
    assert confirm(peer.destination, CALLER, [moved], _study(objects)) == set()


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_down_is_worth_another_attempt(name: str, objects: list[ResultObject]) -> None:
    with PEERS[name]() as running:
        destination = running.destination
        send(destination, CALLER, [objects[0].path])

    with pytest.raises(PeerError, match="no connection") as caught:
        send(destination, CALLER, [objects[0].path])
    assert caught.value.retryable
    with pytest.raises(PeerError, match="no connection") as caught:
        confirm(destination, CALLER, objects, _study(objects))
    assert caught.value.retryable
