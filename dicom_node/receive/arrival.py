"""One instance on its way in."""

from __future__ import annotations

from typing import Protocol

from dicom_node.errors import InvalidInstance, OutOfResources, ReceiveError
from dicom_node.model.instance import Instance, valid_uid
from dicom_node.receive.elements import Data
from dicom_node.receive.header import file_head, make_instance, study_of
from dicom_node.store.files import FileStore, Incoming, place
from dicom_node.store.fingerprint import Fingerprint
from dicom_node.store.rows import RowWriter


class Keeper(Protocol):
    """What an arrival needs of the intake."""

    files: FileStore
    rows: RowWriter
    largest_bytes: int | None

    def keep(self, instance: Instance, head: bytes, last: bytes | memoryview, file: Incoming | None) -> Instance:
        """Put a sound instance in its place."""

    def note_refused(self, study_uid: str, sop_uid: str, why: InvalidInstance) -> None:
        """Keep that an instance of the study was refused."""


class Arrival:
    """Takes a dataset piece by piece into a file, or at once. For one thread.

    A sender must be heard to the end before it can be told what was wrong: ``write`` never fails, ``finish`` does.
    """

    def __init__(
        self, keeper: Keeper, TransferSyntaxUID: str, SOPClassUID: str, SOPInstanceUID: str, source: str, called: str
    ) -> None:
        self._keeper = keeper
        self._syntax = TransferSyntaxUID
        self._uids = {"SOPInstanceUID": SOPInstanceUID, "SOPClassUID": SOPClassUID}
        self._source = source
        self._called = called
        self._digest = Fingerprint()
        self._file: Incoming | None = None
        self._failure: ReceiveError | None = None
        self._head = b""
        try:
            for keyword, uid in self._uids.items():
                if not valid_uid(uid):
                    raise InvalidInstance(f"{keyword} {uid[:80]!r} is not a valid UID")
            keeper.rows.check()
            self._head = file_head(**self._uids, TransferSyntaxUID=TransferSyntaxUID, source=source, called=called)
        except ReceiveError as e:
            self._failure = e

    def write(self, data: memoryview) -> None:
        """Take a piece of the dataset that is not the last; it goes to disk at once."""
        if self._failure is not None:
            return
        try:
            if self._file is None:
                self._file = self._keeper.files.begin(self._head)
            self._check_size(self._file.size + len(data))
            self._file.write(data)
            self._digest.update(data)
        except OutOfResources as e:
            self._failure = e
            self.discard()

    def finish(self, last: bytes | memoryview) -> Instance:
        """Take the last, or only, piece, and keep the instance. The same bytes again change nothing.

        Returns:
            The instance; its file is as safe as the store's durability says.

        Raises:
            InvalidInstance: a UID that is none, not DICOM, truncated, or the dataset contradicts the command.
            InstanceConflict: the SOP Instance UID is there with other content, which is kept as it is.
            OutOfResources: the disk or the index could not take it.
        """
        try:
            if self._failure is not None:
                raise self._failure
            self._check_size(len(last) + (self._file.size if self._file else 0))
            self._digest.update(last)
            if self._file is not None:
                self._file.write(last)
                last = b""
            dataset = self._file.view() if self._file else last
            instance = self._instance(dataset)
            return self._keeper.keep(instance, self._head, last, self._file)
        finally:
            self.discard()

    def _check_size(self, size: int) -> None:
        limit = self._keeper.largest_bytes
        if limit is not None and size > limit:
            raise OutOfResources(f"the instance is larger than {limit // 1_000_000} MB")

    def discard(self) -> None:
        """Forget what came, unless it was kept."""
        if self._file is not None:
            self._file.discard()

    def _instance(self, dataset: Data) -> Instance:
        try:
            instance = make_instance(
                dataset,
                TransferSyntaxUID=self._syntax,
                digest=self._digest.hexdigest(),
                path=place,
                size=len(self._head) + len(dataset),
                source=self._source,
                called=self._called,
            )
        except InvalidInstance as e:
            self._keeper.note_refused(study_of(dataset, self._syntax), self._uids["SOPInstanceUID"], e)
            raise
        for keyword, uid in self._uids.items():
            if getattr(instance, keyword) != uid:
                raise InvalidInstance(f"command and dataset differ in {keyword}")
        return instance
