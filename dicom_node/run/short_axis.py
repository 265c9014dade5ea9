"""Which of a study's images are its short-axis stack: told by geometry, never by a description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.errors import NotAnalysed
from dicom_node.run.beats import Beat, beats_at
from dicom_node.run.images import COSINE_TOLERANCE, ROUNDING_MM, STEP_TOLERANCE, counted
from dicom_node.run.planes import LeftOut, Plane

FEWEST_SLICES = 5
"""Fewer do not cover a ventricle of 7 to 10 cm."""
FEWEST_PHASES = 8
"""With fewer, the smallest volume falls between two phases: they are more than 100 ms apart."""
APEX = np.array([1.0, -1.0, -0.7]) / np.linalg.norm([1.0, -1.0, -0.7])
"""LPS direction from base to apex in the usual adult: to the left, the front and the feet."""
WIDEST_ANGLE = 45.0
"""Degrees from ``APEX``: hearts differ by up to 30; axial stacks lie 64 away, sagittal and coronal ones 50."""

_NOT_IN_PLANES = "not in the planes of the short-axis stack (other views, localizers)"
_ONE_PHASE = "one heart phase only (no cine)"
_MANY_BEATS = "a series over many heartbeats (perfusion, real time)"
_DERIVED = "derived from other images"
_REPEAT = "a slice of the stack that was acquired again, or not to its end"
_OTHER_FIELD = "parallel to the stack, with another field of view or matrix"
_ALIKE = "different images of the same slice at the same heart phase"
_BETWEEN = "parallel to the stack, but between its slices"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Place:
    """What was acquired at one slice position.

    Attributes:
        distance: mm along the normal of the planes.
        beats: every acquisition that can be one heartbeat, the longest first, then the latest.
    """

    distance: float
    beats: tuple[Beat, ...]

    @property
    def position(self) -> Array:
        """LPS mm of the first pixel's centre."""
        return self.beats[0].planes[0].position


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices of one field of view, from base to apex.

    Attributes:
        places: where there is a cine.
        unclear: whether there are slices whose images cannot be told apart.
    """

    places: tuple[Place, ...]
    unclear: bool = False

    @property
    def phases(self) -> int:
        """How many phases the slices usually have; the greater number if there are two."""
        return max(Counter(len(p.beats[0]) for p in self.places).items(), key=lambda item: (item[1], item[0]))[0]

    @property
    def first(self) -> Plane:
        """Any plane of it."""
        return self.places[0].beats[0].planes[0]

    @property
    def angle(self) -> float:
        """Degrees between its normal and the usual long axis of the left ventricle."""
        return float(np.degrees(np.arccos(min(1.0, abs(float(_normal(self.first) @ APEX))))))


def find_short_axis(planes: Sequence[Plane]) -> tuple[Stack, list[LeftOut]]:
    """The short-axis stack, its slices at even steps and complete, and what else there is.

    Raises:
        NotAnalysed: there is none, or it has holes.
    """
    left_out: list[LeftOut] = []
    stacks: list[Stack] = []
    for parallel in _parallel(planes):
        parallel = _originals(parallel, left_out)
        for field in _fields_of_view(parallel):
            alike: list[LeftOut] = []
            places = _places(field, left_out, alike)
            left_out += alike
            if places:
                stacks.append(Stack(tuple(places), bool(alike)))
    chosen = _best(stacks)
    if chosen.unclear:
        raise NotAnalysed(f"there are {_ALIKE}, and nothing tells which of them belong together")
    _check_not_mixed(chosen, stacks)
    for other in stacks:
        if other is chosen:
            continue
        parallel_to_it = _same_direction(other.first, chosen.first)
        _leave_out(left_out, other.places, _OTHER_FIELD if parallel_to_it else _NOT_IN_PLANES)
    return _at_even_steps(chosen, left_out), left_out


def repeats(used: Sequence[Beat], stack: Stack) -> list[LeftOut]:
    """The images of the stack's slices that are of other acquisitions than those used."""
    chosen = {id(b) for b in used}
    return [LeftOut(p.header, _REPEAT) for s in stack.places for b in s.beats if id(b) not in chosen for p in b.planes]


def _normal(plane: Plane) -> Array:
    normal = np.cross(plane.cosines[:3], plane.cosines[3:])
    normal = normal / np.linalg.norm(normal)
    return normal if float(normal @ APEX) >= 0 else -normal


