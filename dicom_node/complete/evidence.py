"""Gathers what is known of the studies that receive, and has it weighed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dicom_node.complete.decide import SHORT_QUIET_SECONDS, decide, next_question
from dicom_node.model.completeness import Announced, Count, Verdict
from dicom_node.settings import Settings, Source
from dicom_node.store.announcements import Announcements, Said
from dicom_node.store.counts import Counts
from dicom_node.store.index import Index, StudyRow

_MOST_KNOWN: Final = 10_000


class Evidence:
    """What is known of studies. Thread-safe."""

    def __init__(self, index: Index, settings: Settings) -> None:
        self._index = index
        self._settings = settings
        self._announcements = Announcements(index.engine, index.clock)
        self._counts = Counts(index.engine)
        self._sources: dict[tuple[str, float], Source | None] = {}
        self._weighed: dict[tuple[StudyRow, tuple[Said, ...]], Announced] = {}

    def verdicts(self, rows: Sequence[StudyRow] | None = None) -> list[tuple[StudyRow, Verdict]]:
        """The verdict on each of these studies, which receive; None: on all about which there may be one.

        Nothing is asked of anybody: this takes what is in the database.
        """
        if rows is None:
            rows = self._index.undecided(self._settings.complete.quiet_seconds, SHORT_QUIET_SECONDS)
        studies = {row.study_uid: self._source(row) for row in rows}
        said = self._announcements.of(studies)
        announced = {row.study_uid: self._announced(row, said[row.study_uid]) for row in rows if row.study_uid in said}
        counts = self._known(studies)
        here = self._counts.here(announced.keys() | counts.keys())
        now = self._index.clock()
        return [
            (
                row,
                decide(
                    here.get(row.study_uid, {}),
                    row.last_arrival,
                    announced.get(row.study_uid),
                    counts.get(row.study_uid),
                    self._settings.complete,
                    now,
                ),
            )
            for row in rows
        ]

    def to_ask(self, source: Source) -> list[tuple[StudyRow, Count]]:
        """The studies about which an archive is to be asked now, and what it said of them before."""
        quiet = self._index.quiet(SHORT_QUIET_SECONDS)
        rows = [row for row in quiet if (from_whom := self._source(row)) and from_whom.name == source.name]
        known = self._known({row.study_uid: source for row in rows})
        here = self._counts.here(known)
        settings, now = self._settings.complete, self._index.clock()
        return [
            (row, count)
            for row in rows
            if (count := known.get(row.study_uid))
            and next_question(here.get(row.study_uid, {}), row.last_arrival, count, settings) <= now
        ]

    def _known(self, studies: dict[str, Source | None]) -> dict[str, Count]:
        """What the archives of these studies said; those that are counted nowhere are left out."""
        counted = {study_uid: source.name for study_uid, source in studies.items() if source}
        said = self._counts.of(counted)
        return {
            # What another archive said is no longer of use.
            uid: said[uid] if uid in said and said[uid].source == name else Count(name)
            for uid, name in counted.items()
        }

    def _source(self, row: StudyRow) -> Source | None:
        """The archive that a study came from, or that counts for its sender; the first one of the settings."""
        sources = [source for source in self._settings.sources if source.counts]
        if not sources:
            return None
        key = (row.study_uid, row.last_arrival)
        if len(self._sources) >= _MOST_KNOWN:
            self._sources.clear()
        try:
            return self._sources[key]
        except KeyError:
            senders = set(self._counts.senders(row.study_uid))
            found = next((s for s in sources if senders & set(s.senders)), None)
            self._sources[key] = found
            return found

    def _announced(self, row: StudyRow, said: tuple[Said, ...]) -> Announced:
        """What was announced beside what is here, which is looked up only when one of the two has changed."""
        if len(self._weighed) >= _MOST_KNOWN:
            self._weighed.clear()
        try:
            return self._weighed[row, said]
        except KeyError:
            found = self._announcements.weigh(row.study_uid, said)
            self._weighed[row, said] = found
            return found
