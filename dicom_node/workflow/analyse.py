"""One algorithm on one series: prepare, infer, encode, check, and open the deliveries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
from dbos import DBOS

from dicom_node import log
from dicom_node.check.results import check_results
from dicom_node.encode.results import Context, encode_findings, encode_not_analysed
from dicom_node.errors import AlgorithmError, CheckFailed
from dicom_node.model.result import ResultObject
from dicom_node.model.routing import STUDY_INPUTS
from dicom_node.model.states import DeliveryState, RunState
from dicom_node.run.findings_io import load_findings
from dicom_node.store.runs import RunRow
from dicom_node.workflow.deliver import settle
from dicom_node.workflow.services import Services, analysis_queue, enqueue, result_key, services, the_run, timed

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
    record = {**run.record, "machine": machine, "algorithm": identity, "outcome": answer["outcome"]}
    record |= {k: answer[k] for k in keys if k in answer}
    s.runs.set_outcome(run_id, answer.get("measurements", []), record)
    return {k: answer[k] for k in ("outcome", "reason", "order") if k in answer}


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


def replaced_report(s: Services, run: RunRow) -> ResultObject | None:
    """The report of the same input's last revision that went out, which this run's report replaces.

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
        for o in s.runs.results(r.run_id):
            if o.role == "sr" and o.SOPInstanceUID in went_out:
                return o
    return None


@DBOS.step(name="encode")
def encode_step(run_id: str, answer: dict[str, Any]) -> None:
    """Write the result objects. The same run makes the same bytes, whenever and wherever this is repeated."""
    s = services()
    run = the_run(run_id)
    algorithm = s.algorithms[run.algorithm]
    out = s.folder(run_id) / "results"
    with timed(run_id, "encode"):
        position = sorted(s.algorithms).index(run.algorithm)
        context = Context(
            identity=algorithm.identity,
            procedure=algorithm.procedure,
            node_id=s.settings.node_id,
            key=result_key(s.settings, algorithm, run.study_uid, s.index.instances(run.inputs)),
            when=datetime.fromtimestamp(int(run.created)),
            series_number=s.settings.results.series_number_base + 10 * position,
            institution_name=s.settings.results.institution_name,
            predecessor=replaced_report(s, run),
        )
        headers = run_headers(s, run, answer)
        objects: tuple[ResultObject, ...]
        if answer["outcome"] == "found":
            objects = encode_findings(load_findings(s.folder(run_id)), headers, context, out, _wanted(s, run))
        else:
            objects = encode_not_analysed(answer["reason"], headers, context, out)
        s.runs.set_results(run_id, objects)


def _wanted(s: Services, run: RunRow) -> set[str]:
    """The roles that the run's destinations take."""
    return {role for to in run.destinations for role in _taken(s, to)}


def _taken(s: Services, to: str) -> tuple[str, ...]:
    """The roles that a destination takes; of one that is configured no more the record, whose delivery then fails."""
    return next((d.results for d in s.settings.destinations if d.name == to), ("seg", "sr"))


@DBOS.step(name="check")
def check_step(run_id: str, answer: dict[str, Any]) -> bool:
    """Cross-check the results with their sources; a result that contradicts them is set aside."""
    s = services()
    run = the_run(run_id)
    with timed(run_id, "check"):
        findings = load_findings(s.folder(run_id)) if answer["outcome"] == "found" else None
        results = [o.path for o in s.runs.results(run_id)]
        problems = check_results(results, run_headers(s, run, answer), findings=findings)
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
            uids = [o.SOPInstanceUID for o in objects if o.role in _taken(s, to)]
            s.runs.open_deliveries(c, run_id, to, uids)
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
            queue = analysis_queue(s.algorithms.get(run.algorithm))
            enqueue(s, c, "analyse", f"{run_id}/{turn}", run_id, turn, queue=queue)
        for to in sorted(failed):
            enqueue(s, c, "deliver", f"{run_id}/to/{to}/{turn}/1", run_id, to, turn, 1, s.index.clock(), to=to)
