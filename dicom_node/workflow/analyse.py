"""One algorithm on one series: prepare, infer, encode, check, and open the deliveries."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
from dbos import DBOS

from dicom_node import log
from dicom_node.check.results import check_results
from dicom_node.encode.results import Context, encode_findings, encode_not_analysed
from dicom_node.errors import AlgorithmError, CheckFailed, EncodeError
from dicom_node.model.result import ResultObject, encoded_role
from dicom_node.model.routing import STUDY_INPUTS
from dicom_node.model.states import DeliveryState, RunState
from dicom_node.run.findings_io import load_findings
from dicom_node.run.registry import Algorithm
from dicom_node.store.runs import RunRow
from dicom_node.workflow.comparison import compared, comparison_key, measure_prior
from dicom_node.workflow.deliver import settle
from dicom_node.workflow.services import (
    Services,
    enqueue,
    enqueue_analysis,
    enqueue_run,
    result_key,
    services,
    the_run,
    timed,
)

_logger = log.get("workflow")


@DBOS.workflow(name="analyse", max_recovery_attempts=20)
def analyse_workflow(run_id: str, turn: str) -> None:
    """One algorithm on one series, up to result objects that are ready to leave.

    ``turn`` tells this time from an earlier one that a person had repeated.
    """
    try:
        prepare_step(run_id)
        answer: dict[str, Any] = {}
        for attempt in range(services().settings.run.attempts):
            answer = infer_step(run_id, attempt)
            if answer["outcome"] != "worker_lost":
                break
        if answer["outcome"] in ("failed", "worker_lost"):
            fail_step(run_id, answer["reason"])
            return
        encode_step(run_id, answer)
        if check_step(run_id, answer):
            dispatch_step(run_id, answer.get("reason", ""), turn)
    except Exception as e:  # noqa: BLE001 - the stage's border: whatever goes wrong becomes a state with its reason
        _logger.error("run_broke", run=run_id, error=type(e).__name__)
        fail_step(run_id, f"{type(e).__name__}: {e}")


def input_paths(s: Services, run: RunRow) -> list[Path]:
    """The run's input files.

    Raises:
        FileNotFoundError: one is gone.
    """
    paths = [s.files.path(i.path) for i in s.index.instances(run.inputs)]
    gone = [p for p in paths if not p.is_file()]
    if gone or len(paths) != len(run.inputs):
        raise FileNotFoundError(f"{len(run.inputs) - len(paths) + len(gone)} input files are gone from the store")
    return paths


@DBOS.step(name="prepare")
def prepare_step(run_id: str) -> None:
    """The run begins."""
    s = services()
    run = the_run(run_id)
    s.runs.set_state(run_id, RunState.RUNNING)
    ids = {"run": run_id, "StudyInstanceUID": run.study_uid, "algorithm": run.algorithm}
    _logger.info("run_started", **ids, waited=round(time.time() - run.created, 3))


@DBOS.step(name="infer")
def infer_step(run_id: str, attempt: int) -> dict[str, Any]:
    """Run the model in a worker process. A lost worker is told as a value: the workflow decides what follows."""
    s = services()
    run = the_run(run_id)
    algorithm = s.algorithms.get(run.algorithm)
    if algorithm is None:
        return {"outcome": "failed", "reason": f"the algorithm {run.algorithm} is no longer installed"}
    try:
        with timed(run_id, "infer"):
            answer = s.pool.run(algorithm, input_paths(s, run), s.folder(run_id))
    except AlgorithmError as e:
        _logger.error("worker_lost", run=run_id, attempt=attempt + 1, reason=str(e))
        return {"outcome": "worker_lost", "reason": f"{e} (attempt {attempt + 1} of {s.settings.run.attempts})"}
    except FileNotFoundError as e:
        return {"outcome": "failed", "reason": str(e)}
    machine = answer.pop("machine")
    keys = (
        "waited_seconds",
        "together",
        "read_seconds",
        "infer_seconds",
        "seconds",
        "cpu_seconds",
        "peak_memory_mb",
        "details",
        "notes",
        "reason",
    )
    identity = vars(algorithm.identity)
    # Of an earlier time that a person had repeated only what does not depend on the outcome stays.
    kept = {k: v for k, v in run.record.items() if k not in (*keys, "missing")}
    record = {**kept, "machine": machine, "algorithm": identity, "outcome": answer["outcome"]}
    record |= {k: answer[k] for k in keys if k in answer}
    s.runs.set_outcome(run_id, answer.get("measurements", []), record)
    if answer["outcome"] == "found" and "prior" in record:
        _compare(s, run_id, algorithm, answer)
    return {k: answer[k] for k in ("outcome", "reason", "order") if k in answer}


def _compare(s: Services, run_id: str, algorithm: Algorithm, answer: Mapping[str, Any]) -> None:
    """Measure the run's prior study, and keep the changes with the run's measurements."""
    run = the_run(run_id)
    there_is_one = run.record["prior"]["state"] == "found"
    with timed(run_id, "infer prior") if there_is_one else nullcontext():
        prior = measure_prior(s, run, algorithm)
    findings, headers = load_findings(s.folder(run_id)), run_headers(s, run, answer)[:1]
    run = replace(run, record={**run.record, "prior": prior})
    try:
        both = compared(s, run, algorithm, findings, headers)
    except (EncodeError, OSError, LookupError) as e:
        _logger.error("prior_not_compared", run=run_id, error=type(e).__name__)
        prior = {**(prior or {}), "state": "none", "reason": "A prior study was found, but could not be compared with."}
        run = replace(run, record={**run.record, "prior": prior})
        both = compared(s, run, algorithm, findings, headers)
    measurements = [{**asdict(m), "flag": m.flag} for m in both.findings.measurements]
    s.runs.set_outcome(run_id, measurements, {**run.record, "notes": list(both.findings.notes)})


@DBOS.step(name="fail")
def fail_step(run_id: str, reason: str) -> None:
    """The last attempt has failed: keep the reason for a person."""
    services().runs.set_state(run_id, RunState.FAILED, reason)
    _logger.error("run_failed", run=run_id)


def read_headers(paths: list[Path]) -> list[pydicom.Dataset]:
    """Headers of these files without their pixels, in this order."""
    return [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]


def run_headers(s: Services, run: RunRow, answer: Mapping[str, Any]) -> list[pydicom.Dataset]:
    """Headers of the run's input: in slice order where there is a volume, else in the order of the UIDs."""
    order = answer.get("order")
    return read_headers([Path(p) for p in order] if order else input_paths(s, run))


