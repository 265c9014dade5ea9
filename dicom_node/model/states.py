"""The states of studies, runs, deliveries, pulls and workitems, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class StudyState(StrEnum):
    RECEIVING = "receiving"
    """Instances still come, or the quiet time has not passed."""
    COMPLETE = "complete"
    """Whole, and about to be routed."""
    ROUTED = "routed"
    """At least one rule wanted a series of this revision."""
    UNWANTED = "unwanted"
    """No rule wanted any series; the reasons are kept. Or it was fetched to be compared with, and for no more."""
    REFUSED = "refused"
    """Not fit to be routed at all (for example two patients in one study)."""


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    """Result objects are encoded and checked; deliveries are under way."""
    DONE = "done"
    """Every delivery was confirmed, or sent where the destination offers no confirmation."""
    NOT_ANALYSED = "not_analysed"
    """As DONE, but the report says "not analysed, because ..."."""
    SET_ASIDE = "set_aside"
    """A result failed the check: nothing was sent."""
    FAILED = "failed"
    """The last attempt failed; the reason is kept, and a person may retry."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    """The destination refused in a way that trying again cannot help."""


class PullState(StrEnum):
    PENDING = "pending"
    """Asked for; it is fetched when it is due, and again later if that fails."""
    DONE = "done"
    """Everything that the source has of the study is here, but for instances that the node refuses."""
    FAILED = "failed"
    """The source refused, or did not give it in time; the reason is kept, and asking again tries again."""


class WorkitemState(StrEnum):
    CLAIMING = "claiming"
    """The claim is on its way, under a Transaction UID that is kept."""
    FETCHING = "fetching"
    """It is ours; its input comes."""
    ANALYSING = "analysing"
    """Its input is here; the study is routed, and runs."""
    COMPLETING = "completing"
    """The work is done; the origin server is told."""
    CANCELING = "canceling"
    """It cannot or shall not be done; the origin server is told."""
    COMPLETED = "completed"
    CANCELED = "canceled"
    LOST = "lost"
    """It is not ours: another performer's, or the origin server ended it, or could not be told of its end."""


S = TypeVar("S", bound=StrEnum)

STUDY_MOVES: Mapping[StudyState, frozenset[StudyState]] = {
    StudyState.RECEIVING: frozenset({StudyState.COMPLETE}),
    # A late image opens the study again, from wherever it is, as a new revision.
    StudyState.COMPLETE: frozenset({StudyState.ROUTED, StudyState.UNWANTED, StudyState.REFUSED, StudyState.RECEIVING}),
    StudyState.ROUTED: frozenset({StudyState.RECEIVING}),
    StudyState.UNWANTED: frozenset({StudyState.RECEIVING}),
    StudyState.REFUSED: frozenset({StudyState.RECEIVING}),
}

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.FAILED}),
    RunState.RUNNING: frozenset({RunState.DELIVERING, RunState.SET_ASIDE, RunState.FAILED}),
    RunState.DELIVERING: frozenset({RunState.DONE, RunState.NOT_ANALYSED, RunState.FAILED}),
    RunState.DONE: frozenset(),
    RunState.NOT_ANALYSED: frozenset(),
    # A person may retry what ended badly; what failed on its way out need not be analysed again.
    RunState.SET_ASIDE: frozenset({RunState.QUEUED}),
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.DELIVERING}),
}

DELIVERY_MOVES: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.FAILED}),
    # Sent, but the destination does not have it: it is sent again.
    DeliveryState.SENT: frozenset({DeliveryState.CONFIRMED, DeliveryState.PENDING, DeliveryState.FAILED}),
    DeliveryState.CONFIRMED: frozenset(),
    DeliveryState.FAILED: frozenset({DeliveryState.PENDING}),
}

_ABANDONED = frozenset({WorkitemState.CANCELING, WorkitemState.LOST})

WORKITEM_MOVES: Mapping[WorkitemState, frozenset[WorkitemState]] = {
    WorkitemState.CLAIMING: frozenset({WorkitemState.FETCHING, *_ABANDONED}),
    WorkitemState.FETCHING: frozenset({WorkitemState.ANALYSING, *_ABANDONED}),
    WorkitemState.ANALYSING: frozenset({WorkitemState.COMPLETING, *_ABANDONED}),
    WorkitemState.COMPLETING: frozenset({WorkitemState.COMPLETED, WorkitemState.LOST}),
    WorkitemState.CANCELING: frozenset({WorkitemState.CANCELED, WorkitemState.LOST}),
    WorkitemState.COMPLETED: frozenset(),
    WorkitemState.CANCELED: frozenset(),
    # Scheduled still, or again: it may be claimed once more.
    WorkitemState.LOST: frozenset({WorkitemState.CLAIMING}),
}

WORKITEM_ENDED = frozenset({WorkitemState.COMPLETED, WorkitemState.CANCELED, WorkitemState.LOST})

RUN_ENDED = frozenset({RunState.DONE, RunState.NOT_ANALYSED, RunState.SET_ASIDE, RunState.FAILED})


def move(table: Mapping[S, frozenset[S]], old: S, new: S) -> S:
    """Return ``new`` if the table allows ``old -> new``.

    Raises:
        ValueError: the move is not in the table.
    """
    if new != old and new not in table[old]:
        raise ValueError(f"{type(old).__name__} cannot go from {old} to {new}")
    return new
