"""Series that are a cine only together: one series a heart phase, each with all slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dicom_node.model.evidence import Evidence, number, numbers, words
from dicom_node.model.instance import Series

_CLOCKS: Final = ("TriggerTime", "TemporalPositionIdentifier")
_FEWEST = 8
"""Phases of a beat; fewer series of the same slices are repeats, or contrasts."""

Places = frozenset[tuple[float, ...]]


def cine_together(series: Sequence[Series]) -> Mapping[str, Evidence]:
    """The series of a study that show the same slices at different times of the heartbeat, by Series Instance UID."""
    groups: dict[tuple[str, Places], dict[str, float]] = {}
    for s in series:
        images = [i for i in s.instances if number(i.tags, "Rows")]
        if not images or words(images[0].tags, "Modality") != ["MR"]:
            continue
        places = frozenset(tuple(round(v, 1) for v in numbers(i.tags, "ImagePositionPatient")) for i in images)
        if len(places) < len(images):
            continue
        for clock in _CLOCKS:
            times = [t for i in images if (t := number(i.tags, clock)) is not None]
            if len(times) == len(images):
                groups.setdefault((clock, places), {})[s.SeriesInstanceUID] = sum(times) / len(times)
    found: dict[str, Evidence] = {}
    for (clock, _), times_of in groups.items():
        if len({round(t) for t in times_of.values()}) >= _FEWEST:
            evidence = Evidence("cine", f"{clock}: {len(times_of)} series of the same slices")
            found.update((uid, found.get(uid, evidence)) for uid in times_of)
    return found
