"""A quiet study becomes complete, is routed, and runs are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbos import DBOS

from dicom_node import log
from dicom_node.complete.evidence import Evidence
from dicom_node.model.routing import STUDY_INPUTS
from dicom_node.model.states import RunState, StudyState
from dicom_node.model.uids import derive_uid
from dicom_node.route.decide import Route, decide
from dicom_node.run.registry import Algorithm
from dicom_node.store.counts import Completions
from dicom_node.store.priors import PriorFetches
from dicom_node.store.runs import RunRow
from dicom_node.workflow.services import Services, enqueue, enqueue_run, result_key, services

ONLY_A_PRIOR = "it was fetched to compare another study with, and is not analysed by itself unless it is asked for"

_logger = log.get("workflow")


def sweep(s: Services, evidence: Evidence) -> int:
    """Find studies that are whole, and start their way; returns how many."""
    found = 0
    completions = Completions(s.engine)
    for row, verdict in evidence.verdicts():
        if not verdict.whole:
            continue
        with s.engine.begin() as c:
            if s.index.finish(c, row, StudyState.COMPLETE, ""):
                revision = row.revision + 1
                completions.add(c, row.study_uid, revision, s.index.clock(), verdict)
                enqueue(s, c, "study", f"study:{row.study_uid}:{revision}", row.study_uid, revision)
                found += 1
                ids = {"StudyInstanceUID": row.study_uid, "revision": revision}
                _logger.info("study_complete", **ids, by=str(verdict.by), evidence=verdict.words)
    return found


@DBOS.workflow(name="study", max_recovery_attempts=20)
def study_workflow(study_uid: str, revision: int) -> None:
    """Route one revision of a study."""
    try:
        route_step(study_uid, revision)
    except Exception as e:  # noqa: BLE001 - the stage's border: whatever goes wrong becomes a state with its reason
        _logger.error("routing_broke", StudyInstanceUID=study_uid, error=type(e).__name__)
        refuse_step(study_uid, revision, f"routing failed: {type(e).__name__}: {e}")


@DBOS.step(name="refuse")
def refuse_step(study_uid: str, revision: int, reason: str) -> None:
    """The study cannot be routed: keep the reason for a person."""
    refuse(services(), study_uid, revision, reason)


def refuse(s: Services, study_uid: str, revision: int, reason: str) -> bool:
    """End this revision with a reason; False if it has ended otherwise, or a later image opened it again."""
    study = s.index.study(study_uid)
    if study is None or study.revision != revision or study.state != StudyState.COMPLETE:
        return False
    with s.engine.begin() as c:
        return s.index.finish(c, study, StudyState.REFUSED, reason)


def one_run_each(wanted: Sequence[Route], algorithms: Mapping[str, Algorithm]) -> list[tuple[Route, list[str]]]:
    """The runs to be made, each with its series: a cine, or frames, are one run on all series that suit."""
    runs: dict[tuple[str, str], tuple[Route, list[str]]] = {}
    for r in wanted:
        together = algorithms[r.algorithm].manifest.input in STUDY_INPUTS
        runs.setdefault((r.algorithm, "" if together else r.series_uid), (r, []))[1].append(r.series_uid)
    return list(runs.values())


@DBOS.step(name="route")
def route_step(study_uid: str, revision: int) -> None:
    """Decide what runs, and make the runs."""
    s = services()
    study = s.index.study(study_uid)
    if study is None or study.revision != revision or study.state != StudyState.COMPLETE:
        return  # a later image made another revision, which is routed instead; or this one has been routed
    if PriorFetches(s.engine, s.index.clock).covers(study):
        with s.engine.begin() as c:
            s.index.finish(c, study, StudyState.UNWANTED, ONLY_A_PRIOR)
        _logger.info("study_kept_as_prior", StudyInstanceUID=study_uid, revision=revision)
        return
    series = s.index.series(study_uid)
    accepts = {a.manifest.id: a.accepts for a in s.algorithms.values()}
    decision = decide(series, s.rules, accepts)
    wanted = [r for r in decision.routes if r.wanted]
    state, reason = StudyState.ROUTED, ""
    if decision.refused:
        state, reason, wanted = StudyState.REFUSED, decision.refused, []
    elif not wanted:
        state, reason = StudyState.UNWANTED, "no rule wants any of its series"
    members = {x.SeriesInstanceUID: x for x in series}
    rows = []
    for r in decision.routes:
        row = {"series_uid": r.series_uid, "rule": r.rule, "algorithm": r.algorithm, "wanted": r.wanted}
        rows.append({**row, "reason": r.reason})
    with s.engine.begin() as c:
        if not s.index.finish(c, study, state, reason):
            return
        s.runs.set_routes(c, study_uid, revision, rows)
        for r, series_uids in one_run_each(wanted, s.algorithms):
            algorithm = s.algorithms[r.algorithm]
            instances = [i for uid in series_uids for i in members[uid].instances]
            key = result_key(s.settings, algorithm, study_uid, instances)
            run = RunRow(
                run_id=derive_uid("run", key),
                study_uid=study_uid,
                revision=revision,
                series_uid=r.series_uid,
                algorithm=r.algorithm,
                destinations=tuple(r.deliver_to),
                inputs=tuple(i.SOPInstanceUID for i in instances),
                state=RunState.QUEUED,
                reason="",
                created=s.index.clock(),
                last_arrival=study.last_arrival,
                ended=None,
                measurements=(),
                record={"rule": r.rule, "route": r.reason},
            )
            if s.runs.create(c, run):
                enqueue_run(s, c, run.run_id, algorithm, "first")
    ids = {"StudyInstanceUID": study_uid, "revision": revision}
    _logger.info("study_routed", **ids, state=state, reason=reason, runs=[r.algorithm for r in wanted])
