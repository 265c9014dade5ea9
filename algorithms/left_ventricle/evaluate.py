"""Figures of the model card: ``python algorithms/left_ventricle/evaluate.py``.

Cross-validated: every slice is outlined by networks that never saw its patient, found and outlined as in the node.
Only labelled slices are looked at, so which slices hold a ventricle is not tested here. Intervals are 95% bootstrap
intervals over patients. Prints one JSON object, and writes it to ``--out`` if given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.left_ventricle import find, networks, segment, train_data  # noqa: E402

Array = npt.NDArray[Any]
Figures = dict[str, Any]

GOOD_CONTOUR = 5.0
"""mm of average perpendicular distance up to which the 2009 challenge calls a contour good."""


@dataclass(frozen=True)
class Measured:
    """One slice.

    Attributes:
        dice: of the cavity.
        muscle: Dice of the myocardium; nan where it is not labelled.
        distance: mm, average perpendicular distance of the found inner contour to the expert's; nan if none was found.
        areas: mm2 of the cavity, found and labelled.
    """

    subject: str
    phase: str
    source: str
    dice: float
    muscle: float
    distance: float
    areas: tuple[float, float]


def dice(a: Array, b: Array) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def contour_distance(found: Array, expert: Array, spacing: tuple[float, float]) -> float:
    """Mean distance in mm of the points of one mask's edge to the other's edge."""
    edges = [m & ~ndimage.binary_erosion(m) for m in (found, expert)]
    if not all(e.any() for e in edges):
        return float("nan")
    return float(ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]].mean())


def measure_patient(
    slices: train_data.Slices, sources: Sequence[str], finders: list[torch.nn.Module], segmenters: list[torch.nn.Module]
) -> tuple[list[Measured], float]:
    """All slices of one patient, and how far in mm the found middle lies from that of the labels."""
    spacing = (float(slices.spacing[0, 0]), float(slices.spacing[0, 1]))
    images = slices.images.float()
    centre, _ = find.centre(images, spacing, finders)
    maps = segment.labels(segment.probabilities(images, spacing, centre, segmenters).numpy())
    pixel = spacing[0] * spacing[1]
    measured = []
    for k, (found, regions) in enumerate(zip(maps, slices.regions.numpy(), strict=True)):
        cavity, muscle = found == segment.CAVITY, found == segment.MYOCARDIUM
        labelled = slices.phases[k] == "ED"
        measured.append(
            Measured(
                slices.subjects[k],
                slices.phases[k],
                sources[k],
                dice(cavity, regions[0]),
                dice(muscle, regions[1]) if labelled else float("nan"),
                contour_distance(cavity, regions[0], spacing),
                (float(cavity.sum()) * pixel, float(regions[0].sum()) * pixel),
            )
        )
    off = (slices.centres.mean(0) - torch.tensor(centre)) * torch.tensor(spacing)
    return measured, float(off.norm())


def by_patient(
    groups: Sequence[Sequence[Measured]], statistic: Callable[[Sequence[Measured]], float], digits: int = 4
) -> Figures:
    """A statistic of all slices with its bootstrap interval: patients are drawn, with all their slices."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(1000):
        chosen = rng.integers(0, len(groups), len(groups))
        draws.append(statistic([m for g in chosen for m in groups[g]]))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    value = statistic([m for g in groups for m in g])
    return {"value": round(value, digits), "ci95": [round(float(low), digits), round(float(high), digits)]}


def ejection_fraction(measured: Sequence[Measured], which: int) -> float:
    """Percent, from the labelled slices of one patient; ``which``: 0 found, 1 labelled."""
    volume = {phase: sum(m.areas[which] for m in measured if m.phase == phase) for phase in ("ED", "ES")}
    return 100 * (1 - volume["ES"] / volume["ED"]) if volume["ED"] else float("nan")


def mean_of(name: str, phase: str | None = None) -> Callable[[Sequence[Measured]], float]:
    """The mean of an attribute over slices, of one phase if given."""
    return lambda all_: float(np.nanmean([getattr(m, name) for m in all_ if phase in (None, m.phase)]))


def good_contours(measured: Sequence[Measured]) -> float:
    """Percent of slices with a good contour; one that was not found is not good."""
    return 100 * float(np.mean([m.distance < GOOD_CONTOUR for m in measured]))


