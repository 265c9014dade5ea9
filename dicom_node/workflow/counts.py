"""Archives are asked how many instances they have of the studies that come from them."""

from __future__ import annotations

from dataclasses import replace

from dicom_node import log
from dicom_node.complete.evidence import Evidence
from dicom_node.errors import PeerError
from dicom_node.model.completeness import Count
from dicom_node.model.states import StudyState
from dicom_node.peer.counts import SeriesCount, count_instances
from dicom_node.settings import Source
from dicom_node.store.counts import Counts
from dicom_node.store.index import StudyRow
from dicom_node.workflow.services import Services
from dicom_node.workflow.study import sweep

_logger = log.get("workflow")


def ask_counts(s: Services, source: Source, evidence: Evidence) -> int:
    """Ask an archive about those studies that it is time for; returns how many answers came."""
    answers = 0
    for row, count in evidence.to_ask(source):
        now = s.index.study(row.study_uid)
        # A slow archive leaves time for much to happen to the next study.
        if now is not None and now.state == StudyState.RECEIVING and _ask(s, source, row, count):
            answers += 1
            sweep(s, evidence)  # the answer may be what a study waits for
    return answers


def _ask(s: Services, source: Source, row: StudyRow, count: Count) -> bool:
    counts = Counts(s.engine)
    here = counts.here([row.study_uid]).get(row.study_uid, {})
    puzzling: list[str] = []
    if count.asked is not None and count.since is not None:
        # What stands still and is more than ours may be objects in an image's series that are no images.
        stood = count.asked - count.since >= s.settings.complete.settle_seconds
        puzzling = [uid for uid, n in count.series.items() if stood and here.get(uid, n) < n]
    asked = s.index.clock()
    try:
        answer = count_instances(source, s.settings.receive.ae_title, row.study_uid, puzzling)
    except PeerError as e:
        counts.keep(row.study_uid, count.not_answered(s.index.clock(), str(e), refused=not e.retryable))
        _logger.warning("count_not_given", source=source.name, StudyInstanceUID=row.study_uid, reason=str(e))
        return False
    own = counts.own_series(row.study_uid)
    series = {x.SeriesInstanceUID: x.instances for x in answer if x.SeriesInstanceUID not in own}
    others = frozenset(x.SeriesInstanceUID for x in answer if not x.has_images)
    said = count.answered(
        {uid: n for uid, n in series.items() if uid not in others},
        {uid: n for uid, n in series.items() if uid in others},
        asked,
        s.index.clock(),
    )
    still_more = {uid: n for uid, n in count.left_out.items() if series.get(uid, 0) > here.get(uid, 0)}
    counts.keep(row.study_uid, replace(said, left_out=still_more | _strangers(s, answer)))
    _logger.debug("count_given", source=source.name, StudyInstanceUID=row.study_uid, instances=sum(series.values()))
    return True


def _strangers(s: Services, answer: list[SeriesCount]) -> dict[str, int]:
    """How many objects of each series are neither images nor here."""
    found = {}
    for series in answer:
        if series.not_images:
            known = {i.SOPInstanceUID for i in s.index.instances(sorted(series.not_images))}
            found[series.SeriesInstanceUID] = len(series.not_images - known)
    return found
