"""Rows of requests for storage commitment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.store.commitments import Commitments
from dicom_node.store.tables import open_engine

WANTED = (("1.2", "1.3"), ("1.2", "1.4"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rows(tmp_path: Path, clock: Clock) -> Iterator[Commitments]:
    engine = open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield Commitments(engine, clock)
    engine.dispose()


def test_a_request_is_due_at_once_and_until_it_is_done(rows: Commitments) -> None:
    rows.add("CT1", "1.9", "NODE", "10.0.0.7", WANTED)
    (found,) = rows.due()
    assert (found.requestor, found.transaction_uid, found.called, found.address) == ("CT1", "1.9", "NODE", "10.0.0.7")
    assert (found.wanted, found.report, found.attempts) == (WANTED, None, 0)
    rows.set_report(found, [0, 0x0112])
    assert rows.due()[0].report == (0, 0x0112)
    rows.done(found)
    assert rows.due() == rows.open() == []


def test_what_failed_is_due_later_or_when_it_is_hurried(rows: Commitments, clock: Clock) -> None:
    rows.add("CT1", "1.9", "NODE", "", WANTED)
    rows.postpone(rows.due()[0], 60, "no connection")
    assert rows.due() == []
    assert [(r["attempts"], r["error"], r["given_up"]) for r in rows.open()] == [(1, "no connection", False)]
    clock.now += 61
    assert len(rows.due()) == 1
    clock.now -= 61
    rows.hurry()
    assert len(rows.due()) == 1


def test_what_is_given_up_is_shown_and_forgotten_in_the_end(rows: Commitments, clock: Clock) -> None:
    rows.add("CT1", "1.9", "NODE", "", WANTED)
    rows.give_up(rows.due()[0], "no connection")
    rows.hurry()
    assert rows.due() == []
    rows.forget(60)
    assert [r["given_up"] for r in rows.open()] == [True]
    clock.now += 61
    rows.forget(60)
    assert rows.open() == []


def test_the_end_of_one_request_is_not_that_of_a_later_one(rows: Commitments, clock: Clock) -> None:
    rows.add("CT1", "1.9", "NODE", "", WANTED)
    (earlier,) = rows.due()
    rows.set_report(earlier, [0, 0])
    clock.now += 1
    rows.add("CT1", "1.9", "NODE", "", WANTED)
    rows.done(earlier)
    rows.set_report(earlier, [0, 0])
    (later,) = rows.due()
    assert (later.created, later.report) == (1001.0, None)


def test_requestors_may_use_the_same_uid(rows: Commitments) -> None:
    for requestor in ("CT1", "CT2"):
        rows.add(requestor, "1.9", "NODE", "", WANTED)
    rows.done(rows.due()[0])
    assert [c.requestor for c in rows.due()] == ["CT2"]
