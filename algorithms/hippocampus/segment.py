"""Segment: one hippocampus at 1 mm into its anterior and posterior part, and the mask on the source grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from .intensity import normalise_patch
from .networks import predict
from .resample import Affine, Grid, Image, average_back, grid_around, inside_of, pooled, resample

Tensor = torch.Tensor

SHAPE = (32, 48, 48)  # 1 mm; close to the shape of training, on which instance normalisation depends
MEASURED = (32, 48, 32)  # the shape of training; intensities are normalised over it
REACH = 15.0  # mm; how far from the middle of the patch a hippocampus is expected
TURNS = (-8.0, 0.0, 8.0)  # degrees about x: the mean over these views is steadier than one


@dataclass(frozen=True)
class Hippocampus:
    """One side.

    Attributes:
        probability: (2, x, y, z), anterior and posterior, what is not connected removed.
        grid: of ``probability``; its first axis points to the left for a right hippocampus.
        centre: centroid, RAS mm.
        volume: mL, sum of the probabilities.
        complete: whether it lies inside the field of view, with a margin.
        certainty: mean probability over the mask.
    """

    probability: Tensor
    grid: Grid
    centre: npt.NDArray[np.float64]
    volume: float
    complete: bool
    certainty: float


def about_x(degrees: float) -> Affine:
    """Rotation about the left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def middle_of(shape: tuple[int, ...], inner: tuple[int, ...], device: torch.device) -> Tensor:
    """Float mask of ``shape``: 1 in a box of shape ``inner`` in its middle."""
    mask = torch.zeros(shape, device=device)
    box = tuple(slice((s - i) // 2, (s - i) // 2 + i) for s, i in zip(shape, inner, strict=True))
    mask[box] = 1
    return mask


def views(
    image: Image, centre: npt.ArrayLike, mirror: bool, networks: list[torch.nn.Module], turns: tuple[float, ...]
) -> tuple[Tensor, Grid, Tensor]:
    """Mean class probabilities around ``centre`` over slightly turned views.

    Returns:
        Probabilities (3, x, y, z); their grid; bool (x, y, z), what is inside the field of view.
    """
    device = image.array.device
    straight = grid_around(centre, SHAPE, 1.0, mirror)
    grids = [straight if t == 0 else grid_around(centre, SHAPE, 1.0, mirror, about_x(t)) for t in turns]
    patches = torch.stack([resample(image.array[None], image.grid, g) for g in grids])
    valid = torch.stack([inside_of(image.grid, g, device)[None] for g in grids]).float()
    patches = normalise_patch(patches, valid, valid * middle_of(SHAPE, MEASURED, device))
    probability = predict(networks, patches)
    total = torch.zeros(3, *SHAPE, device=device)
    weight = torch.zeros(1, *SHAPE, device=device)
    for one, grid in zip(probability, grids, strict=True):
        ones = torch.ones(1, *SHAPE, device=device)
        back = torch.cat([one, ones]) if grid is straight else resample(torch.cat([one, ones]), grid, straight)
        total, weight = total + back[:3], weight + back[3:]
    inside = inside_of(image.grid, straight, device)
    return total / weight.clamp(min=1e-3), straight, inside


def one_piece(probability: Tensor, allowed: Tensor) -> npt.NDArray[np.bool_]:
    """The piece of hippocampus that is large and near the middle, a margin of two voxels included; bool (x, y, z).

    Args:
        probability: (3, x, y, z).
        allowed: float (x, y, z); 0 where there can be none.
    """
    whole = (probability[1:].sum(0) * allowed).cpu().numpy()
    pieces, count = ndimage.label(whole > 0.5)
    if count == 0:
        return np.zeros(pieces.shape, bool)
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(pieces.ravel())[1:]
    offsets = np.array(ndimage.center_of_mass(whole, pieces, numbers)) - (np.array(whole.shape) - 1) / 2
    weights = sizes * np.exp(-((offsets / REACH) ** 2).sum(1) / 2)
    grown: npt.NDArray[np.bool_] = ndimage.binary_dilation(pieces == numbers[weights.argmax()], iterations=2)
    return grown


def segment(
    image: Image,
    centre: npt.ArrayLike,
    mirror: bool,
    networks: list[torch.nn.Module],
    near: tuple[Tensor, Grid] | None = None,
) -> Hippocampus | None:
    """Segment the hippocampus around ``centre`` (RAS mm).

    Args:
        image: the series.
        mirror: True for a right one: the networks know left ones.
        near: find-stage probability (x, y, z) of this side and its grid; nothing is kept far from it.

    Returns:
        None if there is none.
    """
    source = pooled(image, 1.0)
    # two looks by one network bring the patch to where the hippocampus is; the last is by all, over all views
    for some, turns in ((networks[:1], (0.0,)), (networks[:1], (0.0,)), (networks, TURNS)):
        probability, grid, inside = views(source, centre, mirror, some, turns)
        allowed = inside.to(probability)
        if near is not None:
            rough = resample(near[0][None], near[1], grid)[0] > 0.15
            grown = ndimage.binary_dilation(rough.cpu().numpy(), iterations=8)
            allowed = allowed * torch.from_numpy(grown).to(probability)
        kept = one_piece(probability, allowed)
        if not kept.any():
            return None
        mask = torch.from_numpy(kept).to(probability) * inside
        parts = probability[1:] * mask
        whole = parts.sum(0).cpu().numpy()
        centre = grid.to_mm(np.array(ndimage.center_of_mass(whole)))
    body = whole > 0.5
    if not body.any():
        return None
    rim = ndimage.binary_dilation(body, iterations=2) & ~inside.cpu().numpy()
    return Hippocampus(
        parts,
        grid,
        np.asarray(centre),
        float(whole.sum()) / 1000,
        not rim.any(),
        float(whole[body].mean()),
    )


def paint(label_map: npt.NDArray[np.uint8], target: Grid, side: Hippocampus, anterior: int, posterior: int) -> None:
    """Write the mask of one side into ``label_map``, on the source grid.

    A voxel is hippocampus when the mean probability over it is above one half; if voxels are thick, above the
    threshold that keeps the volume seen at 1 mm, because one half loses thin parts.
    """
    values, box = average_back(side.probability, side.grid, target)
    whole = values.sum(0).cpu().numpy()
    front = (values[0] > values[1]).cpu().numpy()
    threshold = 0.5
    if max(target.spacing) > 1.25:
        voxels = round(float((side.probability.sum(0) > 0.5).sum()) * 1.0 / float(np.prod(target.spacing)))
        ranked = np.sort(whole.ravel())[::-1]
        threshold = float(np.clip(ranked[min(voxels, len(ranked) - 1)], 0.35, 0.6))
    found = whole > threshold
    free = label_map[box] == 0
    label_map[box][found & front & free] = anterior
    label_map[box][found & ~front & free] = posterior
