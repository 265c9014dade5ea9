"""The outline of an encoded dataset: where each element begins and ends, and whether all of it is there.

pydicom reads a dataset that was cut short without a word, and decodes more than the node needs: the outline
is made on the bytes alone (PS3.5 section 7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.errors import InvalidInstance
from dicom_node.receive.inflate import InflatedView, inflate
from dicom_node.store.files import FileView

Data = bytes | memoryview | FileView | InflatedView
"""An encoded dataset: in memory, on disk, or deflated in one of them."""

GE_PRIVATE_IMPLICIT = "1.2.840.113619.5.2"
"""GE's implicit VR little endian with big endian pixels, which its old archives send."""

_DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_IMPLICIT = frozenset({ImplicitVRLittleEndian, GE_PRIVATE_IMPLICIT})
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_DEEPEST = 100
_MOST_ELEMENTS = 5_000_000
"""An enhanced object of ten thousand frames has less than a million; this many take some seconds to look through."""
_SHORT_VRS = b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
_SHORT_VR_NUMBERS = frozenset(int.from_bytes(vr, "little") for vr in _SHORT_VRS)
_LONG_VR_NUMBERS = frozenset(int.from_bytes(vr, "little") for vr in _LONG_VRS)
_LOOKED_AT_AT_ONCE = 1 << 20
_NOTHING = tuple(bytes(n) for n in range(1, 5))


@dataclass(frozen=True)
class Encoding:
    """How a dataset's elements are written."""

    implicit: bool
    little: bool


class Element(NamedTuple):
    """One element of the topmost level: ``data[start:stop]`` holds it whole, with its tag and length."""

    tag: int
    start: int
    stop: int


def inflated(dataset: Data, transfer_syntax: str) -> Data:
    """The dataset as elements: unchanged, but for the deflated transfer syntaxes (PS3.5 section A.5).

    Raises:
        InvalidInstance: the deflated bytes are damaged, cut short, or larger than 2 GiB.
    """
    if transfer_syntax not in _DEFLATED or isinstance(dataset, InflatedView):
        return dataset
    return inflate(dataset)


def encoding_of(data: Data, transfer_syntax: str) -> Encoding:
    """How the elements are written: as the transfer syntax says, but for explicit against implicit VR.

    Some senders write the other one than was negotiated; the first element shows which.
    """
    little = transfer_syntax != ExplicitVRBigEndian
    vr = bytes(data[4:6])
    if len(vr) == 2 and little:
        return Encoding(implicit=not (vr.isalpha() and vr.isupper()), little=True)
    return Encoding(implicit=transfer_syntax in _IMPLICIT, little=little)


def outline(
    data: Data, encoding: Encoding, wanted: frozenset[int] | None = None
) -> Generator[Element, int | None, None]:
    """The elements of the topmost level, in their order; all of the dataset is looked through.

    Zero bytes behind the last element are padding and left out. Who knows how a part of the dataset is made sends the
    place behind it, and gets the element that begins there.

    Args:
        wanted: only elements with these tags; None: all.

    Raises:
        InvalidInstance: the dataset ends in the middle of an element, is no sequence of elements, or one of millions.
    """
    walker = _Walker(data, encoding)
    # Most elements are little endian, with a length and a usual value representation: these are taken at a glance.
    glance = _reader(data, "<IHHI") if encoding.little else None
    swapped = None if wanted is None else _swapped(wanted)
    implicit = encoding.implicit
    at, end = 0, len(data)
    while at < end:
        stop = 0
        walker.left -= 1
        if walker.left < 0:
            raise walker.too_many()
        if glance is not None and end - at >= 12:
            swap, vr, length, long = glance(data, at)
            if implicit:
                length = length << 16 | vr
                stop = at + 8 + length if length != _UNDEFINED and swap & 0xFFFF else 0
            elif vr in _SHORT_VR_NUMBERS:
                stop = at + 8 + length
            elif vr in _LONG_VR_NUMBERS and long != _UNDEFINED:
                stop = at + 12 + long
        if 0 < stop <= end:
            if swapped is None or swap in swapped:
                stop = (yield Element((swap & 0xFFFF) << 16 | swap >> 16, at, stop)) or stop
        else:
            if bytes(data[at : at + 4]) in _NOTHING:
                if _is_zero(data, at):
                    return
                # Were it taken for elements of no length, each of them would be looked behind again.
                raise InvalidInstance("the dataset holds zero bytes that are no element")
            tag, stop = walker.element(at, implicit, 0)
            if wanted is None or tag in wanted:
                stop = (yield Element(tag, at, stop)) or stop
        at = stop


