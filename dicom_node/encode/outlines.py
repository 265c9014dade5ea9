"""The outlines of a label map, as spatial coordinates of the images that it lies on."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator

from dicom_node.algorithm import Findings


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """The closed lines that part a mask from what is around it and from its holes, the longest first.

    A pixel's centre is inside by the even-odd rule over all lines if and only if the mask holds it.

    Args:
        mask: (rows, columns).

    Returns:
        Arrays of shape (points, 2), the first point repeated at the end: (column, row) in the image-relative
        coordinates of SCOORD, where the centre of the top left pixel is (0.5, 0.5) (PS3.3 C.18.6.1.1).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    marked = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float64), 1)
    offset = np.array([left - 0.5, top - 0.5])
    lines = [_without_straight_points(np.asarray(line)) + offset for line in contour_generator(z=marked).lines(0.5)]
    return sorted(lines, key=lambda line: (-_length(line), *line[0]))


def _without_straight_points(line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Leave out the points between which the line goes straight on."""
    corners = line[:-1]
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turning = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept = corners[turning]
    return np.concatenate([kept, kept[:1]])


def _length(line: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def best_first(findings: Findings, values: Collection[int]) -> Iterator[int]:
    """The planes that hold any of these segments: the key plane or the one with most pixels first, then in order.

    Viewers that show one outline of a region show its first.
    """
    labels = findings.label_map
    area = np.zeros(len(labels), np.intp)
    for value in values:
        area += np.count_nonzero(labels == value, axis=(1, 2))
    held = [int(k) for k in np.flatnonzero(area)]
    if not held:
        return
    key = [k for k in findings.key_planes if area[k]] or held
    best = max(key, key=lambda k: int(area[k]))
    yield best
    yield from (k for k in held if k != best)
