"""The outline of an encoded dataset: where each element begins and ends, and whether all of it is there.

pydicom reads a dataset that was cut short without a word, and decodes more than the node needs: the outline
is made on the bytes alone (PS3.5 section 7).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.errors import InvalidInstance

GE_PRIVATE_IMPLICIT = "1.2.840.113619.5.2"
"""GE's implicit VR little endian with big endian pixels, which its old archives send."""

_DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_IMPLICIT = frozenset({ImplicitVRLittleEndian, GE_PRIVATE_IMPLICIT})
_LONGEST_INFLATED = 1 << 31
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_DEEPEST = 100
_NOTHING = tuple(bytes(n) for n in range(1, 5))


@dataclass(frozen=True)
class Encoding:
    """How a dataset's elements are written."""

    implicit: bool
    little: bool


@dataclass(frozen=True)
class Element:
    """One element of the topmost level: ``data[start:stop]`` holds it whole, with its tag and length."""

    tag: int
    start: int
    stop: int


def inflate(dataset: bytes, transfer_syntax: str) -> bytes:
    """The dataset as elements: unchanged, but for the deflated transfer syntaxes (PS3.5 section A.5).

    Raises:
        InvalidInstance: the deflated bytes are damaged, cut short, or larger than 2 GiB.
    """
    if transfer_syntax not in _DEFLATED:
        return dataset
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflator.decompress(dataset, _LONGEST_INFLATED)
    except zlib.error as e:
        raise InvalidInstance("the deflated dataset is damaged") from e
    if not inflator.eof:
        raise InvalidInstance("the deflated dataset is cut short or larger than 2 GiB")
    return inflated


def encoding_of(data: bytes, transfer_syntax: str) -> Encoding:
    """How the elements are written: as the transfer syntax says, but for explicit against implicit VR.

    Some senders write the other one than was negotiated; the first element shows which.
    """
    little = transfer_syntax != ExplicitVRBigEndian
    vr = data[4:6]
    if len(vr) == 2 and little:
        return Encoding(implicit=not (vr.isalpha() and vr.isupper()), little=True)
    return Encoding(implicit=transfer_syntax in _IMPLICIT, little=little)


def outline(data: bytes, encoding: Encoding) -> Iterator[Element]:
    """The elements of the topmost level, in their order.

    Zero bytes behind the last element are padding and left out.

    Raises:
        InvalidInstance: the dataset ends in the middle of an element, or is no sequence of elements.
    """
    walker = _Walker(data, encoding)
    at = 0
    while at < len(data):
        if data[at : at + 4] in _NOTHING and not any(data[at:]):
            return
        tag, stop = walker.element(at, encoding.implicit, 0)
        yield Element(tag, at, stop)
        at = stop


class _Walker:
    def __init__(self, data: bytes, encoding: Encoding) -> None:
        self._data = data
        order = "<" if encoding.little else ">"
        self._tag = struct.Struct(order + "HH")
        self._u16 = struct.Struct(order + "H")
        self._u32 = struct.Struct(order + "I")

    def element(self, at: int, implicit: bool, depth: int) -> tuple[int, int]:
        """Tag and end of the element at ``at``."""
        tag = self._read_tag(at)
        vr = self._data[at + 4 : at + 6]
        # A few senders put single elements with implicit VR into explicit datasets.
        if implicit or not (vr.isalpha() and vr.isupper()):
            implicit, start, length = True, at + 8, self._number(self._u32, at + 4, tag)
        elif vr in _LONG_VRS:
            start, length = at + 12, self._number(self._u32, at + 8, tag)
        else:
            start, length = at + 8, self._number(self._u16, at + 6, tag)
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
            tag, length = self._read_tag(at, owner), self._number(self._u32, at + 4, owner)
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
                    at = self.element(at, implicit, depth + 1)[1]
                at += 8

    def _read_tag(self, at: int, owner: int | None = None) -> int:
        if at + 8 > len(self._data):
            raise _truncated(owner)
        group, element = self._tag.unpack_from(self._data, at)
        return int(group << 16 | element)

    def _number(self, form: struct.Struct, at: int, owner: int) -> int:
        if at + form.size > len(self._data):
            raise _truncated(owner)
        return int(form.unpack_from(self._data, at)[0])

    def _end(self, start: int, length: int, owner: int) -> int:
        if start + length > len(self._data):
            raise _truncated(owner)
        return start + length


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _truncated(owner: int | None) -> InvalidInstance:
    return InvalidInstance(f"the dataset is truncated in {_name(owner)}" if owner else "the dataset is truncated")
