"""Result objects as Part 10 files.

A SEG and a contour report hold thousands of sequence items, and much of them is equal. pydicom encodes each anew,
which takes seconds: here what is equal is encoded once, and pydicom is given the sequences as bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.tag import BaseTag

_ITEM = b"\xfe\xff\x00\xe0"


def save(ds: Dataset, path: Path) -> None:
    """Write a result, the file that ``ds.save_as`` writes: Explicit VR Little Endian, all lengths given.

    No item of a sequence may have a Specific Character Set of its own, nor an element whose VR hangs on another
    element (PS3.6: "US or SS"). Results have none.

    Raises:
        ValueError, TypeError, AttributeError, OSError: what pydicom raises of a value that cannot be written.
    """
    encodings = convert_encodings(ds.get("SpecificCharacterSet"))
    items = _Items(encodings)
    top = Dataset({element.tag: _top(element, ds, items) for element in ds})
    top.file_meta = ds.file_meta
    # Else pydicom would decode the sequences, to encode them as it is asked to.
    top.set_original_encoding(False, True, encodings)
    top.save_as(path, enforce_file_format=True)


def _top(element: DataElement, ds: Dataset, items: _Items) -> DataElement | RawDataElement:
    if element.VR != "SQ":
        return cast(DataElement, correct_ambiguous_vr_element(element, ds, True))
    value = items.of(element)
    return RawDataElement(element.tag, "SQ", len(value), value, 0, False, True)


class _Items:
    """Encoded sequence items."""

    def __init__(self, encodings: list[str]) -> None:
        self._encodings = encodings
        self._datasets: dict[int, bytes] = {}
        self._texts: dict[tuple[BaseTag, str, str], bytes] = {}

    def of(self, sequence: DataElement) -> bytes:
        """All items of a sequence (PS3.5 section 7.5)."""
        return b"".join([self._item(item) for item in sequence.value])

    def _item(self, item: Dataset) -> bytes:
        # By identity: to compare two items takes longer than to encode one. All live until the file is written.
        known = self._datasets.get(id(item))
        if known is None:
            body = b"".join([self._element(element) for element in item])
            known = self._datasets[id(item)] = _ITEM + len(body).to_bytes(4, "little") + body
        return known

    def _element(self, element: DataElement) -> bytes:
        if element.VR == "SQ":
            value = self.of(element)
            head = element.tag.group.to_bytes(2, "little") + element.tag.element.to_bytes(2, "little")
            return head + b"SQ\x00\x00" + len(value).to_bytes(4, "little") + value
        if not isinstance(element.value, str):
            return self._leaf(element)
        key = (element.tag, element.VR, element.value)
        known = self._texts.get(key)
        if known is None:
            known = self._texts[key] = self._leaf(element)
        return known

    def _leaf(self, element: DataElement) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, self._encodings)
        return buffer.getvalue()
