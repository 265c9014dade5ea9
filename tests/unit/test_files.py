from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_node.errors import InvalidInstance, OutOfResources
from dicom_node.store.files import FileStore, place

STUDY, SERIES, SOP = "1.2.3", "1.2.3.4", "1.2.3.4.5"


def _write(
    store: FileStore, study: str, series: str, sop: str, head: bytes = b"head", dataset: bytes = b"dataset"
) -> str:
    file = store.begin(head)
    file.write(dataset)
    return file.keep(study, series, sop)


def test_write_keeps_head_and_dataset_at_the_place(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    path = _write(store, STUDY, SERIES, SOP)
    parts = path.split("/")
    assert parts[0] == "instances"
    assert len(parts[1]) == 2
    assert parts[2:] == [STUDY, SERIES, f"{SOP}.dcm"]
    assert path == place(STUDY, SERIES, SOP)
    assert store.path(path).read_bytes() == b"headdataset"
    assert list((tmp_path / "incoming").iterdir()) == []


def test_file_sync_then_rename_then_folder_sync_and_new_folders_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    did: list[str] = []
    real_sync, real_rename, real_mkdir = os.fsync, os.rename, os.mkdir

    def name_of(descriptor: int) -> str:
        return str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path))

    def sync(descriptor: int) -> None:
        did.append(f"sync {name_of(descriptor)}")
        real_sync(descriptor)

    def rename(source: str, target: str) -> None:
        did.append("rename")
        real_rename(source, target)

    def mkdir(folder: str) -> None:
        did.append(f"mkdir {Path(folder).relative_to(tmp_path)}")
        real_mkdir(folder)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "mkdir", mkdir)
    path = Path(_write(store, STUDY, SERIES, SOP))
    aside = did.pop(0)
    assert aside.startswith("sync incoming/")
    shard, study, series = path.parents[2], path.parents[1], path.parents[0]
    assert did == [
        f"mkdir {shard}",
        "sync instances",
        f"mkdir {study}",
        f"sync {shard}",
        f"mkdir {series}",
        f"sync {study}",
        "rename",
        f"sync {series}",
    ]
    did.clear()
    _write(store, STUDY, SERIES, "1.2.3.4.6")
    assert [d.split("/")[0] for d in did] == ["sync incoming", "rename", "sync instances"]


@pytest.mark.parametrize("bad", ["../../etc", "", "1..2", "/1.2", "1.2\n", "1.2/3", "a", "1" * 65, ".", "1.2."])
def test_what_is_no_uid_never_becomes_a_path(tmp_path: Path, bad: str) -> None:
    store = FileStore(tmp_path)
    for uids in ((bad, SERIES, SOP), (STUDY, bad, SOP), (STUDY, SERIES, bad)):
        with pytest.raises(InvalidInstance, match="not a valid UID"):
            _write(store, *uids)
    assert list(store.walk()) == []


@pytest.mark.parametrize("call", ["fsync", "open", "writev", "rename"])
def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = FileStore(tmp_path)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, call, fail)
        with pytest.raises(OutOfResources, match="No space left on device"):
            _write(store, STUDY, SERIES, SOP)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_log_says_once_that_the_disk_is_full_and_once_that_it_is_not(tmp_path: Path) -> None:
    store = FileStore(tmp_path, reserve_bytes=1 << 62)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(OutOfResources):
                store.begin(b"")
        store.reserve_bytes = 1
        for _ in range(2):
            store.begin(b"").discard()
    assert [(e["event"], e["log_level"]) for e in logs] == [
        ("disk_below_reserve", "error"),
        ("disk_above_reserve", "info"),
    ]


def test_below_the_reserve_nothing_is_taken(tmp_path: Path) -> None:
    store = FileStore(tmp_path, reserve_bytes=1 << 62)
    with pytest.raises(OutOfResources, match="reserve"):
        _write(store, STUDY, SERIES, SOP)
    assert list((tmp_path / "incoming").iterdir()) == []


def test_walk_remove_and_clear(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    paths = [_write(store, STUDY, SERIES, f"1.2.{n}") for n in (3, 1, 2)]
    other = _write(store, "1.9", SERIES, SOP)
    assert set(store.walk()) == {*paths, other}
    (tmp_path / "incoming" / "left.part").write_bytes(b"half")
    store.clear_incoming()
    assert list((tmp_path / "incoming").iterdir()) == []
    beside = store.path(paths[0]).with_name("1-2.part")
    beside.write_bytes(b"half")
    assert set(store.walk()) == {*paths, other}
    assert beside.exists()  # it may be under way
    assert set(store.walk(clear=True)) == {*paths, other}
    assert not beside.exists()
    store.remove([*paths, "instances/00/1.2/1.3/1.4.dcm"])
    assert list(store.walk()) == [other]
    assert not store.path(paths[0]).parents[1].exists()
    store.remove([other])
    assert list((tmp_path / "instances").iterdir()) == []


def test_writers_and_a_remover_of_the_same_series_at_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    failures: list[BaseException] = []

    def write(worker: int) -> None:
        try:
            for n in range(15):
                store.remove([_write(store, STUDY, SERIES, f"1.{worker}.{n}")])
        except (OSError, OutOfResources) as e:
            failures.append(e)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert list(store.walk()) == []


def test_a_file_made_ready_is_used_beside_its_like_and_removed_otherwise(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first = _write(store, STUDY, SERIES, "1.2.1")
    store.prepare(first)
    (ready,) = tmp_path.rglob("*.part")
    second = store.begin(b"head", place(STUDY, SERIES, "1.2.2"))
    assert list(tmp_path.rglob("*.part")) == [ready]
    second.write(b"dataset")
    assert second.keep(STUDY, SERIES, "1.2.2") == place(STUDY, SERIES, "1.2.2")
    assert store.path(place(STUDY, SERIES, "1.2.2")).read_bytes() == b"headdataset"
    # Of another series: the one that was ready is of no use.
    store.prepare(first)
    other = store.begin(b"head", place(STUDY, "1.7", "1.2.3"))
    (made,) = tmp_path.rglob("*.part")
    assert made.parent.name == "1.7"
    other.discard()
    # Nothing more came.
    store.prepare(first)
    store.relax()
    store.relax()
    assert not list(tmp_path.rglob("*.part"))
    # Somebody tidied the folder.
    store.prepare(first)
    (ready,) = tmp_path.rglob("*.part")
    ready.unlink()
    store.relax()
    # Another thread's is its own.
    store.prepare(first)
    other_thread = threading.Thread(target=store.relax)
    other_thread.start()
    other_thread.join(10)
    assert len(list(tmp_path.rglob("*.part"))) == 1


def test_a_disk_that_fails_between_two_images_fails_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    first = _write(store, STUDY, SERIES, "1.2.1")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", fail)
    store.prepare(first)
    with pytest.raises(OutOfResources, match="No space left on device"):
        _write(store, STUDY, SERIES, "1.2.2")
