"""Endless augmented batches for the two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import augment
from .ace import AdaptiveContrastEnhancement
from .augment import Geometry
from .resample import FIND_SIZE, GRADE_SIZE, Square, around, cut, normalise, whole

Tensor = torch.Tensor

FIND_GEOMETRY = Geometry(rotation=6, zoom=0.2, stretch=0.12, shift=0.12, bend=0.01)
GRADE_GEOMETRY = Geometry(rotation=8, zoom=0.12, stretch=0.12, shift=0.08, bend=0.008)
MARGIN = 1.4
"""How much larger than its result a square is cut, so that turning and moving it uncovers nothing."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion in one image.

    Attributes:
        image: (rows, columns) uint8, the tissue region.
        mask: (rows, columns) bool, all lesions of the image.
        box: (top, left, bottom, right) of this one, the last two exclusive.
        label: 0 or 1; nan where it is not known.
        grade: the reader's grade from 0; -1 where it is not known.
        image_id: the same for all lesions of an image.
        subject: the patient, or case.
        fold: that holds it out.
    """

    image: Tensor
    mask: Tensor
    box: tuple[int, int, int, int]
    label: float
    grade: int
    image_id: str
    subject: str
    fold: int


@dataclass(frozen=True)
class Batch:
    """``image`` (n, 2, rows, columns) as a network sees it; ``share`` (n, 1, rows, columns) of lesion; grades (n,)."""

    image: Tensor
    share: Tensor
    label: Tensor
    grade: Tensor


def find_batch(lesions: Sequence[Lesion], generator: torch.Generator, ace: bool = False) -> Batch:
    """Whole images."""
    squares = [_cut(x, whole((x.image.shape[0], x.image.shape[1])).scaled(MARGIN), FIND_SIZE) for x in lesions]
    return _batch(lesions, torch.stack(squares), FIND_SIZE, FIND_GEOMETRY, generator, ace)


def grade_batch(lesions: Sequence[Lesion], generator: torch.Generator, ace: bool = False) -> Batch:
    """Lesions in their surroundings."""
    squares = [_cut(x, around(x.box).scaled(MARGIN), GRADE_SIZE) for x in lesions]
    return _batch(lesions, torch.stack(squares), GRADE_SIZE, GRADE_GEOMETRY, generator, ace)


def _cut(lesion: Lesion, square: Square, size: int) -> Tensor:
    """Image, mask and inside; a little finer than the result, which is interpolated from it."""
    both = torch.stack([lesion.image.float() / 255, lesion.mask.float()])
    return cut(both, square, round(size * MARGIN))


def _batch(
    lesions: Sequence[Lesion],
    squares: Tensor,
    size: int,
    geometry: Geometry,
    generator: torch.Generator,
    ace: bool,
) -> Batch:
    image, share, inside = augment.moved(squares, size, MARGIN, geometry, generator).split(1, 1)
    image = augment.as_other_scanners(image, generator)
    return Batch(
        as_seen(torch.cat([image, inside], 1), ace),
        share,
        torch.tensor([x.label for x in lesions]),
        torch.tensor([x.grade for x in lesions]),
    )


def as_seen(squares: Tensor, ace: bool) -> Tensor:
    """Squares (n, 2, rows, columns), brightness 0..1 and inside, as the networks take them."""
    if ace:
        squares = torch.cat([AdaptiveContrastEnhancement()(squares[:, :1]), squares[:, 1:]], 1)
    return normalise(squares)


def one_of_each_image(lesions: Sequence[Lesion]) -> list[Lesion]:
    """The first lesion of each image: what the find network learns from, which sees them all at once."""
    return list({x.image_id: x for x in reversed(lesions)}.values())


def chosen(lesions: Sequence[Lesion], count: int, balanced: bool, generator: torch.Generator) -> list[Lesion]:
    """``count`` lesions at random; balanced: as many of each class as there is room for."""
    if not balanced:
        return [lesions[int(k)] for k in torch.randint(len(lesions), (count,), generator=generator)]
    groups = [[x for x in lesions if x.label == label] for label in (0.0, 1.0)]
    known = [g for g in groups if g]
    picks = torch.rand(count, generator=generator)
    return [known[k % len(known)][int(float(p) * len(known[k % len(known)]))] for k, p in enumerate(picks)]
