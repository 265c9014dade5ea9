"""Instances and studies as rows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dicom_node.errors import InstanceConflict, OutOfResources
from dicom_node.model.instance import Instance, Series
from dicom_node.model.states import RUN_ENDED, STUDY_MOVES, RunState, StudyState, move
from dicom_node.store import tables as t

Clock = Callable[[], float]

_ROWS_AT_ONCE = 1000
_UNDER_WAY = (StudyState.RECEIVING, StudyState.COMPLETE)
_OPEN_RUNS = tuple(state for state in RunState if state not in RUN_ENDED)


@dataclass(frozen=True)
class StudyRow:
    """A study's state. Times are seconds since the epoch; ``revision`` counts how often it was complete."""

    study_uid: str
    state: StudyState
    revision: int
    first_arrival: float
    last_arrival: float
    reason: str


@dataclass(frozen=True)
class Known:
    """What the index knows about a SOP Instance UID.

    Attributes:
        digest: of the stored content; None if the instance is not here.
        is_result: whether this node made the object.
    """

    digest: str | None
    is_result: bool


class Index:
    """Which instances there are, and which studies they make."""

    def __init__(self, engine: sa.Engine, clock: Clock = time.time) -> None:
        self.engine = engine
        self.clock = clock
        uid = sa.bindparam("uid", type_=sa.String)
        digest = sa.select(t.instances.c.digest).where(t.instances.c.sop_uid == uid).scalar_subquery()
        result = sa.select(t.results.c.run_id).where(t.results.c.sop_uid == uid).scalar_subquery()
        self._known: Any = sa.select(digest, result).compile(dialect=engine.dialect)
        self._driver_error: Any = engine.dialect.loaded_dbapi.Error

    def add(self, instance: Instance) -> bool:
        """Make the instance's row, and open its study again if it is new and not our own result.

        Call this after the file is safe, and before the sender gets Success.

        Returns:
            True if it is new; False if the same content was there already.

        Raises:
            InstanceConflict: the UID is there with other content; nothing changed but a note on the study.
        """
        now = self.clock()
        with self.engine.begin() as c:
            row = self._instance_values(instance, now)
            new = c.execute(insert(self.engine, t.instances).values(row).on_conflict_do_nothing()).rowcount == 1
            if new:
                if not instance.own:
                    self._touch(c, instance.StudyInstanceUID, now, now)
                return True
            digest = c.scalar(sa.select(t.instances.c.digest).where(t.instances.c.sop_uid == instance.SOPInstanceUID))
            if digest == instance.digest:
                return False
        text = f"SOP Instance UID {instance.SOPInstanceUID} came again with other content: refused, the first is kept"
        self.note(instance.StudyInstanceUID, text)
        raise InstanceConflict(f"{instance.SOPInstanceUID} is already stored with other content")

    def add_many(self, arrivals: Sequence[tuple[Instance, float]]) -> list[Instance]:
        """Make the rows of instances and the times they came, in one transaction; as ``add`` otherwise.

        Returns:
            Those whose UID is there with other content: of these nothing is kept.
        """
        rows = {i.SOPInstanceUID: self._instance_values(i, at) for i, at in arrivals}
        uid = t.instances.c.sop_uid
        query = sa.select(uid, t.instances.c.digest).where(uid.in_(list(rows)))
        with self.engine.begin() as c:
            there = {row.sop_uid: row.digest for row in c.execute(query)}
            new = [row for sop_uid, row in rows.items() if sop_uid not in there]
            for study_uid, times in _arrivals_by_study(i for i in arrivals if i[0].SOPInstanceUID not in there).items():
                self._touch(c, study_uid, min(times), max(times))
            # Without RETURNING, which costs more than the rows themselves.
            if new and c.execute(insert(self.engine, t.instances).on_conflict_do_nothing(), new).rowcount != len(new):
                # Another node on the same database was faster with some.
                there = {row.sop_uid: row.digest for row in c.execute(query)}
        return [i for i, _ in arrivals if there.get(i.SOPInstanceUID, i.digest) != i.digest]

    def known(self, sop_uid: str) -> Known:
        """What the index knows about a UID, in the little time that each image that comes may take."""
        compiled = self._known
        values = compiled.construct_params({"uid": sop_uid})
        parameters = tuple(values[name] for name in compiled.positiontup or ()) if compiled.positional else values
        try:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(str(compiled), parameters)
                digest, result = cursor.fetchone() or (None, None)
                cursor.close()
            finally:
                connection.close()
        except self._driver_error as e:
            raise OutOfResources("the index could not be read") from e
        return Known(digest, result is not None)

    def is_result(self, sop_uid: str) -> bool:
        """Whether this node made the object."""
        with self.engine.connect() as c:
            return c.scalar(sa.select(t.results.c.run_id).where(t.results.c.sop_uid == sop_uid)) is not None

    def note(self, study_uid: str, text: str) -> None:
        """Keep a sentence about the study for its administrator."""
        with self.engine.begin() as c:
            c.execute(t.problems.insert().values(study_uid=study_uid, at=self.clock(), text=text))

    def notes(self, study_uid: str) -> list[str]:
        """What was noted about the study, oldest first."""
        query = sa.select(t.problems.c.text).where(t.problems.c.study_uid == study_uid).order_by(t.problems.c.id)
        with self.engine.connect() as c:
            return list(c.scalars(query))

    def study(self, study_uid: str) -> StudyRow | None:
        """The study's row, or None."""
        with self.engine.connect() as c:
            row = c.execute(sa.select(t.studies).where(t.studies.c.study_uid == study_uid)).first()
        return None if row is None else _study(row)

    def studies(self) -> list[StudyRow]:
        """All studies, the latest first."""
        with self.engine.connect() as c:
            return [_study(r) for r in c.execute(sa.select(t.studies).order_by(t.studies.c.last_arrival.desc()))]

    def series(self, study_uid: str, *, own: bool = False) -> list[Series]:
        """The study's series with their instances, without (or, ``own``, only) the node's own results."""
        query = (
            sa.select(t.instances)
            .where(t.instances.c.study_uid == study_uid, t.instances.c.own == own)
            .order_by(t.instances.c.series_uid, t.instances.c.sop_uid)
        )
        with self.engine.connect() as c:
            rows = [_instance(r) for r in c.execute(query)]
        grouped: dict[str, list[Instance]] = {}
        for i in rows:
            grouped.setdefault(i.SeriesInstanceUID, []).append(i)
        return [Series(uid, study_uid, tuple(members)) for uid, members in grouped.items()]

    def instances(self, sop_uids: Sequence[str]) -> list[Instance]:
        """The instances with these UIDs, in the order of their UIDs."""
        found: list[Instance] = []
        with self.engine.connect() as c:
            for start in range(0, len(sop_uids), 500):
                query = sa.select(t.instances).where(t.instances.c.sop_uid.in_(sop_uids[start : start + 500]))
                found += [_instance(r) for r in c.execute(query)]
        return sorted(found, key=lambda i: i.SOPInstanceUID)

    def studies_of(self, patient_key: str) -> list[str]:
        """Study Instance UIDs of what is here of a patient (``Instance.patient_key``), own results not counted."""
        i = t.instances.c
        query = sa.select(i.study_uid).distinct().where(i.patient_key == patient_key, i.own.is_(False))
        with self.engine.connect() as c:
            return sorted(c.scalars(query))

    def count(self, study_uid: str) -> int:
        """How many instances the study has, the node's own results not counted."""
        query = sa.select(sa.func.count()).where(t.instances.c.study_uid == study_uid, t.instances.c.own.is_(False))
        with self.engine.connect() as c:
            return int(c.scalar(query) or 0)

    def states(self) -> dict[str, int]:
        """How many studies are in each state that there is one in."""
        state = t.studies.c.state
        with self.engine.connect() as c:
            return {row[0]: row[1] for row in c.execute(sa.select(state, sa.func.count()).group_by(state))}

    def counts(self) -> dict[str, int]:
        """How many instances each study has, the node's own results not counted."""
        uid = t.instances.c.study_uid
        query = sa.select(uid, sa.func.count()).where(t.instances.c.own.is_(False)).group_by(uid)
        with self.engine.connect() as c:
            return {row[0]: row[1] for row in c.execute(query)}

    def all_notes(self) -> dict[str, list[str]]:
        """What was noted about each study that has notes, oldest first."""
        query = sa.select(t.problems.c.study_uid, t.problems.c.text).order_by(t.problems.c.id)
        found: dict[str, list[str]] = {}
        with self.engine.connect() as c:
            for uid, note in c.execute(query):
                found.setdefault(uid, []).append(note)
        return found

    def paths(self) -> Iterator[str]:
        """Every file the index knows of, relative to the store's folder, sorted as text."""
        path = t.instances.c.path
        order = path.collate("C") if self.engine.dialect.name == "postgresql" else path
        with self.engine.connect() as c:
            rows = c.execution_options(yield_per=_ROWS_AT_ONCE).scalars(sa.select(path).order_by(order))
            yield from rows

    def quiet(self, seconds: float) -> list[StudyRow]:
        """Studies that receive, and have had no new instance for so long."""
        limit = self.clock() - seconds
        query = sa.select(t.studies).where(t.studies.c.state == StudyState.RECEIVING, t.studies.c.last_arrival <= limit)
        with self.engine.connect() as c:
            return [_study(r) for r in c.execute(query)]

    def undecided(self, quiet_seconds: float, pause_seconds: float) -> list[StudyRow]:
        """Studies that receive, and have been quiet for so long; after a pause those with evidence, too."""
        s = t.studies.c
        by_evidence = [sa.exists().where(table.c.study_uid == s.study_uid) for table in (t.announcements, t.counts)]
        now = self.clock()
        decided = sa.or_(s.last_arrival <= now - quiet_seconds, *by_evidence)
        paused = s.last_arrival <= now - min(pause_seconds, quiet_seconds)
        query = sa.select(t.studies).where(s.state == StudyState.RECEIVING, paused, decided)
        with self.engine.connect() as c:
            return [_study(r) for r in c.execute(query)]

    def has_work(self) -> bool:
        """Whether a study or a run is on its way."""
        studies = sa.select(t.studies.c.study_uid).where(t.studies.c.state.in_(_UNDER_WAY)).limit(1)
        runs = sa.select(t.runs.c.run_id).where(t.runs.c.state.in_(_OPEN_RUNS)).limit(1)
        with self.engine.connect() as c:
            return any(c.scalar(query) is not None for query in (studies, runs))

    def finish(self, c: sa.Connection, study: StudyRow, state: StudyState, reason: str) -> bool:
        """Within the caller's transaction: move the study on if nothing came since ``study`` was read.

        Becoming complete counts as a new revision.

        Returns:
            False if an instance came meanwhile or another sweep was first; then nothing is changed.
        """
        move(STUDY_MOVES, study.state, state)
        done = c.execute(
            sa.update(t.studies)
            .where(
                t.studies.c.study_uid == study.study_uid,
                t.studies.c.state == study.state,
                t.studies.c.last_arrival == study.last_arrival,
                t.studies.c.revision == study.revision,
            )
            .values(state=state, revision=study.revision + int(state == StudyState.COMPLETE), reason=reason)
        )
        return done.rowcount == 1

    def remove_study(self, study: StudyRow) -> bool:
        """Forget a study and its runs; its files are removed after.

        Returns:
            False if an instance came since ``study`` was read; then nothing is changed.
        """
        same = (t.studies.c.last_arrival == study.last_arrival, t.studies.c.state == study.state)
        with self.engine.begin() as c:
            if c.execute(sa.delete(t.studies).where(t.studies.c.study_uid == study.study_uid, *same)).rowcount != 1:
                return False
            of_the_study = (t.instances, t.problems, t.routes, t.runs, t.announcements, t.counts, t.completions)
            for table in (*of_the_study, t.prior_fetches):
                c.execute(sa.delete(table).where(table.c.study_uid == study.study_uid))
        return True

    def _touch(self, c: sa.Connection, study_uid: str, first: float, last: float) -> None:
        values = {
            "study_uid": study_uid,
            "state": StudyState.RECEIVING,
            "revision": 0,
            "first_arrival": first,
            "last_arrival": last,
            "reason": "",
        }
        statement = insert(self.engine, t.studies).values(values)
        c.execute(
            statement.on_conflict_do_update(
                index_elements=["study_uid"],
                set_={"last_arrival": last, "state": StudyState.RECEIVING, "reason": ""},
            )
        )

    @staticmethod
    def _instance_values(i: Instance, now: float) -> dict[str, Any]:
        return {
            "sop_uid": i.SOPInstanceUID,
            "sop_class": i.SOPClassUID,
            "series_uid": i.SeriesInstanceUID,
            "study_uid": i.StudyInstanceUID,
            "transfer_syntax": i.TransferSyntaxUID,
            "digest": i.digest,
            "path": i.path,
            "size": i.size,
            "patient_key": i.patient_key,
            "tags": dict(i.tags),
            "own": i.own,
            "source": i.source,
            "called": i.called,
            "arrival": now,
        }


