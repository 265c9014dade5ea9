"""Single planes for the picture: pixels as a screen shows them, with the outlines of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from dicom_node.algorithm import Box, Findings
from dicom_node.encode.common import build
from dicom_node.encode.outlines import best_first, outlines
from dicom_node.encode.source import Plane, Source
from dicom_node.errors import EncodeError

MOST_PLANES = 4
_MARGIN = 0.75
"""Of the marked region's size, shown on each side of it."""
_SMALLEST_MM = 80.0
_SMALLEST_SHARE = 0.35
"""A close-up shows at least so much of the image's width, where its pixels have no size in mm."""


@dataclass(frozen=True)
class Picture:
    """One plane.

    Attributes:
        grey: uint8 (rows, columns, 3): the whole plane as a screen shows it.
        lines: closed lines (points, 2) as (column, row) of the plane, with their segment's value.
        box: the part to be shown: first and last column and row (left, top, right, bottom), edges of pixels.
        caption: which image it is.
        edges: letters at the left, right, top and bottom edge (PS3.3 C.7.6.1.1.1), empty where unknown.
        annotated: whether the image's header says that it may show a name (Burned In Annotation).
    """

    grey: npt.NDArray[np.uint8]
    lines: tuple[tuple[int, npt.NDArray[np.float64]], ...]
    box: tuple[float, float, float, float]
    caption: str
    edges: tuple[str, str, str, str]
    annotated: bool = False


def pictures_of(
    findings: Findings, source: Source, headers: Sequence[Dataset]
) -> tuple[tuple[Picture, ...], tuple[Plane, ...]]:
    """What is to be drawn of findings, and the planes that it is of.

    Args:
        findings: key planes, or else those on which the segments are largest, are drawn.
        source: the tidied series.
        headers: its headers as read from files: the pixels are read from ``filename``.

    Raises:
        EncodeError: the pixels of a plane cannot be had.
    """
    by_uid = {str(h.get("SOPInstanceUID", "")): h for h in headers}
    chosen = pick_planes(findings)
    planes = tuple(source.planes[k] for k in chosen)
    drawn = zip(chosen, planes, strict=True)
    return tuple(picture_of(findings, k, p, by_uid[str(p.image.SOPInstanceUID)]) for k, p in drawn), planes


