"""Rows that are written behind the answers, folders that are synced for many, and what content is known by."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import DataError, OperationalError

from dicom_node.errors import OutOfResources
from dicom_node.model.instance import Instance
from dicom_node.store import rows as store_rows
from dicom_node.store.fingerprint import Fingerprint
from dicom_node.store.folder_sync import FolderSync
from dicom_node.store.index import Index, Known
from dicom_node.store.rows import RowWriter
from dicom_node.store.tables import open_engine
from tests.listening import wait_for


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}"), clock=lambda: 5.0)


def _instance(number: int, study: str = "1.2", **more: Any) -> Instance:
    values = {"digest": "d", "path": str(number), "size": 1, "patient_key": "p", **more}
    return Instance(f"1.2.3.{number}", "1.2.840.1", "1.2.4", study, "1.2.840.10008.1.2.1", **values)


def test_rows_come_soon_and_are_known_at_once(index: Index) -> None:
    rows = RowWriter(index)
    rows.add(_instance(1))
    rows.add(_instance(2, study="1.3"))
    assert rows.known("1.2.3.1") == Known("d", False)
    assert rows.known("1.2.3.9") == Known(None, False)
    assert wait_for(lambda: index.count("1.2") == index.count("1.3") == 1)
    study = index.study("1.2")
    assert study is not None
    assert (study.first_arrival, study.last_arrival) == (5.0, 5.0)
    assert rows.known("1.2.3.1") == Known("d", False)


def test_many_threads_share_commits_and_flush_waits_for_all(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    real = index.add_many

    def add_many(batch: Any) -> Any:
        commits.append(len(batch))
        return real(batch)

    monkeypatch.setattr(index, "add_many", add_many)
    rows = RowWriter(index)

    def add(worker: int) -> None:
        for n in range(50):
            rows.add(_instance(worker * 1000 + n))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    rows.flush()
    assert index.count("1.2") == sum(commits) == 200
    assert len(commits) < 100


def test_own_results_open_no_study(index: Index) -> None:
    rows = RowWriter(index)
    rows.add(_instance(1, own=True))
    rows.flush()
    assert index.study("1.2") is None
    assert index.known("1.2.3.1").digest == "d"


def test_while_the_database_fails_nothing_is_taken_and_nothing_is_lost(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> Any:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    rows = RowWriter(index)
    with monkeypatch.context() as m:
        m.setattr(index, "add_many", fail)
        rows.add(_instance(1))
        with pytest.raises(OutOfResources):
            rows.flush()
        with pytest.raises(OutOfResources):
            rows.check()
        assert rows.known("1.2.3.1").digest == "d"
    assert wait_for(lambda: index.count("1.2") == 1)
    assert wait_for(lambda: not rows._failing)
    rows.check()


def test_a_row_that_the_database_refuses_holds_up_no_other(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    real = index.add_many

    def picky(batch: Any) -> Any:
        if any(i.SOPInstanceUID == "1.2.3.2" for i, _ in batch):
            raise DataError("INSERT", {}, Exception("too long"))
        return real(batch)

    monkeypatch.setattr(index, "add_many", picky)
    rows = RowWriter(index)
    for n in (1, 2, 3):
        rows.add(_instance(n))
    rows.flush()
    assert index.count("1.2") == 2


def test_rows_of_another_node_are_told_apart(index: Index) -> None:
    index.add(_instance(1))
    index.add(_instance(2))
    again = [(_instance(1), 1.0), (_instance(2, digest="other"), 1.0), (_instance(3), 1.0)]
    assert index.add_many(again) == [_instance(2, digest="other")]
    assert index.count("1.2") == 3


def test_who_waits_for_a_folder_s_sync_shares_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Semaphore(0), threading.Semaphore(0)
    synced: list[int] = []

    def slow(descriptor: int) -> None:
        started.release()
        assert go_on.acquire(timeout=10)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    group = FolderSync()
    threads = [threading.Thread(target=group.sync, args=(str(tmp_path),)) for _ in range(5)]
    threads[0].start()
    assert started.acquire(timeout=10)
    for t in threads[1:]:
        t.start()
    assert wait_for(lambda: len(group._waiting) == 1)
    go_on.release(5)
    for t in threads:
        t.join(10)
    # One of the four may begin to wait only when the second sync has begun.
    assert 2 <= len(synced) <= 3


def test_a_folder_that_cannot_be_synced_is_an_error_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        FolderSync().sync(str(tmp_path))


def test_a_fingerprint_knows_content_and_not_the_pieces_it_came_in() -> None:
    data = np.random.default_rng(0).bytes(256_000)
    changed = bytearray(data)
    changed[100_000] ^= 1
    contents = (b"", data, bytes(changed), data[:-1], data + b"\0", data[65536:] + data[:65536])
    digests = []
    for content in contents:
        pieces, whole = Fingerprint(), Fingerprint()
        whole.update(content)
        for at in range(0, len(content), 777):
            pieces.update(memoryview(content)[at : at + 777])
        assert pieces.hexdigest() == whole.hexdigest()
        digests.append(whole.hexdigest())
    assert len(set(digests)) == len(contents)
    assert {len(d) for d in digests} == {32}


def test_who_hurries_waits_for_no_others(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_rows, "_GATHER_SECONDS", 3600)
    rows = RowWriter(index)
    rows.add(_instance(1))
    assert index.known("1.2.3.1").digest is None
    rows.hurry()
    assert wait_for(lambda: index.known("1.2.3.1").digest == "d")
