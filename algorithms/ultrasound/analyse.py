"""From the clips of a study to findings: each picture's lesions, and of each clip its answer with its key frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_node.algorithm import Clip, Findings, Frame, Measurement, NotAnalysed, Picture

from . import find, looks, measure, report
from .calibrate import Calibration
from .networks import LesionNetwork
from .report import Organ

Tensor = torch.Tensor

MOST_FRAMES = 60
"""Of a clip that are looked at, evenly spread."""
SEEN_IN = 0.2
"""Share of a clip's frames in which a lesion must be found to count."""


@dataclass(frozen=True)
class Models:
    """What an organ's analysis works with."""

    organ: Organ
    finders: Sequence[LesionNetwork]
    graders: Sequence[LesionNetwork]
    calibration: Calibration
    looks: looks.Looks
    device: torch.device


@dataclass(frozen=True)
class Lesion:
    """A lesion in one picture: its mask on the whole frame, mm between pixels or None, and the grades' logits."""

    mask: npt.NDArray[np.bool_]
    spacing: tuple[float, float] | None
    certainty: float
    grades: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """One picture: where it is from, its lesions, and whether it looks like what the networks know."""

    frame: Frame
    shape: tuple[int, int]
    lesions: tuple[Lesion, ...]
    distance: float


@dataclass(frozen=True)
class Answer:
    """A clip's answer.

    Attributes:
        key: the picture that shows it best.
        lesions: of that picture, the first with the grades of all frames that show one.
        frames: how many were looked at, and in how many a lesion was found.
        alike: whether they look like the training data.
    """

    key: Seen
    lesions: tuple[Lesion, ...]
    frames: tuple[int, int]
    alike: bool


def look(pictures: Sequence[Picture], models: Models) -> list[Seen]:
    """Find and grade the lesions of pictures, all regions of all of them batched together."""
    owners, regions = [], []
    for k, picture in enumerate(pictures):
        for region in picture.regions:
            top, left, bottom, right = region.box
            values = np.ascontiguousarray(picture.gray[top:bottom, left:right])
            regions.append(torch.from_numpy(values).to(models.device).float() / 255)
            owners.append((k, region))
    places = find.find(regions, models.finders)
    flat = [(j, candidate) for j, found in enumerate(places) for candidate in found]
    graded = find.grade([regions[j] for j, _ in flat], [c.box for _, c in flat], models.graders)
    lesions: list[list[Lesion]] = [[] for _ in pictures]
    for (j, candidate), answer in zip(flat, graded, strict=True):
        k, region = owners[j]
        if not answer.mask.any():
            continue
        top, left, bottom, right = region.box
        mask = np.zeros(pictures[k].gray.shape, bool)
        mask[top:bottom, left:right] = answer.mask
        lesions[k].append(Lesion(mask, region.spacing, candidate.certainty, tuple(answer.grades.tolist())))
    distances = [0.0] * len(pictures)
    for (k, _), region_values in zip(owners, regions, strict=True):
        distances[k] = max(distances[k], models.looks.distance(region_values))
    return [
        Seen(p.frame, (p.gray.shape[0], p.gray.shape[1]), tuple(found), distance)
        for p, found, distance in zip(pictures, lesions, distances, strict=True)
    ]


def answer_of(clip: Clip, models: Models, left_out: list[str]) -> Answer:
    """The answer of a clip; of a single image its own.

    Raises:
        NotAnalysed: no frame could be used.
    """
    step = max(1, -(-len(clip) // MOST_FRAMES))
    seen: list[Seen] = []
    waiting: list[Picture] = []
    for index, picture in enumerate(clip.pictures(left_out)):
        if index % step == 0:
            waiting.append(picture)
        if len(waiting) == 8:
            seen, waiting = seen + look(waiting, models), []
    seen += look(waiting, models)
    if not seen:
        raise NotAnalysed("no frame of the clip can be used")
    alike = float(np.median([s.distance for s in seen])) <= models.looks.limit
    found = [s for s in seen if s.lesions]
    if len(found) < SEEN_IN * len(seen) or not found:
        return Answer(seen[0], (), (len(seen), len(found)), alike)
    key = max(found, key=lambda s: s.lesions[0].certainty * float(np.sqrt(s.lesions[0].mask.sum())))
    first = key.lesions[0]
    mean = np.mean([s.lesions[0].grades for s in found], 0)
    whole = Lesion(first.mask, first.spacing, first.certainty, tuple(float(g) for g in mean))
    return Answer(key, (whole, *key.lesions[1:]), (len(seen), len(found)), alike)


def findings(clips: Sequence[Clip], models: Models) -> Findings:
    """Findings of a study: one plane for each clip, its key frame.

    Raises:
        NotAnalysed: nothing could be analysed.
    """
    answers: list[Answer] = []
    notes: list[str] = []
    for clip in clips:
        notes += clip.notes
        try:
            answers.append(answer_of(clip, models, notes))
        except NotAnalysed as e:
            notes.append(f"One clip was not analysed: {e}.")
    if not answers:
        raise NotAnalysed(notes[-1] if notes else "there are no images")
    shape = answers[0].key.shape
    same = [a for a in answers if a.key.shape == shape]
    if len(same) < len(answers):
        notes.append(f"{len(answers) - len(same)} images of another size were left out.")
    label_map = np.zeros((len(same), *shape), np.uint8)
    measurements: list[Measurement] = []
    segments, details = [], []
    probabilities: dict[int, float] = {}
    for plane, answer in enumerate(same):
        for lesion in answer.lesions:
            number = len(segments) + 1
            label_map[plane][lesion.mask & (label_map[plane] == 0)] = number
            segments.append(report.segment(models.organ, number))
            probability = float(models.calibration.probability([lesion.grades])[0]) if answer.alike else None
            if probability is not None:
                probabilities[plane] = max(probability, probabilities.get(plane, 0.0))
            size = measure.axes(lesion.mask, lesion.spacing or (1.0, 1.0))
            measurements += report.lesion(models.organ, number, probability, size, lesion.spacing is not None)
            notes += report.reading(models.organ, number, probability, models.calibration.band)
        if not answer.alike:
            notes.append(report.unlike(answer.key.frame, len(answer.lesions)))
        details.append(_details(answer))
    if not segments:
        notes.append(report.nothing(models.organ, len(same)))
    keys = tuple(sorted({k for k, a in enumerate(same) if a.lesions}, key=lambda k: -probabilities.get(k, -1.0)))
    return Findings(
        label_map,
        tuple(segments),
        tuple(measurements),
        (*models.organ.limits, *dict.fromkeys(notes)),
        {"pictures": details, "device": str(models.device)},
        frames=tuple(a.key.frame for a in same),
        key_planes=keys,
    )


def _details(answer: Answer) -> dict[str, Any]:
    return {
        "frame": answer.key.frame.number,
        "frames_looked_at": answer.frames[0],
        "frames_with_lesion": answer.frames[1],
        "unlike_training": not answer.alike,
        "distance": round(answer.key.distance, 3),
        "grades": [[round(g, 4) for g in lesion.grades] for lesion in answer.lesions],
    }
