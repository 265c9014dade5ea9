"""The pages of the Encapsulated PDF: what a referring physician reads.

As in the picture no name, number or date of the patient is drawn: they stand in the object's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicom_node.algorithm import Curve, Findings, Measurement
from dicom_node.encode.context import MANUFACTURER, RESEARCH_USE, Context
from dicom_node.encode.glyphs import drawable, drawable_curve, shows_all
from dicom_node.encode.panels import Picture, render
from dicom_node.encode.paper import BOTTOM, HEIGHT, LEADING, MARGIN, POINT, RIGHT, Paper, drawing, width_of, wrap
from dicom_node.encode.shown import flags, no_finding, shown_groups, shown_values, unit_for_people
from dicom_node.model.result import readable

_INK, _SOFT, _RULE, _PALE = "#1b2733", "#5b6b7a", "#c9d3dc", "#f3f6f9"
_BLUE, _AMBER, _AMBER_PALE = "#12456b", "#9a4a00", "#fff4e0"
_TITLE, _HEAD, _BODY, _SMALL, _TINY = 19.0, 10.5, 8.6, 7.6, 6.6
"""Sizes of letters, in points."""
_FURTHER = MARGIN + 12
"""Where the content of further pages begins."""
_SIDE = 58.0
"""Of a picture, in mm; one alone is larger."""
_ALONE = 92.0
_GAP = 2.5
_PIXELS = 640
"""Of a picture's side: about 280 to the inch."""
_VALUE = RIGHT - 62
_COLUMNS = ((MARGIN + 2, "left"), (_VALUE, "right"), (_VALUE + 3, "left"), (RIGHT - 34, "left"))
"""Of the table: name, value, unit, plausible range."""
_CURVE = 46.0
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "H": "head", "F": "feet"}
_UNDRAWN = (
    "Characters that this document cannot show stand as \N{REPLACEMENT CHARACTER}: the structured report has them."
)
_HEADER_HAS_IT = "Patient, study and dates stand in the DICOM header of this document, not on its pages."


@dataclass(frozen=True)
class Report:
    """What the pages are of.

    Attributes:
        context: who made it, when.
        images: what was looked at, in a few words: ``MR, 170 images``.
        uid: the document's SOP Instance UID, by which a print is found again.
        findings: None: nothing was analysed, for the ``reason``.
        pictures: of the planes to be shown.
        reason: completes the sentence "Not analysed, because ...".
    """

    context: Context
    images: str
    uid: str
    findings: Findings | None = None
    pictures: Sequence[Picture] = ()
    reason: str = ""


def draw_report(report: Report) -> bytes:
    """The report as PDF, A4 upright, with its fonts in it; the same report gives the same bytes."""
    context = report.context
    about = {
        "Title": drawable(f"{context.identity.name} {context.identity.version}. {RESEARCH_USE}"),
        "Creator": MANUFACTURER,
        "Producer": f"{MANUFACTURER} (matplotlib)",
    }
    with drawing():
        return _Pages(report).draw().pdf(context.when, about)


