"""A picture of what was found in single frames: outlines on the key frames, with their values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pydicom
from PIL import Image, ImageDraw, ImageFont

from dicom_node.algorithm import Findings
from dicom_node.encode.panels import pick_planes, picture_of, render
from dicom_node.encode.shown import unit_for_people
from dicom_node.encode.source import read_source
from dicom_node.model.result import readable

_SIDE = 480  # pixels of one frame
_CHARACTERS = 110  # of a line of notes
_TOP, _LINE = 34, 24
_WHITE, _AMBER, _GREY = (255, 255, 255), (255, 210, 90), (190, 190, 190)


def draw_outlined(findings: Findings, sources: Sequence[Path], out: Path, title: str) -> None:
    """Write a PNG: the key frames side by side, their outlines, and below them every value and every note.

    Args:
        findings: that name their frames.
        sources: the images' files, in any order.
        title: the line at the top; no patient data.
    """
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sources]
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    planes = read_source(headers, [title], frames=findings.frames).planes
    chosen = pick_planes(findings)
    values = [f"{m.name}  {readable(m.value)} {unit_for_people(m)}".rstrip() for m in findings.measurements]
    notes = [line for note in findings.notes for line in textwrap.wrap(note, _CHARACTERS, subsequent_indent="    ")]
    lines = [(value, _WHITE) for value in values] + [(note, _GREY) for note in notes]
    page = Image.new("RGB", (max(_SIDE * len(chosen), 2 * _SIDE), _TOP + _SIDE + _LINE * len(lines) + 12))
    font, colours = ImageFont.load_default(16), {s.value: s.color for s in findings.segments}
    pen = ImageDraw.Draw(page)
    pen.text((10, 8), title, fill=_WHITE, font=font)
    pen.text((page.width - 10, 8), "For research use only", fill=_AMBER, font=font, anchor="ra")
    for column, index in enumerate(chosen):
        image = planes[index].image
        picture = picture_of(findings, index, planes[index], by_uid[str(image.SOPInstanceUID)])
        close, outlines = render(picture, _SIDE, colours)
        on_it = ImageDraw.Draw(close)
        for colour, points in outlines:
            on_it.line(points, fill=colour, width=3, joint="curve")
        page.paste(close, (column * _SIDE, _TOP))
        pen.text((column * _SIDE + 8, _TOP + 6), picture.caption, fill=_WHITE, font=font, stroke_width=2, stroke_fill=0)
    for number, (line, colour) in enumerate(lines):
        pen.text((10, _TOP + _SIDE + 8 + number * _LINE), line, fill=colour, font=font)
    page.save(out)
