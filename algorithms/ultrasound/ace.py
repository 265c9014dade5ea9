"""Adaptive contrast enhancement: each pixel is corrected by its differences from its surroundings.

The method is ACE, Automatic Color Equalization (Rizzi, Gatta, Marini 2003), in the fast form of Getreuer (Image
Processing On Line 2, 2012, section 4: interpolation between levels), as Cai, Gao, Zhao use it on ultrasound (Ann Transl
Med 2020)::

    R(x) = sum over y != x of w(x - y) s(I(x) - I(y)) / sum of w(x - y),    w = 1 / |x - y|,
    s(t) = t * slope cut to -1 ... 1

then R is stretched to 0 ... 1. For a fixed level L in the place of I(x) the sum is a convolution (FFT); between levels
it is interpolated, which is exact at the levels and elsewhere off by no more than s bends between two of them.
"""

from __future__ import annotations

import torch
from monai.transforms.transform import Transform
from torch.nn import functional

Tensor = torch.Tensor


class AdaptiveContrastEnhancement(Transform):
    """ACE of images on whatever device they are.

    Args:
        slope: the steeper, the more small differences count (5 in Getreuer's examples).
        levels: in which brightness is cut for the interpolation.
    """

    def __init__(self, slope: float = 5.0, levels: int = 12) -> None:
        if slope < 1 or levels < 2:
            raise ValueError(f"ACE takes a slope of 1 or more and at least two levels, not {slope}, {levels}")
        self.slope, self.levels = slope, levels

    def __call__(self, image: Tensor) -> Tensor:
        """``image``: (..., rows, columns) float32, 0..1; returns the same shape, 0..1. A flat image becomes 0.5."""
        flat = image.reshape(-1, *image.shape[-2:]).clamp(0, 1)
        return _stretched(self._differences(flat)).reshape(image.shape)

    def _differences(self, image: Tensor) -> Tensor:
        """Mean weighted difference of each pixel from all others, (n, rows, columns)."""
        rows, columns = image.shape[1:]
        spectrum, size = _weights(rows, columns, image.device)
        total = _convolved(torch.ones_like(image[:1]), spectrum, size)
        step = 1 / (self.levels - 1)
        place = image / step
        result = torch.zeros_like(image)
        for k in range(self.levels):
            near = (1 - (place - k).abs()).clamp(min=0)  # the share of level k in each pixel's interpolation
            response = (self.slope * (k * step - image)).clamp(-1, 1)
            result += near * _convolved(response, spectrum, size)
        return result / total


def _weights(rows: int, columns: int, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """Spectrum of 1 / distance, on a grid on which the convolution does not wrap around."""
    size = (2 * rows, 2 * columns)
    down = torch.arange(size[0], device=device, dtype=torch.float32)
    across = torch.arange(size[1], device=device, dtype=torch.float32)
    down, across = torch.minimum(down, size[0] - down), torch.minimum(across, size[1] - across)
    distance = torch.hypot(down[:, None], across[None])
    weight = torch.where(distance > 0, 1 / distance.clamp(min=1), 0.0)
    return torch.fft.rfft2(weight), size


def _convolved(image: Tensor, spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = image.shape[1:]
    padded = functional.pad(image, [0, size[1] - columns, 0, size[0] - rows])
    return torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=size)[:, :rows, :columns]


def _stretched(image: Tensor) -> Tensor:
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    wide = (high - low) > 1e-6
    return torch.where(wide, (image - low) / (high - low).clamp(min=1e-6), 0.5)
