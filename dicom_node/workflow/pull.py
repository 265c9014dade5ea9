"""Studies come from other archives: on demand, on a schedule, or as an Orthanc reports them.

Everything that is asked for is a row, and so is the point up to which an Orthanc's changes were read: the ticks that
work on them may be killed anywhere, and a repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from dicom_node import log
from dicom_node.deliver.retry import next_wait
from dicom_node.errors import ConfigurationError, OutOfResources, PeerError
from dicom_node.model.instance import valid_uid
from dicom_node.model.states import PullState
from dicom_node.peer.archive import StudyFound, StudyQuery, find_studies
from dicom_node.peer.http import HttpPeer
from dicom_node.receive.fetch import fetch_study
from dicom_node.receive.fetch_web import changes_since, last_change
from dicom_node.receive.intake import Intake
from dicom_node.settings import Source
from dicom_node.store.priors import PriorFetches
from dicom_node.store.pulls import PullRow, Pulls
from dicom_node.workflow.services import Services

_logger = log.get("workflow")


def pulls_of(s: Services) -> Pulls:
    """The rows of what is asked for."""
    return Pulls(s.engine, s.index.clock)


def ask_source(
    s: Services, name: str, accessions: Sequence[str], studies: Sequence[str], list_file: Path | None
) -> tuple[int, list[str]]:
    """Ask a source for studies by accession number, by UID, or by the lines of a file, each one or the other.

    Returns:
        How many studies are asked for, and the numbers and UIDs for which the archive has none.

    Raises:
        ConfigurationError: no such source; the file cannot be read; nothing is named; a wildcard.
        PeerError: the archive cannot be asked.
    """
    source = s.settings.source(name)
    named = [(value, "AccessionNumber") for value in accessions] + [(value, "StudyInstanceUID") for value in studies]
    if list_file is not None:
        try:
            lines = list_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigurationError(f"--list {list_file}: cannot be read as UTF-8 text") from e
        values = dict.fromkeys(line.strip() for line in lines if line.strip())
        named += [(value, "StudyInstanceUID" if _is_study_uid(value) else "AccessionNumber") for value in values]
    if not named:
        raise ConfigurationError("name the studies: --accession, --study or --list")
    try:
        queries = {StudyQuery(**{keyword: value}): value for value, keyword in named}
    except ValueError as e:
        raise ConfigurationError(f"the studies cannot be asked for: {e}") from e
    found = ask_for(s, source, list(queries))
    uids = {study.StudyInstanceUID for several in found.values() for study in several}
    return len(uids), [queries[query] for query, several in found.items() if not several]


def _is_study_uid(value: str) -> bool:
    """Whether a line is a UID; accession numbers may be digits, but hold no three dots."""
    return valid_uid(value) and value.count(".") >= 3


def ask_for(s: Services, source: Source, queries: list[StudyQuery]) -> dict[StudyQuery, list[StudyFound]]:
    """Find out which studies these are, and ask for them; the serving node fetches them.

    Returns:
        What was found for each query; of what the archive does not have, nothing.

    Raises:
        PeerError: the archive cannot be asked; nothing is asked for then.
    """
    found = {query: find_studies(source, s.settings.receive.ae_title, query) for query in queries}
    with s.engine.begin() as c:
        for studies in found.values():
            for study in studies:
                PriorFetches(s.engine, s.index.clock).release(c, study.StudyInstanceUID)
            pulls_of(s).ask(c, source.name, ((study.StudyInstanceUID, study.instances) for study in studies))
    return found


def fetch_due(s: Services, source: Source, intake: Intake) -> int:
    """Fetch what is due from one source, one study after another; returns how many are done."""
    pulls = pulls_of(s)
    return sum(_fetch(s, pulls, source, row, intake) for row in pulls.due(source.name))


def _fetch(s: Services, pulls: Pulls, source: Source, row: PullRow, intake: Intake) -> bool:
    ids = {"source": source.name, "StudyInstanceUID": row.study_uid, "attempt": row.attempts + 1}
    try:
        fetched = fetch_study(source, s.settings.receive.ae_title, row.study_uid, intake)
        came = fetched.kept + fetched.refused
        if row.instances is not None and came < row.instances:
            raise PeerError(f"{source.name} gave {came} of the {row.instances} instances that it says it has")
    except (PeerError, OutOfResources) as e:
        late = s.index.clock() - row.asked > source.give_up_hours * 3600
        if late or (isinstance(e, PeerError) and not e.retryable):
            pulls.settle(row, PullState.FAILED, f"given up after {source.give_up_hours:g} h: {e}" if late else str(e))
            _logger.error("pull_failed", **ids, reason=str(e))
        else:
            wait = next_wait(row.attempts + 1, source.retry_first_seconds, source.retry_longest_seconds)
            pulls.settle(row, PullState.PENDING, str(e), wait)
            _logger.warning("pull_waits", **ids, reason=str(e), seconds=wait)
        return False
    reason = f"the node does not take {fetched.refused} of {came} instances" if fetched.refused else ""
    pulls.settle(row, PullState.DONE, reason)
    _logger.info("study_pulled", **ids, kept=fetched.kept, refused=fetched.refused)
    return True


def look_for_new(s: Services, source: Source) -> None:
    """Ask a source for what is new: the changes of an Orthanc that is followed, the studies of a scheduled query.

    That it cannot be asked is logged: the next tick asks again.
    """
    try:
        if source.follow:
            _follow(s, source)
        if source.query_days:
            _query(s, source)
    except PeerError as e:
        _logger.warning("source_not_asked", source=source.name, reason=str(e))


def _follow(s: Services, source: Source) -> None:
    pulls = pulls_of(s)
    with HttpPeer(source, str(source.orthanc_url)) as web:
        last = last_change(web)
        point = pulls.point(source.name)
        if point is None:
            point = 0 if source.follow_from == "beginning" else last
        elif point > last:
            # Its database is another one: numbers begin anew, and what it has may be new to us.
            _logger.warning("changes_began_anew", source=source.name, point=point, last=last)
            point = 0
        done = False
        while not done:
            page = changes_since(web, point)
            with s.engine.begin() as c:
                pulls.ask(c, source.name, ((uid, None) for uid in page.studies))
                pulls.set_point(c, source.name, page.point)
            # A page that leads nowhere would be read for ever.
            done = page.done or page.point <= point
            point = page.point


def _query(s: Services, source: Source) -> None:
    pulls = pulls_of(s)
    today = datetime.fromtimestamp(s.index.clock()).astimezone()
    days = f"{today - timedelta(days=source.query_days - 1):%Y%m%d}-{today:%Y%m%d}"
    for modality in source.query_modalities or ("",):
        query = StudyQuery(StudyDate=days, ModalitiesInStudy=modality)
        found = find_studies(source, s.settings.receive.ae_title, query)
        new = [study for study in found if _is_new(pulls.get(source.name, study.StudyInstanceUID), study)]
        with s.engine.begin() as c:
            pulls.ask(c, source.name, ((study.StudyInstanceUID, study.instances) for study in new))


def _is_new(known: PullRow | None, study: StudyFound) -> bool:
    """Whether a study was never asked for, or has more instances than when it was."""
    if known is None:
        return True
    return known.state == PullState.DONE and (study.instances or 0) > (known.instances or 0)
