"""Augmentation of whole batches in torch: what scanners, patients and crops do to an image.

All arrays are (n, channels, x, y, z) in RAS axes, float32. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

Tensor = torch.Tensor


@dataclass(frozen=True)
class Geometry:
    """How far a patch may be moved and bent; lengths in target voxels, angles in degrees."""

    rotation: float
    zoom: float
    shift: float
    bend: float
    bend_cells: int


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """``count`` numbers between ``low`` and ``high``."""
    return torch.rand(count, generator=generator) * (high - low) + low


def rotations(count: int, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotation matrices, shape (count, 3, 3), of up to ``degrees`` about each axis."""
    angles = torch.randn(count, 3, generator=generator).clamp(-2, 2) * math.radians(degrees) / 2
    cos, sin = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros(count), torch.ones(count)
    about_x = torch.stack([one, zero, zero, zero, cos[:, 0], -sin[:, 0], zero, sin[:, 0], cos[:, 0]], 1)
    about_y = torch.stack([cos[:, 1], zero, sin[:, 1], zero, one, zero, -sin[:, 1], zero, cos[:, 1]], 1)
    about_z = torch.stack([cos[:, 2], -sin[:, 2], zero, sin[:, 2], cos[:, 2], zero, zero, zero, one], 1)
    return about_x.view(-1, 3, 3) @ about_y.view(-1, 3, 3) @ about_z.view(-1, 3, 3)


def random_points(
    centres: Tensor, shape: tuple[int, int, int], step: float, geometry: Geometry, generator: torch.Generator
) -> Tensor:
    """Where each target voxel lies in its source.

    Args:
        centres: (n, 3), source voxel that comes to the middle of the target.
        shape: target shape (x, y, z).
        step: source voxels for one target voxel.

    Returns:
        Shape (n, x, y, z, 3), source voxel indices.
    """
    count = len(centres)
    axes = [torch.arange(s, dtype=torch.float32) - (s - 1) / 2 for s in shape]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    matrix = rotations(count, geometry.rotation, generator)
    zoom = torch.exp(torch.randn(count, 3, generator=generator).clamp(-2, 2) * geometry.zoom / 2)
    matrix = matrix * (zoom * step)[:, None, :]
    points = torch.einsum("nij,xyzj->nxyzi", matrix, offsets)
    if geometry.bend > 0:
        cells = geometry.bend_cells
        bend = torch.randn(count, 3, cells, cells, cells, generator=generator) * geometry.bend * step
        bend = functional.interpolate(bend, size=shape, mode="trilinear", align_corners=True)
        points = points + bend.permute(0, 2, 3, 4, 1)
    shift = (torch.rand(count, 3, generator=generator) * 2 - 1) * geometry.shift * step
    return points + (centres + shift)[:, None, None, None, :]


def sample(source: Tensor, points: Tensor, padding: str = "zeros") -> Tensor:
    """Trilinear values of ``source`` (n, c, x, y, z) at ``points`` (n, x, y, z, 3), in source voxel indices."""
    size = torch.tensor(source.shape[2:], dtype=torch.float32)
    grid = (points * (2 / (size - 1)) - 1).flip(-1)  # grid_sample wants the last axis first
    return functional.grid_sample(source, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def some(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Bool, shape (count,): which samples of the batch get this effect."""
    return torch.rand(count, generator=generator) < probability


def bias_field(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth field of about exp(+-strength): coil sensitivity."""
    field = torch.randn(len(image), 1, 3, 3, 3, generator=generator) * strength
    return image * torch.exp(functional.interpolate(field, size=image.shape[2:], mode="trilinear", align_corners=True))


def gamma(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Raise images of about 0..1 to a random power."""
    power = torch.exp(torch.randn(len(image), generator=generator).clamp(-2, 2) * strength)
    return image.clamp(min=1e-3) ** power.view(-1, 1, 1, 1, 1)


def thick_slices(image: Tensor, factor: float, probability: float, generator: torch.Generator) -> Tensor:
    """Lower the resolution of some images along one axis, by up to ``factor``, and interpolate back."""
    result = image.clone()
    for k in torch.nonzero(some(len(image), probability, generator)).flatten().tolist():
        axis = int(torch.randint(3, (1,), generator=generator))
        size = list(image.shape[2:])
        small = list(size)
        small[axis] = max(2, round(size[axis] / float(uniform(1, 1.2, factor, generator))))
        # "area" averages over the slice as a scanner does
        low = functional.interpolate(image[k : k + 1], size=small, mode="area")
        result[k : k + 1] = functional.interpolate(low, size=size, mode="trilinear", align_corners=False)
    return result


def smooth(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Blur some images a little: mix them with their 3x3x3 mean."""
    result = image.clone()
    for k in torch.nonzero(some(len(image), probability, generator)).flatten().tolist():
        blurred = functional.avg_pool3d(image[k : k + 1], 3, stride=1, padding=1, count_include_pad=False)
        result[k : k + 1] = torch.lerp(image[k : k + 1], blurred, float(uniform(1, 0.2, 0.9, generator)))
    return result


def noise(image: Tensor, strength: float, probability: float, generator: torch.Generator) -> Tensor:
    """Add white noise of up to ``strength`` to some images."""
    sigma = uniform(len(image), 0, strength, generator) * some(len(image), probability, generator)
    return image + torch.randn(image.shape, generator=generator) * sigma.view(-1, 1, 1, 1, 1)


def cut_field_of_view(image: Tensor, deepest: float, probability: float, generator: torch.Generator) -> Tensor:
    """Blank some images from one to three of their six faces inwards, by up to ``deepest`` of the edge length.

    Returns:
        float32 mask, shape (n, 1, x, y, z): 1 inside what is left.
    """
    mask = torch.ones_like(image)
    for k in torch.nonzero(some(len(image), probability, generator)).flatten().tolist():
        for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
            axis = 2 + int(torch.randint(3, (1,), generator=generator))
            length = image.shape[axis]
            depth = int(float(uniform(1, 0, deepest, generator)) * length)
            start = 0 if some(1, 0.5, generator) else length - depth
            mask[k].narrow(axis - 1, start, depth).zero_()
    return mask
