"""What MPPS and IAN say of studies, as rows, beside the instances that are here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.model.completeness import Announced, Announcement, By, Image, StepState, is_image_class
from dicom_node.store import tables as t
from dicom_node.store.index import insert

_AT_ONCE = 500


@dataclass(frozen=True)
class Said:
    """An announcement as it stands, without its images. ``changes``: how often it was changed."""

    uid: str
    kind: By
    state: StepState
    calling: str
    changes: int


class UnknownStep(Exception):
    """There is no procedure step of that SOP Instance UID."""


class EndedStep(Exception):
    """The procedure step was completed or discontinued: it may no longer be changed."""


class Announcements:
    """What was announced. Thread-safe; what a method has taken is durable when it returns."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    def add(self, uid: str, kind: By, state: StepState, calling: str, announcement: Announcement) -> bool:
        """Keep an announcement.

        Args:
            uid: its SOP Instance UID.
            kind: MPPS or IAN.
            state: of the procedure step; a notification is completed.

        Returns:
            False if there is one of that UID; then nothing is changed.
        """
        row = {"uid": uid, "kind": kind, "state": state, "calling": calling, "created": self.clock()}
        with self.engine.begin() as c:
            if c.scalar(sa.select(t.announcements.c.uid).where(t.announcements.c.uid == uid).limit(1)) is not None:
                return False
            rows = [{**row, "study_uid": study} for study in dict.fromkeys(announcement.studies)]
            made = insert(self.engine, t.announcements).on_conflict_do_nothing()
            if not c.execute(made, rows).rowcount:
                return False
            self._set_images(c, uid, announcement.images)
        return True

    def change(self, uid: str, state: StepState | None, images: Iterable[Image] | None) -> None:
        """Change a procedure step that is in progress.

        Args:
            state: its new one; None: as it was.
            images: all that it lists from now on; None: as they were.

        Raises:
            UnknownStep: there is none.
            EndedStep: it has ended before.
        """
        a = t.announcements.c
        mine = (a.uid == uid, a.kind == By.MPPS)
        with self.engine.begin() as c:
            open_ones = (*mine, a.state == StepState.IN_PROGRESS)
            values = {"state": state or StepState.IN_PROGRESS, "changes": a.changes + 1}
            done = c.execute(sa.update(t.announcements).where(*open_ones).values(values))
            if not done.rowcount:
                known = c.scalar(sa.select(a.uid).where(*mine).limit(1)) is not None
                raise EndedStep if known else UnknownStep
            if images is not None:
                c.execute(sa.delete(t.announced_images).where(t.announced_images.c.uid == uid))
                self._set_images(c, uid, images)

    def of(self, studies: Collection[str]) -> dict[str, tuple[Said, ...]]:
        """What was announced of these studies, the first first; one of which nothing was is left out."""
        a = t.announcements.c
        found: dict[str, list[Said]] = {}
        wanted = list(studies)
        with self.engine.connect() as c:
            for start in range(0, len(wanted), _AT_ONCE):
                query = sa.select(t.announcements).where(a.study_uid.in_(wanted[start : start + _AT_ONCE]))
                for row in c.execute(query.order_by(a.created, a.uid)):
                    said = Said(row.uid, By(row.kind), StepState(row.state), row.calling, row.changes)
                    found.setdefault(row.study_uid, []).append(said)
        return {study_uid: tuple(several) for study_uid, several in found.items()}

    def forget(self, seconds: float) -> None:
        """Remove what is older than so many seconds and was announced of studies that never came."""
        a = t.announcements.c
        came = sa.exists().where(t.studies.c.study_uid == a.study_uid)
        with self.engine.begin() as c:
            c.execute(sa.delete(t.announcements).where(a.created < self.clock() - seconds, sa.not_(came)))
            orphaned = t.announced_images.c.uid.not_in(sa.select(a.uid))
            c.execute(sa.delete(t.announced_images).where(orphaned))

    def weigh(self, study_uid: str, said: Sequence[Said]) -> Announced:
        """What was announced of a study, beside what is here of it."""
        uids = [announcement.uid for announcement in said]
        listed = t.announced_images.c
        ours = sa.exists().where(t.results.c.sop_uid == listed.sop_uid)
        came = sa.exists().where(t.instances.c.sop_uid == listed.sop_uid)
        by_series = (
            sa.select(listed.series_uid, sa.func.count(listed.sop_uid.distinct()))
            .where(listed.uid.in_(uids), sa.not_(ours))
            .group_by(listed.series_uid)
        )
        i = t.instances.c
        named = sa.exists().where(listed.sop_uid == i.sop_uid, listed.uid.in_(uids))
        stray = (
            sa.select(i.sop_class, sa.func.count())
            # A class that nobody knows may be anything.
            .where(i.study_uid == study_uid, i.own.is_(False), sa.not_(named), i.tags["HasPixelData"].as_boolean())
            .group_by(i.sop_class)
        )
        states = [announcement.state for announcement in said]
        with self.engine.connect() as c:
            return Announced(
                by=By.MPPS if By.MPPS in {announcement.kind for announcement in said} else By.IAN,
                callers=tuple(dict.fromkeys(announcement.calling for announcement in said)),
                in_progress=states.count(StepState.IN_PROGRESS),
                completed=states.count(StepState.COMPLETED),
                listed={row[0]: row[1] for row in c.execute(by_series)},
                missing={row[0]: row[1] for row in c.execute(by_series.where(sa.not_(came)))},
                unlisted=sum(row[1] for row in c.execute(stray) if is_image_class(row[0])),
            )

    @staticmethod
    def _set_images(c: sa.Connection, uid: str, images: Iterable[Image]) -> None:
        series = {image.SOPInstanceUID: image.SeriesInstanceUID for image in images}
        if series:
            rows = [{"uid": uid, "sop_uid": sop, "series_uid": series_uid} for sop, series_uid in series.items()]
            c.execute(sa.insert(t.announced_images), rows)
