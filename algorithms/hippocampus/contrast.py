"""The contrast of a head, once the hippocampi are known: they say what grey matter looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from . import find
from .resample import Grid, Image, pooled, resample
from .segment import Hippocampus

STEP = 2.0  # mm
NEAR = 45.0  # mm around a hippocampus
DEEP, SHALLOW = 16.0, 10.0  # mm under the skull
FEWEST = 100  # voxels of each tissue


@dataclass(frozen=True)
class Tissues:
    """Intensities in the series' own units.

    Attributes:
        white: white matter near the hippocampi.
        grey: the hippocampi.
        fluid: CSF (or bone) under the skull.
    """

    white: float
    grey: float
    fluid: float


def tissues(image: Image, head: find.Head, sides: tuple[Hippocampus, ...]) -> Tissues | None:
    """Intensity of each tissue from where it lies; None if too little of the head is there to tell.

    White matter is most of what lies deep and near a hippocampus: its 75th percentile. The darkest tenth of what lies
    shallow is CSF. No threshold on the image is involved, so it works whatever the contrast.
    """
    affine = head.grid.affine.copy()
    affine[:3, :3] *= STEP / find.STEP
    x, y, z = (int(s * find.STEP / STEP) for s in head.grid.shape)
    grid = Grid(affine, (x, y, z))
    source = pooled(image, STEP)
    array = resample(source.array[None], source.grid, grid)[0].cpu().numpy()
    inside = resample(1 - head.probability[: find.OUTSIDE + 1], head.grid, grid)[0].cpu().numpy() > 0.5
    depth = ndimage.distance_transform_edt(inside) * STEP
    index = np.stack(np.meshgrid(*[np.arange(s) for s in grid.shape], indexing="ij"), -1)
    near, grey = np.zeros(grid.shape, bool), []
    for side in sides:
        near |= ((index - grid.to_voxel(side.centre)) ** 2).sum(-1) < (NEAR / STEP) ** 2
        values = resample(image.array[None], image.grid, side.grid)[0]
        grey.append(values[side.probability.sum(0) > 0.8])
    deep, shallow = array[(depth > DEEP) & near], array[inside & (depth <= SHALLOW)]
    if min(len(deep), len(shallow), *map(len, grey)) < FEWEST:
        return None
    middle = float(np.mean([float(torch.median(g)) for g in grey]))
    return Tissues(float(np.percentile(deep, 75)), middle, float(np.percentile(shallow, 10)))