def replaced_reports(s: Services, run: RunRow) -> tuple[ResultObject, ...]:
    """The reports of the same input's last revision that went out, which this run's reports replace.

    The input of a cine, or of frames, is the study, of which late series may come first: its run need not name
    the same series again.
    """
    algorithm = s.algorithms.get(run.algorithm)
    of_study = algorithm is not None and algorithm.manifest.input in STUDY_INPUTS
    earlier = [
        r
        for r in s.runs.all(run.study_uid)
        if r.algorithm == run.algorithm and (of_study or r.series_uid == run.series_uid) and r.revision < run.revision
    ]
    for r in sorted(earlier, key=lambda r: r.revision, reverse=True):
        went_out = {d.sop_uid for d in s.runs.deliveries(r.run_id)}
        reports = [o for o in s.runs.results(r.run_id) if o.role.split("_")[0] == "sr" and o.SOPInstanceUID in went_out]
        if reports:
            return tuple(reports)
    return ()


@DBOS.step(name="encode")
def encode_step(run_id: str, answer: dict[str, Any]) -> None:
    """Write the result objects. The same run makes the same bytes, whenever and wherever this is repeated."""
    s = services()
    run = the_run(run_id)
    algorithm = s.algorithms[run.algorithm]
    out = s.folder(run_id) / "results"
    with timed(run_id, "encode"):
        results = s.settings.results
        context = Context(
            identity=algorithm.identity,
            procedure=algorithm.procedure,
            node_id=s.settings.node_id,
            key=result_key(s.settings, algorithm, run.study_uid, s.index.instances(run.inputs)),
            when=datetime.fromtimestamp(int(run.created)),
            series_number=results.first_series_number(run.algorithm, s.algorithms),
            institution_name=results.institution_name,
            series_description=results.series_description,
            source_dates=results.series_date == "source",
            predecessors=replaced_reports(s, run),
            comparison=comparison_key(run) if answer["outcome"] == "found" else "",
        )
        headers = run_headers(s, run, answer)
        objects: tuple[ResultObject, ...]
        missing: dict[str, str] = {}
        to = [d for d in s.settings.destinations if d.name in run.destinations]
        views = {role for d in to for role in d.results}
        if answer["outcome"] == "found":
            encodings = {d.seg_encoding for d in to}
            both = compared(s, run, algorithm, load_findings(s.folder(run_id)), headers)
            objects = encode_findings(
                both.findings, headers, context, out, views, both.prior, encodings=encodings, missing=missing
            )
        else:
            objects = encode_not_analysed(answer["reason"], headers, context, out, views, missing=missing)
        s.runs.set_results(run_id, objects)
    if missing:
        # The record goes out all the same; what is missing is told wherever the run is shown.
        why_none = [] if answer["outcome"] == "found" else [answer["reason"]]
        reason = "; ".join([*why_none, *(f"the result {role} could not be made: {w}" for role, w in missing.items())])
        s.runs.set_record(run_id, {**run.record, "missing": missing, "reason": reason})
        _logger.error("view_missing", run=run_id, views=sorted(missing))


