"""Five hundred studies from an archive that is itself still receiving, by a clock that is wound by hand.

The scanner sends to the archive in bursts with pauses of 0 to 90 s, the archive sends on to the node, with pauses of
its own, and is asked for its count. The times of day are the simulation's: nothing sleeps.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import pytest

from dicom_node.complete.decide import SHORT_QUIET_SECONDS, decide, next_question
from dicom_node.model.completeness import By, Count
from dicom_node.settings import CompleteSettings

STUDIES = 500
LONGEST_PAUSE = 90.0
SWEEP = 0.5
"""How often verdicts are asked for, as ``complete.sweep_seconds``."""
ANSWER = 0.2
"""How long the archive takes to answer."""


class Study:
    """When each image came to the archive, and to the node; of which series it is."""

    def __init__(self, at_archive: list[float], at_node: list[float], series: list[str]) -> None:
        self.at_archive, self.at_node = at_archive, at_node
        self._first = [{uid: series[:n].count(uid) for uid in set(series[:n])} for n in range(len(series) + 1)]

    def counted(self, times: list[float], now: float) -> dict[str, int]:
        """How many had come by then, by series."""
        return self._first[bisect_right(times, now)]


def a_study(rng: random.Random) -> Study:
    archive, node, series = [], [], []
    now = sent = 0.0
    for number in range(rng.randint(1, 4)):
        for _ in range(rng.randint(1, 6)):  # bursts
            now += rng.choice([0, 1]) * rng.uniform(0, LONGEST_PAUSE)
            sent = max(sent, now) + rng.choice([0, 0, 1]) * rng.uniform(0, LONGEST_PAUSE)
            for _ in range(rng.randint(1, 40)):
                now += 0.05
                archive.append(now)
                sent = max(sent, now) + 0.01
                node.append(sent)
                series.append(str(number))
    return Study(archive, node, series)


@dataclass(frozen=True)
class Start:
    """When a study was found whole first, and by what.

    Attributes:
        early: images that had not come.
        avoidable: evidence could have kept it: the archive had more than was here, or its count had changed within
            the time that it has to stand still.
    """

    at: float
    by: By | None
    early: int
    avoidable: bool


def simulate(study: Study, settings: CompleteSettings) -> Start:
    """What the sweep and the questions make of a study, up to its first verdict."""
    count = Count("archive")
    busy_until, answer = 0.0, (0.0, dict[str, int]())
    tick = now = study.at_node[0]
    while True:
        came = bisect_right(study.at_node, now)
        last, here = study.at_node[came - 1], study.counted(study.at_node, now)
        if busy_until and now >= busy_until:
            asked, said = answer
            count, busy_until = count.answered(said, {}, asked, busy_until), 0.0
        verdict = decide(here, last, None, count, settings, now)
        if verdict.whole:
            early = len(study.at_node) - came
            theirs = study.counted(study.at_archive, now - ANSWER)
            settled = now - settings.settle_seconds
            still = study.counted(study.at_archive, settled) == theirs
            return Start(now, verdict.by, early, theirs != here or not still)
        if not busy_until and now - last >= SHORT_QUIET_SECONDS and next_question(here, last, count, settings) <= now:
            busy_until, answer = now + ANSWER, (now, study.counted(study.at_archive, now + ANSWER / 2))
        if now >= tick:
            tick += SWEEP
        # An answer is looked at when it comes.
        now = min(tick, busy_until) if busy_until else tick


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    rng = random.Random(1)
    return [a_study(rng) for _ in range(STUDIES)]


def test_no_study_starts_early_when_the_count_must_stand_still_for_longer_than_any_pause(studies: list[Study]) -> None:
    settings = CompleteSettings(settle_seconds=LONGEST_PAUSE + 5)
    for study in studies:
        start = simulate(study, settings)
        assert (start.early, start.by) == (0, By.COUNT)
        assert start.at - study.at_node[-1] < settings.settle_seconds + 2


def test_none_starts_early_that_evidence_could_have_kept(studies: list[Study]) -> None:
    settings = CompleteSettings(settle_seconds=20)
    early = [start for start in (simulate(study, settings) for study in studies) if start.early]
    assert early, "pauses longer than the count must stand still deceive anybody"
    assert not [start for start in early if start.avoidable]


def test_the_quiet_time_alone_starts_most_of_them_early(studies: list[Study]) -> None:
    """What the evidence is for: the simulation is no easy one."""
    quiet = CompleteSettings().quiet_seconds + SWEEP
    early = sum(any(b - a > quiet for a, b in pairwise(study.at_node)) for study in studies)
    assert early > STUDIES / 2
