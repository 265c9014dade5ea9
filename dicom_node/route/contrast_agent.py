"""Whether a series was acquired after contrast medium: of two alike, the native one is preferred."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from dicom_node.model.evidence import fold, spaced, values

_NONE: Final = frozenset({"", "none", "no", "n", "0", "nein", "non", "ohne", "native", "nativ"})
_WITHOUT: Final = re.compile(
    r"(?<![^\W_])(pre|before|vor|avant|non|no|w/?o|without|ohne|sans|sin|senza|nativ\w*|plain|unenhanced)(?![^\W\d_])"
    r"|(?<![^\s(])-\s?c(?![^\W_])"
)
_WITH: Final = re.compile(
    r"(\+|(?<![^\W_]))(gd|gad\w*|km|post|contrast\w*|kontrast\w*|enhanced|ce|inject\w*|gado)(?![^\W\d_])"
    r"|\+ ?[ck](?![^\W_])|(?<![^\W_])c ?\+"
)


def enhanced(tags: Mapping[str, Any]) -> bool:
    """By Contrast/Bolus Agent, else by the names of series and protocol."""
    agent = " ".join(map(str, values(tags, "ContrastBolusAgent")))
    if fold(agent).strip() not in _NONE:
        return True
    for keyword in ("SeriesDescription", "ProtocolName"):
        text = fold(spaced(" ".join(map(str, values(tags, keyword)))))
        if _WITHOUT.search(text):
            return False
        if _WITH.search(text):
            return True
    return False