class _Pages:
    """The report, from top to bottom."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.paper = Paper(_FURTHER)

    def draw(self) -> Paper:
        self._title()
        self._facts()
        findings = self.report.findings
        if findings is None:
            self._say(f"Not analysed, because {self.report.reason.strip().rstrip('.')}.")
        else:
            self._findings(findings)
        for page in range(self.paper.count):
            self._frame(page)
        return self.paper

    def _findings(self, findings: Findings) -> None:
        nothing = no_finding(findings)
        if nothing:
            self._say(nothing)
        if flags(findings):
            self._say(*flags(findings), title="To be reviewed")
        self._pictures(findings)
        self._values(findings)
        for curve in findings.curves:
            self._curve(drawable_curve(curve))
        self._notes([*findings.notes, *([] if shows_all(findings) else [_UNDRAWN])])

    def _title(self) -> None:
        paper, identity = self.paper, self.report.context.identity
        width = width_of(RESEARCH_USE, _SMALL, bold=True) + 7
        paper.box(RIGHT - width, MARGIN, width, 7.2, _AMBER_PALE, _AMBER)
        paper.text(RIGHT - width / 2, MARGIN + 1.7, RESEARCH_USE, _SMALL, _AMBER, bold=True, align="center")
        room = RIGHT - width - 6 - MARGIN
        size = _TITLE
        name = drawable(identity.name)
        while size > _HEAD and width_of(name, size, bold=True) > room:
            size -= 0.5
        paper.text(MARGIN, MARGIN - 1.5, _fit(name, room, size, bold=True), size, _BLUE, bold=True)
        version = drawable(f"Version {identity.version}  ·  Result of an automated analysis")
        paper.text(MARGIN, MARGIN + 8.6, _fit(version, RIGHT - MARGIN, _BODY), _BODY, _SOFT)
        paper.y = MARGIN + 15.5
        paper.rule(paper.y, _BLUE, 1.4)
        paper.y += 3.5

    def _facts(self) -> None:
        context, paper = self.report.context, self.paper
        facts = [("Procedure", context.procedure.meaning), ("Images", self.report.images)]
        if context.institution_name:
            facts.append(("Institution", context.institution_name))
        facts.append(("Made by", f"{MANUFACTURER} on {context.node_id}"))
        room = (RIGHT - MARGIN) / len(facts)
        said = [wrap(drawable(text), room - 8, _BODY) for _, text in facts]
        high = 8.2 + max(map(len, said)) * _BODY * POINT * LEADING
        paper.box(MARGIN, paper.y, RIGHT - MARGIN, high, _PALE)
        for column, ((name, _), lines) in enumerate(zip(facts, said, strict=True)):
            x = MARGIN + 4 + column * room
            paper.text(x, paper.y + 2.2, name.upper(), _TINY, _SOFT, bold=True)
            for number, line in enumerate(lines):
                paper.text(x, paper.y + 6 + number * _BODY * POINT * LEADING, line, _BODY, _INK)
        paper.y += high + 4.5

    def _say(self, *sentences: str, title: str = "") -> None:
        """What must not be overlooked, in a box."""
        paper = self.paper
        room, bold = RIGHT - MARGIN - 12, not title
        lines = [line for s in sentences for line in wrap(drawable(s), room, _BODY + 0.6, bold=bold)]
        leading = (_BODY + 0.6) * POINT * LEADING
        while lines:
            paper.need(14)
            most = max(1, int((BOTTOM - paper.y - 10) / leading))
            here, lines = lines[:most], lines[most:]
            high = 5 + len(here) * leading + (4.2 if title else 0)
            paper.box(MARGIN, paper.y, RIGHT - MARGIN, high, _AMBER_PALE)
            paper.box(MARGIN, paper.y, 1.2, high, _AMBER)
            y = paper.y + 2.5
            if title:
                paper.text(MARGIN + 6, y, title.upper(), _TINY, _AMBER, bold=True)
                y += 4.2
            for line in here:
                paper.text(MARGIN + 6, y, line, _BODY + 0.6, _INK, bold=bold)
                y += leading
            paper.y += high + 4.5

    def _heading(self, said: str, needed: float) -> None:
        """A heading that stays with the first ``needed`` mm of what follows."""
        self.paper.need(needed + 8)
        self.paper.text(MARGIN, self.paper.y, said, _HEAD, _BLUE, bold=True)
        self.paper.y += 6.6

    def _pictures(self, findings: Findings) -> None:
        """The planes on the left, what their outlines are on the right."""
        pictures, paper = self.report.pictures, self.paper
        if not pictures:
            return
        columns = 1 if len(pictures) == 1 else 2
        side = _ALONE if columns == 1 else _SIDE
        rows = -(-len(pictures) // columns)
        self._heading("Images", rows * (side + _GAP))
        colours = {s.value: s.color for s in findings.segments}
        top = paper.y
        for index, picture in enumerate(pictures):
            x, y = MARGIN + index % columns * (side + _GAP), top + index // columns * (side + _GAP)
            self._picture(picture, x, y, side, colours)
        y = self._legend(findings, top, MARGIN + columns * (side + _GAP) + 3)
        paper.y = max(y, top + rows * (side + _GAP)) + 3

    def _legend(self, findings: Findings, y: float, left: float) -> float:
        """Of what is outlined on the pictures; returns where it ends."""
        paper, pictures = self.paper, self.report.pictures
        drawn = {value for p in pictures for value, _ in p.lines}
        segments = [s for s in findings.segments if s.value in drawn]
        for number, s in enumerate(segments):
            lines = wrap(drawable(s.label), RIGHT - left - 7, _BODY)
            if y + (len(lines) + 6) * _BODY * POINT * LEADING > BOTTOM:
                paper.text(left + 6, y, f"and {len(segments) - number} more", _BODY, _INK)
                y += _BODY * POINT * LEADING
                break
            paper.box(left, y + 0.7, 3.4, 3.4, _hex(s.color), "#808080")
            for line in lines:
                paper.text(left + 6, y, line, _BODY, _INK)
                y += _BODY * POINT * LEADING
            y += 1.4
        y += 2
        for line in wrap(_how_to_read(pictures), RIGHT - left, _SMALL):
            paper.text(left, y, line, _SMALL, _SOFT)
            y += _SMALL * POINT * LEADING
        return y

    def _picture(
        self, picture: Picture, x: float, y: float, side: float, colours: dict[int, tuple[int, int, int]]
    ) -> None:
        close, outlines = render(picture, _PIXELS, colours)
        axes = self.paper.picture(x, y, side, np.asarray(close))
        for colour, points in outlines:
            axes.plot(*zip(*points, strict=True), color=_hex(colour), linewidth=1.1, solid_joinstyle="round")
        self.paper.label(axes, picture.caption, (0.015, 0.985), "left", "top", _TINY)
        places = (
            ((0.015, 0.5), "left", "center"),
            ((0.985, 0.5), "right", "center"),
            ((0.5, 0.985), "center", "top"),
            ((0.5, 0.015), "center", "bottom"),
        )
        for letter, (at, across, down) in zip(picture.edges, places, strict=True):
            if letter:
                self.paper.label(axes, letter, at, across, down, _SMALL)

    def _values(self, findings: Findings) -> None:
        """The table of what was measured."""
        values, groups = shown_values(findings), list(shown_groups(findings))
        if not values and not groups:
            return
        self._heading("Measurements", 22)
        columns = ["MEASUREMENT", "VALUE", "UNIT", "PLAUSIBLE RANGE" if any(m.plausible for m in values) else ""]
        self._columns(columns)
        for m in values:
            self._row(m, columns)
        for group, members in groups:
            self._group(group, members, columns)
        self.paper.y += 5

    def _columns(self, names: Sequence[str]) -> None:
        paper = self.paper
        paper.box(MARGIN, paper.y, RIGHT - MARGIN, 5.6, _PALE)
        y = paper.y + 1.2
        for name, (x, align) in zip(names, _COLUMNS, strict=True):
            paper.text(x, y, name, _TINY, _SOFT, bold=True, align=align)
        paper.y += 5.6

    def _row(self, m: Measurement, columns: Sequence[str]) -> None:
        low, high = m.plausible or (0, 0)
        cells = [readable(m.value), drawable(unit_for_people(m)), f"{low:g} to {high:g}" if m.plausible else ""]
        colour = _AMBER if m.flag else _INK
        self._lines_of_row(drawable(m.name), drawable(m.method or ""), cells, colour, columns)

    def _group(self, group: str, members: Sequence[Measurement], columns: Sequence[str]) -> None:
        """Details are told by their number and extent only."""
        units = {unit_for_people(m) for m in members}
        low, high = min(m.value for m in members), max(m.value for m in members)
        extent = f", {readable(low)} to {readable(high)} {drawable(units.pop())}" if len(units) == 1 else ""
        number = f"{len(members)} value{'s' if len(members) > 1 else ''}"
        self._lines_of_row(drawable(group), f"{number}{extent}: see the structured report", ["", "", ""], _INK, columns)

    def _lines_of_row(self, name: str, below: str, cells: Sequence[str], colour: str, columns: Sequence[str]) -> None:
        paper = self.paper
        room = _VALUE - 18 - MARGIN
        names, small = wrap(name, room, _BODY), wrap(below, room, _SMALL)
        high = 1.7 + (len(names) * _BODY + len(small) * _SMALL) * POINT * LEADING
        if paper.need(high):
            self._columns(columns)
        y = paper.y + 0.8
        for cell, (x, align) in zip(cells, _COLUMNS[1:], strict=True):
            paper.text(x, y, cell, _BODY, colour, bold=align == "right", align=align)
        for lines, size, ink in ((names, _BODY, colour), (small, _SMALL, _SOFT)):
            for line in lines:
                paper.text(MARGIN + 2, y, line, size, ink)
                y += size * POINT * LEADING
        paper.y += high
        paper.rule(paper.y, _RULE, 0.35)

    def _curve(self, curve: Curve) -> None:
        paper = self.paper
        self._heading(_fit(curve.name, RIGHT - MARGIN, _HEAD, bold=True), _CURVE + 12)
        axes = paper.axes(MARGIN + 16, paper.y + 2, RIGHT - MARGIN - 18, _CURVE)
        axes.plot(curve.times, curve.values, color=_BLUE, marker="o", markersize=3, linewidth=1.4)
        for index, label in curve.marks:
            at = (curve.times[index], curve.values[index])
            axes.plot(*at, color=_AMBER, marker="o", markersize=6)
            paper.mark(axes, label, at, _BODY, _AMBER)
        axes.margins(y=0.22)
        paper.scale(axes, "ms", curve.unit, _SMALL, _SOFT, _RULE)
        paper.y += _CURVE + 14

    def _notes(self, notes: Sequence[str]) -> None:
        """What limits the result, in the algorithm's words."""
        if not notes:
            return
        self._heading("Notes and limits", 10)
        paper = self.paper
        for note in notes:
            for number, line in enumerate(wrap(drawable(note), RIGHT - MARGIN - 4, _BODY)):
                paper.need(_BODY * POINT * LEADING)
                if number == 0:
                    paper.text(MARGIN, paper.y, "•", _BODY, _BLUE, bold=True)
                paper.text(MARGIN + 4, paper.y, line, _BODY, _INK)
                paper.y += _BODY * POINT * LEADING
            paper.y += 1.2

    def _frame(self, page: int) -> None:
        """What stands on each page: whose it is not is said, and what it may not be used for."""
        paper, identity = self.paper, self.report.context.identity
        if page > 0:
            name = _fit(drawable(f"{identity.name} {identity.version}"), 100, _BODY, bold=True)
            paper.text(MARGIN, MARGIN, name, _BODY, _BLUE, bold=True, page=page)
            paper.text(RIGHT, MARGIN, RESEARCH_USE, _SMALL, _AMBER, bold=True, align="right", page=page)
            paper.rule(MARGIN + 6, _BLUE, 1, page=page)
        y = HEIGHT - 19
        paper.rule(y, _RULE, page=page)
        paper.text(MARGIN, y + 1.6, RESEARCH_USE, _SMALL, _AMBER, bold=True, page=page)
        paper.text(RIGHT, y + 1.6, f"Page {page + 1} of {paper.count}", _SMALL, _SOFT, align="right", page=page)
        paper.text(MARGIN, y + 5.6, _HEADER_HAS_IT, _TINY, _SOFT, page=page)
        paper.text(MARGIN, y + 9, f"Document {self.report.uid}", _TINY, _SOFT, page=page)


def _how_to_read(pictures: Sequence[Picture]) -> str:
    outlined = any(p.lines for p in pictures)
    said = "The outlines are drawn on the images that show the findings best." if outlined else "Nothing is outlined."
    letters = {letter for p in pictures for letter in p.edges if letter}
    return f"{said} {'; '.join(f'{k}: {_SIDES[k]}' for k in _SIDES if k in letters)}." if letters else said


def _fit(said: str, room: float, size: float, *, bold: bool = False) -> str:
    """One line, cut where it is too long."""
    if width_of(said, size, bold=bold) <= room:
        return said
    while said and width_of(said + "…", size, bold=bold) > room:
        said = said[:-1]
    return said.rstrip() + "…"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
