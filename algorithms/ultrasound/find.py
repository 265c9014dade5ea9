"""Where lesions are in a tissue region, and the outline of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from .batches import as_seen
from .networks import LesionNetwork, predict
from .resample import FIND_SIZE, GRADE_SIZE, Square, around, cut, put_back, whole

Tensor = torch.Tensor
Box = tuple[float, float, float, float]
Mask = npt.NDArray[np.bool_]

LIKELY = 0.5
"""Probability from which a pixel counts as lesion."""
SMALLEST = 12
"""Pixels, of the find network's ``FIND_SIZE`` squared, of the smallest lesion: 4 x 3."""
PART = 0.25
"""A second lesion has at least this share of the first one's summed probability."""
MOST = 4
"""Lesions in one region."""
BATCH = 16
"""Squares that go through the networks at once."""


@dataclass(frozen=True)
class Candidate:
    """Something that may be a lesion: its (top, left, bottom, right) in pixels of the region, and how likely it is."""

    box: Box
    certainty: float


@dataclass(frozen=True)
class Graded:
    """A lesion: its mask on the region's grid, and the grades' logits, the mean of the networks."""

    mask: Mask
    certainty: float
    grades: Tensor


def candidates(likely: Tensor, square: Square) -> list[Candidate]:
    """Lesions in a map (FIND_SIZE, FIND_SIZE) of ``square``, the most certain first."""
    found = likely.cpu().numpy()
    parts, count = ndimage.label(found > LIKELY)
    scale = square.edge / FIND_SIZE
    top, left = square.row - square.edge / 2, square.column - square.edge / 2
    weighed = []
    for number, place in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[place] == number
        if inside.sum() < SMALLEST:
            continue
        down, across = place
        box = (
            top + down.start * scale,
            left + across.start * scale,
            top + down.stop * scale,
            left + across.stop * scale,
        )
        values = found[place][inside]
        weighed.append((float(values.sum()), Candidate(box, float(values.mean()))))
    if not count or not weighed:
        return []
    weighed.sort(key=lambda x: -x[0])
    return [c for weight, c in weighed[:MOST] if weight >= PART * weighed[0][0]]


def find(
    regions: Sequence[Tensor], finders: Sequence[LesionNetwork], *, mirrored: bool = True
) -> list[list[Candidate]]:
    """Lesions of each region, a (rows, columns) float32 image of 0..1; ``mirrored``: seen from both sides."""
    if not regions:
        return []
    squares = [whole((r.shape[0], r.shape[1])) for r in regions]
    seen = torch.stack([cut(r[None], s, FIND_SIZE) for r, s in zip(regions, squares, strict=True)])
    likely, _ = _answers(finders, seen, ace=False, mirrored=mirrored)
    return [candidates(one[0], square) for one, square in zip(likely, squares, strict=True)]


def grade(
    regions: Sequence[Tensor],
    boxes: Sequence[Box],
    graders: Sequence[LesionNetwork],
    *,
    ace: bool = False,
    mirrored: bool = True,
) -> list[Graded]:
    """Outline and grade one lesion of each region."""
    if not regions:
        return []
    squares = [around(box) for box in boxes]
    seen = torch.stack([cut(r[None], s, GRADE_SIZE) for r, s in zip(regions, squares, strict=True)])
    outlines, grades = _answers(graders, seen, ace=ace, mirrored=mirrored)
    results = []
    for region, square, outline, logits in zip(regions, squares, outlines, grades, strict=True):
        likely = put_back(outline[0], square, (region.shape[0], region.shape[1])).cpu().numpy()
        mask = _one(likely > LIKELY, square)
        certainty = float(likely[mask].mean()) if mask.any() else 0.0
        results.append(Graded(mask, certainty, logits.cpu()))
    return results


def _answers(networks: Sequence[LesionNetwork], squares: Tensor, *, ace: bool, mirrored: bool) -> tuple[Tensor, Tensor]:
    """What the networks say of squares (n, 2, rows, columns) that were cut, see :func:`~.networks.predict`.

    Libraries choose the order of sums by the size of a batch, which changes the last bit. So that an image's result
    does not depend on what else waits, a GPU always gets ``BATCH`` squares, black ones in the place of missing ones; a
    CPU, which gains little by batches, gets those of one picture or clip alone (see ``analyse.look``).
    """
    outlines, grades = [], []
    for part in torch.split(squares, BATCH):
        count = len(part)
        seen = as_seen(part if part.device.type == "cpu" else filled(part), ace)
        outline, grade = predict(networks, seen, BATCH, mirrored=mirrored)
        outlines.append(outline[:count])
        grades.append(grade[:count])
    return torch.cat(outlines), torch.cat(grades)


def filled(part: Tensor) -> Tensor:
    """``BATCH`` squares: these, and black ones."""
    return torch.cat([part, part.new_zeros(BATCH - len(part), *part.shape[1:])])


def _one(mask: Mask, square: Square) -> Mask:
    """The piece with most of its pixels near the square's middle, without holes."""
    parts, count = ndimage.label(mask)
    if count > 1:
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        near = np.hypot(rows - square.row, columns - square.column) < square.edge / 4
        sizes = np.bincount(parts[near & mask], minlength=count + 1) + 0.01 * np.bincount(parts.ravel())
        sizes[0] = 0
        mask = parts == int(sizes.argmax())
    filled: Mask = ndimage.binary_fill_holes(mask)
    return filled
