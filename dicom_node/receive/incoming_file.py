"""A Part 10 file (PS3.10 section 7) that comes piece by piece: out of a request, an answer, an archive."""

from __future__ import annotations

from collections.abc import Callable

from dicom_node.errors import InvalidInstance
from dicom_node.model.instance import Instance
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.header import file_head_size, read_file_head

_LONGEST_HEAD = 1 << 16

Begin = Callable[[str, str, str], Arrival]
"""Begins an arrival from Transfer Syntax, SOP Class and SOP Instance UID."""


class IncomingFile:
    """Takes a Part 10 file piece by piece; its dataset goes to disk at once. For one thread.

    Who sends must be heard to the end before it can be told what was wrong: ``write`` never fails, ``finish`` does.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._head = bytearray()
        self._arrival: Arrival | None = None
        self._failure: InvalidInstance | None = None
        self.SOPClassUID = ""
        """As the file meta information says; empty until that is read."""
        self.SOPInstanceUID = ""

    def write(self, data: memoryview) -> None:
        """Take a piece of the file."""
        if self._failure is not None:
            return
        if self._arrival is not None:
            self._arrival.write(data)
            return
        self._head += data
        size = file_head_size(self._head)
        if len(self._head) >= (size or _LONGEST_HEAD) or size > _LONGEST_HEAD:
            self._open()

    def finish(self) -> Instance:
        """The file is all here: keep it.

        Raises:
            InvalidInstance: no Part 10 file, or as ``Arrival.finish``.
            InstanceConflict: as ``Arrival.finish``.
            OutOfResources: as ``Arrival.finish``.
        """
        try:
            if self._arrival is None and self._failure is None:
                self._open()
            if self._failure is not None:
                raise self._failure
            assert self._arrival is not None
            return self._arrival.finish(b"")
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget what came, unless it was kept."""
        if self._arrival is not None:
            self._arrival.discard()

    def _open(self) -> None:
        data, self._head = bytes(self._head), bytearray()
        try:
            head = read_file_head(data)
        except InvalidInstance as e:
            self._failure = e
            return
        self.SOPClassUID, self.SOPInstanceUID = head.MediaStorageSOPClassUID, head.MediaStorageSOPInstanceUID
        self._arrival = self._begin(head.TransferSyntaxUID, self.SOPClassUID, self.SOPInstanceUID)
        self._arrival.write(memoryview(data)[head.dataset_at :])
