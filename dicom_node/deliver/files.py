"""The files that are to be sent."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.errors import PeerError

_PIECE_BYTES = 1 << 16


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


class FileBody:
    """A request's body of bytes and files, which are read piece by piece while it is sent; its length is known.

    With a length a request passes proxies and servers that take none in chunks.
    """

    def __init__(self, parts: Sequence[bytes | Path]) -> None:
        self._length = sum(p.stat().st_size if isinstance(p, Path) else len(p) for p in parts)
        self._pieces = _pieces(parts)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def read(self, _size: int = -1) -> bytes:
        """The next piece, of whatever size; empty at the end."""
        return next(self._pieces, b"")


def _pieces(parts: Sequence[bytes | Path]) -> Iterator[bytes]:
    for part in parts:
        source: IO[bytes] = part.open("rb") if isinstance(part, Path) else io.BytesIO(part)
        with source:
            while piece := source.read(_PIECE_BYTES):
                yield piece