def pick_planes(findings: Findings) -> list[int]:
    """Planes to draw, MOST_PLANES at most: the key planes, or else of each segment the plane where it is largest.

    Where nothing was found, the middle one: it shows what was looked at.
    """
    if findings.key_planes:
        return list(findings.key_planes[:MOST_PLANES])
    best = [next(best_first(findings.label_map == s.value, findings.key_planes), None) for s in findings.segments]
    return sorted({k for k in best if k is not None})[:MOST_PLANES] or [len(findings.label_map) // 2]


def picture_of(findings: Findings, index: int, plane: Plane, header: Dataset) -> Picture:
    """Read the plane's pixels and lay the outlines on them.

    Args:
        index: of the plane in the label map.
        plane: where it lies.
        header: as read from a file; ``filename`` gives the pixels.

    Raises:
        EncodeError: the file cannot be read or decoded.
    """
    stored = _read(header, plane.number or 1)
    labels = findings.label_map[index]
    # The first segment last: where it shares an edge with what surrounds it, its colour is the one to be seen.
    lines = tuple((s.value, line) for s in reversed(findings.segments) for line in outlines(labels == s.value))
    number = str(header.get("InstanceNumber") or index + 1)
    caption = f"image {number}" if plane.number is None else f"image {number}, frame {plane.number}"
    screen = _for_screen(stored, header)
    annotated = header.get("BurnedInAnnotation") == "YES"
    if findings.shown:
        tissue = findings.shown[index]
        return Picture(_only(screen, tissue), lines, _around(labels, tissue), caption, ("", "", "", ""), annotated)
    row_mm, column_mm = _spacing(plane.image)
    marked = np.argwhere((findings.label_map > 0).any(axis=0))
    box = _box(marked, labels.shape, row_mm, column_mm)
    return Picture(screen, lines, box, caption, _edges(plane.image), annotated)


def _only(screen: npt.NDArray[np.uint8], boxes: Sequence[Box]) -> npt.NDArray[np.uint8]:
    """The picture within the boxes: beside them a name may be written."""
    kept = np.zeros_like(screen)
    for top, left, bottom, right in boxes:
        kept[top:bottom, left:right] = screen[top:bottom, left:right]
    return kept


def _around(labels: npt.NDArray[np.uint8], boxes: Sequence[Box]) -> tuple[float, float, float, float]:
    """The square around the box with most of what is marked, or the first."""
    top, left, bottom, right = max(boxes, key=lambda b: int((labels[b[0] : b[2], b[1] : b[3]] > 0).sum()))
    half = max(bottom - top, right - left) / 2
    row, column = (top + bottom) / 2, (left + right) / 2
    return column - half, row - half, column + half, row + half


def _read(header: Dataset, frame_number: int) -> npt.NDArray[np.generic]:
    path = getattr(header, "filename", None)
    if not path:
        raise EncodeError("the pixels of a source image are not at hand: its header does not name its file")
    try:
        pixels: npt.NDArray[np.generic] = pixel_array(Path(path), index=frame_number - 1)
    except (OSError, InvalidDicomError, ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as e:
        raise EncodeError(f"the pixels of a source image cannot be read: {type(e).__name__}") from e
    return pixels


def _for_screen(stored: npt.NDArray[np.generic], header: Dataset) -> npt.NDArray[np.uint8]:
    """Grey levels between the 1st and 99.5th percentile of the plane; colours as they are."""
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        coloured = build("picture", lambda: apply_color_lut(stored, header))
        stored = coloured if coloured.dtype == np.uint8 else coloured >> 8
    if stored.ndim == 3:
        return np.ascontiguousarray(stored[..., :3], dtype=np.uint8)
    values = stored.astype(np.float64)
    low, high = np.percentile(values, (1, 99.5))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 1 - grey
    return np.repeat((grey * 255).round().astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def _spacing(image: Dataset) -> tuple[float, float]:
    """mm between rows and between columns; ones where the image does not tell."""
    found = image.get("PixelSpacing")
    if found is None or len(found) != 2 or min(map(float, found)) <= 0:
        return 1.0, 1.0
    return float(found[0]), float(found[1])


def _box(
    marked: npt.NDArray[np.int64], shape: tuple[int, ...], row_mm: float, column_mm: float
) -> tuple[float, float, float, float]:
    """A square (in mm) around what is marked on any plane, within the image where it fits in."""
    rows, columns = shape
    height, width = rows * row_mm, columns * column_mm
    if not len(marked):
        return 0.0, 0.0, float(columns), float(rows)
    top, left = marked.min(axis=0) * (row_mm, column_mm)
    bottom, right = (marked.max(axis=0) + 1) * (row_mm, column_mm)
    side = max(bottom - top, right - left) * (1 + 2 * _MARGIN)
    side = min(max(side, _SMALLEST_MM, _SMALLEST_SHARE * width), max(height, width))
    x = _begin((left + right) / 2, side, width)
    y = _begin((top + bottom) / 2, side, height)
    return x / column_mm, y / row_mm, (x + side) / column_mm, (y + side) / row_mm


def _begin(middle: float, side: float, whole: float) -> float:
    """Where a window of ``side`` begins so that it shows the middle and nothing beyond the image, if it can."""
    if side >= whole:
        return (whole - side) / 2
    return float(min(max(middle - side / 2, 0.0), whole - side))


def _edges(image: Dataset) -> tuple[str, str, str, str]:
    """The side of the patient at the left, right, top and bottom edge."""
    found = image.get("ImageOrientationPatient")
    if found is None or len(found) != 6:
        return "", "", "", ""
    cosines = np.asarray([float(v) for v in found])
    row, column = cosines[:3], cosines[3:]
    return _letter(-row), _letter(row), _letter(-column), _letter(column)


def _letter(direction: npt.NDArray[np.float64]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return ("LPH" if direction[axis] > 0 else "RAF")[axis]


def render(
    picture: Picture, side: int, colours: dict[int, tuple[int, int, int]]
) -> tuple[Image.Image, list[tuple[tuple[int, int, int], list[tuple[float, float]]]]]:
    """The square close-up, and the outlines in its pixels.

    Returns:
        An RGB image of ``side`` x ``side`` pixels; (colour, points (x, y)) of each line.
    """
    left, top, right, bottom = picture.box
    whole = Image.fromarray(picture.grey)
    # What lies beyond the image is black.
    close = whole.transform(
        (side, side), Image.Transform.EXTENT, (left, top, right, bottom), Image.Resampling.BICUBIC, fillcolor=(0, 0, 0)
    )
    scale = np.array([side / (right - left), side / (bottom - top)])
    lines = []
    for value, line in picture.lines:
        points = (line - (left, top)) * scale
        lines.append((colours[value], [(float(x), float(y)) for x, y in points]))
    return close, lines
