"""Endless augmented batches for the two networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import augment
from .augment import Geometry
from .resample import FIND_SIZE, FIND_STEP, SEGMENT_STEP, TRAINED_SIZE, normalise, sample, smoothed
from .train_data import Slices

Tensor = torch.Tensor

FIND_GEOMETRY = Geometry(rotation=25, any_rotation=0.15, zoom=0.15, shift=70, bend=4.0, bend_cells=5)
SEGMENT_GEOMETRY = Geometry(rotation=25, any_rotation=0.2, zoom=0.13, shift=18, bend=2.0, bend_cells=6)
ANYWHERE = 0.05
"""Share of segment patches that lie anywhere in the image: most of them hold little or nothing of the ventricle."""


@dataclass(frozen=True)
class Batch:
    """``image`` (n, 1, rows, columns) as a network sees it; ``regions`` (n, 3, rows, columns), see ``Slices``.

    ``regions`` are shares for the find network (the cavity's alone, (n, 1, ...)) and bool for the segment network.
    """

    image: Tensor
    regions: Tensor


def find_batch(slices: Slices, count: int, generator: torch.Generator) -> Batch:
    """Whole images at 4 mm, their middle anywhere near the heart."""
    chosen = torch.randint(len(slices), (count,), generator=generator)
    images, shares = [], []
    for k in chosen.tolist():
        spacing = (float(slices.spacing[k, 0]), float(slices.spacing[k, 1]))
        both = torch.cat([slices.images[k : k + 1].float() / 255, slices.regions[k : k + 1, :1].float()])
        coarse = smoothed(both, spacing, FIND_STEP)
        images.append(coarse[:1])
        shares.append(coarse[1:])
    # The image's own middle more often than the ventricle's: that is what a stack is searched around.
    middle = torch.tensor([(s - 1) / 2 for s in slices.images.shape[2:]])
    pull = torch.rand(count, 1, generator=generator)
    centres = middle + pull * (slices.centres[chosen] - middle)
    points = augment.random_points(centres, slices.spacing[chosen], FIND_SIZE, FIND_STEP, FIND_GEOMETRY, generator)
    moved = sample(torch.cat([torch.cat(images), torch.cat(shares)], 1), points)
    return Batch(_as_seen(moved[:, :1], generator), moved[:, 1:])


def segment_batch(slices: Slices, count: int, generator: torch.Generator) -> Batch:
    """Patches at 1.4 mm with the ventricle near the middle."""
    chosen = torch.randint(len(slices), (count,), generator=generator)
    centres = slices.centres[chosen]
    anywhere = torch.rand(count, 2, generator=generator) * torch.tensor(slices.images.shape[2:])
    is_anywhere = torch.rand(count, 1, generator=generator) < ANYWHERE
    centres = torch.where(is_anywhere, anywhere, centres)
    points = augment.random_points(
        centres, slices.spacing[chosen], TRAINED_SIZE, SEGMENT_STEP, SEGMENT_GEOMETRY, generator
    )
    both = torch.cat([slices.images[chosen].float() / 255, slices.regions[chosen].float()], 1)
    moved = sample(both, points)
    # What is outside of the image is surely neither, and a region is where it has the greater share.
    outside = 1 - sample(torch.ones_like(both[:, :1]), points)
    shares = moved[:, 1:]
    shares = torch.cat([shares[:, :2], shares[:, 2:] + outside], 1)
    return Batch(_as_seen(moved[:, :1], generator), shares > 0.5)


def _as_seen(image: Tensor, generator: torch.Generator) -> Tensor:
    image = augment.gamma(image, 0.25, generator)
    image = augment.bias_field(image, 0.3, generator)
    image = augment.blur(image, 0.2, generator)
    image = augment.sharpen(image, 0.2, generator)
    image = augment.noise(image, 0.06, 0.4, generator)
    image = normalise(image)
    count = len(image)
    return image * augment.uniform(count, 0.85, 1.15, generator) + augment.uniform(count, -0.15, 0.15, generator)