def insert(engine: sa.Engine, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, for whichever database the engine is."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def _arrivals_by_study(arrivals: Iterable[tuple[Instance, float]]) -> dict[str, list[float]]:
    """When the instances of each study came; the node's own results open no study."""
    found: dict[str, list[float]] = {}
    for instance, at in arrivals:
        if not instance.own:
            found.setdefault(instance.StudyInstanceUID, []).append(at)
    return found


def digest_of_inputs(instances: Iterable[Instance]) -> str:
    """One SHA-256 (hex) over the instances' UIDs and contents, whatever order they came in."""
    h = hashlib.sha256()
    for i in sorted(instances, key=lambda i: i.SOPInstanceUID):
        h.update(f"{i.SOPInstanceUID}:{i.digest}\n".encode())
    return h.hexdigest()


def _study(row: Any) -> StudyRow:
    return StudyRow(row.study_uid, StudyState(row.state), row.revision, row.first_arrival, row.last_arrival, row.reason)


def _instance(row: Any) -> Instance:
    return Instance(
        SOPInstanceUID=row.sop_uid,
        SOPClassUID=row.sop_class,
        SeriesInstanceUID=row.series_uid,
        StudyInstanceUID=row.study_uid,
        TransferSyntaxUID=row.transfer_syntax,
        digest=row.digest,
        path=row.path,
        size=row.size,
        patient_key=row.patient_key,
        tags=row.tags,
        own=row.own,
        source=row.source,
        called=row.called,
    )
