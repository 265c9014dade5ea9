"""Figures of the model cards: each lesion is found, outlined and graded by networks that never saw its patient.

``algorithms/<id>/evaluate.py`` says on what. Intervals are 95% bootstrap intervals over patients (or cases).
Calibration is cross-validated too: each fold's probabilities come from a fit on the other folds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from . import calibrate, find, looks, networks
from .batches import Lesion, one_of_each_image
from .train_jobs import Training, data_folder

Array = npt.NDArray[Any]
Figures = dict[str, Any]

FOUND = 0.3
"""Dice with a labelled lesion from which a found one is the same."""
BATCH = 32


@dataclass(frozen=True)
class Measured:
    """One lesion: ``dice`` of the outline in its image, ``grades`` logits, whether it was found."""

    subject: str
    fold: int
    label: float
    dice: float
    grades: tuple[float, ...]
    found: bool


def dice(a: Array, b: Array) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def measure_given(lesions: Sequence[Lesion], grader: networks.LesionNetwork, *, ace: bool) -> list[Measured]:
    """Outline and grade lesions whose boxes are given: the second stage alone."""
    measured = []
    for start in range(0, len(lesions), BATCH):
        some = lesions[start : start + BATCH]
        graded = find.grade([x.image.float() / 255 for x in some], [x.box for x in some], [grader], ace=ace)
        for lesion, answer in zip(some, graded, strict=True):
            truth = _own(lesion)
            score = dice(answer.mask, truth)
            grades = tuple(answer.grades.tolist())
            measured.append(Measured(lesion.subject, lesion.fold, lesion.label, score, grades, score > FOUND))
    return measured


def measure_found(
    lesions: Sequence[Lesion], finder: networks.LesionNetwork, grader: networks.LesionNetwork, *, mirrored: bool
) -> list[Measured]:
    """The whole way; one result an image, its grade that of the lesion of which most is seen."""
    measured = []
    images = one_of_each_image(lesions)
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        regions = [x.image.float() / 255 for x in some]
        places = find.find(regions, [finder], mirrored=mirrored)
        flat = [(k, c) for k, found in enumerate(places) for c in found]
        boxes = [c.box for _, c in flat]
        graded = find.grade([regions[k] for k, _ in flat], boxes, [grader], mirrored=mirrored)
        for k, lesion in enumerate(some):
            answers = [g for (owner, _), g in zip(flat, graded, strict=True) if owner == k]
            union = np.any([g.mask for g in answers], 0) if answers else np.zeros(tuple(lesion.mask.shape), bool)
            score = dice(union, lesion.mask.numpy())
            nothing = (0.0,) * (grader.head.last.out_features if grader.head else 0)
            grades = tuple(answers[0].grades.tolist()) if answers else nothing
            measured.append(Measured(lesion.subject, lesion.fold, lesion.label, score, grades, score > FOUND))
    return measured


def _own(lesion: Lesion) -> Array:
    """The lesion's own part of the image's mask."""
    top, left, bottom, right = lesion.box
    own = np.zeros(tuple(lesion.mask.shape), bool)
    own[top:bottom, left:right] = lesion.mask.numpy()[top:bottom, left:right]
    return own


def interval(
    measured: Sequence[Measured], statistic: Callable[[Sequence[int]], float], draws: int = 1000, digits: int = 4
) -> Figures:
    """A statistic of indices of ``measured`` with its bootstrap interval: subjects are drawn, with all they have."""
    groups: dict[str, list[int]] = {}
    for k, m in enumerate(measured):
        groups.setdefault(m.subject, []).append(k)
    owners = list(groups.values())
    rng = np.random.default_rng(0)
    values = [
        statistic([k for g in rng.integers(0, len(owners), len(owners)) for k in owners[g]]) for _ in range(draws)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    value = statistic(range(len(measured)))
    return {"value": round(value, digits), "ci95": [round(float(low), digits), round(float(high), digits)]}


def probabilities(measured: Sequence[Measured]) -> Array:
    """Calibrated on the other folds; of one fold alone, on itself (said so in ``calibrated_on_itself``)."""
    folds = sorted({m.fold for m in measured})
    result = np.zeros(len(measured))
    for fold in folds:
        others = [m for m in measured if (m.fold != fold or len(folds) == 1) and not np.isnan(m.label)]
        fitted = calibrate.fit([m.grades for m in others], [m.label for m in others])
        here = [k for k, m in enumerate(measured) if m.fold == fold]
        result[here] = fitted.probability([measured[k].grades for k in here])
    return result


def by_subject(measured: Sequence[Measured], probability: Array) -> tuple[Array, Array]:
    """Mean probability and label of each subject."""
    groups: dict[str, list[int]] = {}
    for k, m in enumerate(measured):
        groups.setdefault(m.subject, []).append(k)
    scores = np.array([probability[g].mean() for g in groups.values()])
    return scores, np.array([max(measured[k].label for k in g) for g in groups.values()])


def figures_of(measured: Sequence[Measured]) -> Figures:
    """What the model card says."""
    known = [m for m in measured if not np.isnan(m.label)]
    probability, labels = probabilities(known), np.array([m.label for m in known])
    scores, truths = by_subject(known, probability)

    def of(statistic: Callable[[Array, Array], float]) -> Callable[[Sequence[int]], float]:
        return lambda chosen: statistic(probability[list(chosen)], labels[list(chosen)])

    outlines = np.array([m.dice for m in measured])
    return {
        "lesions": len(measured),
        "subjects": len({m.subject for m in measured}),
        "calibrated_on_itself": len({m.fold for m in known}) == 1,
        "auc": interval(known, of(calibrate.area_under_curve)),
        "auc_class_logit_alone": round(calibrate.area_under_curve(np.array([m.grades[0] for m in known]), labels), 4),
        "auc_by_subject": round(calibrate.area_under_curve(scores, truths), 4),
        "sensitivity_at_90_specificity": interval(known, of(lambda p, y: calibrate.sensitivity_at(p, y, 0.9))),
        "expected_calibration_error": round(calibrate.expected_error(probability, labels), 4),
        "dice": interval(measured, lambda chosen: float(outlines[list(chosen)].mean())),
        "dice_median": round(float(np.median(outlines)), 4),
        "found": round(float(np.mean([m.found for m in measured])), 4),
    }


def _network(path: Path, stage: str, outputs: int) -> networks.LesionNetwork:
    empty = networks.find_network() if stage == "find" else networks.grade_network(outputs)
    return networks.load_weights(empty, path)


def measure(
    training: Training,
    lesions: Sequence[Lesion],
    models: Path,
    *,
    folds: Sequence[int],
    grade: str = "grade",
    given: bool = False,
    mirrored: bool = True,
) -> list[Measured]:
    """Lesions of some folds.

    Args:
        grade: the second stage's name in ``Training.plans``.
        given: by the second stage alone, from the labelled boxes.
        mirrored: see each from both sides; only where they are not given.
    """
    measured: list[Measured] = []
    for fold in folds:
        held_out = [x for x in lesions if x.fold == fold]
        grader = _network(models / f"{grade}-{fold}.safetensors", grade, training.outputs)
        if given:
            measured += measure_given(held_out, grader, ace=grade == "grade_ace")
        else:
            finder = _network(models / f"find-{fold}.safetensors", "find", training.outputs)
            measured += measure_found(held_out, finder, grader, mirrored=mirrored)
    return measured


def write(measured: Sequence[Measured], lesions: Sequence[Lesion], folder: Path) -> None:
    """What the node needs beside the networks: the calibration with its band, and what training images look like."""
    known = [m for m in measured if not np.isnan(m.label)]
    labels = np.array([m.label for m in known])
    band = calibrate.indeterminate(probabilities(known), labels)
    calibrate.fit([m.grades for m in known], labels.tolist(), band).save(folder / "calibration.json")
    looks.fit([x.image.float() / 255 for x in one_of_each_image(lesions)]).save(folder / "looks.json")


def main(training: Training) -> None:
    """The command line of every ``evaluate.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--models", type=Path, default=training.folder / "models", help="folder of the weights")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--given", action="store_true", help="the second stage alone, from the labelled boxes")
    how.add_argument("--unmirrored", action="store_true", help="see each image from one side, as frames of a clip")
    how.add_argument(
        "--ablation",
        choices=("ace", "plain"),
        help="networks that were trained for it, --given",
    )
    how.add_argument("--write", action="store_true", help="write calibration.json and looks.json to --models")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    data = data_folder(arguments.data, training.folder)
    given = bool(arguments.given or arguments.ablation)
    with torch.inference_mode():
        lesions = training.read(data)
        measured = measure(
            training,
            lesions,
            arguments.models,
            given=given,
            mirrored=not arguments.unmirrored,
            grade=f"grade_{arguments.ablation}" if arguments.ablation else "grade",
            folds=arguments.folds,
        )
    if arguments.write:
        write(measured, lesions, arguments.models)
    boxes = "given" if given else "found"
    figures = {"folds": arguments.folds, "boxes": boxes, "ablation": arguments.ablation, **figures_of(measured)}
    figures["mirrored"] = not arguments.unmirrored
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
