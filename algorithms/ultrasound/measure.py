"""Axes of an outline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def axes(mask: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[float, float]:
    """The longest diameter, and the largest one perpendicular to it, in the unit of ``spacing`` (rows, columns).

    Diameters reach from outer pixel edge to outer pixel edge; (0, 0) of an empty mask.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0, 0.0
    # the outermost pixels of each row hold both ends of every diameter; their corners count
    corners = []
    for row in np.unique(rows):
        found = columns[rows == row]
        corners += [(row + d, c) for d in (0, 1) for c in (found.min(), found.max() + 1)]
    points = np.unique(np.array(corners, float), axis=0) * np.array(spacing)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (points[second] - points[first]) / apart[first, second]
    beside = points @ np.array([-along[1], along[0]])
    return float(apart[first, second]), float(np.ptp(beside))
