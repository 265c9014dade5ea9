"""From the clips of studies to findings: each picture's lesions, and of each clip its answer with its key frame.

Single images, of whatever study, are looked at together where the device gains by that; the frames of a clip always
are. What else is looked at never changes a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_node.algorithm import Clip, Findings, Frame, Measurement, NotAnalysed, Picture

from . import find, looks, measure, organ, report
from .calibrate import Calibration
from .networks import LesionNetwork
from .report import Organ

Tensor = torch.Tensor

MOST_FRAMES = 60
"""Of a clip that are looked at, evenly spread."""
MOST_LESIONS = 255
"""That a label map can hold."""
UNLIKE = "it looks unlike the images that this algorithm was trained on"
TOGETHER = 8
"""Frames of a clip."""
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
    organs: organ.Classifier | None = None
    """For images whose headers do not name the organ; without it these are not analysed."""

    @property
    def wanted(self) -> str:
        """The organ, as ``organ.CLASSES`` calls it."""
        return self.organ.site.meaning.lower()


@dataclass(frozen=True)
class Lesion:
    """A lesion in one picture: its mask on the whole frame, mm between pixels or None, and the grades' logits."""

    mask: npt.NDArray[np.bool_]
    spacing: tuple[float, float] | None
    certainty: float
    grades: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """One picture: where it is from, its lesions, and whether it looks like what the networks know.

    ``organ``: probabilities of ``organ.CLASSES``; empty where the header names the organ.
    """

    frame: Frame
    shape: tuple[int, int]
    lesions: tuple[Lesion, ...]
    distance: float
    organ: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A clip's answer.

    Attributes:
        key: the picture that shows it best.
        lesions: of that picture, the first with the grades of all frames that show one.
        frames: how many were looked at, and in how many a lesion was found.
        alike: whether they look like the training data.
        organ: mean probabilities of ``organ.CLASSES``; empty where the header names the organ.
    """

    key: Seen
    lesions: tuple[Lesion, ...]
    frames: tuple[int, int]
    alike: bool
    organ: tuple[float, ...] = ()


def look(
    pictures: Sequence[Picture], models: Models, silent: Sequence[bool] = (), *, mirrored: bool = True
) -> list[Seen]:
    """Find and grade the lesions of pictures, all regions of all of them batched together.

    Args:
        silent: of which pictures the header does not name the organ; empty: of none.
        mirrored: look at each from both sides. The frames of a clip are looked at from one, as they go by: their mean
            is taken anyway, and it takes half the time.
    """
    owners, regions = [], []
    for k, picture in enumerate(pictures):
        for region in picture.regions:
            top, left, bottom, right = region.box
            values = np.ascontiguousarray(picture.gray[top:bottom, left:right])
            regions.append(torch.from_numpy(values).to(models.device).float() / 255)
            owners.append((k, region))
    places = find.find(regions, models.finders, mirrored=mirrored)
    flat = [(j, candidate) for j, found in enumerate(places) for candidate in found]
    boxes = [c.box for _, c in flat]
    graded = find.grade([regions[j] for j, _ in flat], boxes, models.graders, mirrored=mirrored)
    lesions: list[list[Lesion]] = [[] for _ in pictures]
    for (j, candidate), answer in zip(flat, graded, strict=True):
        k, region = owners[j]
        if not answer.mask.any():
            continue
        top, left, bottom, right = region.box
        mask = np.zeros(pictures[k].gray.shape, bool)
        mask[top:bottom, left:right] = answer.mask
        lesions[k].append(Lesion(mask, region.spacing, candidate.certainty, tuple(answer.grades.tolist())))
    organs = _organs(regions, [k for k, _ in owners], models, silent or [False] * len(pictures))
    distances = [0.0] * len(pictures)
    for (k, _), region_values in zip(owners, regions, strict=True):
        distances[k] = max(distances[k], models.looks.distance(region_values))
    return [
        Seen(p.frame, (p.gray.shape[0], p.gray.shape[1]), tuple(found), distance, by_organ)
        for p, found, distance, by_organ in zip(pictures, lesions, distances, organs, strict=True)
    ]


def _organs(
    regions: Sequence[Tensor], owners: Sequence[int], models: Models, silent: Sequence[bool]
) -> list[tuple[float, ...]]:
    """Of each picture the probabilities of its regions' mean; empty of those that are not silent."""
    found: list[tuple[float, ...]] = [() for _ in silent]
    for k in range(len(silent)):
        own = [r for r, owner in zip(regions, owners, strict=True) if owner == k]
        if silent[k] and own and models.organs is not None:
            found[k] = tuple(models.organs.probabilities(own).mean(0).tolist())
    return found


def _is_silent(clip: Clip) -> bool:
    return clip.part.value not in organ.CLASSES


def _check_header(clip: Clip, models: Models) -> None:
    """Refuse what the header says is the other organ, and what nothing tells of.

    Raises:
        NotAnalysed: with what says so.
    """
    if _is_silent(clip) and models.organs is None:
        raise NotAnalysed("its header does not name the organ")
    if not _is_silent(clip) and clip.part.value != models.wanted:
        raise NotAnalysed(f"the header says {clip.part}, not {models.wanted}")


Looked = dict[int, "Seen | NotAnalysed"]
"""Single images that were looked at, by their place in the study."""


