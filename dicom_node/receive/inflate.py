"""Deflated datasets (PS3.5 section A.5): a few kilobytes may stand for gigabytes, which are never written out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from dicom_node.errors import InvalidInstance
from dicom_node.store.files import FileView

_LONGEST_INFLATED = 1 << 31
_LONGEST_IN_MEMORY = 1 << 24
_AT_ONCE = 1 << 20
_KEPT = 1 << 21


def inflate(dataset: bytes | memoryview | FileView) -> bytes | InflatedView:
    """The dataset inflated: bytes, or a view that inflates what is read where it would be large.

    Raises:
        InvalidInstance: the deflated bytes are damaged, cut short, or larger than 2 GiB.
    """
    size = 0
    pieces: list[bytes] = []
    for piece in _pieces(dataset):
        size += len(piece)
        if size > _LONGEST_INFLATED:
            raise InvalidInstance("the deflated dataset is larger than 2 GiB")
        if size <= _LONGEST_IN_MEMORY:
            pieces.append(piece)
        else:
            pieces.clear()
    return b"".join(pieces) if size <= _LONGEST_IN_MEMORY else InflatedView(dataset, size)


class InflatedView:
    """Inflated bytes that read like bytes, but are made anew as they are read.

    Reading goes forward, and may go back by 1 MiB; going back further begins at the beginning.

    Args:
        deflated: it stays the caller's.
        size: how long it is inflated.
    """

    def __init__(self, deflated: bytes | memoryview | FileView, size: int) -> None:
        self._deflated = deflated
        self._size = size
        self._coming = _pieces(deflated)
        self._window = b""
        self._window_at = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        if start < self._window_at:
            self._coming, self._window, self._window_at = _pieces(self._deflated), b"", 0
        while self._window_at + len(self._window) < stop:
            joined = self._window + next(self._coming)
            # What is asked for, and what may be asked for next.
            gone = max(0, min(start - self._window_at, len(joined) - _KEPT))
            self._window_at += gone
            self._window = joined[gone:]
        at = start - self._window_at
        return self._window[at : at + max(0, stop - start)]


def _pieces(dataset: bytes | memoryview | FileView) -> Iterator[bytes]:
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    at = 0
    try:
        while not inflator.eof:
            # What is not yet inflated comes before what is not yet read.
            piece = inflator.unconsumed_tail or dataset[at : at + _AT_ONCE]
            at += 0 if inflator.unconsumed_tail else len(piece)
            if not piece:
                raise InvalidInstance("the deflated dataset is cut short")
            yield inflator.decompress(piece, _AT_ONCE)
    except zlib.error as e:
        raise InvalidInstance("the deflated dataset is damaged") from e
