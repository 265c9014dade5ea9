"""What archives said of how many instances studies have, as rows; and what the studies themselves have."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from dicom_node.model.completeness import By, Count, Verdict
from dicom_node.store import tables as t
from dicom_node.store.index import insert

_AT_ONCE = 500
_FIELDS = ("source", "series", "others", "since", "asked", "failed", "error", "refused", "left_out")


class Counts:
    """The last answers. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def of(self, studies: Collection[str]) -> dict[str, Count]:
        """What is known of these studies; one that nobody was asked about is left out."""
        rows = self._for_each(studies, sa.select(t.counts), t.counts.c.study_uid)
        return {row.study_uid: Count(**{name: getattr(row, name) for name in _FIELDS}) for row in rows}

    def keep(self, study_uid: str, count: Count) -> None:
        """Keep what an archive said."""
        values = {name: getattr(count, name) for name in _FIELDS}
        statement = insert(self.engine, t.counts).values(study_uid=study_uid, **values)
        with self.engine.begin() as c:
            c.execute(statement.on_conflict_do_update(index_elements=["study_uid"], set_=values))

    def here(self, studies: Collection[str]) -> dict[str, dict[str, int]]:
        """How many instances are here, by study and series, the node's own results not counted."""
        i = t.instances.c
        query = sa.select(i.study_uid, i.series_uid, sa.func.count()).where(i.own.is_(False))
        found: dict[str, dict[str, int]] = {}
        for row in self._for_each(studies, query.group_by(i.study_uid, i.series_uid), i.study_uid):
            found.setdefault(row[0], {})[row[1]] = row[2]
        return found

    def senders(self, study_uid: str) -> list[str]:
        """The calling AE titles that the study's instances came from."""
        i = t.instances.c
        query = sa.select(i.source).distinct().where(i.study_uid == study_uid, i.own.is_(False)).order_by(i.source)
        with self.engine.connect() as c:
            return list(c.scalars(query))

    def own_series(self, study_uid: str) -> set[str]:
        """The series that the node's own results of a study are in."""
        made = sa.select(t.results.c.series_uid).join(t.runs, t.runs.c.run_id == t.results.c.run_id)
        kept = sa.select(t.instances.c.series_uid)
        queries = (
            made.where(t.runs.c.study_uid == study_uid),
            kept.where(t.instances.c.study_uid == study_uid, t.instances.c.own.is_(True)),
        )
        with self.engine.connect() as c:
            return {uid for query in queries for uid in c.scalars(query.distinct())}

    def _for_each(self, studies: Iterable[str], query: sa.Select[Any], column: sa.Column[str]) -> list[Any]:
        wanted = list(studies)
        with self.engine.connect() as c:
            return [
                row
                for start in range(0, len(wanted), _AT_ONCE)
                for row in c.execute(query.where(column.in_(wanted[start : start + _AT_ONCE])))
            ]


class Completions:
    """By what each revision of a study was found whole."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def add(self, c: sa.Connection, study_uid: str, revision: int, at: float, verdict: Verdict) -> None:
        """Within the caller's transaction: keep what decided."""
        values = {"at": at, "by": verdict.by, "words": verdict.words}
        statement = insert(self.engine, t.completions).values(study_uid=study_uid, revision=revision, **values)
        c.execute(statement.on_conflict_do_update(index_elements=["study_uid", "revision"], set_=values))

    def all(self) -> dict[str, list[tuple[int, float, By, str]]]:
        """(revision, when, what decided, in words) of every study, the earliest revision first."""
        found: dict[str, list[tuple[int, float, By, str]]] = {}
        with self.engine.connect() as c:
            for row in c.execute(sa.select(t.completions).order_by(t.completions.c.revision)):
                found.setdefault(row.study_uid, []).append((row.revision, row.at, By(row.by), row.words))
        return found
