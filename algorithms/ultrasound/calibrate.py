"""From the networks' logits to probabilities that mean what they say, and the band in which they say nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Logistic regression of the class on the logits.

    Attributes:
        weights: of the class's logit and of the mean of the grades' logits.
        bias: added to them.
        band: (low, high) probabilities between which the answer is "indeterminate".
    """

    weights: tuple[float, ...]
    bias: float
    band: tuple[float, float]

    def probability(self, grades: npt.ArrayLike) -> Array:
        """Of (n, outputs) logits."""
        return _sigmoid(features(grades) @ np.array(self.weights) + self.bias)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Calibration:
    """Read what :meth:`Calibration.save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    low, high = values["band"]
    return Calibration(tuple(values["weights"]), float(values["bias"]), (float(low), float(high)))


def features(grades: npt.ArrayLike) -> Array:
    """The class's logit, and the mean of the grades' logits: (n, 2); without grades (n, 1)."""
    logits = np.asarray(grades, np.float64)
    if logits.shape[1] == 1:
        return logits
    return np.stack([logits[:, 0], logits[:, 1:].mean(1)], 1)


def fit(grades: npt.ArrayLike, labels: Sequence[float], band: tuple[float, float] = (0.5, 0.5)) -> Calibration:
    """Weights that make ``labels`` (0 or 1) most likely; a little ridge keeps them finite."""
    x = features(grades)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    y = np.asarray(labels, np.float64)
    ridge = 1e-2 * np.diag([*[1.0] * (x.shape[1] - 1), 0.0])
    weights = np.zeros(x.shape[1])
    for _ in range(50):  # Newton's method
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - y) + ridge @ weights
        curve = (x * (p * (1 - p))[:, None]).T @ x + ridge + 1e-9 * np.eye(x.shape[1])
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(tuple(float(w) for w in weights[:-1]), float(weights[-1]), band)


def indeterminate(probability: Array, labels: Array, sure: float = 0.95) -> tuple[float, float]:
    """The band outside of which the class is right: below it at least ``sure`` of the positives are not missed, and
    above it at least ``sure`` of the negatives are not called."""
    low = float(np.quantile(probability[labels == 1], 1 - sure))
    high = float(np.quantile(probability[labels == 0], sure))
    return (low, high) if low < high else (0.5, 0.5)


def expected_error(probability: Array, labels: Array) -> float:
    """Expected calibration error: over ten bins of equal width, |mean probability - share of positives|."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    error = 0.0
    for k in range(BINS):
        inside = bins == k
        if inside.any():
            error += inside.mean() * abs(float(probability[inside].mean() - labels[inside].mean()))
    return float(error)


def area_under_curve(score: Array, labels: Array) -> float:
    """Probability that a positive scores higher than a negative; ties count half; nan with one class only."""
    positive, negative = score[labels == 1], np.sort(score[labels == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).mean() / (2 * len(negative)))


def sensitivity_at(score: Array, labels: Array, specificity: float) -> float:
    """Share of the positives above the score that ``specificity`` of the negatives do not exceed."""
    if not (labels == 1).any() or not (labels == 0).any():
        return float("nan")
    return float((score[labels == 1] > np.quantile(score[labels == 0], specificity)).mean())


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
