"""Instances on disk: one Part 10 file each, whole or not there at all."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from dicom_node.errors import InvalidInstance, OutOfResources
from dicom_node.model.instance import valid_uid

INSTANCES = "instances"
INCOMING = "incoming"


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
        reserve_bytes: so much of the disk stays free; an instance that would need it is refused.
    """

    def __init__(self, folder: Path, reserve_bytes: int = 0) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes
        self._folders = threading.Lock()
        for name in (INSTANCES, INCOMING):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, study_uid: str, series_uid: str, sop_uid: str, head: bytes, dataset: bytes) -> str:
        """Write one instance; when this returns, power may fail.

        The bytes are written aside and synced, then the file is renamed to its place, then its folder is synced
        (new parent folders have been before). A file that is there already is replaced.

        Args:
            head: preamble, prefix and file meta information (PS3.10 section 7.1).
            dataset: the dataset as received.

        Returns:
            The file's path, relative to the store's folder.

        Raises:
            InvalidInstance: one of the UIDs is none.
            OutOfResources: the disk is full, below the reserve, or failed.
        """
        relative = place(study_uid, series_uid, sop_uid)
        final = self.folder / relative
        aside = self.folder / INCOMING / f"{uuid.uuid4().hex}.part"
        try:
            self._keep_reserve(len(head) + len(dataset))
            try:
                _write_synced(aside, head, dataset)
                self._rename(aside, final)
            finally:
                aside.unlink(missing_ok=True)
            sync_folder(final.parent)
        except OSError as e:
            raise OutOfResources(f"the instance could not be written: {e.strerror or type(e).__name__}") from e
        return relative

    def path(self, relative: str) -> Path:
        """The file of a path that ``write`` or ``walk`` gave."""
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

    def walk(self) -> Iterator[str]:
        """The relative paths of all instances, sorted within each folder."""
        yield from self._walk(self.folder / INSTANCES)

    def clear_incoming(self) -> None:
        """Remove what a killed process left half-written, and make safe what it renamed but did not sync.

        Call it before anything is written.
        """
        for leftover in (self.folder / INCOMING).iterdir():
            leftover.unlink()
        os.sync()

    def _walk(self, folder: Path) -> Iterator[str]:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            elif entry.name.endswith(".dcm"):
                yield Path(entry.path).relative_to(self.folder).as_posix()

    def _keep_reserve(self, size: int) -> None:
        if not self.reserve_bytes:
            return
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self.reserve_bytes:
            raise OutOfResources(f"the disk has {free // 1_000_000} MB free, which is at the reserve")

    def _rename(self, aside: Path, final: Path) -> None:
        """Rename to a folder that is made if missing; each new folder is synced into its parent before.

        The lock makes a second writer wait until a folder that it finds is synced, and keeps ``remove`` from taking
        a folder away before the file is in it.
        """
        with self._folders:
            missing = []
            folder = final.parent
            while not folder.is_dir():
                missing.append(folder)
                folder = folder.parent
            for new in reversed(missing):
                new.mkdir()
                sync_folder(new.parent)
            aside.rename(final)


def _write_synced(file: Path, *parts: bytes) -> None:
    with file.open("xb") as f:
        for part in parts:
            f.write(part)
        f.flush()
        os.fsync(f.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
