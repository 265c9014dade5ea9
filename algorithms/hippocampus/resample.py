"""From a series in any orientation to grids in RAS mm, and back.

A grid is an affine (4x4, voxel index to RAS mm: +x right, +y front, +z head) and a shape. A grid whose first column
points to the left mirrors the image, which is how a right hippocampus becomes a left one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Affine = npt.NDArray[np.float64]
Tensor = torch.Tensor

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where a regular array of voxels lies.

    Attributes:
        affine: 4x4, voxel index to RAS mm.
        shape: voxels along its three axes.
    """

    affine: Affine
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        """Length of each voxel edge in mm."""
        length: npt.NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return length

    def to_mm(self, voxel: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """RAS mm of voxel indices (..., 3)."""
        moved: npt.NDArray[np.float64] = np.asarray(voxel, float) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return moved

    def to_voxel(self, mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel indices of RAS mm (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        moved: npt.NDArray[np.float64] = np.asarray(mm, float) @ inverse[:3, :3].T + inverse[:3, 3]
        return moved

    def corners(self) -> npt.NDArray[np.float64]:
        """RAS mm of the eight outermost voxel centres, shape (8, 3)."""
        ends = np.array(np.meshgrid(*[[0, s - 1] for s in self.shape], indexing="ij")).reshape(3, -1).T
        return self.to_mm(ends)


@dataclass(frozen=True)
class Image:
    """An array of shape ``grid.shape``, float32, on the device of the models."""

    array: Tensor
    grid: Grid


def grid_around(
    centre: npt.ArrayLike, shape: tuple[int, int, int], step: float, mirror: bool = False, turn: Affine | None = None
) -> Grid:
    """A grid of ``step`` mm along the RAS axes with ``centre`` (RAS mm) in its middle.

    Args:
        mirror: let its first axis point to the left.
        turn: 3x3 rotation of the axes (None: none).
    """
    directions = np.diag([-step if mirror else step, step, step]) @ (np.eye(3) if turn is None else turn)
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = np.asarray(centre, float) - directions @ ((np.array(shape) - 1) / 2)
    return Grid(affine, shape)


def pooled(image: Image, step: float) -> Image:
    """Average voxels much finer than ``step`` mm, so that sampling every ``step`` mm misses none of them."""
    factors = [max(1, int(step / s + 0.01)) for s in image.grid.spacing]
    factors = [min(f, n) for f, n in zip(factors, image.grid.shape, strict=True)]
    if max(factors) == 1:
        return image
    array = functional.avg_pool3d(image.array[None, None], factors)[0, 0]
    affine = image.grid.affine.copy()
    affine[:3, 3] = image.grid.to_mm((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return Image(array, Grid(affine, (array.shape[0], array.shape[1], array.shape[2])))


def points_between(target: Grid, source: Grid, device: torch.device) -> Tensor:
    """For each voxel of ``target``, where it lies in ``source`` as grid_sample counts: (1, x, y, z, 3), -1..1."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    size = np.maximum(np.array(source.shape) - 1, 1e-6)
    matrix[:3] *= (2 / size)[:, None]
    matrix[:3, 3] -= 1
    axes = [torch.arange(s, dtype=torch.float32, device=device) for s in target.shape]
    m = torch.tensor(matrix[:3][::-1].copy(), dtype=torch.float32, device=device)
    x, y, z = axes[0][:, None, None, None], axes[1][None, :, None, None], axes[2][None, None, :, None]
    return (x * m[:, 0] + y * m[:, 1] + z * m[:, 2] + m[:, 3])[None]


def resample(array: Tensor, source: Grid, target: Grid) -> Tensor:
    """Trilinear values of ``array`` (c, x, y, z) on ``source`` at the voxels of ``target``; 0 outside."""
    points = points_between(target, source, array.device)
    return functional.grid_sample(
        array[None].float(), points, mode="bilinear", padding_mode="zeros", align_corners=True
    )[0]


def inside_of(source: Grid, target: Grid, device: torch.device) -> Tensor:
    """Bool, target's shape: which voxel centres lie within half a voxel of ``source``'s field of view."""
    points = points_between(target, source, device)[0]
    reach = torch.tensor((np.array(source.shape) / np.maximum(np.array(source.shape) - 1, 1e-6))[::-1].copy())
    return (points.abs() <= reach.to(points)).all(-1)


def average_back(array: Tensor, source: Grid, target: Grid) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """Mean of ``array`` (c, x, y, z) on ``source`` over each voxel of ``target`` that meets it.

    A voxel of ``target`` is sampled at as many points along each edge as it is times larger than a ``source`` voxel.

    Returns:
        Values (c, x, y, z) in a box of ``target``, and that box. The box is empty if they do not meet.
    """
    corners = target.to_voxel(source.corners())
    low = np.clip(np.floor(corners.min(0)), 0, target.shape).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, 0, target.shape).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
    if min(shape) <= 0:
        return array.new_zeros(len(array), *(max(0, s) for s in shape)), box
    counts = np.maximum(1, np.round(target.spacing / source.spacing)).astype(int)
    affine = target.affine.copy()
    affine[:3, 3] = target.to_mm(low - 0.5 + 0.5 / counts)
    affine[:3, :3] /= counts
    fine = Grid(affine, (shape[0] * int(counts[0]), shape[1] * int(counts[1]), shape[2] * int(counts[2])))
    values = resample(array, source, fine)
    return functional.avg_pool3d(values[None], tuple(int(c) for c in counts))[0], box
