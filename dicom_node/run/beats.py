"""The images of one slice, told apart by acquisition and put in the order of the heartbeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dicom_node.run.planes import CLOCKS, CLOCKS_IN_MS, Plane

LONGEST_BEAT = 3000.0
"""ms: 20 beats a minute. What goes on for longer is a series over many heartbeats."""

MANY = 8
"""Images of one series in one place that are a cine by themselves."""


@dataclass(frozen=True, eq=False)
class Beat:
    """One acquisition of one slice.

    Attributes:
        planes: in the order of the heartbeat.
        times: what orders them: values of ``clock``, else 0, 1, 2 ...
        clock: of ``CLOCKS``, or ``""``: the order in which they were acquired.
    """

    planes: tuple[Plane, ...]
    times: tuple[float, ...]
    clock: str

    def __len__(self) -> int:
        return len(self.planes)

    @property
    def step(self) -> float:
        """Usual distance of neighbouring times."""
        steps = np.diff(self.times)
        return float(np.median(steps)) if steps.size else 1.0

    @property
    def even(self) -> bool:
        """Whether the times are at even steps, save for gaps of whole steps."""
        steps = np.diff(self.times) / self.step
        return bool((np.rint(steps) >= 1).all() and (abs(steps - np.rint(steps)) < 0.25).all())

    @property
    def latest(self) -> tuple[str, tuple[float, float, int]]:
        """When it was acquired; grows with time."""
        return max((p.acquired, p.order) for p in self.planes)

    @property
    def one_heartbeat(self) -> bool:
        """Whether it can be one heartbeat, and not a series over many (perfusion, real time)."""
        if self.clock in CLOCKS_IN_MS:
            return self.times[-1] - self.times[0] <= LONGEST_BEAT
        moments = [_seconds(p.acquired) for p in self.planes]
        known = [m for m in moments if m is not None]
        return not known or (max(known) - min(known)) * 1000 <= LONGEST_BEAT


def beats_at(planes: Sequence[Plane]) -> list[Beat]:
    """The acquisitions of one slice: usually one, more when it was repeated.

    Scanners number images in many ways, so no number is believed: all images are one acquisition if their times
    are at even steps. If not, they are told apart by the first attribute that leaves only such series.

    Args:
        planes: all in the same place.

    Returns:
        An empty list if images with the same time cannot be told apart.
    """
    cine, single = _without_single_images(planes)
    if single:
        return [*beats_at(cine), *(Beat((p,), (0.0,), "") for p in single)]
    whole = _beat(planes)
    if whole is not None and (len(whole) == 1 or whole.even):
        return [whole]
    for parts in _partings(planes):
        if not 1 < len(parts) <= max(2, len(planes) // 4):
            continue
        beats = [_beat(part) for part in parts]
        found = [b for b in beats if b is not None and (len(b) < 3 or b.even)]
        if len(found) == len(parts):
            return found
    return [] if whole is None else [whole]


def _without_single_images(planes: Sequence[Plane]) -> tuple[list[Plane], list[Plane]]:
    """A series with many of the images, and one or two images of other series: those are no phases of it."""
    counts = Counter(p.series for p in planes)
    many, *few = counts.most_common()
    if many[1] < MANY or any(n > 2 for _, n in few):
        return list(planes), []
    return [p for p in planes if p.series == many[0]], [p for p in planes if p.series != many[0]]


def _beat(planes: Sequence[Plane]) -> Beat | None:
    """The planes in the order of the first clock that tells all apart, or None if one tells only some apart."""
    partly = False
    for clock in CLOCKS:
        values = [p.clocks[clock] for p in planes if clock in p.clocks]
        if len(values) == len(planes) == len(set(values)):
            ordered = sorted(planes, key=lambda p: p.clocks[clock])
            return Beat(tuple(ordered), tuple(sorted(values)), clock)
        partly |= len(set(values)) > 1
    if partly:
        return None
    ordered = sorted(planes, key=lambda p: (p.acquired, p.order))
    return Beat(tuple(ordered), tuple(map(float, range(len(planes)))), "")


def _partings(planes: Sequence[Plane]) -> Iterable[list[list[Plane]]]:
    """Ways to tell acquisitions apart, the surest first."""
    attributes: tuple[Callable[[Plane], Hashable], ...] = (
        lambda p: p.series,
        lambda p: p.acquisition,
        lambda p: p.acquired,
        lambda p: p.interval,
    )
    for attribute in attributes:
        parts: dict[Hashable, list[Plane]] = {}
        for plane in planes:
            parts.setdefault(attribute(plane), []).append(plane)
        yield list(parts.values())
    yield _rising(planes)


def _rising(planes: Sequence[Plane]) -> list[list[Plane]]:
    """A new acquisition begins where, in the order of the images' numbers, the time goes back."""
    for clock in CLOCKS:
        if all(clock in p.clocks for p in planes) and len({p.clocks[clock] for p in planes}) > 1:
            ordered = sorted(planes, key=lambda p: (p.acquired, p.order))
            parts = [[ordered[0]]]
            for before, after in pairwise(ordered):
                if after.clocks[clock] <= before.clocks[clock]:
                    parts.append([])
                parts[-1].append(after)
            return parts
    return [list(planes)]


def _seconds(acquired: str) -> float | None:
    """Seconds of the day in ``HHMMSS.ffffff``, with or without ``YYYYMMDD`` before it."""
    text = acquired.partition("+")[0]
    whole, _, part = text.partition(".")
    if len(whole) not in (6, 14) or not whole.isdigit():
        return None
    hours, minutes, seconds = int(whole[-6:-4]), int(whole[-4:-2]), int(whole[-2:])
    return hours * 3600 + minutes * 60 + seconds + (float(f"0.{part}") if part.isdigit() else 0.0)
