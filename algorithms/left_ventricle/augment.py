"""Augmentation of whole batches in torch: what scanners and patients do to a slice.

Images are (n, channels, rows, columns) float32. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from .resample import offsets

Tensor = torch.Tensor


@dataclass(frozen=True)
class Geometry:
    """How far a patch may be turned, zoomed, moved and bent.

    Attributes:
        rotation: degrees, one standard deviation.
        any_rotation: share of patches that are turned by any angle.
        zoom: standard deviation of the logarithm, of the whole and of each axis against the other.
        shift: mm, at most, in each direction.
        bend: mm, standard deviation at each of ``bend_cells`` x ``bend_cells`` points.
    """

    rotation: float
    any_rotation: float
    zoom: float
    shift: float
    bend: float
    bend_cells: int


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """``count`` numbers between ``low`` and ``high``, shape (count, 1, 1, 1)."""
    return (torch.rand(count, generator=generator) * (high - low) + low).view(-1, 1, 1, 1)


def some(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which samples of the batch get an effect: 0 or 1, shape (count, 1, 1, 1)."""
    return (torch.rand(count, generator=generator) < probability).float().view(-1, 1, 1, 1)


def random_points(
    centres: Tensor, spacing: Tensor, size: int, step: float, geometry: Geometry, generator: torch.Generator
) -> Tensor:
    """Where each pixel of a patch lies in its image.

    Args:
        centres: (n, 2), (row, column) of the image that comes to the patch's middle, but for the shift.
        spacing: (n, 2), mm between (rows, columns).
        size: edge of the patch in pixels.
        step: mm between the patch's pixels.

    Returns:
        (n, size, size, 2), (row, column) indices.
    """
    count = len(centres)
    turned = torch.randn(count, generator=generator).clamp(-2.5, 2.5) * math.radians(geometry.rotation)
    anywhere = torch.rand(count, generator=generator) * 2 * math.pi
    is_anywhere = torch.rand(count, generator=generator) < geometry.any_rotation
    angle = torch.where(is_anywhere, anywhere, turned)
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    log = torch.randn(count, 3, generator=generator).clamp(-2, 2) * geometry.zoom
    matrix = matrix * torch.exp(log[:, :1] + 0.5 * log[:, 1:])[:, None, :]
    points = torch.einsum("nij,abj->nabi", matrix, offsets(size, step))
    if geometry.bend > 0:
        cells = geometry.bend_cells
        bend = torch.randn(count, 2, cells, cells, generator=generator) * geometry.bend
        bend = functional.interpolate(bend, size=(size, size), mode="bicubic", align_corners=True)
        points = points + bend.permute(0, 2, 3, 1)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * geometry.shift
    return (points + shift[:, None, None]) / spacing[:, None, None] + centres[:, None, None]


def gamma(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Raise images of about 0..1 to a random power."""
    power = torch.exp(torch.randn(len(image), generator=generator).clamp(-2, 2) * strength)
    return image.clamp(min=1e-3) ** power.view(-1, 1, 1, 1)


def bias_field(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth field of about exp(+-strength): surface coils."""
    field = torch.randn(len(image), 1, 3, 3, generator=generator) * strength
    field = functional.interpolate(field, size=image.shape[2:], mode="bilinear", align_corners=True)
    return image * torch.exp(field)


def blur(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mix some images with their 3x3 mean."""
    mean = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    share = uniform(len(image), 0.2, 1.0, generator) * some(len(image), probability, generator)
    return image + share * (mean - image)


def sharpen(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Take some of their 3x3 mean away from some images."""
    mean = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    share = uniform(len(image), 0.2, 1.0, generator) * some(len(image), probability, generator)
    return image + share * (image - mean)


def noise(image: Tensor, strength: float, probability: float, generator: torch.Generator) -> Tensor:
    """Add white noise of up to ``strength`` to some images."""
    sigma = uniform(len(image), 0, strength, generator) * some(len(image), probability, generator)
    return image + torch.randn(image.shape, generator=generator) * sigma
