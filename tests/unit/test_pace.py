"""The engine's queues are looked at seldom while there is nothing to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dicom_node.workflow import pace
from dicom_node.workflow.services import QUEUES


class Queue:
    def __init__(self) -> None:
        self.set: list[float] = []

    def set_polling_interval_sec(self, seconds: float) -> None:
        self.set.append(seconds)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> dict[str, Queue]:
    made = {name: Queue() for name in QUEUES.values()}
    monkeypatch.setattr(pace.DBOS, "retrieve_queue", made.get)
    return made


def _services(work: list[bool], quiet_seconds: float) -> Any:
    index = SimpleNamespace(has_work=lambda: work[0])
    return SimpleNamespace(index=index, settings=SimpleNamespace(complete=SimpleNamespace(quiet_seconds=quiet_seconds)))


def test_the_pace_follows_the_work(queues: dict[str, Queue]) -> None:
    work = [True]
    following = pace.Pace(_services(work, 10))
    for there in (True, False, False, True, True):
        work[0] = there
        following.adjust()
    assert [q.set for q in queues.values()] == [[pace.IDLE_POLL_SECONDS, pace.POLL_SECONDS]] * len(QUEUES)


def test_a_short_quiet_time_allows_no_rest(queues: dict[str, Queue]) -> None:
    pace.Pace(_services([False], 1)).adjust()
    assert [q.set for q in queues.values()] == [[]] * len(QUEUES)
