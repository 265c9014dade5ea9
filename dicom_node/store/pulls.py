"""Studies that are asked for at other archives, and up to where their changes have been read, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.model.states import PullState
from dicom_node.store import tables as t
from dicom_node.store.index import insert


@dataclass(frozen=True)
class PullRow:
    """One study that is to come from one source. Times are seconds since the epoch.

    Attributes:
        instances: how many the source said that it has; None: it has not said.
    """

    source: str
    study_uid: str
    state: PullState
    reason: str
    attempts: int
    asked: float
    due: float
    ended: float | None
    instances: int | None


class Pulls:
    """What is asked for. All that is to survive a restart is in rows; whoever works on them may be killed anywhere."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def ask(self, c: sa.Connection, source: str, studies: Iterable[tuple[str, int | None]]) -> None:
        """Within the caller's transaction: ask for studies (UID, instances at the source), also if they came before."""
        now = self.clock()
        for uid, instances in studies:
            values = {"state": PullState.PENDING, "reason": "", "attempts": 0, "asked": now, "due": now, "ended": None}
            values["instances"] = instances
            statement = insert(self.engine, t.pulls).values(source=source, study_uid=uid, **values)
            c.execute(statement.on_conflict_do_update(index_elements=["source", "study_uid"], set_=values))

    def get(self, source: str, study_uid: str) -> PullRow | None:
        """The row, or None."""
        found = self._rows(t.pulls.c.source == source, t.pulls.c.study_uid == study_uid)
        return found[0] if found else None

    def all(self) -> list[PullRow]:
        """All, the latest asked first."""
        return self._rows()

    def due(self, source: str) -> list[PullRow]:
        """What is to be fetched from a source now, the earliest due first."""
        pending = self._rows(t.pulls.c.source == source, t.pulls.c.state == PullState.PENDING)
        now = self.clock()
        return sorted((r for r in pending if r.due <= now), key=lambda r: r.due)

    def settle(self, row: PullRow, state: PullState, reason: str = "", wait: float = 0) -> bool:
        """End a pull, or have it wait for its next attempt.

        Returns:
            False if the study was asked for anew since ``row`` was read; then nothing is changed.
        """
        now = self.clock()
        ended = None if state == PullState.PENDING else now
        same = (t.pulls.c.source == row.source, t.pulls.c.study_uid == row.study_uid, t.pulls.c.asked == row.asked)
        values = {"state": state, "reason": reason, "attempts": row.attempts + 1, "due": now + wait, "ended": ended}
        with self.engine.begin() as c:
            return c.execute(sa.update(t.pulls).where(*same).values(values)).rowcount == 1

    def point(self, source: str) -> int | None:
        """Up to where a source's changes have been read; None: they never have been."""
        with self.engine.connect() as c:
            found = c.scalar(sa.select(t.points.c.point).where(t.points.c.source == source))
        return None if found is None else int(found)

    def set_point(self, c: sa.Connection, source: str, point: int) -> None:
        """Within the caller's transaction: remember up to where a source's changes have been read."""
        statement = insert(self.engine, t.points).values(source=source, point=point)
        c.execute(statement.on_conflict_do_update(index_elements=["source"], set_={"point": point}))

    def _rows(self, *where: sa.ColumnElement[bool]) -> list[PullRow]:
        query = sa.select(t.pulls).where(*where).order_by(t.pulls.c.asked.desc(), t.pulls.c.study_uid)
        with self.engine.connect() as c:
            return [
                PullRow(**{**row._asdict(), "state": PullState(row.state)})  # the table's columns are the fields
                for row in c.execute(query)
            ]
