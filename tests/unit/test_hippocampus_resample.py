"""Grids of the hippocampus algorithm: every orientation scanners send, there and back."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from algorithms.hippocampus import resample, segment
from algorithms.hippocampus.resample import Grid

AXES = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product((1.0, -1.0), repeat=3))


def oriented(permutation: tuple[int, ...], signs: tuple[float, ...], spacing: tuple[float, ...], turn: float) -> Grid:
    """A 60 mm cube around (5, -10, 3) RAS mm whose axes are permuted, reversed and turned."""
    directions = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(permutation, signs, strict=True)):
        directions[axis, column] = sign
    directions = segment.about_x(turn) @ directions
    shape = tuple(int(60 / s) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = np.array([5, -10, 3]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, (shape[0], shape[1], shape[2]))


def ellipsoid(grid: Grid) -> npt.NDArray[np.float32]:
    """A smooth body at (9, -4, 1) mm, long from front to back, in any grid."""
    index = np.stack(np.meshgrid(*[np.arange(s) for s in grid.shape], indexing="ij"), -1)
    mm = grid.to_mm(index) - np.array([9, -4, 1])
    distance = np.sqrt(((mm / np.array([6, 15, 8])) ** 2).sum(-1))
    body: npt.NDArray[np.float32] = (1 / (1 + np.exp(12 * (distance - 1)))).astype(np.float32)
    return body


@pytest.mark.parametrize("permutation", AXES)
@pytest.mark.parametrize("signs", SIGNS)
def test_resampling_finds_the_same_place_in_every_orientation(
    permutation: tuple[int, ...], signs: tuple[float, ...]
) -> None:
    source = oriented(permutation, signs, (1.0, 1.0, 1.0), turn=20)
    target = resample.grid_around([5, -10, 3], (32, 40, 32), 1.0)
    seen = resample.resample(torch.from_numpy(ellipsoid(source))[None], source, target)[0].numpy()
    assert np.abs(seen - ellipsoid(target)).max() < 0.12
    assert np.abs(seen - ellipsoid(target)).mean() < 0.003


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.5, 0.5, 1.2), (1.0, 2.0, 1.0)])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_the_mask_on_the_source_grid_keeps_place_and_volume(
    spacing: tuple[float, float, float], mirror: bool, turn: float
) -> None:
    source = oriented((2, 1, 0), (1.0, -1.0, -1.0), spacing, turn)
    fine = resample.grid_around([5, -10, 3], (40, 56, 40), 1.0, mirror)
    body = torch.from_numpy(ellipsoid(fine))
    side = segment.Hippocampus(torch.stack([body, 0 * body]), fine, np.zeros(3), 0.0, True, 1.0)
    label_map = np.zeros(source.shape, np.uint8)
    segment.paint(label_map, source, side, 1, 2)
    assert set(np.unique(label_map)) == {0, 1}
    expected = float((body > 0.5).sum())
    assert float((label_map > 0).sum()) * np.prod(spacing) == pytest.approx(expected, rel=0.04)
    centre = source.to_mm(np.array(np.nonzero(label_map)).mean(1))
    assert centre == pytest.approx([9, -4, 1], abs=0.3)


def test_pooling_keeps_places() -> None:
    source = oriented((0, 1, 2), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), 0)
    image = resample.pooled(resample.Image(torch.from_numpy(ellipsoid(source)), source), 1.0)
    assert image.grid.spacing == pytest.approx([1, 1, 1])
    assert np.abs(image.array.numpy() - ellipsoid(image.grid)).max() < 0.08


def test_a_mask_outside_the_source_paints_nothing() -> None:
    source = oriented((0, 1, 2), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0)
    away = resample.grid_around([500, 0, 0], (40, 56, 40), 1.0)
    values, box = resample.average_back(torch.ones(1, 40, 56, 40), away, source)
    assert values.numel() == 0
    assert np.zeros(source.shape)[box].size == 0


def test_inside_is_the_field_of_view() -> None:
    source = oriented((0, 1, 2), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0)
    target = resample.grid_around([5, -10, 3], (80, 80, 80), 1.0)
    inside = resample.inside_of(source, target, torch.device("cpu"))
    assert int(inside.sum()) == 60**3
