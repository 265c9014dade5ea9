"""From the files of a study to one beating short-axis stack, or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.algorithm import Cine, Frame
from dicom_node.errors import NotAnalysed
from dicom_node.run.beats import Beat
from dicom_node.run.images import (
    PIXEL_TAGS,
    STEP_TOLERANCE,
    TAGS,
    check_one_patient,
    counted,
    fill,
    plain_tags,
    read_header,
    stored_values,
    unit_directions,
)
from dicom_node.run.planes import CLOCKS_IN_MS, KEYWORDS, LeftOut, Plane, planes_of
from dicom_node.run.short_axis import FEWEST_PHASES, Stack, find_short_axis, repeats

CINE_TAGS = (*TAGS, "PatientSize", "PatientWeight", "PatientSex", "PatientAge")
"""What an algorithm gets to see of the header, in ``Cine.tags``: body surface and limits depend on the last four."""
SHARE_OF_PHASES = 0.8
"""How many of the phases must be complete in every slice for the volume curve to be sound."""

SAME_PACE = 0.1
"""By how much the time from phase to phase may differ between slices that have different numbers of phases."""


@dataclass(frozen=True)
class CineSource:
    """A short-axis stack as read.

    Attributes:
        cine: the pixels, where and when they are.
        headers: by phase, then by slice, as ``Cine.frames``: the headers without pixel data. Frames of one
            multi-frame object share one.
        notes: sentences about what was left out (no patient data).
    """

    cine: Cine
    headers: tuple[tuple[Dataset, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Ranked:
    """A slice: its planes by phase of the heartbeat."""

    beat: Beat
    planes: Mapping[int, int]
    """From phase (0-based) to index in ``beat.planes``."""


def read_cine(paths: Sequence[Path]) -> CineSource:
    """Find and read the short-axis stack of a study, in whatever way its images were sent.

    One series with all images, one a slice, one a phase, or enhanced multi-frame objects (PS3.3 A.36): slices are
    found by where they lie, and phases ranked within each slice by Trigger Time, Nominal Cardiac Trigger Delay
    Time, Temporal Position Identifier or Index, then by acquisition. Numbers and names of series and images are
    not believed. Of a slice that was acquired again the latest complete acquisition is used.

    Args:
        paths: files of one study, in any order: other views, localizers, reports may be among them.

    Returns:
        Pixels float32 after rescale slope and intercept, slices from base to apex.

    Raises:
        NotAnalysed: no stack, or one with holes: the reason is a sentence for a radiologist.
    """
    headers = [read_header(path, KEYWORDS) for path in paths]
    planes: list[Plane] = []
    left_out: list[LeftOut] = []
    for header in headers:
        found, rest = planes_of(header)
        planes += found
        left_out += rest
    if not planes:
        raise NotAnalysed(_no_planes(left_out))
    check_one_patient([p.header for p in planes])
    planes, copies = _once_each(planes)
    left_out += copies
    planes, notes = _one_reference_a_series(planes)
    stack, others = find_short_axis(planes)
    slices = _ranked(stack)
    left_out += others + repeats([s.beat for s in slices], stack)
    phases, lost = _complete_phases(slices)
    chosen = [[s.beat.planes[s.planes[phase]] for s in slices] for phase in phases]
    times = [
        [s.beat.times[s.planes[phase]] if s.beat.clock in CLOCKS_IN_MS else np.nan for s in slices] for phase in phases
    ]
    cine = Cine(
        array=_pixels(chosen),
        affine=_affine([s.beat.planes[0] for s in slices]),
        trigger_times=np.array(times, dtype=np.float64),
        intervals=np.array([_interval(s.beat) for s in slices], dtype=np.float64),
        frames=tuple(tuple(Frame(str(p.header.SOPInstanceUID), p.frame + 1) for p in row) for row in chosen),
        tags=plain_tags(chosen[0][0].header, CINE_TAGS),
    )
    for header in headers:
        for tag in PIXEL_TAGS:
            header.pop(tag, None)
    return CineSource(cine, tuple(tuple(p.header for p in row) for row in chosen), (*_named(left_out), *notes, *lost))


def _no_planes(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return "the study holds no images"
    reasons = Counter(x.reason for x in left_out)
    listed = "; ".join(f"{n} of them: {reason}" for reason, n in reasons.most_common(3))
    return f"none of the {counted(len(left_out), 'instance')} can be part of a short-axis stack ({listed})"


def _once_each(planes: Sequence[Plane]) -> tuple[list[Plane], list[LeftOut]]:
    """The planes in an order that does not depend on that of the files; the same instance only once."""
    ordered = sorted(planes, key=lambda p: (str(p.header.SOPInstanceUID), p.frame))
    kept: list[Plane] = []
    copies = []
    for plane in ordered:
        last = kept[-1] if kept else None
        if last and (last.header.SOPInstanceUID, last.frame) == (plane.header.SOPInstanceUID, plane.frame):
            copies.append(LeftOut(plane.header, "sent twice"))
        else:
            kept.append(plane)
    return kept, copies


def _one_reference_a_series(planes: Sequence[Plane]) -> tuple[list[Plane], list[str]]:
    """A series lies in one frame of reference (PS3.3 C.7.4.1.1.1); one that names more was spoilt."""
    named: dict[str, set[str]] = {}
    for plane in planes:
        named.setdefault(plane.series, set()).add(plane.reference)
    spoilt = {series for series, references in named.items() if len(references) > 1}
    if not spoilt:
        return list(planes), []
    note = "The images of one series name different frames of reference; their positions were taken to be of one."
    return [replace(p, reference=p.series) if p.series in spoilt else p for p in planes], [note]


def _ranked(stack: Stack) -> list[_Ranked]:
    """Each slice's best acquisition, its images ranked by phase.

    Raises:
        NotAnalysed: the slices have different numbers of phases.
    """
    usual = stack.phases
    best = [_best_beat(place.beats, usual) for place in stack.places]
    counts = Counter(len(b) for b in best)
    if max(counts) > usual:
        # Triggered prospectively, a slice has as many phases at one step as its own heartbeats have room for.
        if not _one_pace(best):
            listed = ", ".join(f"{n} phases in {counted(slices, 'slice')}" for n, slices in counts.most_common(4))
            raise NotAnalysed(f"the slices of the short-axis stack differ in their number of heart phases ({listed})")
        usual = max(counts)
    complete = [b for b in best if len(b) == usual]
    return [_ranks(beat, complete, usual, number) for number, beat in enumerate(best, start=1)]


def _one_pace(beats: Sequence[Beat]) -> bool:
    steps = np.array([b.step for b in beats])
    known = all(b.clock in CLOCKS_IN_MS for b in beats)
    return known and bool((abs(steps / np.median(steps) - 1) < SAME_PACE).all())


def _best_beat(beats: Sequence[Beat], usual: int) -> Beat:
    """The latest with the usual number of phases: it was repeated because the one before was not good."""
    complete = [b for b in beats if len(b) == usual]
    return max(complete, key=lambda b: b.latest) if complete else beats[0]


def _ranks(beat: Beat, complete: Sequence[Beat], usual: int, number: int) -> _Ranked:
    """Which phases a slice has; the times tell which are missing."""
    if len(beat) == usual:
        return _Ranked(beat, {k: k for k in range(usual)})
    starts = [b.times[0] / b.step for b in complete if b.clock == beat.clock != ""]
    if len(beat) > 1 and starts:
        ranks = [round(t / beat.step - float(np.median(starts))) for t in beat.times]
        if len(set(ranks)) == len(ranks) and ranks[0] >= 0 and ranks[-1] < usual and len(ranks) >= usual / 2:
            return _Ranked(beat, {rank: k for k, rank in enumerate(ranks)})
    raise NotAnalysed(
        f"slice {number} of the short-axis stack, counted from the base, has only {len(beat)} of {usual} heart phases"
    )


def _complete_phases(slices: Sequence[_Ranked]) -> tuple[list[int], list[str]]:
    """The phases that every slice has, and a note on the others."""
    usual = max(len(s.planes) for s in slices)
    kept = [phase for phase in range(usual) if all(phase in s.planes for s in slices)]
    lost = [phase for phase in range(usual) if phase not in kept]
    if not lost:
        return kept, []
    missing = sum(usual - len(s.planes) for s in slices)
    what = f"{counted(missing, 'image')} of the short-axis stack {'is' if missing == 1 else 'are'} missing"
    if len(kept) < max(SHARE_OF_PHASES * usual, FEWEST_PHASES):
        raise NotAnalysed(f"{what}, so that only {len(kept)} of {usual} heart phases are complete")
    listed = ", ".join(str(phase + 1) for phase in lost)
    return kept, [f"{what}: {'phase' if len(lost) == 1 else 'phases'} {listed} of {usual} not used"]


def _interval(beat: Beat) -> float:
    known = [p.interval for p in beat.planes if p.interval is not None]
    return float(np.median(known)) if known else float("nan")


def _affine(planes: Sequence[Plane]) -> npt.NDArray[np.float64]:
    """(slice, row, column, 1) index to LPS mm, of the first plane of each slice."""
    positions = np.array([p.position for p in planes])
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    expected = positions[0] + np.arange(len(planes))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > STEP_TOLERANCE * float(np.linalg.norm(step)):
        raise NotAnalysed("the slices of the short-axis stack are shifted against one another")
    along_row, along_column = unit_directions(planes[0].cosines.tolist())
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * planes[0].spacing[0]
    affine[:3, 2] = along_row * planes[0].spacing[1]
    affine[:3, 3] = positions[0]
    return affine


def _pixels(chosen: Sequence[Sequence[Plane]]) -> npt.NDArray[np.float32]:
    """Every plane's values, shape (phases, slices, rows, columns); each file is decoded once."""
    array = np.empty((len(chosen), len(chosen[0]), *chosen[0][0].shape), dtype=np.float32)
    by_file: dict[int, list[tuple[int, int, Plane]]] = {}
    for i, row in enumerate(chosen):
        for j, plane in enumerate(row):
            by_file.setdefault(id(plane.header), []).append((i, j, plane))
    for places in by_file.values():
        header = places[0][2].header
        stored: npt.NDArray[Any] = stored_values(header)
        frames = stored if stored.ndim == 3 else stored[None]
        if len(frames) != int(header.get("NumberOfFrames") or 1):
            raise NotAnalysed("the pixel data of an image do not have the size that its header says")
        for i, j, plane in places:
            fill(array[i, j], frames[plane.frame], header, plane.slope, plane.intercept)
    return array


def _named(left_out: Sequence[LeftOut]) -> list[str]:
    """One sentence for each reason, with the numbers of the series."""
    reasons: dict[str, list[str]] = {}
    for x in left_out:
        reasons.setdefault(x.reason, []).append(str(x.header.get("SeriesNumber") or "without number"))
    notes = []
    for reason, series in sorted(reasons.items()):
        found = sorted(set(series), key=lambda s: (not s.isdigit(), int(s) if s.isdigit() else 0, s))
        listed = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
        notes.append(f"{counted(len(series), 'image')} left out (series {listed}): {reason}")
    return notes
