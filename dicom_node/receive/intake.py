"""Takes an instance: file first, then row, then the sender may be told."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import PurePosixPath

from sqlalchemy.exc import OperationalError

from dicom_node.errors import InvalidInstance, OutOfResources, ReceiveError
from dicom_node.model.instance import Instance, valid_uid
from dicom_node.receive.header import file_head, make_instance, read_file_head, study_of
from dicom_node.store.files import FileStore, place
from dicom_node.store.index import Index

_LOCKS = 64


class Intake:
    """Where every way of receiving ends. Thread-safe."""

    def __init__(self, files: FileStore, index: Index) -> None:
        self._files = files
        self._index = index
        # Two senders of one SOP Instance UID must not both write its file: the first content is kept.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

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
        """Keep one instance as it came. When this returns it is safe on disk and in the index.

        The same bytes again change nothing.

        Args:
            dataset: the encoded dataset, without file meta information.
            SOPClassUID: as the sender's command says; the dataset must say the same.
            SOPInstanceUID: likewise.
            source: calling AE title.
            called: AE title that was called.

        Raises:
            InvalidInstance: a UID that is none, not DICOM, truncated, or the dataset contradicts the command.
            InstanceConflict: the SOP Instance UID is there with other content, which is kept as it is.
            OutOfResources: the disk or the index could not take it.
        """
        for keyword, uid in (("SOPInstanceUID", SOPInstanceUID), ("SOPClassUID", SOPClassUID)):
            if not valid_uid(uid):
                raise InvalidInstance(f"{keyword} {uid[:80]!r} is not a valid UID")
        try:
            instance = make_instance(dataset, TransferSyntaxUID=TransferSyntaxUID, source=source, called=called)
        except InvalidInstance as e:
            self._note_refused(study_of(dataset, TransferSyntaxUID), SOPInstanceUID, e)
            raise
        for keyword, uid in (("SOPInstanceUID", SOPInstanceUID), ("SOPClassUID", SOPClassUID)):
            if getattr(instance, keyword) != uid:
                raise InvalidInstance(f"command and dataset differ in {keyword}")
        head = file_head(
            SOPClassUID=SOPClassUID,
            SOPInstanceUID=SOPInstanceUID,
            TransferSyntaxUID=TransferSyntaxUID,
            source=source,
            called=called,
        )
        path = place(instance.StudyInstanceUID, instance.SeriesInstanceUID, SOPInstanceUID)
        instance = dataclasses.replace(instance, path=path, size=len(head) + len(dataset))
        try:
            return self._keep(instance, head, dataset)
        except OperationalError as e:
            raise OutOfResources("the index could not be written") from e

    def reconcile(self) -> list[str]:
        """Make files and rows agree after the process was killed. Call it before anything is received.

        Half-written files are removed; a file without a row is indexed. A row without a file cannot be healed:
        it is noted on its study, once.

        Returns:
            What could not be healed, a sentence each.
        """
        self._files.clear_incoming()
        missing = self._index.paths()
        problems = []
        for path in self._files.walk():
            if path in missing:
                missing.discard(path)
                continue
            try:
                self._index.add(self._read(path))
            except ReceiveError as e:
                problems.append(f"{path} is not in the index and cannot be: {e}")
        for path in sorted(missing):
            problem = f"{path} is in the index but not on disk"
            problems.append(problem)
            study_uid = PurePosixPath(path).parts[2]
            if problem not in self._index.notes(study_uid):
                self._index.note(study_uid, problem)
        return problems

    def discard(self, instances: Sequence[Instance]) -> None:
        """Remove the files of instances that the index has forgotten; one that came again meanwhile keeps its file."""
        for i in instances:
            with self._locks[hash(i.SOPInstanceUID) % _LOCKS]:
                if self._index.digest_of(i.SOPInstanceUID) is None:
                    self._files.remove([i.path])

    def _note_refused(self, study_uid: str, sop_uid: str, why: InvalidInstance) -> None:
        """Keep that the study lacks an image: if it is the first or the last slice nobody would see that later."""
        note = f"SOP Instance UID {sop_uid} was refused: {why}"
        try:
            if study_uid and note not in self._index.notes(study_uid):
                self._index.note(study_uid, note)
        except OperationalError as e:
            raise OutOfResources("the index could not be written") from e

    def _keep(self, instance: Instance, head: bytes, dataset: bytes) -> Instance:
        with self._locks[hash(instance.SOPInstanceUID) % _LOCKS]:
            stored = self._index.digest_of(instance.SOPInstanceUID)
            if not instance.own and self._index.is_result(instance.SOPInstanceUID):
                instance = dataclasses.replace(instance, own=True)
            # Of other content no file is written; a file that was lost is written again.
            if stored is None or (stored == instance.digest and not self._files.path(instance.path).exists()):
                self._files.write(
                    instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID, head, dataset
                )
            self._index.add(instance)
        return instance

    def _read(self, path: str) -> Instance:
        data = self._files.path(path).read_bytes()
        head = read_file_head(data)
        instance = make_instance(
            data[head.dataset_at :],
            TransferSyntaxUID=head.TransferSyntaxUID,
            path=path,
            size=len(data),
            source=head.SourceApplicationEntityTitle,
            called=head.ReceivingApplicationEntityTitle,
        )
        if place(instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID) != path:
            raise InvalidInstance("its UIDs are not those of its path")
        return dataclasses.replace(instance, own=instance.own or self._index.is_result(instance.SOPInstanceUID))
