"""Instances on disk: one Part 10 file each, whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from dicom_node import log
from dicom_node.errors import InvalidInstance, OutOfResources
from dicom_node.model.instance import valid_uid
from dicom_node.store.folder_sync import FolderSync, sync_path

INSTANCES = "instances"
INCOMING = "incoming"

Durability = Literal["instance", "association", "none"]

_HALF_WRITTEN = ".part"
_WINDOW = 1 << 16
_numbers = itertools.count()

_logger = log.get("store")


def place(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Where an instance lies, relative to the store: ``instances/<2 hex>/<study>/<series>/<sop>.dcm``.

    Raises:
        InvalidInstance: one of them is no UID, so it must not become a path.
    """
    for name, value in (
        ("StudyInstanceUID", study_uid),
        ("SeriesInstanceUID", series_uid),
        ("SOPInstanceUID", sop_uid),
    ):
        if not valid_uid(value):
            raise InvalidInstance(f"{name} {value[:80]!r} is not a valid UID")
    # One folder of all studies would grow without limit.
    shard = hashlib.sha256(study_uid.encode("ascii")).hexdigest()[:2]
    return f"{INSTANCES}/{shard}/{study_uid}/{series_uid}/{sop_uid}.dcm"


class FileStore:
    """The folder of instances. Thread-safe.

    Args:
        folder: made when it is missing.
        reserve_bytes: so much of the disk stays free; below it no new file is begun.
        durability: when a kept file survives a power failure: ``instance``: before ``Incoming.keep`` returns;
            ``association``: after ``sync``; ``none``: when the system pleases.
    """

    def __init__(self, folder: Path, reserve_bytes: int = 0, durability: Durability = "instance") -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes
        self.durability = durability
        self._below_reserve = False
        self._folders = threading.Lock()
        self._group = FolderSync()
        self._ready = threading.local()
        for name in (INSTANCES, INCOMING):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def begin(self, head: bytes, relative: str | None = None) -> Incoming:
        """Begin a file.

        Args:
            head: preamble, prefix and file meta information (PS3.10 section 7.1).
            relative: its place, if that is known already. Then it is written beside it, which takes half the time:
                file systems look for a free inode near the folder, and ``incoming`` has used up those near it.

        Raises:
            OutOfResources: the disk is below the reserve, or failed.
        """
        try:
            self._keep_reserve()
            return Incoming(self, head, relative)
        except OSError as e:
            raise _failed(e) from e

    def sync(self, relatives: Iterable[str]) -> None:
        """Make files that were kept, and the folders above them, survive a power failure.

        Raises:
            OutOfResources: one of them could not be synced.
        """
        folders: set[PurePosixPath] = set()
        try:
            for relative in relatives:
                sync_path(str(self.folder / relative))
                folders.update(PurePosixPath(relative).parents)
            for parent in sorted(folders, key=lambda p: -len(p.parts)):
                sync_path(str(self.folder / parent))
        except OSError as e:
            raise _failed(e) from e

    def free_bytes(self) -> int:
        """What the disk has left for us."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def path(self, relative: str) -> Path:
        """The file of a path that ``Incoming.keep`` or ``walk`` gave."""
        return self.folder / relative

    def remove(self, relatives: Iterable[str]) -> None:
        """Remove files and the folders that they leave empty; what is not there is no error."""
        top = self.folder / INSTANCES
        for relative in relatives:
            file = self.path(relative)
            with self._folders:
                file.unlink(missing_ok=True)
                for parent in file.parents:
                    if top not in parent.parents:
                        break
                    try:
                        parent.rmdir()
                    except OSError:  # not empty, or gone
                        break

    def walk(self, *, clear: bool = False) -> Iterator[str]:
        """The relative paths of all instances, sorted as text.

        Args:
            clear: remove what a killed process left half-written beside them; only before anything is written.
        """
        yield from self._walk(str(self.folder / INSTANCES), len(str(self.folder)) + 1, clear)

    def clear_incoming(self) -> None:
        """Remove what a killed process left half-written aside, and make safe what it renamed but did not sync.

        Call it before anything is written.
        """
        for leftover in (self.folder / INCOMING).iterdir():
            leftover.unlink()
        os.sync()

    def _walk(self, folder: str, below: int, clear: bool) -> Iterator[str]:
        with os.scandir(folder) as entries:
            # A folder with its slash, or 1.2.3/... would come before 1.2/..., which is the lesser text.
            found = sorted(e.path + "/" * e.is_dir(follow_symlinks=False) for e in entries)
        for path in found:
            if path.endswith("/"):
                yield from self._walk(path[:-1], below, clear)
            elif path.endswith(".dcm"):
                yield path[below:]
            elif clear and path.endswith(_HALF_WRITTEN):
                os.unlink(path)

    def _settle(self, aside: str, relative: str) -> None:
        """Rename a file to its place, and sync its folder where each instance is to be durable.

        Raises:
            OSError: the disk failed; the file is not in its place.
        """
        final = f"{self.folder}/{relative}"
        parent = final.rpartition("/")[0]
        self._rename(aside, final, parent)
        if self.durability == "instance":
            try:
                self._group.sync(parent)
            except OSError:
                os.unlink(final)
                raise

    def _keep_reserve(self) -> None:
        if not self.reserve_bytes:
            return
        free = self.free_bytes()
        below = free < self.reserve_bytes
        if below != self._below_reserve:
            self._below_reserve = below
            _logger.log(
                logging.ERROR if below else logging.INFO,
                "disk_below_reserve" if below else "disk_above_reserve",
                free_mb=free // 1_000_000,
                reserve_mb=self.reserve_bytes // 1_000_000,
            )
        if below:
            raise OutOfResources(f"the disk has {free // 1_000_000} MB free, which is below the reserve")

    def _rename(self, aside: str, final: str, parent: str) -> None:
        """Rename to a folder that is made if missing.

        The lock keeps ``remove`` from taking a folder away before the file is in it.
        """
        with self._folders:
            self._make(parent)
            os.rename(aside, final)

    def _make(self, folder: str) -> None:
        """Make a folder that is missing; each new one is synced into its parent before it is used.

        The caller holds the lock: a second writer waits until a folder that it finds is synced.
        """
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for new in reversed(missing):
            os.mkdir(new)
            if self.durability == "instance":
                try:
                    sync_path(os.path.dirname(new))
                except OSError:
                    os.rmdir(new)  # or the next writer would take it for synced
                    raise

    def prepare(self, relative: str) -> None:
        """Make the file that this thread will probably begin next, beside that one, while it has nothing else to do.

        ``relax`` takes it back.
        """
        # If the disk fails, who begins the file is told.
        with contextlib.suppress(OSError):
            self._ready.file = self._create(relative)

    def relax(self) -> None:
        """Remove the file that this thread made ready, if it was not used."""
        path, descriptor = self._take_ready()
        if path:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _take_ready(self) -> tuple[str, int]:
        ready: tuple[str, int] = getattr(self._ready, "file", ("", -1))
        self._ready.file = ("", -1)
        return ready

    def _create(self, relative: str | None) -> tuple[str, int]:
        """A new file's path and descriptor: beside its place, or aside."""
        folder = f"{self.folder}/{relative.rpartition('/')[0] if relative else INCOMING}"
        if os.path.dirname(getattr(self._ready, "file", ("", -1))[0]) == folder:
            return self._take_ready()
        self.relax()
        path = f"{folder}/{os.getpid()}-{next(_numbers)}{_HALF_WRITTEN}"
        with self._folders:
            self._make(folder)
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


