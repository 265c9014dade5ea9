"""The outlines of cavity and myocardium in every slice and phase of a stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from . import networks, resample

Tensor = torch.Tensor

CAVITY, MYOCARDIUM = 1, 2


def probabilities(
    images: Tensor,
    spacing: tuple[float, float],
    centre: tuple[float, float],
    segmenters: Sequence[torch.nn.Module],
) -> Tensor:
    """Probability of cavity and of myocardium on the images' own grid.

    Args:
        images: (n, 1, rows, columns) float32.
        spacing: mm between (rows, columns).
        centre: (row, column) index of the ventricle's middle.

    Returns:
        (n, 2, rows, columns) float32; 0 outside of the patch around ``centre``.
    """
    seen = resample.patches(images, spacing, centre, resample.SEGMENT_SIZE, resample.SEGMENT_STEP)
    maps = networks.predict(segmenters, resample.normalise(seen))[:, 1:]
    shape = (images.shape[2], images.shape[3])
    return resample.restored(maps, spacing, centre, shape, resample.SEGMENT_STEP)


def labels(found: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Label maps, each with one cavity without holes and the myocardium that touches it.

    Args:
        found: (n, 2, rows, columns), probabilities of cavity and myocardium.

    Returns:
        (n, rows, columns): 0, CAVITY or MYOCARDIUM.
    """
    return np.stack([_one(cavity, muscle) for cavity, muscle in found])


def _one(cavity: npt.NDArray[np.float32], muscle: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    result = np.zeros(cavity.shape, np.uint8)
    inside = _largest((cavity > 0.5) | ((cavity >= muscle) & (cavity + muscle > 0.5)))
    if not inside.any():
        return result
    inside = ndimage.binary_fill_holes(inside)
    wall = (cavity + muscle > 0.5) & ~inside
    whole = _touching(wall | inside, inside)
    result[whole] = MYOCARDIUM
    result[inside] = CAVITY
    return result


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: npt.NDArray[np.bool_] = parts == int(sizes.argmax())
    return largest


def _touching(mask: npt.NDArray[np.bool_], seed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    parts, _ = ndimage.label(mask)
    kept: npt.NDArray[np.bool_] = np.isin(parts, np.unique(parts[seed]))
    return kept
