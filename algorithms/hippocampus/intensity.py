"""Intensity scales that mean the same in training and in use, whatever the scanner wrote."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def some_of(values: Tensor, most: int) -> Tensor:
    """At most about ``most`` of the values, evenly taken: enough for a percentile."""
    return values[:: max(1, len(values) // most)]


def normalise_head(image: Tensor) -> Tensor:
    """Divide each image (n, 1, x, y, z) >= 0 by its 98th percentile over what is not background."""
    result = []
    for one in image:
        values = one[one > 0.1 * one.max()]
        top = torch.quantile(some_of(values, 20000), 0.98) if len(values) else torch.ones((), device=one.device)
        result.append((one / top.clamp(min=1e-6)).clamp(0, 1.5))
    return torch.stack(result)


def normalise_patch(image: Tensor, mask: Tensor, measured: Tensor | None = None) -> Tensor:
    """Mean 0 and deviation 1 over ``measured``, after clipping at its 1st and 99th percentile; 0 outside ``mask``.

    Args:
        image: (n, 1, x, y, z).
        mask: like ``image``; > 0 where the image is.
        measured: like ``image``; > 0 where to measure; None: over ``mask``.
    """
    result = []
    for one, inside, where in zip(image, mask, mask if measured is None else measured, strict=True):
        values = one[where > 0]
        if len(values) < 2:
            result.append(torch.zeros_like(one))
            continue
        low, high = torch.quantile(some_of(values, 5000), torch.tensor([0.01, 0.99], device=one.device))
        values = values.clamp(low, high)
        scaled = (one.clamp(low, high) - values.mean()) / values.std().clamp(min=1e-6)
        result.append(scaled * (inside > 0))
    return torch.stack(result)