class Incoming:
    """A file that is being written under another name, until it is kept or discarded. For one thread.

    Raises:
        OSError: on construction.
    """

    def __init__(self, store: FileStore, head: bytes, relative: str | None) -> None:
        self._store = store
        self._head = head
        self._aside, self._descriptor = store._create(relative)
        self._begun = False
        self.size = 0
        """Bytes of the dataset that are written."""

    def write(self, data: bytes | memoryview) -> None:
        """Append to the dataset.

        Raises:
            OutOfResources: the disk is full or failed; the file is gone.
        """
        parts = [data] if self._begun else [self._head, data]
        left = sum(len(p) for p in parts)
        self._begun = True
        self.size += len(data)
        try:
            while left := left - os.writev(self._descriptor, parts):
                # A write that is cut short says nothing; the next one says why.
                parts = [memoryview(b"".join(parts))[-left:]]
        except OSError as e:
            self.discard()
            raise _failed(e) from e

    def view(self) -> FileView:
        """The dataset that is written so far, to be read while the file is open."""
        return FileView(self._descriptor, len(self._head), self.size)

    def keep(self, study_uid: str, series_uid: str, sop_uid: str) -> str:
        """Put the file in its place; with durability ``instance`` power may fail when this returns.

        The file is synced, then renamed, then its folder is synced (new parent folders have been before). A file
        that is there already is replaced. A sync that failed is not tried again: the kernel may have dropped what
        it could not write, and then says that all is well (fsync(2)).

        Returns:
            The file's path, relative to the store's folder.

        Raises:
            InvalidInstance: one of the UIDs is none.
            OutOfResources: the disk failed; the file is gone.
        """
        try:
            relative = place(study_uid, series_uid, sop_uid)
            if self._store.durability == "instance":
                os.fsync(self._descriptor)
            self._close()
            self._store._settle(self._aside, relative)
            self._aside = ""
        except OSError as e:
            raise _failed(e) from e
        finally:
            self.discard()
        return relative

    def discard(self) -> None:
        """Remove what was written, unless it has been kept."""
        self._close()
        if self._aside:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._aside)
            self._aside = ""

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileView:
    """A part of an open file that reads like bytes, without being in memory.

    Args:
        descriptor: of the file; it stays the caller's.
        start: where the part begins.
        size: its bytes.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._window = b""
        self._window_at = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        at = start - self._window_at
        if at < 0 or stop - self._window_at > len(self._window):
            length = max(stop - start, min(_WINDOW, self._size - start))
            self._window = os.pread(self._descriptor, length, self._start + start)
            self._window_at, at = start, 0
        return self._window[at : at + stop - start]


def _failed(error: OSError) -> OutOfResources:
    return OutOfResources(f"the instance could not be written: {error.strerror or type(error).__name__}")
