"""Workitems of worklists that the node has taken, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.model.states import WORKITEM_ENDED, WORKITEM_MOVES, WorkitemState, move
from dicom_node.model.workitem import CancelRequest, Coded
from dicom_node.store import tables as t
from dicom_node.store.index import insert

_OPEN = tuple(state for state in WorkitemState if state not in WORKITEM_ENDED)


@dataclass(frozen=True)
class WorkitemRow:
    """One workitem of one worklist. Times are seconds since the epoch; the columns are explained in the table."""

    worklist: str
    uid: str
    state: WorkitemState
    reason: str
    transaction_uid: str
    algorithm: str
    code: Coded
    study_uid: str
    source: str
    inputs: tuple[str, ...]
    discontinued: tuple[Coded, ...]
    cancel: CancelRequest | None
    progress: int
    claimed: float
    decided: float | None
    ended: float | None
    due: float
    attempts: int
    error: str


class Workitems:
    """What the node has taken from worklists. A Transaction UID is in its row before any server hears of it."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def take(self, worklist: str, uid: str, transaction_uid: str, algorithm: str, code: Coded) -> bool:
        """A workitem is about to be claimed; False if it has been taken before, and not been lost."""
        now = self.clock()
        values: dict[str, Any] = {
            "state": WorkitemState.CLAIMING,
            "reason": "",
            "transaction_uid": transaction_uid,
            "algorithm": algorithm,
            "code": list(code),
            "study_uid": "",
            "source": "",
            "inputs": [],
            "discontinued": [],
            "cancel": None,
            "progress": -1,
            "claimed": now,
            "decided": None,
            "ended": None,
            "due": now,
            "attempts": 0,
            "error": "",
        }
        statement = insert(self.engine, t.workitems).values(worklist=worklist, uid=uid, **values)
        again = statement.on_conflict_do_update(
            index_elements=["worklist", "uid"], set_=values, where=t.workitems.c.state == WorkitemState.LOST
        )
        with self.engine.begin() as c:
            return bool(c.execute(again).rowcount == 1)

    def get(self, worklist: str, uid: str) -> WorkitemRow | None:
        """The row, or None."""
        found = self._rows(*_here(worklist, uid))
        return found[0] if found else None

    def all(self) -> list[WorkitemRow]:
        """All, the latest claimed first."""
        return self._rows()

    def open(self, worklist: str) -> list[WorkitemRow]:
        """Those of a worklist that have not ended, the latest claimed first."""
        return self._rows(t.workitems.c.worklist == worklist, t.workitems.c.state.in_(_OPEN))

    def move(self, row: WorkitemRow, state: WorkitemState, c: sa.Connection | None = None, **more: Any) -> None:
        """Move a workitem on, and set ``more`` of its columns; what had failed before is over.

        Raises:
            ValueError: the table of states forbids it.
        """
        if c is None:
            with self.engine.begin() as own:
                return self.move(row, state, own, **more)
        now = self.clock()
        values = {**more, "state": move(WORKITEM_MOVES, row.state, state), "due": now, "attempts": 0, "error": ""}
        if state in (WorkitemState.COMPLETING, WorkitemState.CANCELING):
            values["decided"] = now
        if state in WORKITEM_ENDED:
            values["ended"] = now
        c.execute(sa.update(t.workitems).where(*_here(row.worklist, row.uid)).values(values))
        return None

    def postpone(self, row: WorkitemRow, seconds: float, error: str) -> None:
        """The server could not be talked to: again later."""
        values = {"due": self.clock() + seconds, "attempts": row.attempts + 1, "error": error}
        self._set(row, values)

    def recovered(self, row: WorkitemRow) -> None:
        """The server can be talked to again."""
        self._set(row, {"attempts": 0, "error": ""})

    def told(self, row: WorkitemRow, progress: int) -> None:
        """The server knows how far the work is."""
        self._set(row, {"progress": progress})

    def ask_cancel(self, worklist: str, uid: str, request: CancelRequest) -> bool:
        """Somebody wants the workitem to be canceled; False if it is not under way here, or was asked before."""
        codes = [list(code) for code in request.codes]
        values = {"cancel": {"requester": request.requester, "reason": request.reason, "codes": codes}, "due": 0.0}
        where = (*_here(worklist, uid), t.workitems.c.state.in_(_OPEN))
        with self.engine.begin() as c:
            known = c.execute(sa.select(t.workitems.c.cancel).where(*where)).first()
            if known is None or known.cancel is not None:
                return False
            return c.execute(sa.update(t.workitems).where(*where).values(values)).rowcount == 1

    def _set(self, row: WorkitemRow, values: dict[str, Any]) -> None:
        with self.engine.begin() as c:
            c.execute(sa.update(t.workitems).where(*_here(row.worklist, row.uid)).values(values))

    def _rows(self, *where: sa.ColumnElement[bool]) -> list[WorkitemRow]:
        query = sa.select(t.workitems).where(*where).order_by(t.workitems.c.claimed.desc(), t.workitems.c.uid)
        with self.engine.connect() as c:
            return [_row(r._asdict()) for r in c.execute(query)]


def _here(worklist: str, uid: str) -> tuple[sa.ColumnElement[bool], ...]:
    return t.workitems.c.worklist == worklist, t.workitems.c.uid == uid


def _codes(entries: Sequence[Sequence[str]]) -> tuple[Coded, ...]:
    return tuple(Coded(*entry) for entry in entries)


def _row(columns: dict[str, Any]) -> WorkitemRow:
    cancel = columns["cancel"]
    return WorkitemRow(
        **{
            **columns,
            "state": WorkitemState(columns["state"]),
            "code": Coded(*columns["code"]),
            "inputs": tuple(columns["inputs"]),
            "discontinued": _codes(columns["discontinued"]),
            "cancel": None if cancel is None else CancelRequest(**{**cancel, "codes": _codes(cancel["codes"])}),
        }
    )
