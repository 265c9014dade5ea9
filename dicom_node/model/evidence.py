"""What was inferred, from which tag; and tolerant reading of routing tags."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_UNDECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i"})
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Evidence:
    """What was inferred.

    Attributes:
        value: the inferred value, ``unknown`` when nothing speaks for any.
        source: the tag that decided, and the word or number in it that did; never a whole description,
            which may hold a name.
    """

    value: str
    source: str

    def __str__(self) -> str:
        return f"{self.value} ({self.source})" if self.source else self.value


def values(tags: Mapping[str, Any], keyword: str) -> list[Any]:
    """All values of a tag; empty if it is absent or empty."""
    value = tags.get(keyword)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split("\\") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def words(tags: Mapping[str, Any], keyword: str) -> list[str]:
    """All values as upper-case strings: for code strings such as Image Type."""
    return [str(v).strip().upper() for v in values(tags, keyword)]


def number(tags: Mapping[str, Any], keyword: str) -> float | None:
    """The first value as a number, or None."""
    return next(iter(numbers(tags, keyword)), None)


def numbers(tags: Mapping[str, Any], keyword: str) -> list[float]:
    """All values as numbers; empty if one of them is none."""
    try:
        return [float(v) for v in values(tags, keyword)]
    except (TypeError, ValueError):
        return []


def fold(text: str) -> str:
    """Lower case without accents, for comparison in any language."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_UNDECOMPOSED))
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def tokens(text: str) -> list[str]:
    """The runs of letters of a text, folded: ``ADNI_Sag3D`` gives adni, sag, d."""
    return _LETTERS.findall(fold(spaced(text)))


def spaced(text: str) -> str:
    """``AxT1_MPRAGE`` as ``Ax T1 MPRAGE``."""
    return _CAMEL.sub(" ", text).replace("_", " ")
