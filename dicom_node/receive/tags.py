"""The header values that routing reads.

Values are converted here and not by pydicom: a header that breaks the rules of its value representation must
neither fail nor be warned about with its value.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydicom import Dataset
from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.valuerep import TEXT_VR_DELIMS

from dicom_node.model.routing import CODE_SEQUENCES, ROUTING_KEYWORDS

JSON = str | int | float | bool | list[Any] | dict[str, Any]

TAG_KEYWORDS: Final = (*ROUTING_KEYWORDS, "FrameOfReferenceUID")
"""What ``routing_tags`` keeps, beside ``HasPixelData``."""

PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

UNREADABLE: Final = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
)
"""What pydicom raises where a dataset in memory is none."""

_SHARED = "SharedFunctionalGroupsSequence"
_SHARED_PLACES: Final[Mapping[str, tuple[str, str]]] = {
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "EchoTrainLength": ("MRTimingAndRelatedParametersSequence", "EchoTrainLength"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "AnatomicRegionSequence": ("FrameAnatomySequence", "AnatomicRegionSequence"),
    "ImageLaterality": ("FrameAnatomySequence", "FrameLaterality"),
}
"""Where an enhanced multi-frame object has the value that all its frames share (PS3.3 section C.7.6.16)."""

HEADER_SEQUENCES: Final = (*CODE_SEQUENCES, _SHARED)
"""The sequences that ``routing_tags`` looks into."""

_LONGEST_VALUE = 1 << 14
_MOST_CODES = 100
"""What is longer is no tag that a rule can ask for, but would be kept in the instance's row."""

_CODE_KEYWORDS = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LATIN_ONLY = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})


def routing_tags(ds: Dataset) -> dict[str, JSON]:
    """The values of ``TAG_KEYWORDS`` that the header has, and ``HasPixelData``; nothing that names the patient.

    Numbers for DS, FL, FD (float) and IS, US, SS, UL, SL (int), else text; a list where there are several; a list
    of code, scheme and meaning for code sequences. An enhanced multi-frame object's shared functional groups
    stand in for what its top level lacks. What is empty or cannot be read is left out.
    """
    tags: dict[str, JSON] = {}
    for keyword in TAG_KEYWORDS:
        value = _value(ds, keyword)
        if value is not None:
            tags[keyword] = value
    for group in _items(ds, _SHARED)[:1]:
        for keyword, (sequence, inner) in _SHARED_PLACES.items():
            for item in _items(group, sequence)[:1]:
                value = _value(item, inner)
                if keyword not in tags and value is not None:
                    tags[keyword] = value
    tags["HasPixelData"] = any(keyword in ds for keyword in PIXEL_KEYWORDS)
    return tags


def latin_value(vr: str, raw: bytes) -> JSON | None:
    """What ``routing_tags`` makes of an element whose value representation knows no other script.

    Args:
        vr: AE, AS, CS, DA, DS, DT, IS, TM or UI.
    """
    if len(raw) > _LONGEST_VALUE:
        return None
    try:
        return _plain(_parts(vr, raw.decode("ascii")))
    except (ValueError, OverflowError):
        return None


def text(ds: Dataset, keyword: str) -> str:
    """The first value as text, without padding; empty if there is none or it cannot be read."""
    value = _value(ds, keyword)
    if isinstance(value, list):
        value = value[0]
    return "" if value is None else str(value)


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """A sequence's items; none if it is absent or cannot be read."""
    return _items(ds, keyword)


def _value(ds: Dataset, keyword: str) -> JSON | None:
    tag = Tag(keyword)
    if tag not in ds:
        return None
    if dictionary_VR(tag) == "SQ":
        codes = [{k: text(item, k) for k in _CODE_KEYWORDS} for item in _items(ds, keyword)[:_MOST_CODES]]
        return [c for c in codes if c["CodeValue"]] or None
    try:
        # What has no value is not raw any more: pydicom looks at its VR, which may be none.
        element: Any = ds.get_item(tag)
        if isinstance(element, RawDataElement):
            values = _from_bytes(ds, element, dictionary_VR(tag))
        else:
            values = _from_value(element.value, element.VR)
    except UNREADABLE:
        return None
    return _plain(values)


def _plain(values: list[Any]) -> JSON | None:
    if not any(v != "" for v in values):
        return None
    return values[0] if len(values) == 1 else values


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    if keyword not in ds:
        return []
    try:
        return list(ds[keyword].value or ())
    except UNREADABLE:
        return []


def _from_bytes(ds: Dataset, element: RawDataElement, known: str) -> list[Any]:
    raw = element.value or b""
    if len(raw) > _LONGEST_VALUE:
        raise ValueError("the value is too long")
    # An explicit UN is what a relay wrote that did not know the element.
    vr = known if element.VR in (None, "UN") else element.VR
    if vr in _BINARY:
        form = ("<" if element.is_little_endian else ">") + _BINARY[vr]
        return [_finite(v) for (v,) in struct.iter_unpack(form, raw)]
    decoded = raw.decode("ascii") if vr in _LATIN_ONLY else decode_bytes(raw, _encodings(ds), TEXT_VR_DELIMS)
    return _parts(vr, decoded)


def _parts(vr: str, decoded: str) -> list[Any]:
    parts = [p.strip(" \0") for p in decoded.split("\\")]
    return [_number(vr)(p) for p in parts] if vr in ("DS", "IS") and any(parts) else parts


def _encodings(ds: Dataset) -> list[str]:
    found: Any = getattr(ds, "original_character_set", None) or getattr(ds, "_character_set", None) or ["iso8859"]
    return [found] if isinstance(found, str) else list(found)


def _from_value(value: Any, vr: str) -> list[Any]:
    if value is None:
        return []
    several = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    if vr in ("DS", "FL", "FD"):
        return [_finite(float(v)) for v in several if v != ""]
    if vr in ("IS", "US", "SS", "UL", "SL"):
        return [int(v) for v in several if v != ""]
    return [str(v).strip(" \0") for v in several]


def _number(vr: str) -> Callable[[str], float]:
    return (lambda p: _finite(float(p))) if vr == "DS" else _integer


def _integer(value: str) -> int:
    # Scanners write Integer Strings such as "3.0".
    number = float(value)
    if number != int(number):
        raise ValueError(f"{value} is no integer")
    return int(number)


def _finite(value: float) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    return value
