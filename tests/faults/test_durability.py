"""What is synced, in which order and before which answer; and what is said when the disk fails."""

from __future__ import annotations

import os
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode
from structlog.testing import capture_logs

from dicom_node.store.tables import open_engine
from dicom_node.testing.bytes_peer import ABORT, RELEASE_RP, RELEASE_RQ, BytesPeer, c_store_rq, p_data, pdu
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.listening import READERS, listening, wait_for

MR = (1, str(MRImageStorage), str(ExplicitVRLittleEndian))


@dataclass
class Calls:
    """System calls on the store as they were made, and whether the peer had an answer before one of them."""

    store: Path
    watched: Any = None
    made: list[str] = field(default_factory=list)
    answered_before: list[str] = field(default_factory=list)
    synced: set[str] = field(default_factory=set)
    fail_at: int = -1

    def note(self, call: str) -> None:
        if self.watched is not None and select.select([self.watched], [], [], 0.02)[0]:
            self.answered_before.append(call)
        self.made.append(call)
        if len(self.made) - 1 == self.fail_at:
            raise OSError(5, "Input/output error")

    def kinds(self) -> list[str]:
        return [call.split("/")[0] for call in self.made]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    noted = Calls(tmp_path / "store")
    real_sync, real_rename, real_mkdir = os.fsync, os.rename, os.mkdir

    def sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_relative_to(noted.store):
            noted.note("sync file" if path.suffix == ".part" else f"sync {path.relative_to(noted.store)}")
            noted.synced.add(str(path.relative_to(noted.store)))
        real_sync(descriptor)

    def rename(source: str, target: str) -> None:
        noted.note("rename")
        real_rename(source, target)

    def mkdir(folder: Any, *mode: int) -> None:
        if str(folder).startswith(str(noted.store / "instances" / "")):
            noted.note("mkdir")
        real_mkdir(folder, *mode)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "mkdir", mkdir)
    return noted


def _dataset(number: int = 0, size: int = 16) -> Dataset:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    pixels = np.zeros((1, size, size), np.uint16)
    (ds,) = slice_datasets(pixels, affine, header={"SOPInstanceUID": f"1.2.3.{number}"})
    return ds


def _request(ds: Dataset) -> bytes:
    data = encode(ds, False, True)
    assert data is not None
    return p_data(1, c_store_rq(1, ds.SOPClassUID, ds.SOPInstanceUID), command=True) + p_data(1, data)


def _send(peer: BytesPeer, calls: Calls, ds: Dataset) -> tuple[int, str]:
    calls.made.clear()
    calls.watched = peer.socket
    peer.send(_request(ds))
    answer = peer.read_status()
    calls.watched = None
    return answer


@pytest.mark.parametrize("size", [16, 1024])
def test_instance_everything_is_synced_before_success(tmp_path: Path, reader: str, calls: Calls, size: int) -> None:
    with listening(tmp_path, reader=reader) as node, BytesPeer("127.0.0.1", node.port) as peer:
        peer.associate([MR])
        assert _send(peer, calls, _dataset(0, size)) == (0, "")
        # New folders, each synced into its parent, and the file; then its place, and its folder.
        folders = ["mkdir", "sync instances"] * 3
        # What is larger than a buffer is written aside before its place is known.
        aside = reader == "fast" and size == 1024
        before = ["sync file", *folders] if aside else [*folders, "sync file"]
        assert calls.kinds() == [*before, "rename", "sync instances"]
        assert _send(peer, calls, _dataset(1, size)) == (0, "")
        assert calls.kinds() == ["sync file", "rename", "sync instances"]
        assert calls.made[-1].count("/") == 3
        assert calls.answered_before == []
        # The same again is safe already.
        assert _send(peer, calls, _dataset(1, size)) == (0, "")
        assert calls.made == []


