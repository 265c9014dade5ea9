"""Runs, their steps, results and deliveries as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicom_node.model.result import ResultObject
from dicom_node.model.states import (
    DELIVERY_MOVES,
    RUN_ENDED,
    RUN_MOVES,
    DeliveryState,
    RunState,
    move,
)
from dicom_node.store import tables as t
from dicom_node.store.index import insert


@dataclass(frozen=True)
class RunRow:
    """One algorithm on one series of one revision of a study. Times are seconds since the epoch."""

    run_id: str
    study_uid: str
    revision: int
    series_uid: str
    algorithm: str
    destinations: tuple[str, ...]
    inputs: tuple[str, ...]
    state: RunState
    reason: str
    created: float
    last_arrival: float
    ended: float | None
    measurements: tuple[Mapping[str, Any], ...]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class DeliveryRow:
    """One result object on its way to one destination."""

    run_id: str
    destination: str
    sop_uid: str
    state: DeliveryState
    attempts: int
    error: str
    sent: float | None
    confirmed: float | None


class Runs:
    """What ran, what it made and where that went."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def create(self, c: sa.Connection, run: RunRow) -> bool:
        """Within the caller's transaction: add the run; False if a run of that id is there already."""
        values = {**vars(run), "destinations": list(run.destinations), "inputs": list(run.inputs)}
        values |= {"measurements": list(run.measurements), "record": dict(run.record)}
        return bool(c.execute(insert(self.engine, t.runs).values(values).on_conflict_do_nothing()).rowcount == 1)

    def get(self, run_id: str) -> RunRow | None:
        """The run, or None."""
        with self.engine.connect() as c:
            row = c.execute(sa.select(t.runs).where(t.runs.c.run_id == run_id)).first()
        return None if row is None else _run(row)

    def all(self, study_uid: str | None = None) -> list[RunRow]:
        """All runs, or a study's, the latest first."""
        query = sa.select(t.runs).order_by(t.runs.c.created.desc(), t.runs.c.run_id)
        if study_uid is not None:
            query = query.where(t.runs.c.study_uid == study_uid)
        with self.engine.connect() as c:
            return [_run(r) for r in c.execute(query)]

    def states(self) -> dict[str, int]:
        """How many runs are in each state that there is one in."""
        state = t.runs.c.state
        with self.engine.connect() as c:
            return {row[0]: row[1] for row in c.execute(sa.select(state, sa.func.count()).group_by(state))}

    def set_state(self, run_id: str, state: RunState, reason: str = "", c: sa.Connection | None = None) -> None:
        """Move the run to ``state``.

        Raises:
            ValueError: the table of states forbids it.
        """
        if c is None:
            with self.engine.begin() as own:
                return self.set_state(run_id, state, reason, own)
        old = RunState(c.execute(sa.select(t.runs.c.state).where(t.runs.c.run_id == run_id)).scalar_one())
        move(RUN_MOVES, old, state)
        ended = self.clock() if state in RUN_ENDED else None
        c.execute(sa.update(t.runs).where(t.runs.c.run_id == run_id).values(state=state, reason=reason, ended=ended))
        return None

    def set_outcome(self, run_id: str, measurements: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
        """Keep what was measured and the run's record (device, versions, hashes, evidence)."""
        with self.engine.begin() as c:
            c.execute(
                sa.update(t.runs)
                .where(t.runs.c.run_id == run_id)
                .values(measurements=[dict(m) for m in measurements], record=dict(record))
            )

    def set_record(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Replace the run's record."""
        with self.engine.begin() as c:
            c.execute(sa.update(t.runs).where(t.runs.c.run_id == run_id).values(record=dict(record)))

    def add_step(self, run_id: str, step: str, started: float, seconds: float) -> None:
        """Keep how long a step took; a repeated step replaces the earlier time."""
        values = {"started": started, "seconds": seconds}
        statement = insert(self.engine, t.steps).values(run_id=run_id, step=step, **values)
        with self.engine.begin() as c:
            c.execute(statement.on_conflict_do_update(index_elements=["run_id", "step"], set_=values))

    def steps(self, run_id: str) -> list[tuple[str, float, float]]:
        """(step, started, seconds) in the order they started."""
        query = sa.select(t.steps.c.step, t.steps.c.started, t.steps.c.seconds).where(t.steps.c.run_id == run_id)
        with self.engine.connect() as c:
            return [(r[0], r[1], r[2]) for r in c.execute(query.order_by(t.steps.c.started))]

    def set_results(self, run_id: str, objects: Sequence[ResultObject]) -> None:
        """Keep which objects the run made, in place of any it made before.

        From now on they are known as the node's own, should a PACS send them back.
        """
        with self.engine.begin() as c:
            c.execute(sa.delete(t.results).where(t.results.c.run_id == run_id))
            for o in objects:
                c.execute(
                    t.results.insert().values(
                        sop_uid=o.SOPInstanceUID,
                        run_id=run_id,
                        role=o.role,
                        sop_class=o.SOPClassUID,
                        series_uid=o.SeriesInstanceUID,
                        path=str(o.path),
                    )
                )

    def results(self, run_id: str) -> list[ResultObject]:
        """The run's result objects, by role."""
        query = sa.select(t.results).where(t.results.c.run_id == run_id).order_by(t.results.c.role)
        with self.engine.connect() as c:
            return [ResultObject(r.role, r.sop_uid, r.sop_class, r.series_uid, Path(r.path)) for r in c.execute(query)]

    def open_deliveries(self, c: sa.Connection, run_id: str, destination: str, sop_uids: Sequence[str]) -> None:
        """Within the caller's transaction: one pending delivery for each object; what is there stays."""
        for uid in sop_uids:
            values = {"run_id": run_id, "destination": destination, "sop_uid": uid}
            statement = insert(self.engine, t.deliveries).values(**values, state=DeliveryState.PENDING)
            c.execute(statement.on_conflict_do_nothing())

    def reopen(self, c: sa.Connection, run_id: str, state: RunState) -> None:
        """Within the caller's transaction: a run that ended badly goes on in ``state``; failed deliveries are pending.

        Raises:
            ValueError: it has not ended badly, or somebody else was first.
        """
        badly = [old for old in RUN_ENDED if state in RUN_MOVES[old]]
        here = (t.runs.c.run_id == run_id, t.runs.c.state.in_(badly))
        # of a failed delivery the reason goes; why a series was not analysed stays with the run's record
        if c.execute(sa.update(t.runs).where(*here).values(state=state, reason="", ended=None)).rowcount != 1:
            raise ValueError(f"run {run_id} is not {' or '.join(sorted(badly))}")
        d = t.deliveries.c
        failed = sa.update(t.deliveries).where(d.run_id == run_id, d.state == DeliveryState.FAILED)
        c.execute(failed.values(state=DeliveryState.PENDING, error=""))

    def stop(self, run_id: str, reason: str) -> bool:
        """A run whose results are not on their way has failed; False if it has come further, or has ended."""
        here = (t.runs.c.run_id == run_id, t.runs.c.state.in_((RunState.QUEUED, RunState.RUNNING)))
        values = {"state": RunState.FAILED, "reason": reason, "ended": self.clock()}
        with self.engine.begin() as c:
            return c.execute(sa.update(t.runs).where(*here).values(values)).rowcount == 1

    def note_delivery(self, run_id: str, destination: str, sop_uid: str, error: str) -> None:
        """Keep why a delivery is still open; its state stays."""
        d = t.deliveries.c
        here = (d.run_id == run_id, d.destination == destination, d.sop_uid == sop_uid)
        with self.engine.begin() as c:
            c.execute(sa.update(t.deliveries).where(*here).values(error=error))

    def set_delivery(self, run_id: str, destination: str, sop_uid: str, state: DeliveryState, error: str = "") -> None:
        """Move one delivery to ``state``; a further attempt that left it pending counts too."""
        d = t.deliveries.c
        here = (d.run_id == run_id, d.destination == destination, d.sop_uid == sop_uid)
        now = self.clock()
        with self.engine.begin() as c:
            old = DeliveryState(c.execute(sa.select(d.state).where(*here)).scalar_one())
            values: dict[str, Any] = {"state": move(DELIVERY_MOVES, old, state), "error": error}
            if state in (DeliveryState.SENT, DeliveryState.PENDING, DeliveryState.FAILED):
                values["attempts"] = d.attempts + 1
            if state == DeliveryState.SENT:
                values["sent"] = now
            if state == DeliveryState.CONFIRMED:
                values["confirmed"] = now
            c.execute(sa.update(t.deliveries).where(*here).values(values))

    def deliveries(self, run_id: str, destination: str | None = None) -> list[DeliveryRow]:
        """The run's deliveries, by destination and object."""
        d = t.deliveries.c
        query = sa.select(t.deliveries).where(d.run_id == run_id).order_by(d.destination, d.sop_uid)
        if destination is not None:
            query = query.where(d.destination == destination)
        with self.engine.connect() as c:
            return [
                DeliveryRow(
                    r.run_id,
                    r.destination,
                    r.sop_uid,
                    DeliveryState(r.state),
                    r.attempts,
                    r.error,
                    r.sent,
                    r.confirmed,
                )
                for r in c.execute(query)
            ]

    def set_routes(self, c: sa.Connection, study_uid: str, revision: int, routes: Sequence[Mapping[str, Any]]) -> None:
        """Within the caller's transaction: keep why each series was wanted or not."""
        for r in routes:
            values = {"study_uid": study_uid, "revision": revision, **r}
            c.execute(insert(self.engine, t.routes).values(values).on_conflict_do_nothing())

    def all_routes(self) -> dict[str, list[Mapping[str, Any]]]:
        """Why each series was wanted or not, by study, the latest revision first."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        with self.engine.connect() as c:
            for r in c.execute(sa.select(t.routes).order_by(t.routes.c.revision.desc())):
                found.setdefault(r.study_uid, []).append(dict(r._mapping))
        return found

    def routes(self, study_uid: str) -> list[Mapping[str, Any]]:
        """Why each series was wanted or not, the latest revision first."""
        query = sa.select(t.routes).where(t.routes.c.study_uid == study_uid).order_by(t.routes.c.revision.desc())
        with self.engine.connect() as c:
            return [dict(r._mapping) for r in c.execute(query)]


def _run(r: Any) -> RunRow:
    return RunRow(
        run_id=r.run_id,
        study_uid=r.study_uid,
        revision=r.revision,
        series_uid=r.series_uid,
        algorithm=r.algorithm,
        destinations=tuple(r.destinations),
        inputs=tuple(r.inputs),
        state=RunState(r.state),
        reason=r.reason,
        created=r.created,
        last_arrival=r.last_arrival,
        ended=r.ended,
        measurements=tuple(r.measurements),
        record=r.record,
    )
