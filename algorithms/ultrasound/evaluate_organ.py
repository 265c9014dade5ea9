"""Figures of the organ classifier: ``python algorithms/ultrasound/evaluate_organ.py``, after ``train_organ.py``.

Each image is judged by the network that never saw its patient. Intervals are 95% bootstrap intervals over patients.
The two organs come from two data sets, so the same figures are given where a shortcut would show:

- ``texture``: the same images with their tiles mixed: whoever calls these an organ looks at speckle, not at anatomy;
- ``coarse``: at half the resolution, so that the grain of the scanner is gone;
- ``scanner left out``: breasts of a scanner that the network never saw (``train_organ.py --job left-out``);
- ``nine numbers``: how well brightness and grain alone tell the sets apart: how easy the shortcut would have been.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.ultrasound import calibrate, looks, organ, train_organ  # noqa: E402
from algorithms.ultrasound.train_jobs import data_folder  # noqa: E402
from algorithms.ultrasound.train_organ import Example  # noqa: E402

Array = npt.NDArray[Any]
Figures = dict[str, Any]
Tensor = torch.Tensor


def judged(examples: Sequence[Example], networks: Sequence[organ.OrganNetwork]) -> Array:
    """Probabilities (n, 3), each by the network of the example's fold."""
    found = np.zeros((len(examples), 3))
    for fold, network in zip(train_organ.FOLDS, networks, strict=False):
        mine = [k for k, e in enumerate(examples) if e.fold == fold]
        found[mine] = asked(organ.Classifier([network]), [examples[k] for k in mine])
    return found


def asked(classifier: organ.Classifier, examples: Sequence[Example]) -> Array:
    """Probabilities (n, 3), some images at a time."""
    parts = [examples[k : k + 32] for k in range(0, len(examples), 32)]
    return np.concatenate([np.zeros((0, 3)), *(classifier.probabilities([e.image for e in p]).numpy() for p in parts)])


def refused(probabilities: Array, wanted: str) -> Array:
    """Which images the algorithm of an organ would turn away."""
    return np.array([organ.unlike(wanted, p.tolist()) is not None for p in probabilities])


def share(examples: Sequence[Example], values: Array, draws: int = 1000) -> Figures:
    """Mean of values with its interval, by patient."""
    groups: dict[str, list[float]] = {}
    for e, value in zip(examples, values, strict=True):
        groups.setdefault(e.subject, []).append(float(value))
    sums = np.array([[sum(g), len(g)] for g in groups.values()])
    rng = np.random.default_rng(0)
    drawn = [sums[rng.integers(0, len(sums), len(sums))].sum(0) for _ in range(draws)]
    low, high = np.percentile([s / n for s, n in drawn], [2.5, 97.5])
    return {"value": round(float(values.mean()), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


def figures_of(examples: Sequence[Example], probabilities: Array) -> Figures:
    """How often each class is called what it is, and how often an algorithm turns away what is its own or takes in
    what is not."""
    labels = np.array([e.label for e in examples])
    result: Figures = {"images": {c: int((labels == k).sum()) for k, c in enumerate(organ.CLASSES)}}
    result["called_right"] = {
        c: share([e for e in examples if e.label == k], (probabilities.argmax(1) == k)[labels == k])
        for k, c in enumerate(organ.CLASSES)
        if (labels == k).any()
    }
    for wanted in ("breast", "thyroid"):
        away = refused(probabilities, wanted)
        own = labels == organ.CLASSES.index(wanted)
        if own.any():
            result[f"{wanted}_turned_away"] = share(
                [e for e in examples if organ.CLASSES[e.label] == wanted], away[own]
            )
        if (~own).any():
            others = [e for e in examples if organ.CLASSES[e.label] != wanted]
            result[f"others_taken_for_{wanted}"] = share(others, ~away[~own])
    both = labels < 2
    if len(set(labels[both])) == 2:
        score = probabilities[both, 1] / probabilities[both, :2].sum(1)
        result["auc_breast_thyroid"] = round(calibrate.area_under_curve(score, labels[both]), 4)
    return result


def changed(examples: Sequence[Example], how: str) -> list[Example]:
    """The breasts and thyroids, each as ``texture`` or ``coarse``."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for e in (e for e in examples if e.label < 2):
        edge = min(e.image.shape) // 4 * 4
        if how == "texture":
            image = train_organ.shuffled(e.image[None, None, :edge, :edge], generator)[0, 0]
        else:
            size = [n * organ.SHARPEST // (2 * edge) for n in e.image.shape]
            image = functional.interpolate(e.image[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
        found.append(Example(image, e.label, e.subject, e.fold, e.scanner))
    return found


def nine_numbers(examples: Sequence[Example]) -> float:
    """AUC of a logistic regression on brightness and grain, cross-validated over the folds."""
    known = [e for e in examples if e.label < 2]
    features = np.stack([looks.features(e.image) for e in known])
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    labels, folds = np.array([e.label for e in known]), np.array([e.fold for e in known])
    score = np.zeros(len(known))
    for fold in train_organ.FOLDS:
        out = folds == fold
        x = np.concatenate([features, np.ones((len(known), 1))], 1)
        # least squares on -1 and 1: enough to show what is there
        weights = np.linalg.lstsq(x[~out], labels[~out] * 2.0 - 1, rcond=None)[0]
        score[out] = x[out] @ weights
    return round(calibrate.area_under_curve(score, labels), 4)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".work" / "organ", help="what was trained")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    examples = train_organ.examples_of(data_folder(chosen.data, HERE), chosen.work)
    networks = organ.load(chosen.work / "organ.safetensors").networks
    trained = [e for e in examples if e.fold <= len(networks)]
    with torch.inference_mode():
        figures: Figures = {"folds": len(networks), **figures_of(trained, judged(trained, networks))}
        for how in ("coarse", "texture"):
            other = changed(trained, how)
            figures[how] = figures_of(other, judged(other, networks))
        figures["nine numbers"] = nine_numbers(examples)
        left_out = {}
        for name in train_organ.scanners(examples):
            file = chosen.work / f"without {name}.safetensors"
            mine = [e for e in examples if e.scanner == name]
            if file.exists():
                left_out[name] = figures_of(mine, asked(organ.load(file), mine))
        figures["scanner left out"] = left_out
    text = json.dumps(figures, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
