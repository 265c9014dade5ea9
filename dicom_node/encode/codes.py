"""Coded concepts and texts as the objects carry them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from highdicom.sr import CodedConcept

from dicom_node.algorithm import Code
from dicom_node.errors import EncodeError

_LATERALITY: Mapping[str, Code] = {  # CID 244
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}

_UNIT_MEANINGS: Mapping[str, str] = {
    "1": "no units",
    "%": "percent",
    "mL": "milliliter",
    "mL/mL": "milliliter per milliliter",
    "mm": "millimeter",
    "{pixels}": "pixels",
    "mm2": "square millimeter",
    "mm3": "cubic millimeter",
    "cm": "centimeter",
    "cm2": "square centimeter",
    "cm3": "cubic centimeter",
    "[hnsf'U]": "Hounsfield unit",
    "%/a": "percent per year",
    "s": "second",
    "ms": "millisecond",
    "d": "day",
    "deg": "degree",
    "g": "gram",
    "g/m2": "gram per square meter",
    "mL/m2": "milliliter per square meter",
    "m2": "square meter",
    "L/min": "liter per minute",
    "L/min/m2": "liter per minute per square meter",
    "{H.B.}/min": "heart beats per minute",
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]+")


def concept(code: Code) -> CodedConcept:
    """A Code Sequence item (PS3.3 section 8.8).

    Raises:
        EncodeError: the scheme or the meaning is too long or empty.
    """
    if not code.value or not 0 < len(code.scheme) <= 16 or not 0 < len(code.meaning) <= 64:
        raise EncodeError(
            f"({code.value}, {code.scheme}, {code.meaning!r}) is no coded concept: it takes a value, "
            "a scheme of up to 16 and a meaning of up to 64 characters"
        )
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def unit(ucum: str) -> CodedConcept:
    """A UCUM unit as a coded concept."""
    return concept(Code(ucum, "UCUM", _UNIT_MEANINGS.get(ucum, ucum)))


def laterality(side: str | None) -> CodedConcept | None:
    """Left or right (CID 244).

    Raises:
        EncodeError: ``side`` is neither ``"left"``, ``"right"`` nor None.
    """
    if side is None:
        return None
    if side not in _LATERALITY:
        raise EncodeError(f"laterality {side!r} is unknown: left, right or none")
    return concept(_LATERALITY[side])


def long_string(text: str, limit: int = 64) -> str:
    """``text`` fit for a Long String (PS3.5 section 6.2): one line, no backslash, cut to ``limit``."""
    return _CONTROL.sub(" ", text).strip()[:limit].strip()


def for_research(text: str) -> str:
    """For example ``Hippocampus SEG (research use only)``, at most 64 characters."""
    tail = " (research use only)"
    return long_string(text, 64 - len(tail)) + tail