@lru_cache(maxsize=8)
def _swapped(tags: frozenset[int]) -> frozenset[int]:
    """Tags as they read when group and element, in this order, are taken for one little endian number."""
    return frozenset((tag & 0xFFFF) << 16 | tag >> 16 for tag in tags)


def _is_zero(data: Data, at: int) -> bool:
    for start in range(at, len(data), _LOOKED_AT_AT_ONCE):
        piece = bytes(data[start : start + _LOOKED_AT_AT_ONCE])
        if piece.count(0) != len(piece):
            return False
    return True


def _reader(data: Data, form: str) -> Callable[[Any, int], tuple[Any, ...]]:
    """Unpack numbers at a place of the data."""
    packed = struct.Struct(form)
    if not isinstance(data, bytes | memoryview):
        return lambda file, at: packed.unpack(file[at : at + packed.size])
    return packed.unpack_from


class _Walker:
    def __init__(self, data: Data, encoding: Encoding) -> None:
        self._data = data
        order = "<" if encoding.little else ">"
        self._tag = _reader(data, order + "HH")
        self._u16 = _reader(data, order + "H")
        self._u32 = _reader(data, order + "I")
        self.left = _MOST_ELEMENTS
        """So many elements and fragments may come yet."""

    def count(self) -> None:
        """Count an element, or a fragment."""
        self.left -= 1
        if self.left < 0:
            raise self.too_many()

    @staticmethod
    def too_many() -> InvalidInstance:
        """What is raised when more come."""
        return InvalidInstance(f"the dataset has more than {_MOST_ELEMENTS} elements")

    def element(self, at: int, implicit: bool, depth: int) -> tuple[int, int]:
        """Tag and end of the element at ``at``."""
        tag = self._read_tag(at)
        vr = bytes(self._data[at + 4 : at + 6])
        # A few senders put single elements with implicit VR into explicit datasets.
        if implicit or not (vr.isalpha() and vr.isupper()):
            implicit, start, length = True, at + 8, self._u32_at(at + 4, tag)
        elif vr in _LONG_VRS:
            start, length = at + 12, self._u32_at(at + 8, tag)
        else:
            start, length = at + 8, int(self._u16(self._data, at + 6)[0])
        if length != _UNDEFINED:
            return tag, self._end(start, length, tag)
        if tag == _PIXEL_DATA or vr in (b"OB", b"OW"):
            return tag, self._items(start, tag, implicit, depth, fragments=True)
        # UN with undefined length is encoded as implicit VR (PS3.5 section 6.2.2, note 4).
        return tag, self._items(start, tag, implicit or vr == b"UN", depth, fragments=False)

    def _items(self, at: int, owner: int, implicit: bool, depth: int, *, fragments: bool) -> int:
        if depth > _DEEPEST:
            raise InvalidInstance(f"sequences are nested more than {_DEEPEST} deep")
        while True:
            self.count()
            tag, length = self._read_tag(at, owner), self._u32_at(at + 4, owner)
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise InvalidInstance(f"{_name(owner)} holds something that is no item")
            if length != _UNDEFINED:
                at = self._end(at, length, owner)
            elif fragments:
                raise InvalidInstance(f"{_name(owner)} has a fragment without a length")
            else:
                while self._read_tag(at, owner) != _ITEM_END:
                    self.count()
                    at = self.element(at, implicit, depth + 1)[1]
                at += 8

    def _read_tag(self, at: int, owner: int | None = None) -> int:
        if at + 8 > len(self._data):
            raise _truncated(owner)
        group, element = self._tag(self._data, at)
        return int(group << 16 | element)

    def _u32_at(self, at: int, owner: int) -> int:
        if at + 4 > len(self._data):
            raise _truncated(owner)
        return int(self._u32(self._data, at)[0])

    def _end(self, start: int, length: int, owner: int) -> int:
        if start + length > len(self._data):
            raise _truncated(owner)
        return start + length


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _truncated(owner: int | None) -> InvalidInstance:
    return InvalidInstance(f"the dataset is truncated in {_name(owner)}" if owner else "the dataset is truncated")
