"""The page of the Secondary Capture: planes on the left, values, curves and notes on the right.

Measurements that an algorithm groups are details, of which there may be many: the page says where they are.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dicom_node.algorithm import Findings
from dicom_node.encode.context import RESEARCH_USE, Context
from dicom_node.encode.curve import draw_curve
from dicom_node.encode.glyphs import UNDRAWN, drawable, drawable_curve, font_file, shows_all
from dicom_node.encode.panels import Picture, render
from dicom_node.encode.shown import flags, no_finding, shown_groups, shown_values, unit_for_people
from dicom_node.model.result import readable

_SIDE = 420
"""Of one plane, in pixels."""
_GAP = 8
_TABLE = 640
_HEADER = 44
_ROW = 23
_LINE = 20
_CURVE = 250
_WHITE, _GREY, _AMBER, _BLACK = (255, 255, 255), (170, 170, 170), (255, 205, 80), (0, 0, 0)
_UNITS = 110
"""Width of the column of units."""
_CHARACTERS = 84
"""A line of notes."""


def draw_page(findings: Findings, pictures: Sequence[Picture], context: Context) -> npt.NDArray[np.uint8]:
    """Draw all of it.

    Returns:
        uint8 (rows, columns, 3), RGB.
    """
    page = _Page(findings, pictures, context)
    return np.asarray(page.draw())


class _Page:
    """The page: its height follows from what is to be said."""

    def __init__(self, findings: Findings, pictures: Sequence[Picture], context: Context) -> None:
        self.findings = findings
        self.pictures = pictures
        self.context = context
        self.columns = 1 if len(pictures) == 1 else 2
        rows = -(-len(pictures) // self.columns)
        self.left = self.columns * (_SIDE + _GAP) + _GAP
        nothing = no_finding(findings)
        gaps = [] if shows_all(findings) else [UNDRAWN]
        notes = [*([nothing] if nothing else []), *gaps, *flags(findings), *findings.notes]
        self.notes = [line for note in notes for line in _wrap(note)]
        self.values = shown_values(findings)
        self.others = [_elsewhere(group, len(values)) for group, values in shown_groups(findings)]
        table = (len(findings.segments) + len(self.values) + len(self.others)) * _ROW + 14
        right = table + len(findings.curves) * (_CURVE + _GAP) + 14 + len(self.notes) * _LINE
        height = _HEADER + max(rows * (_SIDE + _GAP), right) + 40
        self.image = Image.new("RGB", (self.left + _TABLE, height), _BLACK)
        self.pen = ImageDraw.Draw(self.image)

    def draw(self) -> Image.Image:
        self._header()
        self._planes()
        y = self._legend(_HEADER)
        y = self._values(y + 14)
        y = self._curves(y)
        self._notes(y + 14)
        return self.image

    def _header(self) -> None:
        identity = self.context.identity
        self.pen.text((_GAP, 9), drawable(f"{identity.name} {identity.version}"), _WHITE, _font(20))
        self.pen.text((self.image.width - _GAP, 11), RESEARCH_USE, _AMBER, _font(17), anchor="ra")

    def _planes(self) -> None:
        colours = {s.value: s.color for s in self.findings.segments}
        for index, picture in enumerate(self.pictures):
            x = _GAP + (index % self.columns) * (_SIDE + _GAP)
            y = _HEADER + (index // self.columns) * (_SIDE + _GAP)
            close, lines = render(picture, _SIDE, colours)
            pen = ImageDraw.Draw(close)
            for colour, points in lines:
                pen.line(points, fill=colour, width=2, joint="curve")
            _letters(pen, picture)
            self.image.paste(close, (x, y))

    def _legend(self, y: int) -> int:
        for s in self.findings.segments:
            self.pen.rectangle((self.left, y + 4, self.left + 14, y + 18), fill=s.color)
            self.pen.text((self.left + 24, y + 2), _cut(s.label, 60), _WHITE, _font(15))
            y += _ROW
        return y

    def _values(self, y: int) -> int:
        for m in self.values:
            colour = _AMBER if m.flag else _WHITE
            self.pen.text((self.left, y), _cut(m.name, 56), colour, _font(15))
            self.pen.text((self.image.width - _UNITS - 6, y), readable(m.value), colour, _font(15), anchor="ra")
            self.pen.text((self.image.width - _UNITS, y), unit_for_people(m), colour, _font(15))
            y += _ROW
        for line in self.others:
            self.pen.text((self.left, y), line, _GREY, _font(15))
            y += _ROW
        return y

    def _curves(self, y: int) -> int:
        for curve in self.findings.curves:
            y += _GAP
            self.image.paste(Image.fromarray(draw_curve(drawable_curve(curve), _TABLE - _GAP, _CURVE)), (self.left, y))
            y += _CURVE
        return y

    def _notes(self, y: int) -> None:
        for line in self.notes:
            self.pen.text((self.left, y), line, _GREY, _font(13))
            y += _LINE


def _letters(pen: ImageDraw.ImageDraw, picture: Picture) -> None:
    """Which image, and which side of the patient is where."""
    middle, far = _SIDE // 2, _SIDE - 6
    pen.text((6, 4), picture.caption, _WHITE, _font(14), stroke_width=2, stroke_fill=_BLACK)  # on bright tissue too
    places = (((6, middle), "lm"), ((far, middle), "rm"), ((middle, 4), "ma"), ((middle, far), "md"))
    for letter, (place, anchor) in zip(picture.edges, places, strict=True):
        pen.text(place, letter, _WHITE, _font(15), anchor=anchor)


def _elsewhere(group: str, count: int) -> str:
    return f"{_cut(group, 50)}: {count} value{'s' if count > 1 else ''}, see the report"


def _wrap(note: str) -> list[str]:
    return textwrap.wrap(drawable(note), _CHARACTERS, subsequent_indent="   ", initial_indent="-  ") or [""]


def _cut(text: str, limit: int) -> str:
    text = drawable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(), size)
