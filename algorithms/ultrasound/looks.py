"""Whether a tissue region looks like those that the networks were trained on; what does not is not scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .resample import FIND_SIZE, cut, whole

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]

RARE = 0.995
"""Share of the training images that look alike."""


@dataclass(frozen=True)
class Looks:
    """The mean and the inverse covariance of :func:`features`, and the distance up to which a region looks alike."""

    mean: Array
    inverse: Array
    limit: float

    def distance(self, region: Tensor) -> float:
        """Mahalanobis distance of a region (rows, columns), 0..1, from the training images."""
        off = features(region) - self.mean
        return float(np.sqrt(off @ self.inverse @ off))

    def save(self, path: Path) -> None:
        """As JSON."""
        values = {"mean": self.mean.tolist(), "inverse": self.inverse.tolist(), "limit": self.limit}
        path.write_text(json.dumps(values) + "\n", encoding="utf-8")


def load(path: Path) -> Looks:
    """Read what :meth:`Looks.save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Looks(np.array(values["mean"]), np.array(values["inverse"]), float(values["limit"]))


def fit(regions: Sequence[Tensor]) -> Looks:
    """From the training images."""
    seen = np.stack([features(r) for r in regions])
    mean = seen.mean(0)
    covariance = np.cov(seen.T) + 1e-6 * np.eye(seen.shape[1])
    inverse = np.linalg.inv(covariance)
    distances = np.sqrt(np.einsum("ni,ij,nj->n", seen - mean, inverse, seen - mean))
    return Looks(mean, inverse, float(np.quantile(distances, RARE)))


def features(region: Tensor) -> Array:
    """Brightness, contrast, grain across and down, and how brightness falls with depth, of a (rows, columns) region."""
    square = cut(region[None], whole((region.shape[0], region.shape[1])), FIND_SIZE).cpu().double()
    image, inside = square[0], square[1] > 0.99
    values = image[inside]
    deviation = values.std() + 1e-3
    rows = torch.nonzero(inside.any(1))[:, 0]
    third = max(1, len(rows) // 3)
    top, bottom = image[rows[:third]], image[rows[-third:]]
    across = (image[:, 1:] - image[:, :-1])[inside[:, 1:] & inside[:, :-1]].abs().mean()
    down = (image[1:] - image[:-1])[inside[1:] & inside[:-1]].abs().mean()
    wide = (image[:, 4:] - image[:, :-4])[inside[:, 4:] & inside[:, :-4]].abs().mean()
    deep = (image[4:] - image[:-4])[inside[4:] & inside[:-4]].abs().mean()
    small = 1e-3
    return np.array(
        [
            float(values.mean()),
            float(deviation.log()),
            float((values < 0.03).double().mean()),
            float((values > 0.95).double().mean()),
            float(((across + small) / deviation).log()),
            float(((down + small) / deviation).log()),
            float(((across + small) / (wide + small)).log()),
            float(((down + small) / (deep + small)).log()),
            float(top[inside[rows[:third]]].mean() - bottom[inside[rows[-third:]]].mean()),
        ]
    )
