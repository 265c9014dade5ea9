"""Studies that were fetched to be compared with, as rows: what came of them then is not analysed by itself."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from dicom_node.model.states import StudyState
from dicom_node.store import tables as t
from dicom_node.store.index import StudyRow, insert


class PriorFetches:
    """When which study was fetched as a prior. A study that images reach at another time is routed as any other."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.clock = clock

    def begin(self, study_uid: str) -> None:
        """A fetch begins: what comes of the study from now on is a prior's."""
        values = {"began": self.clock(), "ended": None, "whole": False}
        statement = insert(self.engine, t.prior_fetches).values(study_uid=study_uid, **values)
        over = t.prior_fetches.c.ended.is_not(None)  # of two at the same time the first one's beginning counts
        with self.engine.begin() as c:
            c.execute(statement.on_conflict_do_update(index_elements=["study_uid"], set_=values, where=over))

    def end(self, study_uid: str, *, whole: bool) -> None:
        """The fetch is over; ``whole``: all of the study is here."""
        here = t.prior_fetches.c.study_uid == study_uid
        with self.engine.begin() as c:
            c.execute(sa.update(t.prior_fetches).where(here).values(ended=self.clock(), whole=whole))

    def end_all(self) -> None:
        """At the node's start: what a process that was killed was fetching is no longer being fetched."""
        here = t.prior_fetches.c.ended.is_(None)
        with self.engine.begin() as c:
            c.execute(sa.update(t.prior_fetches).where(here).values(ended=self.clock()))

    def is_partial(self, study_uid: str) -> bool:
        """Whether the study was fetched as a prior and did not come whole (yet)."""
        p = t.prior_fetches.c
        with self.engine.connect() as c:
            return c.scalar(sa.select(p.study_uid).where(p.study_uid == study_uid, p.whole.is_(False))) is not None

    def covers(self, study: StudyRow) -> bool:
        """Whether the latest of the study's instances came while it was fetched as a prior."""
        p = t.prior_fetches.c
        in_time = sa.or_(p.ended.is_(None), p.ended >= study.last_arrival)
        query = sa.select(p.study_uid).where(p.study_uid == study.study_uid, p.began <= study.last_arrival, in_time)
        with self.engine.connect() as c:
            return c.scalar(query) is not None

    def release(self, c: sa.Connection, study_uid: str) -> bool:
        """Within the caller's transaction: somebody asks for the study itself; False if it is no prior.

        If it is here already, it is opened, so that it is routed.
        """
        if c.execute(sa.delete(t.prior_fetches).where(t.prior_fetches.c.study_uid == study_uid)).rowcount == 0:
            return False
        here = (t.studies.c.study_uid == study_uid, t.studies.c.state == StudyState.UNWANTED)
        opened = {"state": StudyState.RECEIVING, "last_arrival": self.clock(), "reason": ""}
        c.execute(sa.update(t.studies).where(*here).values(opened))
        return True
