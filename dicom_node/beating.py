"""A moving picture of a cine's findings: the heart beats beside its volume curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_node.algorithm import Cine, Curve, Findings
from dicom_node.encode.curve import draw_curve
from dicom_node.run.cine import read_cine

_SIDE = 360  # pixels of the heart's picture
_FIELD_MM = 150.0
_CURVE = (460, 360)
_TOP = 34
_COLOURS = 48  # enough for grey, outlines and the curve; a third of the size of 256
_MOMENT, _REST = 60, 600  # ms that a phase is shown, and one with outlines


def draw_beating(findings: Findings, sources: Sequence[Path], out: Path, title: str) -> None:
    """Write an animated GIF: the middle slice at each phase, its outlines where there are any, and the curve.

    Args:
        findings: with a curve and key planes, of a cine.
        sources: the study's files, in any order.
        title: the line at the top; no patient data.
    """
    cine = read_cine(sources).cine
    curve = findings.curves[0]
    place = {frame: (p, k) for p, row in enumerate(cine.frames) for k, frame in enumerate(row)}
    marked = {place[findings.frames[k]]: findings.label_map[k] for k in findings.key_planes}
    middle = place[findings.frames[findings.key_planes[0]]][1]
    box = _box(findings.label_map[findings.key_planes[0]] > 0, cine)
    colours = {s.value: s.color for s in findings.segments}
    low, high = (float(v) for v in np.percentile(cine.array[:, middle], (1, 99.5)))
    pictures = []
    for phase in range(len(cine.array)):
        heart = _heart(cine.array[phase, middle], marked.get((phase, middle)), box, (low, high), colours)
        pictures.append(_page(heart, _moment(curve, phase), title).quantize(_COLOURS, dither=Image.Dither.NONE))
    durations = [_REST if (phase, middle) in marked else _MOMENT for phase in range(len(pictures))]
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _box(mask: npt.NDArray[np.bool_], cine: Cine) -> tuple[slice, slice]:
    centre = ndimage.center_of_mass(mask)
    edges = []
    for c, mm, n in zip(centre, cine.spacing[1:], mask.shape, strict=True):
        half = _FIELD_MM / 2 / mm
        edges.append(slice(max(0, int(c - half)), min(n, int(c + half) + 1)))
    return edges[0], edges[1]


def _heart(
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8] | None,
    box: tuple[slice, slice],
    window: tuple[float, float],
    colours: dict[int, tuple[int, int, int]],
) -> Image.Image:
    grey = np.clip((image[box] - window[0]) / max(window[1] - window[0], 1e-6), 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB")
    if labels is None:
        return picture
    pixels = np.array(picture)
    large = np.asarray(Image.fromarray(labels[box]).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
    for value, colour in colours.items():
        inside = large == value
        pixels[inside & ~ndimage.binary_erosion(inside, iterations=2)] = colour
    return Image.fromarray(pixels)


def _moment(curve: Curve, phase: int) -> Image.Image:
    """The curve with this phase marked."""
    now = replace(curve, marks=((phase, f"{curve.values[phase]:.0f} {curve.unit}"),))
    return Image.fromarray(draw_curve(now, *_CURVE))


def _page(heart: Image.Image, curve: Image.Image, title: str) -> Image.Image:
    font = ImageFont.load_default(16)
    page = Image.new("RGB", (_SIDE + _CURVE[0], _SIDE + _TOP))
    page.paste(heart, (0, _TOP))
    page.paste(curve, (_SIDE, _TOP))
    draw = ImageDraw.Draw(page)
    draw.text((10, 8), title, fill=(255, 255, 255), font=font)
    draw.text((page.width - 10, 8), "For research use only", fill=(255, 210, 90), font=font, anchor="ra")
    return page
