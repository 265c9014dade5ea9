"""Takes an instance: file first, then row, then the sender may be told."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from sqlalchemy.exc import OperationalError

from dicom_node.errors import InstanceConflict, InvalidInstance, OutOfResources, ReceiveError
from dicom_node.model.instance import Instance
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.header import read_file_head
from dicom_node.receive.part10 import read_part10
from dicom_node.store.files import FileStore, Incoming, place
from dicom_node.store.fingerprint import Fingerprint
from dicom_node.store.index import Index
from dicom_node.store.rows import RowWriter

_LOCKS = 1024
_COMPARED_AT_ONCE = 1 << 20
_LONGEST_HEAD = 4096
_INDEXED_AT_ONCE = 200


class Intake:
    """Where every way of receiving ends. Thread-safe.

    An instance is acknowledged when its file is as safe as the store's durability says and its row is about to be
    written; a row that a crash prevents is made from the file at the next start.

    Args:
        largest_bytes: a larger dataset is refused; None: the disk is the limit.
    """

    def __init__(self, files: FileStore, index: Index, largest_bytes: int | None = None) -> None:
        self.files = files
        self.largest_bytes = largest_bytes
        self._index = index
        self.rows = RowWriter(index)
        # Two senders of one SOP Instance UID must not both write its file: the first content is kept.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def begin(
        self, *, TransferSyntaxUID: str, SOPClassUID: str, SOPInstanceUID: str, source: str = "", called: str = ""
    ) -> Arrival:
        """Begin to take one instance. What is wrong with it is told by ``Arrival.finish``.

        Args:
            SOPClassUID: as the sender's command says; the dataset must say the same.
            SOPInstanceUID: likewise.
            source: calling AE title.
            called: AE title that was called.
        """
        return Arrival(self, TransferSyntaxUID, SOPClassUID, SOPInstanceUID, source, called)

    def take(
        self,
        dataset: bytes,
        *,
        TransferSyntaxUID: str,
        SOPClassUID: str,
        SOPInstanceUID: str,
        source: str = "",
        called: str = "",
    ) -> Instance:
        """Keep one instance that is in memory; when this returns, it is in the index too.

        Raises:
            ReceiveError: as ``Arrival.finish``.
        """
        arrival = self.begin(
            TransferSyntaxUID=TransferSyntaxUID,
            SOPClassUID=SOPClassUID,
            SOPInstanceUID=SOPInstanceUID,
            source=source,
            called=called,
        )
        instance = arrival.finish(dataset)
        self.rows.flush()
        return instance

    def keep(self, instance: Instance, head: bytes, last: bytes | memoryview, file: Incoming | None) -> Instance:
        """Put an instance that was found sound in its place, unless it is there.

        Args:
            head: the file's head.
            last: the end of the dataset that is not in the file yet.
            file: what was written before; None: nothing, and ``last`` is the whole dataset.

        Returns:
            The instance, ``own`` also if the node knows that it made it.

        Raises:
            InstanceConflict: the SOP Instance UID is there with other content.
            OutOfResources: the disk or the index could not take it.
        """
        with self._locks[hash(instance.SOPInstanceUID) % _LOCKS]:
            known = self.rows.known(instance.SOPInstanceUID)
            there = known.digest is not None and self.files.path(instance.path).exists()
            same = there and self._is_same(instance, last, file)
            if known.digest not in (None, instance.digest) or (there and not same and self.is_sound(instance)):
                again = f"SOP Instance UID {instance.SOPInstanceUID} came again with other content"
                self._note(instance.StudyInstanceUID, f"{again}: refused, the first is kept")
                raise InstanceConflict(f"{instance.SOPInstanceUID} is already stored with other content")
            if known.is_result and not instance.own:
                instance = dataclasses.replace(instance, own=True)
            if same:
                return instance
            file = file or self.files.begin(head, instance.path)
            try:
                file.write(last)
                file.keep(instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID)
            finally:
                file.discard()
            # Of a file that was lost or damaged, and came again, the row is there.
            if known.digest is None:
                self.rows.add(instance)
            return instance

    def _is_same(self, instance: Instance, last: bytes | memoryview, file: Incoming | None) -> bool:
        """Whether the stored file has this dataset: equal fingerprints are likely, equal bytes are certain."""
        stored = self._stored(instance)
        for part in (file.view() if file else b"", last):
            for at in range(0, len(part), _COMPARED_AT_ONCE):
                piece = part[at : at + _COMPARED_AT_ONCE]
                if next(stored, b"") != piece:
                    return False
        return next(stored, None) is None

    def is_sound(self, instance: Instance, *, from_disk: bool = False) -> bool:
        """Whether the stored file is what the index knows it as, and not damaged.

        Args:
            from_disk: what the system remembers of it is set aside first, as far as it is synced.

        Raises:
            OSError: the file cannot be read.
        """
        made = Fingerprint()
        for piece in self._stored(instance, from_disk):
            made.update(piece)
        return made.hexdigest() == instance.digest

    def _stored(self, instance: Instance, from_disk: bool = False) -> Iterator[bytes]:
        """The dataset in the instance's file, piece by piece."""
        with self.files.path(instance.path).open("rb") as stored:
            if from_disk:
                os.posix_fadvise(stored.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                stored.seek(read_file_head(stored.read(_LONGEST_HEAD)).dataset_at)
            except InvalidInstance:
                return
            while piece := stored.read(_COMPARED_AT_ONCE):
                yield piece

    def reconcile(self) -> list[str]:
        """Make files and rows agree after the process was killed. Call it before anything is received.

        Half-written files are removed; a file without a row is indexed. A row without a file cannot be healed:
        it is noted on its study, once.

        Returns:
            What could not be healed, a sentence each.
        """
        self.files.clear_incoming()
        problems: list[str] = []
        batch: list[str] = []
        # Both sides come sorted, so neither is ever in memory as a whole.
        rows = self._index.paths()
        row = next(rows, None)
        for path in self.files.walk(clear=True):
            while row is not None and row < path:
                problems.append(self._lost(row))
                row = next(rows, None)
            if row == path:
                row = next(rows, None)
                continue
            batch.append(path)
            if len(batch) == _INDEXED_AT_ONCE:
                problems += self._index_files(batch)
                batch.clear()
        problems += self._index_files(batch)
        if row is not None:
            problems += [self._lost(path) for path in (row, *rows)]
        return problems

    def _index_files(self, paths: Sequence[str]) -> list[str]:
        """Make the rows of files in one transaction; returns what could not be indexed, a sentence each."""
        problems = []
        found = []
        for path in paths:
            try:
                found.append((self._read(path), self._index.clock()))
            except ReceiveError as e:
                problems.append(f"{path} is not in the index and cannot be: {e}")
        for instance in self._index.add_many(found) if found else ():
            problems.append(f"{instance.path} is not in the index and cannot be: its UID is there with other content")
        return problems

    def _lost(self, path: str) -> str:
        """Note on its study that a file is gone; returns the note."""
        problem = f"{path} is in the index but not on disk"
        study_uid = PurePosixPath(path).parts[2]
        if problem not in self._index.notes(study_uid):
            self._index.note(study_uid, problem)
        return problem

    def discard(self, instances: Sequence[Instance]) -> None:
        """Remove the files of instances that the index has forgotten; one that came again meanwhile keeps its file."""
        for i in instances:
            with self._locks[hash(i.SOPInstanceUID) % _LOCKS]:
                if self.rows.known(i.SOPInstanceUID).digest is None:
                    self.files.remove([i.path])

    def note_refused(self, study_uid: str, sop_uid: str, why: InvalidInstance) -> None:
        """Keep that the study lacks an image: if it is the first or the last slice nobody would see that later.

        Raises:
            OutOfResources: the index could not be written.
        """
        if study_uid:
            self._note(study_uid, f"SOP Instance UID {sop_uid} was refused: {why}")

    def _note(self, study_uid: str, note: str) -> None:
        try:
            if note not in self._index.notes(study_uid):
                self._index.note(study_uid, note)
        except OperationalError as e:
            raise OutOfResources("the index could not be written") from e

    def _read(self, path: str) -> Instance:
        instance = read_part10(self.files.path(path), path)
        if place(instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID) != path:
            raise InvalidInstance("its UIDs are not those of its path")
        return dataclasses.replace(instance, own=instance.own or self._index.is_result(instance.SOPInstanceUID))