def look_at_singles(studies: Sequence[Sequence[Clip]], models: Models) -> list[Looked]:
    """The single images of all studies, as many at once as the device gains by."""
    found: list[Looked] = [{} for _ in studies]
    waiting: list[tuple[int, int, bool, Picture]] = []

    def see() -> None:
        seen = look([p for *_, p in waiting], models, [silent for _, _, silent, _ in waiting])
        for (k, j, *_), one in zip(waiting, seen, strict=True):
            found[k][j] = one
        waiting.clear()

    for k, clips in enumerate(studies):
        for j, clip in enumerate(clips):
            if len(clip) != 1:
                continue
            try:
                _check_header(clip, models)
                waiting.append((k, j, _is_silent(clip), clip.picture(0)))
            except NotAnalysed as e:
                found[k][j] = e
            if len(waiting) == (1 if models.device.type == "cpu" else find.BATCH):
                see()
    if waiting:
        see()
    return found


def answer_of(clip: Clip, models: Models, left_out: list[str], single: Seen | NotAnalysed | None = None) -> Answer:
    """The answer of a clip; of a ``single`` image what was seen.

    Raises:
        NotAnalysed: no frame could be used, or it shows another organ.
    """
    if isinstance(single, NotAnalysed):
        raise single
    seen = [single] if single else _seen(clip, models, left_out)
    asked = [s.organ for s in seen if s.organ]
    by_organ = tuple(float(v) for v in np.mean(asked, 0)) if asked else ()
    other = organ.unlike(models.wanted, by_organ) if by_organ else None
    if other:
        raise NotAnalysed(f"it {other}, and its header does not name the organ")
    alike = float(np.median([s.distance for s in seen])) <= models.looks.limit
    found = [s for s in seen if s.lesions]
    if len(found) < SEEN_IN * len(seen) or not found:
        return Answer(seen[0], (), (len(seen), len(found)), alike, by_organ)
    key = max(found, key=lambda s: s.lesions[0].certainty * float(np.sqrt(s.lesions[0].mask.sum())))
    first = key.lesions[0]
    mean = np.mean([s.lesions[0].grades for s in found], 0)
    whole = Lesion(first.mask, first.spacing, first.certainty, tuple(float(g) for g in mean))
    return Answer(key, (whole, *key.lesions[1:]), (len(seen), len(found)), alike, by_organ)


def _seen(clip: Clip, models: Models, left_out: list[str]) -> list[Seen]:
    """A clip's frames.

    Raises:
        NotAnalysed: none can be used.
    """
    _check_header(clip, models)
    step = max(1, -(-len(clip) // MOST_FRAMES))
    seen: list[Seen] = []
    waiting: list[Picture] = []

    def see() -> None:
        seen.extend(look(waiting, models, [_is_silent(clip)] * len(waiting), mirrored=False))
        waiting.clear()

    for index, picture in enumerate(clip.pictures(left_out)):
        if index % step == 0:
            waiting.append(picture)
        if len(waiting) == TOGETHER:
            see()
    see()
    if not seen:
        raise NotAnalysed("no frame of the clip can be used")
    return seen


def together(studies: Sequence[Sequence[Clip]], models: Models) -> list[Findings | NotAnalysed]:
    """Findings of several studies, or why there are none."""
    found: list[Findings | NotAnalysed] = []
    for clips, looked in zip(studies, look_at_singles(studies, models), strict=True):
        try:
            found.append(findings(clips, models, looked))
        except NotAnalysed as e:
            found.append(e)
    return found


def findings(clips: Sequence[Clip], models: Models, looked: Looked | None = None) -> Findings:
    """Findings of a study: one plane for each clip, its key frame.

    Args:
        looked: what was seen in its single images; None: they are looked at now.

    Raises:
        NotAnalysed: nothing could be analysed.
    """
    notes: list[str] = []
    looked = look_at_singles([clips], models)[0] if looked is None else looked
    answers = _answers(clips, models, notes, looked)
    label_map = np.zeros((len(answers), *answers[0][1].key.shape), np.uint8)
    measurements: list[Measurement] = []
    segments, details = [], []
    probabilities: dict[int, float] = {}
    for plane, (clip, answer) in enumerate(answers):
        details.append(_details(clip, answer))
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


def _answers(clips: Sequence[Clip], models: Models, notes: list[str], looked: Looked) -> list[tuple[Clip, Answer]]:
    """The clips that could be analysed, all of one size, with their answers; of the others the notes say why not.

    Raises:
        NotAnalysed: none could.
    """
    answers: list[tuple[Clip, Answer]] = []
    refused: list[str] = []
    for number, clip in enumerate(clips):
        notes += clip.notes
        try:
            answer = answer_of(clip, models, notes, looked.get(number))
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


def _details(clip: Clip, answer: Answer) -> dict[str, Any]:
    return {
        "organ_by_header": str(clip.part),
        "organ_by_pixels": dict(zip(organ.CLASSES, (round(p, 3) for p in answer.organ), strict=False)),
        "side": str(clip.side),
        "frame": answer.key.frame.number,
        "frames_looked_at": answer.frames[0],
        "frames_with_lesion": answer.frames[1],
        "distance": round(answer.key.distance, 3),
        "grades": [[round(g, 4) for g in lesion.grades] for lesion in answer.lesions],
    }
