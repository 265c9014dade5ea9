"""The files that are to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.errors import PeerError


@dataclass(frozen=True)
class StoredFile:
    """A Part 10 file, and what its file meta information says of it."""

    path: Path
    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str


def read_stored(path: Path) -> StoredFile:
    """What is to be known of a Part 10 file before it is sent.

    Raises:
        PeerError: it is none (not retryable).
    """
    try:
        meta = read_file_meta_info(path)
        return StoredFile(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except (OSError, InvalidDicomError, AttributeError) as e:
        raise PeerError(f"{path} cannot be sent, it is no DICOM file: {e}", retryable=False) from e
