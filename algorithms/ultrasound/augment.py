"""Augmentation of whole batches in torch: what other scanners, probes, settings and hands make of the same tissue.

Images are (n, channels, rows, columns) float32, brightness about 0..1, transducer at the top. All randomness comes
from the generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

Tensor = torch.Tensor


@dataclass(frozen=True)
class Geometry:
    """How far a square may be turned, stretched, moved and bent, in parts of its edge.

    Attributes:
        rotation: degrees, one standard deviation.
        zoom: standard deviation of the logarithm.
        stretch: the same, of depth against width.
        shift: at most, in each direction.
        bend: standard deviation at each of 4 x 4 points.
    """

    rotation: float
    zoom: float
    stretch: float
    shift: float
    bend: float


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """``count`` numbers between ``low`` and ``high``, shape (count, 1, 1, 1)."""
    return (torch.rand(count, generator=generator) * (high - low) + low).view(-1, 1, 1, 1)


def normal(count: int, deviation: float, generator: torch.Generator) -> Tensor:
    """``count`` numbers around 0, at most two deviations off, shape (count,)."""
    return torch.randn(count, generator=generator).clamp(-2, 2) * deviation


def some(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which samples of the batch get an effect: 0 or 1, shape (count, 1, 1, 1)."""
    return (torch.rand(count, generator=generator) < probability).float().view(-1, 1, 1, 1)


def moved(squares: Tensor, size: int, margin: float, geometry: Geometry, generator: torch.Generator) -> Tensor:
    """Smaller squares out of larger ones, turned and bent; half of them mirrored left to right.

    Args:
        squares: (n, channels, a, a).
        size: edge of the result in pixels.
        margin: how many times the larger square's edge is the smaller one's.
    """
    count = len(squares)
    angle = normal(count, math.radians(geometry.rotation), generator)
    zoom, stretch = normal(count, geometry.zoom, generator), normal(count, geometry.stretch, generator)
    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    across, down = torch.exp(zoom - stretch / 2), torch.exp(zoom + stretch / 2)
    matrix = torch.stack([cos * across * mirror, -sin * down, sin * across * mirror, cos * down], 1).view(-1, 2, 2)
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    points = torch.einsum("nij,abj->nabi", matrix, grid)
    bend = torch.randn(count, 2, 4, 4, generator=generator) * (2 * geometry.bend)
    bend = functional.interpolate(bend, size=(size, size), mode="bicubic", align_corners=True)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (2 * geometry.shift)
    points = (points + bend.permute(0, 2, 3, 1) + shift[:, None, None]) / margin
    return functional.grid_sample(squares, points, padding_mode="zeros", align_corners=False)


def gamma(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Another grey map: a random power."""
    power = torch.exp(normal(len(image), strength, generator))
    return image.clamp(1e-3, 1) ** power.view(-1, 1, 1, 1)


def dynamic_range(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Less dynamic range: what is dark becomes black, what is bright white."""
    on = some(len(image), probability, generator)
    low, high = uniform(len(image), 0, 0.15, generator) * on, 1 - uniform(len(image), 0, 0.4, generator) * on
    return ((image - low) / (high - low)).clamp(0, 1)


def time_gain(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Another time gain compensation, and a probe that does not touch the skin all along."""
    down = torch.randn(len(image), 1, 4, 1, generator=generator) * strength
    across = torch.randn(len(image), 1, 1, 3, generator=generator) * (strength / 2)
    rows, columns = image.shape[2:]
    down = functional.interpolate(down, size=(rows, 1), mode="bilinear", align_corners=True)
    across = functional.interpolate(across, size=(1, columns), mode="bilinear", align_corners=True)
    return image * torch.exp(down + across)


def speckle(image: Tensor, strength: float, probability: float, generator: torch.Generator) -> Tensor:
    """Multiply some images by noise whose grain is wider than it is deep, as speckle is."""
    count, _, rows, columns = image.shape
    grain = torch.randn(count, 1, rows, columns // 2, generator=generator)
    grain = functional.interpolate(grain, size=(rows, columns), mode="bilinear", align_corners=False)
    return image * (1 + grain * uniform(count, 0, strength, generator) * some(count, probability, generator))


def blur(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mix some images with their 3x3 mean, or take some of it away: smoothing and edge enhancement of the scanner."""
    mean = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    share = uniform(len(image), -0.8, 1.0, generator) * some(len(image), probability, generator)
    return image + share * (mean - image)


def marks(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Put calipers and lines of text on some images, and black out a bar of some: what is burned in must not matter."""
    count, _, rows, columns = image.shape
    image = image.clone()
    chosen = torch.rand(count, 2, generator=generator) < probability
    place = torch.rand(count, 12, generator=generator)
    text = torch.rand(count, 4, 24, generator=generator) < 0.5
    for k in range(count):
        if chosen[k, 0]:
            for p in range(0, 8, 2):  # two pairs of calipers
                row, column = int(place[k, p] * (rows - 5)), int(place[k, p + 1] * (columns - 5))
                image[k, :, row + 2, column : column + 5] = 1
                image[k, :, row : row + 5, column + 2] = 1
        if chosen[k, 1]:
            row, column = int(place[k, 8] * (rows - 4)), int(place[k, 9] * (columns - 24))
            image[k, 0, row : row + 4, column : column + 24][text[k]] = 0.9
            row, width = int(place[k, 10] * (rows - 6)), int(place[k, 11] * columns / 2)
            image[k, :, row : row + 6, :width] = 0
    return image


def as_other_scanners(image: Tensor, generator: torch.Generator) -> Tensor:
    """All of the above that changes brightness, in the order in which a scanner does it."""
    image = speckle(image, 0.35, 0.4, generator)
    image = time_gain(image, 0.2, generator)
    image = blur(image, 0.4, generator)
    image = dynamic_range(image, 0.3, generator)
    image = gamma(image, 0.3, generator)
    return marks(image, 0.3, generator)