def test_association_everything_is_synced_before_the_release(tmp_path: Path, reader: str, calls: Calls) -> None:
    with (
        listening(tmp_path, reader=reader, durability="association") as node,
        BytesPeer("127.0.0.1", node.port) as peer,
    ):
        peer.associate([MR])
        for number in range(2):
            assert _send(peer, calls, _dataset(number)) == (0, "")
            assert "sync" not in str(calls.made)
        calls.made.clear()
        calls.watched = peer.socket
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert peer.read_pdu()[0] == RELEASE_RP
        assert calls.answered_before == []
        synced = [call.removeprefix("sync ") for call in calls.made]
        files = [f"{i.path}" for i in node.instances().values()]
        assert sorted(synced[:2]) == sorted(files)
        assert set(synced[2:]) == {str(p) for f in files for p in Path(f).parents}


@pytest.mark.parametrize("end", ["abort", "drop"])
def test_association_that_breaks_off_is_synced_too(tmp_path: Path, reader: str, calls: Calls, end: str) -> None:
    with listening(tmp_path, reader=reader, durability="association") as node:
        with BytesPeer("127.0.0.1", node.port) as peer:
            peer.associate([MR])
            assert _send(peer, calls, _dataset()) == (0, "")
            calls.made.clear()
            if end == "abort":
                peer.send(pdu(ABORT, bytes(4)))
            else:
                peer.drop()
        assert wait_for(lambda: any(".dcm" in call for call in calls.made))
        assert wait_for(lambda: not node.listener.associations)


def test_association_whose_sync_fails_is_not_released(tmp_path: Path, reader: str, calls: Calls) -> None:
    with listening(tmp_path, reader=reader, durability="association") as node, capture_logs() as logs:
        with BytesPeer("127.0.0.1", node.port) as peer:
            peer.associate([MR])
            assert _send(peer, calls, _dataset()) == (0, "")
            calls.made.clear()
            calls.fail_at = 0
            peer.send(pdu(RELEASE_RQ, bytes(4)))
            assert peer.read_pdu()[0] == ABORT
        assert wait_for(lambda: not node.listener.associations)
        assert len(calls.made) == 1  # not tried again into a success
    assert [e["event"] for e in logs if e["log_level"] == "error"] == ["association_not_safe"]


def test_none_syncs_nothing(tmp_path: Path, reader: str, calls: Calls) -> None:
    with listening(tmp_path, reader=reader, durability="none") as node, BytesPeer("127.0.0.1", node.port) as peer:
        peer.associate([MR])
        assert _send(peer, calls, _dataset()) == (0, "")
        peer.release()
        assert "sync" not in str(calls.made)
        assert calls.made[-1] == "rename"


@pytest.mark.parametrize("fail_at", range(9))
def test_a_sync_that_fails_is_out_of_resources_and_leaves_nothing(
    tmp_path: Path, reader: str, calls: Calls, fail_at: int
) -> None:
    with listening(tmp_path, reader=reader) as node, BytesPeer("127.0.0.1", node.port) as peer:
        peer.associate([MR])
        calls.fail_at = fail_at
        assert _send(peer, calls, _dataset()) == (0xA700, "the instance could not be written: Input/output error")
        # Nothing was tried again after the failure: the kernel may have dropped what it could not write.
        assert len(calls.made) == fail_at + 1
        assert node.instances() == {}
        assert node.is_clean()
        # The sender's next attempt writes and syncs everything anew.
        calls.fail_at = -1
        assert _send(peer, calls, _dataset()) == (0, "")
        assert calls.kinds()[-3:] == ["sync file", "rename", "sync instances"]
        (i,) = node.instances().values()
        assert {str(folder) for folder in Path(i.path).parents if folder.name} <= calls.synced


def test_a_commit_of_the_index_is_on_the_disk(tmp_path: Path) -> None:
    with open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}").connect() as c:
        assert c.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL
        assert c.scalar(sa.text("PRAGMA journal_mode")) == "wal"
