"""Requests for storage commitment as rows, until their requestors have been told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.model.commitment import Commitment
from dicom_node.store import tables as t
from dicom_node.store.index import insert


class Commitments:
    """The open requests. Thread-safe."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def add(
        self, requestor: str, transaction_uid: str, called: str, address: str, wanted: Sequence[tuple[str, str]]
    ) -> None:
        """Keep a request. The same Transaction UID of the same requestor again begins anew."""
        now = self.clock()
        values: dict[str, Any] = {
            "called": called,
            "address": address,
            "wanted": [list(w) for w in wanted],
            "report": sa.null(),
            "created": now,
            "attempts": 0,
            "due": now,
            "error": "",
            "given_up": False,
        }
        key = {"requestor": requestor, "transaction_uid": transaction_uid}
        statement = insert(self.engine, t.commitments).values(key | values)
        with self.engine.begin() as c:
            c.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))

    def due(self) -> list[Commitment]:
        """Those whose time has come, the oldest first."""
        query = sa.select(t.commitments).where(t.commitments.c.due <= self.clock(), t.commitments.c.given_up.is_(False))
        with self.engine.connect() as c:
            return [_commitment(row) for row in c.execute(query.order_by(t.commitments.c.created))]

    def set_report(self, commitment: Commitment, report: Sequence[int]) -> None:
        """Keep what was found out: a second attempt tells the same."""
        self._update(commitment, report=list(report))

    def postpone(self, commitment: Commitment, seconds: float, error: str) -> None:
        """An attempt failed; the next one is due in so many seconds."""
        self._update(commitment, attempts=commitment.attempts + 1, due=self.clock() + seconds, error=error)

    def give_up(self, commitment: Commitment, error: str) -> None:
        """The requestor could not be told; the row stays to be seen."""
        self._update(commitment, given_up=True, error=error)

    def done(self, commitment: Commitment) -> None:
        """The requestor has been told."""
        with self.engine.begin() as c:
            c.execute(sa.delete(t.commitments).where(*_same(commitment)))

    def hurry(self) -> None:
        """All that are open are due now: after a start, what made them fail may be over."""
        with self.engine.begin() as c:
            c.execute(sa.update(t.commitments).where(t.commitments.c.given_up.is_(False)).values(due=self.clock()))

    def forget(self, seconds: float) -> None:
        """Remove those that were given up, and are older than so many seconds."""
        old = (t.commitments.c.given_up.is_(True), t.commitments.c.created < self.clock() - seconds)
        with self.engine.begin() as c:
            c.execute(sa.delete(t.commitments).where(*old))

    def open(self) -> list[Mapping[str, Any]]:
        """Every request whose requestor has not been told: requestor, attempts, error, given_up, created."""
        columns = ("requestor", "transaction_uid", "created", "attempts", "error", "given_up")
        query = sa.select(*(t.commitments.c[name] for name in columns)).order_by(t.commitments.c.created)
        with self.engine.connect() as c:
            return [dict(row._mapping) for row in c.execute(query)]

    def _update(self, commitment: Commitment, **values: Any) -> None:
        with self.engine.begin() as c:
            c.execute(sa.update(t.commitments).where(*_same(commitment)).values(values))


def _same(commitment: Commitment) -> tuple[Any, ...]:
    """The request itself, and not a later one of the same Transaction UID."""
    columns = t.commitments.c
    return (
        columns.requestor == commitment.requestor,
        columns.transaction_uid == commitment.transaction_uid,
        columns.created == commitment.created,
    )


def _commitment(row: Any) -> Commitment:
    return Commitment(
        requestor=row.requestor,
        transaction_uid=row.transaction_uid,
        called=row.called,
        address=row.address,
        wanted=tuple((c, i) for c, i in row.wanted),
        report=None if row.report is None else tuple(row.report),
        created=row.created,
        attempts=row.attempts,
    )
