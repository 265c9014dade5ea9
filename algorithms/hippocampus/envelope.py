"""Head size: the volume of the brain and of the fluid that it encloses, from the coarse stage and the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from . import find
from .resample import Grid, Image, inside_of, pooled, resample

Mask = npt.NDArray[np.bool_]

STEP = 2.0  # mm
SURE, LIKELY = 0.9, 0.5  # probability of being inside the skull: brain alone; brain, and some of the skull
AROUND = 24.0  # mm; brightness is compared with the brain's within about this distance
DARKEST = 0.55  # of the brain's brightness around; less is fluid or bone
THIN = 4.0  # mm; what holds on to the brain by less (meninges, vessels, marrow) is cut off
FOLDS = 12.0  # mm; gaps up to twice as wide are closed: folds, cisterns
AT_EDGE = 0.005  # share of the envelope on the border of the field of view (a cut brainstem has 0.3%); more is cut off


def _eroded(mask: Mask, mm: float) -> Mask:
    result: Mask = ndimage.distance_transform_edt(mask) > mm / STEP
    return result


def _dilated(mask: Mask, mm: float) -> Mask:
    result: Mask = ndimage.distance_transform_edt(~mask) <= mm / STEP
    return result


def _brain(array: npt.NDArray[Any], inside: npt.NDArray[Any]) -> Mask | None:
    """What is as bright as brain and in one piece with it."""
    sure = inside > SURE
    if not sure.any():
        return None
    # the brain's own brightness varies over a head (coils); fluid is left out of its mean
    bright = (sure & (array > 0.5 * np.median(array[sure]))).astype(np.float32)
    weight = ndimage.gaussian_filter(bright, AROUND / STEP)
    level = ndimage.gaussian_filter(array * bright, AROUND / STEP) / np.maximum(weight, 1e-3)
    tissue = (array > DARKEST * level) & (inside > LIKELY)
    pieces, count = ndimage.label(_eroded(tissue, THIN))
    if count == 0:
        return None
    core = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    brain: Mask = _dilated(core, THIN) & tissue
    return brain


def _grid_around(head: find.Head, margin: int) -> Grid:
    """The grid of STEP mm around what may be inside the skull, with ``margin`` voxels on each side."""
    voxels = np.argwhere((head.probability[find.OUTSIDE] < LIKELY).cpu().numpy())
    low, high = (voxels.min(0), voxels.max(0)) if len(voxels) else (np.zeros(3), np.zeros(3))
    affine = head.grid.affine.copy()
    affine[:3, :3] *= STEP / find.STEP
    affine[:3, 3] = head.grid.to_mm(low) - affine[:3, :3] @ np.full(3, margin)
    x, y, z = (int(n) for n in (high - low + 1) * find.STEP / STEP + 2 * margin)
    return Grid(affine, (x, y, z))


def brain_envelope(image: Image, head: find.Head) -> float | None:
    """Volume in mL of the brain with its ventricles and the fluid in its folds.

    It is less than the intracranial volume: fluid between the brain's envelope and the skull is not in it.

    Returns:
        None if the brain is not wholly in the field of view, or none stands out.
    """
    margin = round(FOLDS / STEP) + 2
    grid = _grid_around(head, margin)
    source = pooled(image, STEP)
    array = resample(source.array[None], source.grid, grid)[0].cpu().numpy()
    inside = resample(1 - head.probability[: find.OUTSIDE + 1], head.grid, grid)[0].cpu().numpy()
    seen = inside_of(image.grid, grid, image.array.device).cpu().numpy()
    brain = _brain(array, inside)
    if brain is None:
        return None
    envelope = ndimage.binary_fill_holes(_eroded(_dilated(brain, FOLDS), FOLDS))
    border = ndimage.binary_dilation(~seen, iterations=2)
    if (brain & border).sum() > AT_EDGE * envelope.sum():
        return None
    return float(envelope.sum()) * STEP**3 / 1000
