"""The reader of the check: a whole result file as plain values.

It is the node's own, so that what one library writes and reads back alike still shows. And it converts a value once: of
the thousands of items of a SEG or a contour report most are equal, and a library that makes objects of each takes
seconds.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.values import convert_value

_WIDE = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a 32-bit length (PS3.5 section 7.1.2)."""
_BYTES = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
"""Value representations whose values stay bytes."""
_EXPLICIT, _IMPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L")
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_META = struct.Struct("<128s4s2H2sHL")
"""What a file begins with: preamble, prefix, and File Meta Information Group Length (PS3.10 section 7.1)."""
_TRANSFER_SYNTAX, _SPECIFIC_CHARACTER_SET = 0x00020010, 0x00080005

_Known = dict[tuple[int, str, bytes], Any]


class Item(dict[int, Any]):
    """The values of a dataset or of a sequence's item by tag. An empty value is None, a sequence a list of items.

    Equal sequences of a file are one list: it is not to be changed.
    """


class CutOffError(ValueError):
    """A file, or an item, ends inside an element."""


class OtherEncodingError(ValueError):
    """A file is in a transfer syntax (the argument) that results never are in."""


def read_file(path: Path) -> tuple[Item, Item]:
    """File Meta Information and dataset of a Part 10 file in little endian.

    Raises:
        InvalidDicomError: it is no Part 10 file.
        CutOffError: it ends inside an element, or one of its items does.
        OtherEncodingError: it is deflated or big endian.
        NotImplementedError: a VR is unknown.
        OSError, ValueError, LookupError, TypeError, BytesLengthException: it, or a value, cannot be read.
    """
    data = path.read_bytes()
    if len(data) < _META.size or _META.unpack_from(data)[1:-1] != (b"DICM", 2, 0, b"UL", 4):
        raise InvalidDicomError("it does not begin as a Part 10 file")
    start = _META.size + _META.unpack_from(data)[-1]
    if start > len(data):
        raise CutOffError
    meta, _ = _Reader(explicit=True).item(data, _META.size, start)
    syntax = meta.get(_TRANSFER_SYNTAX)
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        raise OtherEncodingError(syntax)
    dataset, _ = _Reader(explicit=syntax != ImplicitVRLittleEndian).item(data, start, len(data))
    return meta, dataset


class _Reader:
    """Reads items (PS3.5 section 7). Places are indices into ``data``, ``end`` the place that an item may go up to."""

    def __init__(self, *, explicit: bool) -> None:
        self._explicit = explicit
        self._known: dict[tuple[str, ...], _Known] = {}

    def item(
        self, data: bytes, place: int, end: int, encodings: tuple[str, ...] = (), *, delimited: bool = False
    ) -> tuple[Item, int]:
        """The elements up to ``end`` or, where the item is delimited, its delimiter; and the place after it."""
        found = Item()
        known = self._known.setdefault(encodings, {})
        while place < end:
            tag, vr, length, place = self._head(data, place, end)
            if tag == _ITEM_END and delimited:
                return found, place
            if length == _UNDEFINED:
                if vr == "SQ":
                    found[tag], place = self._sequence(data, place, end, encodings, delimited=True)
                else:
                    found[tag], place = _fragments(data, place, end)
                continue
            if length > end - place:
                raise CutOffError
            raw = data[place : place + length]
            place += length
            key = (tag, vr, raw)
            if key not in known:
                known[key] = self._value(tag, vr, raw, encodings)
            found[tag] = known[key]
            if tag == _SPECIFIC_CHARACTER_SET:
                encodings = tuple(convert_encodings(found[tag]))
                known = self._known.setdefault(encodings, {})
        if delimited:
            raise CutOffError
        return found, place

    def _head(self, data: bytes, place: int, end: int) -> tuple[int, str, int, int]:
        """Tag, VR and length of an element, and the place of its value."""
        if end - place < 8:
            raise CutOffError
        if self._explicit:
            group, element, vr, length = _EXPLICIT.unpack_from(data, place)
            if group != 0xFFFE:
                if vr not in _WIDE:
                    return group << 16 | element, vr.decode("ascii"), length, place + 8
                if end - place < 12:
                    raise CutOffError
                return group << 16 | element, vr.decode(), _LENGTH.unpack_from(data, place + 8)[0], place + 12
        group, element, length = _IMPLICIT.unpack_from(data, place)
        tag = group << 16 | element
        return tag, "" if group == 0xFFFE else _usual_vr(tag), length, place + 8

    def _sequence(
        self, data: bytes, place: int, end: int, encodings: tuple[str, ...], *, delimited: bool = False
    ) -> tuple[list[Item], int]:
        """The items of a sequence, and the place after it."""
        items: list[Item] = []
        while place < end:
            tag, length, place = _item_head(data, place, end)
            if tag == _SEQUENCE_END and delimited:
                return items, place
            if tag != _ITEM:
                raise ValueError("a sequence has something else than items")
            if length == _UNDEFINED:
                item, place = self.item(data, place, end, encodings, delimited=True)
            elif length > end - place:
                raise CutOffError
            else:
                item, place = self.item(data, place, place + length, encodings)
            items.append(item)
        if delimited:
            raise CutOffError
        return items, place

    def _value(self, tag: int, vr: str, raw: bytes, encodings: tuple[str, ...]) -> Any:
        if vr == "SQ":
            return self._sequence(raw, 0, len(raw), encodings)[0]
        if not raw:
            return None
        if vr in _BYTES or " or " in vr:
            return raw
        element = RawDataElement(BaseTag(tag), vr, len(raw), raw, 0, not self._explicit, True)
        return convert_value(vr, element, list(encodings))


def _usual_vr(tag: int) -> str:
    """In Implicit VR the data dictionary tells it (PS3.5 section 7.1.3)."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _item_head(data: bytes, place: int, end: int) -> tuple[int, int, int]:
    """Tag, length, and the place of what follows."""
    if end - place < 8:
        raise CutOffError
    group, element, length = _IMPLICIT.unpack_from(data, place)
    return group << 16 | element, length, place + 8


def _fragments(data: bytes, place: int, end: int) -> tuple[bytes, int]:
    """Encapsulated pixels as they are, without their delimiter (PS3.5 annex A.4), and the place after them."""
    start = place
    while True:
        tag, length, place = _item_head(data, place, end)
        if tag == _SEQUENCE_END:
            return data[start : place - 8], place
        if tag != _ITEM or length > end - place:
            raise CutOffError
        place += length