def distance_of_good(measured: Sequence[Measured]) -> float:
    """Mean of the average perpendicular distance in mm over good contours, as the challenge reports it."""
    return float(np.mean([m.distance for m in measured if m.distance < GOOD_CONTOUR]))


def scalar(values: Sequence[float], statistic: Callable[[Array], float] = np.mean, digits: int = 2) -> Figures:
    """A statistic of one value a patient with its bootstrap interval."""
    array = np.array(values, float)
    draws = np.random.default_rng(0).integers(0, len(array), (2000, len(array)))
    low, high = np.percentile([statistic(array[d]) for d in draws], [2.5, 97.5])
    value = float(statistic(array))
    return {"value": round(value, digits), "ci95": [round(float(low), digits), round(float(high), digits)]}


def figures_of(groups: Sequence[Sequence[Measured]], off: Sequence[float]) -> Figures:
    """What the model card says."""
    errors = [ejection_fraction(g, 0) - ejection_fraction(g, 1) for g in groups]
    volumes = {
        phase: [
            100 * (sum(m.areas[0] for m in g if m.phase == phase) / sum(m.areas[1] for m in g if m.phase == phase) - 1)
            for g in groups
        ]
        for phase in ("ED", "ES")
    }
    slices = [m for g in groups for m in g]
    sources = {
        source: round(float(np.nanmean([m.muscle for m in slices if m.source == source])), 4)
        for source in sorted({m.source for m in slices if m.phase == "ED"})
    }
    return {
        "patients": len(groups),
        "slices": len(slices),
        "dice_cavity": by_patient(groups, mean_of("dice")),
        "dice_cavity_ED": by_patient(groups, mean_of("dice", "ED")),
        "dice_cavity_ES": by_patient(groups, mean_of("dice", "ES")),
        "dice_cavity_median": by_patient(groups, lambda all_: float(np.median([m.dice for m in all_]))),
        "dice_myocardium_ED": by_patient(groups, mean_of("muscle", "ED")),
        "dice_myocardium_ED_by_label_source": sources,
        "distance_mm": by_patient(groups, mean_of("distance"), 3),
        "distance_of_good_contours_mm": by_patient(groups, distance_of_good, 3),
        "good_contours_percent": by_patient(groups, good_contours, 1),
        "slices_without_cavity": sum(m.areas[0] == 0 for m in slices),
        "lowest_dice_cavity": round(min(m.dice for m in slices), 4),
        "ejection_fraction_absolute_error_points": scalar([abs(e) for e in errors]),
        "ejection_fraction_bias_points": scalar(errors),
        "ejection_fraction_largest_error_points": round(max(map(abs, errors)), 2),
        "volume_error_ED_percent": scalar(volumes["ED"]),
        "volume_error_ES_percent": scalar(volumes["ES"]),
        "middle_found_within_mm": {"mean": round(float(np.mean(off)), 1), "largest": round(max(off), 1)},
    }


def evaluate(data: Path, folds: Sequence[int], folder: Path) -> Figures:
    """Figures of the patients that these folds held out."""
    slices, manifest = train_data.read(data), train_data.rows(data)
    sources = [row["epi_source"] for row in manifest]
    of_find = train_data.folds_of(manifest, train_data.FIND_FOLDS)
    of_segment = train_data.folds_of(manifest, train_data.SEGMENT_FOLDS)
    groups, off = [], []
    for subject in sorted(set(slices.subjects)):
        if of_segment[subject] not in folds:
            continue
        finder = networks.load_weights(networks.find_network(), folder / f"find-{of_find[subject]}.safetensors")
        name = f"segment-{of_segment[subject]}.safetensors"
        segmenter = networks.load_weights(networks.segment_network(), folder / name)
        chosen = [k for k, s in enumerate(slices.subjects) if s == subject]
        measured, away = measure_patient(slices.only(chosen), [sources[k] for k in chosen], [finder], [segmenter])
        groups.append(measured)
        off.append(away)
    return figures_of(groups, off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(train_data.SEGMENT_FOLDS)))
    parser.add_argument("--models", type=Path, default=HERE / "models", help="fold networks")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    with torch.inference_mode():
        figures = evaluate(train_data.data_folder(arguments.data), arguments.folds, arguments.models)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
