"""Thickness of the myocardium, measured along rays from the middle of the cavity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

RAYS = 72
STEP = 0.25
"""mm between the points of a ray."""
REACH = 70.0
"""mm: the outer surface of a dilated ventricle is nearer."""
SMOOTH = 3
"""Rays, 15 degrees, over which the thickness is averaged: one ray alone is noise."""


def thickness(
    cavity: npt.NDArray[np.float32], muscle: npt.NDArray[np.float32], spacing: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Thickness in mm in each direction around the ventricle of one slice; NaN where the wall is not closed.

    Args:
        cavity, muscle: (rows, columns), probabilities.
        spacing: mm between (rows, columns).

    Returns:
        (RAYS,) mm, going round from the direction of the columns.
    """
    inside = cavity > 0.5
    if not inside.any():
        return np.full(RAYS, np.nan)
    middle = ndimage.center_of_mass(inside)
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    along = np.arange(0, REACH, STEP)
    rows = middle[0] + np.sin(angles)[:, None] * along / spacing[0]
    columns = middle[1] + np.cos(angles)[:, None] * along / spacing[1]
    inner = _last(ndimage.map_coordinates(cavity, (rows, columns), order=1), along)
    outer = _last(ndimage.map_coordinates(cavity + muscle, (rows, columns), order=1), along)
    found = np.where(outer > inner, outer - inner, np.nan)
    neighbours = np.stack([np.roll(found, k) for k in range(-(SMOOTH // 2), SMOOTH // 2 + 1)])
    return np.asarray(neighbours.mean(0))


def _last(values: npt.NDArray[np.float32], along: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where each ray first falls below a half, in mm, between points by proportion; NaN if it never does."""
    below = values < 0.5
    first = below.argmax(1)
    found = below.any(1) & (first > 0)
    first = np.maximum(first, 1)
    each = np.arange(len(values))
    before, after = values[each, first - 1], values[each, first]
    share = (before - 0.5) / np.maximum(before - after, 1e-6)
    return np.where(found, along[first - 1] + share * STEP, np.nan)
