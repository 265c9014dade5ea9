"""Where the inside of the skull can be, seen from the hippocampi of an upright adult."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def offsets(shape: tuple[int, ...], to_mm: npt.NDArray[np.float64], middle: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """RAS offset in mm of each voxel from ``middle`` (RAS mm): shape (3, x, y, z).

    Args:
        to_mm: 4x4, voxel index to RAS mm.
    """
    index = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij"))
    mm: npt.NDArray[np.float64] = np.einsum("ij,jxyz->ixyz", to_mm[:3, :3], index)
    mm += (to_mm[:3, 3] - np.asarray(middle))[:, None, None, None]
    return mm


def surely_inside(offset: npt.NDArray[Any]) -> Mask:
    """An ellipsoid smaller than any adult brain."""
    x, y, z = offset
    mask: Mask = (x / 50) ** 2 + ((y - 4) / 65) ** 2 + ((z - 30) / 42) ** 2 < 1
    return mask


def surely_outside(offset: npt.NDArray[Any]) -> Mask:
    """What is too far from the hippocampi, in the neck, or in the face."""
    x, y, z = offset
    far = (x**2 + y**2 + z**2 > 105**2) | (z < -58)
    below = ((z < -40) & ((y > 15) | (abs(x) > 58))) | ((z < -32) & (y > 35)) | ((z < -20) & (y > 60))
    mask: Mask = far | below
    return mask