def _same_direction(a: Plane, b: Plane) -> bool:
    return bool(abs(a.cosines - b.cosines).max() <= COSINE_TOLERANCE)


def _same_field(a: Plane, b: Plane) -> bool:
    same_spacing = np.allclose(a.spacing, b.spacing, rtol=1e-3, atol=0)
    return a.shape == b.shape and same_spacing and a.reference == b.reference


def _parallel(planes: Sequence[Plane]) -> list[list[Plane]]:
    groups: list[list[Plane]] = []
    for plane in planes:
        group = next((g for g in groups if _same_direction(g[0], plane)), None)
        if group is None:
            groups.append([plane])
        else:
            group.append(plane)
    return groups


def _originals(planes: list[Plane], left_out: list[LeftOut]) -> list[Plane]:
    """Without derived images, unless there are no others: some scanners call all that they filtered derived."""
    originals = [p for p in planes if p.kind[:1] != ("DERIVED",)]
    if not originals or len(originals) == len(planes):
        return planes
    left_out += [LeftOut(p.header, _DERIVED) for p in planes if p.kind[:1] == ("DERIVED",)]
    return originals


def _fields_of_view(planes: Sequence[Plane]) -> list[list[Plane]]:
    groups: list[list[Plane]] = []
    for plane in planes:
        group = next((g for g in groups if _same_field(g[0], plane)), None)
        if group is None:
            groups.append([plane])
        else:
            group.append(plane)
    return groups


def _places(planes: Sequence[Plane], left_out: list[LeftOut], alike: list[LeftOut]) -> list[Place]:
    """Slice positions with several phases of one heartbeat, along the normal.

    Args:
        left_out: gets what is no cine.
        alike: gets images that cannot be told apart.
    """
    normal = _normal(planes[0])
    ordered = sorted(planes, key=lambda p: float(p.position @ normal))
    groups: list[list[Plane]] = []
    for plane in ordered:
        # A tenth of a millimetre apart is one place: no scanner stacks slices as close as that.
        if groups and abs(float((plane.position - groups[-1][0].position) @ normal)) < ROUNDING_MM:
            groups[-1].append(plane)
        else:
            groups.append([plane])
    places = []
    for group in groups:
        beats = []
        for spot in _spots(group):
            found = beats_at(spot)
            if not found:
                alike += [LeftOut(p.header, _ALIKE) for p in spot]
            beats += found
        good = [b for b in beats if len(b) > 1 and b.one_heartbeat]
        for beat in beats:
            if not any(beat is g for g in good):
                reason = _ONE_PHASE if len(beat) == 1 and not good else _REPEAT if len(beat) == 1 else _MANY_BEATS
                left_out += [LeftOut(p.header, reason) for p in beat.planes]
        if good:
            good.sort(key=lambda b: (len(b), b.latest), reverse=True)
            places.append(Place(float(group[0].position @ normal), tuple(good)))
    return places


