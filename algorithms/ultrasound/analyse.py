"""From the clips of a study to findings: each picture's lesions, and of each clip its answer with its key frame."""

from __future__ import annotations

from collections import Counter
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
MOST_LESIONS = 255
"""That a label map can hold."""
UNLIKE = "it looks unlike the images that this algorithm was trained on"
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
    notes: list[str] = []
    answers = _answers(clips, models, notes)
    label_map = np.zeros((len(answers), *answers[0][1].key.shape), np.uint8)
    measurements: list[Measurement] = []
    segments, details = [], []
    probabilities: dict[int, float] = {}
    for plane, (clip, answer) in enumerate(answers):
        details.append(_details(answer))
        side = clip.side.value if clip.side.value in ("left", "right") else None
        for lesion in answer.lesions:
            own = lesion.mask & (label_map[plane] == 0)
            if not own.any():
                continue  # it lies in another, which is more certain
            if len(segments) == MOST_LESIONS:
                notes.append(f"More than {MOST_LESIONS} lesions were found: those of later images are not listed.")
                break
            number = len(segments) + 1
            label_map[plane][own] = number
            segments.append(report.segment(models.organ, number, side))
            probability = float(models.calibration.probability([lesion.grades])[0])
            probabilities[plane] = max(probability, probabilities.get(plane, 0.0))
            size = measure.axes(own, lesion.spacing or (1.0, 1.0))
            measurements += report.lesion(models.organ, number, side, probability, size, lesion.spacing is not None)
            notes += report.reading(models.organ, number, probability, models.calibration.band)
            notes += report.key_frame(models.organ, number, answer.key.frame, len(clip), answer.frames)
    if not segments:
        notes.append(report.nothing(models.organ, len(answers)))
    keys = tuple(sorted(probabilities, key=lambda k: -probabilities[k]))
    return Findings(
        label_map,
        tuple(segments),
        tuple(measurements),
        (*models.organ.limits, *dict.fromkeys(notes)),
        {"pictures": details, "device": str(models.device)},
        frames=tuple(a.key.frame for _, a in answers),
        key_planes=keys,
    )


def _answers(clips: Sequence[Clip], models: Models, notes: list[str]) -> list[tuple[Clip, Answer]]:
    """The clips that could be analysed, all of one size, with their answers; of the others the notes say why not.

    Raises:
        NotAnalysed: none could.
    """
    answers: list[tuple[Clip, Answer]] = []
    refused: list[str] = []
    for clip in clips:
        notes += clip.notes
        try:
            answer = answer_of(clip, models, notes)
            if not answer.alike:
                raise NotAnalysed(UNLIKE)
        except NotAnalysed as e:
            refused.append(str(e))
        else:
            answers.append((clip, answer))
    if not answers:
        reasons = list(dict.fromkeys(refused))
        raise NotAnalysed(reasons[0] if len(reasons) == 1 else "; ".join(reasons) or "there are no images")
    for reason, count in Counter(refused).items():
        notes.append(f"{count} {'image was' if count == 1 else 'images were'} not analysed, because {reason}.")
    # a mask has one size (PS3.3 C.8.20.2): that which most images have
    shape = Counter(a.key.shape for _, a in answers).most_common(1)[0][0]
    same = [(clip, a) for clip, a in answers if a.key.shape == shape]
    others = len(answers) - len(same)
    if others:
        rows, columns = shape
        notes.append(
            f"{others} {'image was' if others == 1 else 'images were'} not analysed, because the results are of the "
            f"images of {columns} x {rows} pixels."
        )
    return same


def _details(answer: Answer) -> dict[str, Any]:
    return {
        "frame": answer.key.frame.number,
        "frames_looked_at": answer.frames[0],
        "frames_with_lesion": answer.frames[1],
        "distance": round(answer.key.distance, 3),
        "grades": [[round(g, 4) for g in lesion.grades] for lesion in answer.lesions],
    }