def _taken(s: Services, to: str, objects: Sequence[ResultObject]) -> list[str]:
    """The SOP Instance UIDs of what a destination takes.

    Of one that is configured no more the record, whose delivery then fails. Where there is no SEG in the encoding that
    it takes (nothing was found, or the findings cannot be written so) it gets what there is.
    """
    destination = next((d for d in s.settings.destinations if d.name == to), None)
    roles: Sequence[str] = ("seg", "sr")
    by_role = {o.role: o.SOPInstanceUID for o in objects}
    if destination is not None:
        encoded = {role: encoded_role(role, destination.seg_encoding) for role in ("seg", "sr")}
        roles = [encoded[r] if encoded.get(r) in by_role else r for r in destination.results]
    return [by_role[role] for role in roles if role in by_role]


@DBOS.step(name="check")
def check_step(run_id: str, answer: dict[str, Any]) -> bool:
    """Cross-check the results with their sources; a result that contradicts them is set aside."""
    s = services()
    run = the_run(run_id)
    with timed(run_id, "check"):
        results = [o.path for o in s.runs.results(run_id)]
        headers = run_headers(s, run, answer)
        findings, prior = None, None
        if answer["outcome"] == "found":
            findings = load_findings(s.folder(run_id))
            prior = compared(s, run, s.algorithms[run.algorithm], findings, headers).checked
        problems = check_results(results, headers, findings=findings, prior=prior)
    if not problems:
        return True
    s.runs.set_state(run_id, RunState.SET_ASIDE, str(CheckFailed(problems)))
    _logger.error("result_set_aside", run=run_id, problems=problems)
    return False


@DBOS.step(name="dispatch")
def dispatch_step(run_id: str, reason: str, turn: str) -> None:
    """Open a delivery to each destination. ``reason``: why the series was not analysed, or empty."""
    s = services()
    run = the_run(run_id)
    if run.state != RunState.RUNNING:
        return  # done before: the state and the deliveries' rows commit together
    objects = s.runs.results(run_id)
    with s.engine.begin() as c:
        s.runs.set_state(run_id, RunState.DELIVERING, reason, c)
        for to in run.destinations:
            s.runs.open_deliveries(c, run_id, to, _taken(s, to, objects))
            first = f"{run_id}/to/{to}/{turn}/1"
            enqueue(s, c, "deliver", first, run_id, to, turn, 1, s.index.clock(), to=to)
    settle(s, run_id)


def retry(s: Services, run_id: str) -> None:
    """Run a failed or set-aside run again; what was confirmed is not sent again.

    A run that failed on its way out is not analysed again: the same objects, which some destination may have
    already, are sent to those that lack them.

    Raises:
        LookupError: there is no such run.
        ValueError: the run has not ended badly.
    """
    run = s.runs.get(run_id)
    if run is None:
        raise LookupError(f"there is no run {run_id}")
    failed = {d.destination for d in s.runs.deliveries(run_id) if d.state == DeliveryState.FAILED}
    turn = f"again-{s.index.clock():.3f}"
    with s.engine.begin() as c:
        s.runs.reopen(c, run_id, RunState.DELIVERING if failed else RunState.QUEUED)
        if not failed:
            algorithm = s.algorithms.get(run.algorithm)
            if algorithm is None:
                enqueue_analysis(s, c, run_id, None, turn)  # which says so
            else:
                enqueue_run(s, c, run_id, algorithm, turn)
        for to in sorted(failed):
            enqueue(s, c, "deliver", f"{run_id}/to/{to}/{turn}/1", run_id, to, turn, 1, s.index.clock(), to=to)