def _spots(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes that lie in the same place also within their plane: a repeat may have been moved."""
    groups: list[list[Plane]] = []
    for plane in planes:
        group = next((g for g in groups if abs(g[0].position - plane.position).max() < ROUNDING_MM), None)
        if group is None:
            groups.append([plane])
        else:
            group.append(plane)
    return groups


def _best(stacks: Sequence[Stack]) -> Stack:
    """The stack with most slices, then phases, then the latest, of those that can be a short axis.

    Raises:
        NotAnalysed: none can.
    """
    if not stacks:
        raise NotAnalysed("the images show one heart phase only: there is no cine")
    most = max(stacks, key=lambda s: len(s.places))
    if len(most.places) < FEWEST_SLICES:
        _check_not_mixed(most, stacks)
        raise NotAnalysed(
            f"there is no short-axis stack: no more than {counted(len(most.places), 'parallel cine slice')} "
            f"(at least {FEWEST_SLICES} are needed)"
        )
    high = [s for s in stacks if len(s.places) >= FEWEST_SLICES]
    short_axis = [s for s in high if s.angle <= WIDEST_ANGLE]
    if not short_axis:
        nearest = min(s.angle for s in high)
        raise NotAnalysed(
            f"there is no short-axis stack: the cine stack of {len(most.places)} slices is turned by {nearest:.0f} "
            "degrees against where a short axis can lie"
        )
    long = [s for s in short_axis if s.phases >= FEWEST_PHASES]
    if not long:
        phases = max(s.phases for s in short_axis)
        raise NotAnalysed(f"the short-axis stack has only {phases} heart phases (at least {FEWEST_PHASES} are needed)")
    return max(long, key=lambda s: (len(s.places), s.phases, max(p.beats[0].latest for p in s.places)))


def _check_not_mixed(stack: Stack, others: Sequence[Stack]) -> None:
    """Refuse a stack whose slices go on, or lie between one another, with another field of view."""
    distances = [p.distance for p in stack.places]
    more = [o for o in others if o is not stack and _same_direction(o.first, stack.first) and o.phases > 1]
    for other in more:
        apart = [p.distance for p in other.places if min(abs(p.distance - d) for d in distances) > ROUNDING_MM]
        if not apart or len(_longest_row(sorted(distances + apart))[0]) <= max(2, len(_longest_row(distances)[0])):
            continue
        if other.first.reference != stack.first.reference:
            raise NotAnalysed("the slices of the short-axis stack do not share one frame of reference")
        raise NotAnalysed(
            "the slices of the short-axis stack have different fields of view "
            f"({_field(stack.first)} in {counted(len(distances), 'slice')}, {_field(other.first)} in {len(apart)})"
        )


def _field(plane: Plane) -> str:
    (rows, columns), (down, across) = plane.shape, plane.spacing
    return f"{rows * down:.0f} x {columns * across:.0f} mm with {rows} x {columns} pixels"


def _tolerance(step: float) -> float:
    return max(STEP_TOLERANCE * step, ROUNDING_MM)


def _longest_row(distances: Sequence[float]) -> tuple[list[int], float]:
    """Indices of the most slices that follow one another at one step, and that step in mm.

    Args:
        distances: mm, rising.
    """
    best, best_step = [0], 0.0
    for start in range(len(distances) - 1):
        for second in range(start + 1, len(distances)):
            row, step = [start, second], distances[second] - distances[start]
            for index in range(second + 1, len(distances)):
                if abs(distances[index] - distances[row[-1]] - step) <= _tolerance(step):
                    row.append(index)
                    step = (distances[index] - distances[start]) / (len(row) - 1)
            if len(row) > len(best):
                best, best_step = row, step
    return best, best_step


def _check_holes(gaps: Array) -> None:
    """Refuse a stack that has every slice but a few; ``gaps``: mm from each slice to the next."""
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    steps = np.rint(gaps / step)
    missing = int((steps - 1).sum())
    if 0 < missing <= len(gaps) / 2 and (abs(gaps - steps * step) <= _tolerance(step) * steps).all():
        after = ", ".join(str(k + 1) for k in np.flatnonzero(steps > 1))
        verb = "is" if missing == 1 else "are"
        raise NotAnalysed(
            f"{counted(missing, 'slice')} of the short-axis stack {verb} missing "
            f"(after slice {after} of those that came, counted from the base)"
        )


def _at_even_steps(stack: Stack, left_out: list[LeftOut]) -> Stack:
    """The stack without what was imaged between its slices.

    Raises:
        NotAnalysed: slices are missing, or it has no even steps.
    """
    distances = [p.distance for p in stack.places]
    gaps = np.diff(distances)
    _check_holes(gaps)
    row, step = _longest_row(distances)
    low, high = distances[row[0]], distances[row[-1]]
    if any(d < low - _tolerance(step) or d > high + _tolerance(step) for d in distances):
        raise NotAnalysed(
            f"the slices of the short-axis stack are unevenly spaced: {gaps.min():.1f} to {gaps.max():.1f} mm apart"
        )
    if len(row) < FEWEST_SLICES:
        raise NotAnalysed(f"the short-axis stack has only {len(row)} slices (at least {FEWEST_SLICES} are needed)")
    kept = set(row)
    _leave_out(left_out, [p for i, p in enumerate(stack.places) if i not in kept], _BETWEEN)
    return Stack(tuple(stack.places[i] for i in row))


def _leave_out(left_out: list[LeftOut], places: Sequence[Place], reason: str) -> None:
    left_out += [LeftOut(p.header, reason) for place in places for beat in place.beats for p in beat.planes]
