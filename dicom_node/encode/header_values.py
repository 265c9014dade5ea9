"""Values of headers that scanners and archives fill as they like: what cannot be converted is as good as absent."""

from __future__ import annotations

import math
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue


def value_of(header: Dataset, keyword: str) -> Any:
    """The value, or None where it is absent or cannot be converted."""
    try:
        return header.get(keyword)
    except (ValueError, TypeError, OverflowError, LookupError, NotImplementedError):
        return None


def text_of(header: Dataset, keyword: str) -> str:
    """The value as a text, several with backslashes between them; empty where it is absent or cannot be converted."""
    value = value_of(header, keyword)
    if value is None:
        return ""
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(map(str, value)).strip()
    return str(value).strip()


def numbers_of(header: Dataset, keyword: str, count: int) -> list[float] | None:
    """So many finite numbers; None where there are others, or none."""
    value = value_of(header, keyword)
    if value is None or value == "":
        return None
    parts = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    try:
        numbers = [float(p) for p in parts]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None
