"""Patches of a fixed size in mm out of images with any pixel spacing, and back."""

from __future__ import annotations

import torch
from torch.nn import functional

Tensor = torch.Tensor

FIND_STEP = 4.0
"""mm between pixels of what the find network sees."""
FIND_SIZE = 96
SEGMENT_STEP = 1.4
"""mm between pixels of what the segment network sees."""
SEGMENT_SIZE = 96
"""134 mm: a dilated ventricle of 100 mm with its surroundings."""
TRAINED_SIZE = 112
"""Pixels of the patches in training. The smaller ones give the same Dice (``evaluate.py``) in three quarters of the
time."""


def offsets(size: int, step: float) -> Tensor:
    """mm from a patch's middle, shape (size, size, 2), (down, right)."""
    axis = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2) * step
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)


def sample(images: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of ``images`` (n, c, rows, columns) at ``points`` (n, a, b, 2), (row, column) indices; 0 outside."""
    size = torch.tensor(images.shape[2:], dtype=torch.float32, device=images.device)
    grid = ((points + 0.5) * (2 / size) - 1).flip(-1)  # grid_sample wants the column first
    return functional.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def smoothed(images: Tensor, spacing: tuple[float, float], step: float) -> Tensor:
    """Blur images over about ``step`` mm, so that sampling them so far apart misses nothing; half a step is kept."""
    for axis, mm in ((2, spacing[0]), (3, spacing[1])):
        width = 2 * int(step / mm / 2) + 1
        if width > 1:
            kernel = [width if a == axis else 1 for a in (2, 3)]
            padding = [k // 2 for k in kernel]
            images = functional.avg_pool2d(images, kernel, 1, padding, count_include_pad=False)
    return images


def patches(
    images: Tensor, spacing: tuple[float, float], centre: tuple[float, float], size: int, step: float
) -> Tensor:
    """A square of ``size`` pixels at ``step`` mm around ``centre`` out of each image.

    Args:
        images: (n, 1, rows, columns) float32.
        spacing: mm between (rows, columns).
        centre: (row, column) index.
    """
    points = offsets(size, step).to(images.device) / torch.tensor(spacing, device=images.device)
    points = points + torch.tensor(centre, device=images.device)
    return sample(smoothed(images, spacing, step), points.expand(len(images), -1, -1, -1))


def restored(
    maps: Tensor, spacing: tuple[float, float], centre: tuple[float, float], shape: tuple[int, int], step: float
) -> Tensor:
    """Maps of patches, (n, c, size, size), on the grid of the images that :func:`patches` took; 0 outside."""
    rows, columns = (torch.arange(s, dtype=torch.float32, device=maps.device) for s in shape)
    down = (rows - centre[0]) * (spacing[0] / step) + (maps.shape[2] - 1) / 2
    right = (columns - centre[1]) * (spacing[1] / step) + (maps.shape[3] - 1) / 2
    points = torch.stack(torch.meshgrid(down, right, indexing="ij"), -1)
    return sample(maps, points.expand(len(maps), -1, -1, -1))


def normalise(patch: Tensor) -> Tensor:
    """Each patch (n, 1, rows, columns) to mean 0 and deviation 1, what is brighter than 99% of it cut off."""
    flat = patch.flatten(1)
    top = torch.quantile(flat[:, ::3], 0.99, dim=1).view(-1, 1, 1, 1)
    patch = torch.minimum(patch, top)
    mean = patch.mean((1, 2, 3), keepdim=True)
    deviation = patch.std((1, 2, 3), keepdim=True)
    return (patch - mean) / (deviation + 1e-6)
