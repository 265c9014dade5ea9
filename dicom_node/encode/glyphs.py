"""Which characters the picture can show.

Its font has Latin, Greek, Cyrillic and many signs, but no Chinese, Japanese or Korean; letters that are written from
right to left would stand in the wrong order and shape. What cannot be drawn is marked, never left out or drawn wrong:
the report has it. Names of patients do not come into it: the picture carries none.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib

from dicom_node.algorithm import Curve, Findings

UNDRAWN = "Characters that this picture cannot show stand as \N{REPLACEMENT CHARACTER}: the report has them."
_FROM_RIGHT = frozenset(("R", "AL", "AN"))


def font_file() -> Path:
    """DejaVu Sans, which matplotlib brings: the same on every machine."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def bold_font_file() -> Path:
    """The same in bold, which has the same characters but for a few signs."""
    return font_file().with_name("DejaVuSans-Bold.ttf")


def drawable(text: str) -> str:
    """The text with a replacement character in place of each that the picture cannot show."""
    if text.isascii():
        return text
    return "".join(c if _can_be_drawn(c) else "\N{REPLACEMENT CHARACTER}" for c in unicodedata.normalize("NFC", text))


def drawable_curve(curve: Curve) -> Curve:
    """The curve with texts that the picture can show."""
    marks = tuple((index, drawable(label)) for index, label in curve.marks)
    return replace(curve, name=drawable(curve.name), marks=marks)


def shows_all(findings: Findings) -> bool:
    """Whether the picture can show all that the findings say."""
    said = [*findings.notes, *(s.label for s in findings.segments), *(c.name for c in findings.curves)]
    said += [text for m in findings.measurements for text in (m.name, m.group or "")]
    said += [label for c in findings.curves for _, label in c.marks]
    return not any("\N{REPLACEMENT CHARACTER}" in drawable(text) for text in said)


@cache
def _glyphs() -> frozenset[int]:
    # Slow to import, and needed for few results.
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap())


def _can_be_drawn(character: str) -> bool:
    return ord(character) in _glyphs() and unicodedata.bidirectional(character) not in _FROM_RIGHT
