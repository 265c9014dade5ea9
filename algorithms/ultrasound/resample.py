"""Squares of a fixed size in pixels out of images of any size, and back.

A square is what a network sees: the image, and where there is one (outside of it nothing is known).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

Tensor = torch.Tensor

FIND_SIZE = 128
"""Edge in pixels of what the find network sees: the whole tissue region."""
GRADE_SIZE = 128
"""Edge in pixels of what the grading network sees."""
SURROUNDINGS = 2.0
"""Edge of that square, in the lesion's longer side."""


@dataclass(frozen=True)
class Square:
    """A square in an image, in its pixels: (row, column) of the middle, and the edge's length."""

    row: float
    column: float
    edge: float

    def scaled(self, factor: float) -> Square:
        """The same middle, another edge."""
        return Square(self.row, self.column, self.edge * factor)


def whole(shape: tuple[int, int]) -> Square:
    """The square around a whole image."""
    return Square(shape[0] / 2, shape[1] / 2, float(max(shape)))


def around(box: tuple[float, float, float, float], factor: float = SURROUNDINGS) -> Square:
    """The square around a lesion whose box is (top, left, bottom, right), the last two exclusive."""
    top, left, bottom, right = box
    return Square((top + bottom) / 2, (left + right) / 2, factor * max(bottom - top, right - left))


def cut(image: Tensor, square: Square, size: int) -> Tensor:
    """The square of an image, smoothed when it gets smaller.

    Args:
        image: (channels, rows, columns) float32.

    Returns:
        (channels + 1, size, size); the last channel is the share of each pixel that lies in the image.
    """
    top, left = round(square.row - square.edge / 2), round(square.column - square.edge / 2)
    edge = max(1, round(square.edge))
    rows, columns = image.shape[1:]
    pad = [-left, left + edge - columns, -top, top + edge - rows]
    # negative padding cuts off
    both = functional.pad(torch.cat([image, torch.ones_like(image[:1])]), pad)
    return functional.interpolate(both[None], size=(size, size), mode="bilinear", antialias=True)[0]


def put_back(found: Tensor, square: Square, shape: tuple[int, int]) -> Tensor:
    """A map (size, size) of a square on the grid of its image; 0 outside of the square."""
    top, left = round(square.row - square.edge / 2), round(square.column - square.edge / 2)
    edge = max(1, round(square.edge))
    large = functional.interpolate(found[None, None], size=(edge, edge), mode="bilinear", antialias=True)[0, 0]
    return functional.pad(large, [left, shape[1] - left - edge, top, shape[0] - top - edge])


def normalise(squares: Tensor) -> Tensor:
    """Image and inside (n, 2, rows, columns): the image to mean 0 and deviation 1 inside, 0 outside.

    What is brighter than 99% is cut off first: text and calipers are.
    """
    image, inside = squares[:, :1], squares[:, 1:]
    weight = inside / inside.sum((1, 2, 3), keepdim=True).clamp(min=1.0)
    top = torch.quantile(image.flatten(1), 0.99, dim=1).view(-1, 1, 1, 1)
    image = torch.minimum(image, top)
    mean = (image * weight).sum((1, 2, 3), keepdim=True)
    image = (image - mean) * inside
    deviation = (image.square() * weight).sum((1, 2, 3), keepdim=True).sqrt()
    return torch.cat([image / (deviation + 1e-3), inside], 1)
