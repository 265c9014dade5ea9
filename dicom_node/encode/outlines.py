"""The outlines of a label map, as spatial coordinates of the images that it lies on."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator

Line = npt.NDArray[np.float64]

_AT_ONCE = 1 << 20
"""Pixels that are traced together: one call for each plane takes twice the time, one for all of them much memory."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[Line]:
    """The outlines of one plane: see :func:`outlines_of_planes`."""
    return outlines_of_planes(mask[None])[0]


def outlines_of_planes(masks: npt.NDArray[np.bool_]) -> list[list[Line]]:
    """The closed lines that part each mask from what is around it and from its holes, the longest first.

    A pixel's centre is inside by the even-odd rule over all lines if and only if the mask holds it.

    Args:
        masks: (planes, rows, columns).

    Returns:
        For each plane arrays of shape (points, 2), the first point repeated at the end: (column, row) in the
        image-relative coordinates of SCOORD, where the centre of the top left pixel is (0.5, 0.5)
        (PS3.3 C.18.6.1.1).
    """
    found: list[list[Line]] = [[] for _ in masks]
    held = [k for k, mask in enumerate(masks) if mask.any()]
    if not held:
        return found
    anywhere: npt.NDArray[np.bool_] = np.logical_or.reduce(masks)
    rows, columns = np.flatnonzero(anywhere.any(axis=1)), np.flatnonzero(anywhere.any(axis=0))
    boxes = masks[held, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    offset = np.array([columns[0] - 0.5, rows[0] - 0.5])
    step = max(1, _AT_ONCE // boxes[0].size)
    traced = itertools.chain.from_iterable(_traced(boxes[k : k + step]) for k in range(0, len(boxes), step))
    for k, lines in zip(held, traced, strict=True):
        found[k] = sorted((line + offset for line in lines), key=lambda line: (-_length(line), *line[0]))
    return found


def _traced(boxes: npt.NDArray[np.bool_]) -> list[list[Line]]:
    """The outlines of planes that lie one below the other, a row and a column of nothing around each."""
    count, rows, columns = boxes.shape
    sheet = np.zeros((count * (rows + 1) + 1, columns + 2))
    sheet[:-1].reshape(count, rows + 1, columns + 2)[:, 1:, 1:-1] = boxes
    # Of this line type there is one array of points and one of offsets for each chunk, and one chunk.
    traced: Any = contour_generator(z=sheet, line_type=LineType.ChunkCombinedOffset).lines(0.5)
    found: list[list[Line]] = [[] for _ in boxes]
    if traced[0][0] is None:
        return found
    points, ends = _corners(traced[0][0], traced[1][0])
    for start, end in itertools.pairwise(ends):
        plane = int(points[start, 1] / (rows + 1))
        line = np.concatenate([points[start:end], points[start : start + 1]])
        found[plane].append(line - (0, plane * (rows + 1)))
    return found


def _corners(points: Line, starts: npt.NDArray[np.uint32]) -> tuple[Line, list[int]]:
    """Leave out the points between which the lines go straight on, and the last of each line, which is its first.

    Args:
        points: (points, 2), of all lines.
        starts: where each line starts, and the number of points.

    Returns:
        The same of what is left.
    """
    first, last = starts[:-1].astype(np.intp), starts[1:].astype(np.intp) - 1
    after = np.diff(points, axis=0, append=0)
    before = np.roll(after, 1, axis=0)
    before[first] = after[last - 1]
    kept = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept[last] = False
    return points[kept], [0, *np.cumsum(np.add.reduceat(kept, first, dtype=np.intp)).tolist()]


def _length(line: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def best_first(masks: npt.NDArray[np.bool_], key_planes: Collection[int]) -> Iterator[int]:
    """The planes that hold a pixel: the key plane or the one with most pixels first, then in order.

    Viewers that show one outline of a region show its first.

    Args:
        masks: (planes, rows, columns).
        key_planes: indices of planes.
    """
    area = np.array([np.count_nonzero(plane) for plane in masks])
    held = [int(k) for k in np.flatnonzero(area)]
    if not held:
        return
    key = [k for k in key_planes if area[k]] or held
    best = max(key, key=lambda k: int(area[k]))
    yield best
    yield from (k for k in held if k != best)
