"""Where the left ventricle is in a stack, whatever its field of view."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import networks, resample

Tensor = torch.Tensor

NEAR = 45.0
"""mm around the most likely place from which its middle is taken."""


def ventricle(images: Tensor, spacing: tuple[float, float], finders: Sequence[torch.nn.Module]) -> Tensor:
    """How likely each pixel of a 4 mm grid around the images' middle is cavity, the mean of all images.

    Args:
        images: (n, 1, rows, columns) float32; parallel slices in any phases.
        spacing: mm between (rows, columns).

    Returns:
        (96, 96) float32.
    """
    middle = ((images.shape[2] - 1) / 2, (images.shape[3] - 1) / 2)
    seen = resample.patches(images, spacing, middle, resample.FIND_SIZE, resample.FIND_STEP)
    return networks.predict(finders, resample.normalise(seen))[:, 1].mean(0)


def centre(
    images: Tensor, spacing: tuple[float, float], finders: Sequence[torch.nn.Module]
) -> tuple[tuple[float, float], float]:
    """The middle of the ventricle.

    Returns:
        (row, column) index, and how sure it is: the largest mean probability, 0..1.
    """
    likely = ventricle(images, spacing, finders)
    peak = torch.nn.functional.avg_pool2d(likely[None, None], 5, 1, 2)[0, 0]
    place = torch.nonzero(peak == peak.max())[0].float()
    axes = [torch.arange(s, dtype=torch.float32, device=likely.device) for s in likely.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for _ in range(4):  # the likeliest place may be at the edge of a large ventricle
        distance = (index - place[:, None, None]).norm(dim=0) * resample.FIND_STEP
        weight = likely * (distance < NEAR)
        place = (index * weight).sum((1, 2)) / weight.sum().clamp(min=1e-6)
    off = (place - (resample.FIND_SIZE - 1) / 2) * resample.FIND_STEP
    row, column = ((s - 1) / 2 + float(o) / mm for s, o, mm in zip(images.shape[2:], off, spacing, strict=True))
    return (row, column), float(likely.max())
