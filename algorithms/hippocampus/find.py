"""Find: where both hippocampi and the inside of the skull lie in a whole head, on a 4 mm grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from .intensity import normalise_head, some_of
from .networks import predict
from .resample import Grid, Image, pooled, resample

Tensor = torch.Tensor

STEP = 4.0
SMALLEST = (40, 56, 48)  # the shape the networks were trained on
LARGEST = (64, 72, 80)
OUTSIDE, HIPPOCAMPUS = 0, 1  # of networks.FIND_CLASSES
EDGE = 0.3  # probability; a hippocampus is so thin at its ends that a 4 mm voxel is never half full
SMALLEST_FOUND = 0.25  # mL; the stage sees less of a hippocampus than there is
APART = (28.0, 85.0)  # mm between the centres of both sides; adults have 45 to 65


@dataclass(frozen=True)
class Head:
    """What the find networks saw and said.

    Attributes:
        probability: (3, x, y, z), of FIND_CLASSES.
        image: (x, y, z), normalised.
        grid: of both.
    """

    probability: Tensor
    image: Tensor
    grid: Grid

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """What is inside the skull, bool (x, y, z)."""
        mask: npt.NDArray[np.bool_] = (self.probability[OUTSIDE] < 0.5).cpu().numpy()
        return mask

    @property
    def brain_volume(self) -> float:
        """What is inside the skull in mL, generously: enough to tell a head from what is none, no measurement."""
        return float(self.inside.sum()) * STEP**3 / 1000


@dataclass(frozen=True)
class Place:
    """One hippocampus as found.

    Attributes:
        centre: centroid, RAS mm.
        volume: mL, roughly.
        certainty: mean probability over it.
    """

    centre: npt.NDArray[np.float64]
    volume: float
    certainty: float


def covering_grid(grid: Grid, step: float) -> Grid:
    """The RAS grid of ``step`` mm that covers a field of view."""
    corners = grid.corners()
    low, high = corners.min(0), corners.max(0)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = low
    n = np.minimum(np.ceil((high - low) / step).astype(int) + 1, 256)
    return Grid(affine, (int(n[0]), int(n[1]), int(n[2])))


def smoothed(array: Tensor) -> Tensor:
    """Gaussian of one voxel, as in training (``train_data.blurred``)."""
    reach = torch.arange(-4, 5, dtype=torch.float32, device=array.device)
    kernel = torch.exp(-(reach**2) / 2)
    kernel = kernel / kernel.sum()
    result = array[None, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = 9, 4
        result = functional.conv3d(result, kernel.view(shape), padding=padding)
    return result[0, 0]


def look(image: Image) -> tuple[Tensor, Grid]:
    """The head at 4 mm, cut to what is not air: normalised array and its grid."""
    fine = covering_grid(image.grid, STEP / 2)
    source = pooled(image, STEP / 2)
    flat = some_of(source.array.flatten(), 200_000)
    low, high = torch.quantile(flat, torch.tensor([0.001, 0.999], device=flat.device))
    array = resample(((source.array - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)[None], source.grid, fine)[0]
    coarse = smoothed(array)[::2, ::2, ::2]
    affine = fine.affine.copy()
    affine[:3, :3] *= 2
    found = torch.nonzero(coarse > 0.12).cpu().numpy()
    if len(found) == 0:
        found = np.array([[0, 0, 0], np.array(coarse.shape) - 1])
    start, stop = np.maximum(found.min(0) - 2, 0), found.max(0) + 3
    start[2] = max(start[2], stop[2] - LARGEST[2])  # a long field of view: keep the top, the neck can go
    length = stop - start
    shape = [int(np.clip(np.ceil(n / 8) * 8, a, b)) for n, a, b in zip(length, SMALLEST, LARGEST, strict=True)]
    start = np.where(length > shape, (start + stop - np.array(shape)) // 2, start - (np.array(shape) - length) // 2)
    if length[2] <= shape[2]:
        start[2] = stop[2] - shape[2]
    cut = coarse.new_zeros(*shape)
    have = tuple(slice(max(0, s), min(n, s + k)) for s, k, n in zip(start, shape, coarse.shape, strict=True))
    put = tuple(slice(h.start - s, h.stop - s) for h, s in zip(have, start, strict=True))
    cut[put] = coarse[have]
    affine[:3, 3] += affine[:3, :3] @ start
    return normalise_head(cut[None, None])[0, 0], Grid(affine, (shape[0], shape[1], shape[2]))


def find(image: Image, networks: list[torch.nn.Module]) -> Head:
    """Mean probabilities of the networks, the brain's largest piece only."""
    array, grid = look(image)
    probability = predict(networks, array[None, None])[0]
    brain = (1 - probability[0] > 0.5).cpu().numpy()
    pieces, count = ndimage.label(brain)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        keep = ndimage.binary_dilation(pieces == 1 + int(sizes.argmax()), iterations=2)
        kept = torch.from_numpy(keep).to(probability)
        probability = torch.cat([1 - (1 - probability[:1]) * kept, probability[1:] * kept])
    return Head(probability, array, grid)


def places(head: Head) -> list[Place]:
    """Pieces that could be a hippocampus, the largest first, at most five."""
    probability = head.probability[HIPPOCAMPUS].cpu().numpy()
    pieces, count = ndimage.label(probability > EDGE, structure=np.ones((3, 3, 3)))
    if count == 0:
        return []
    numbers = np.arange(1, count + 1)
    mass = np.atleast_1d(ndimage.sum_labels(probability, pieces, numbers)) * STEP**3 / 1000
    found: list[Place] = []
    for k in np.argsort(mass)[::-1][:5]:
        if mass[k] >= SMALLEST_FOUND:
            centre: Any = ndimage.center_of_mass(np.where(pieces == k + 1, probability, 0))
            top = float(probability[pieces == k + 1].max())
            found.append(Place(head.grid.to_mm(centre), float(mass[k]), top))
    return found


def left_and_right(head: Head) -> tuple[Place | None, Place | None]:
    """Both hippocampi by side, None where there is none.

    They are the pieces that are as far from each other as both sides are, and largest together. The networks do not
    tell left from right, which no mirror image could: the patient's coordinates do. If there is no such pair, the
    largest piece is one of them, on the side of the brain it lies in.
    """
    found = places(head)
    pairs = [
        (min(a.volume, b.volume) * min(a.certainty, b.certainty), a, b)
        for a, b in itertools.combinations(found, 2)
        if APART[0] < np.linalg.norm(a.centre - b.centre) < APART[1]
        and abs(a.centre[0] - b.centre[0]) > abs(a.centre - b.centre)[1:].max()
    ]
    if pairs:
        _, a, b = max(pairs, key=lambda pair: pair[0])
        return (a, b) if a.centre[0] < b.centre[0] else (b, a)
    if not found:
        return None, None
    middle = head.grid.to_mm(ndimage.center_of_mass(head.inside))[0]
    return (found[0], None) if found[0].centre[0] < middle else (None, found[0])
