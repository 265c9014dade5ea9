"""What becomes of a workitem's study: its input, its runs, their results. Nothing here talks to the worklist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dicom_node.model.states import RUN_ENDED, DeliveryState, PullState, RunState, StudyState
from dicom_node.model.workitem import (
    EQUIPMENT_FAILURE,
    OBJECTS_MISSING,
    SCHEDULED,
    TYPES_NOT_SUPPORTED,
    UNSPECIFIED,
    Coded,
    Workitem,
)
from dicom_node.peer.ups_datasets import OutputSeries, Performed
from dicom_node.settings import Destination, Settings, Worklist
from dicom_node.settings_worklists import WorkitemCode
from dicom_node.store.runs import RunRow
from dicom_node.store.workitems import WorkitemRow
from dicom_node.workflow.analyse import retry
from dicom_node.workflow.pull import pulls_of
from dicom_node.workflow.services import Services

_GRACE_SECONDS = 5.0
"""Rows follow the instances that were fetched within moments."""
_LONGEST_REASON = 1000
_STATION_SCHEME = "99DICOM_NODE"

_PROGRESS: Mapping[RunState, tuple[int, str]] = {
    RunState.QUEUED: (30, "waits for a worker"),
    RunState.RUNNING: (50, "the analysis runs"),
    RunState.DELIVERING: (80, "results are on their way"),
}


@dataclass(frozen=True)
class UnderWay:
    """It goes on."""

    percent: int
    text: str


@dataclass(frozen=True)
class Over:
    """It has ended, or cannot be.

    Attributes:
        done: every run that was wanted has its results delivered.
        reason: why not; of what was done, what else is to be said.
        code: why it was discontinued, where it is not done.
    """

    done: bool
    reason: str
    code: Coded = UNSPECIFIED


@dataclass(frozen=True)
class Ready:
    """The next step can begin."""


def station_of(settings: Settings, worklist: Worklist) -> Coded:
    """The node's Station Name Code."""
    if worklist.station is not None:
        return Coded(worklist.station.value, worklist.station.scheme, worklist.station.meaning)
    return Coded(settings.node_id[:16], _STATION_SCHEME, settings.node_id[:64])


def scheduled_query(code: WorkitemCode) -> dict[str, str]:
    """What finds the workitems of a code that can be begun: attributes by keyword, those in sequences dotted."""
    return {
        "ProcedureStepState": SCHEDULED,
        "InputReadinessState": "READY",
        "ScheduledWorkitemCodeSequence.CodeValue": code.value,
        "ScheduledWorkitemCodeSequence.CodingSchemeDesignator": code.scheme,
    }


def wanted_code(settings: Settings, worklist: Worklist, item: Workitem) -> tuple[Coded, str] | None:
    """The code and the algorithm for which the node takes a workitem; None: it is for others, or not to be done yet."""
    if item.state != SCHEDULED or item.readiness != "READY":
        return None
    if item.stations and station_of(settings, worklist).same not in {station.same for station in item.stations}:
        return None
    algorithms = {(w.value, w.scheme): w.algorithm for w in worklist.workitems}
    for code in item.codes:
        if code.same in algorithms:
            return code, algorithms[code.same]
    return None


@dataclass(frozen=True)
class Needed:
    """What a workitem works on.

    Attributes:
        source: name of the source that has it; empty: all of it is here.
        problem: why it cannot be worked on; then the rest is empty.
    """

    study_uid: str = ""
    instances: tuple[str, ...] = ()
    source: str = ""
    problem: str = ""


def needed_input(s: Services, worklist: Worklist, item: Workitem) -> Needed:
    """Which study and instances a workitem is about, and where they come from.

    Only the configured sources are asked: an address in a workitem is compared with theirs, never followed.
    """
    studies = {series.study_uid for series in item.inputs if series.study_uid}
    study_uid = item.study_uid if item.study_uid in studies or not studies else ""
    if not study_uid and len(studies) == 1:
        (study_uid,) = studies
    if not study_uid:
        said = f"is of {len(studies)} studies" if studies else "names no study"
        return Needed(problem=f"its input {said}: the node analyses one study for a workitem")
    series = [i for i in item.inputs if i.study_uid == study_uid]
    instances = tuple(dict.fromkeys(uid for i in series for uid in i.instances))
    if instances and not missing(s, study_uid, instances):
        return Needed(study_uid, instances)
    titles = {title for i in series for title in i.ae_titles}
    urls = [url for i in series for url in i.urls]
    for source in s.settings.sources:
        root = f"{(source.dicomweb_url or '').rstrip('/')}/"
        if source.ae_title in titles or (len(root) > 1 and any(url.startswith(root) for url in urls)):
            return Needed(study_uid, instances, source.name)
    if worklist.source is not None:
        return Needed(study_uid, instances, worklist.source)
    if not instances and s.index.study(study_uid) is not None:
        return Needed(study_uid)
    places = ", ".join(sorted(titles) + sorted(urls)) or "it names no place"
    return Needed(problem=f"its input is at none of the node's sources ({places})")


def missing(s: Services, study_uid: str, instances: Sequence[str]) -> int:
    """How many of the instances are not here; without names, whether anything of the study is."""
    if not instances:
        return int(s.index.count(study_uid) == 0)
    return len(instances) - len(s.index.instances(instances))


def input_state(s: Services, row: WorkitemRow) -> UnderWay | Over | Ready:
    """Whether the input is here."""
    pull = pulls_of(s).get(row.source, row.study_uid)
    if pull is not None and pull.state == PullState.PENDING:
        return UnderWay(10, "its input is fetched")
    lacking = missing(s, row.study_uid, row.inputs)
    if not lacking:
        return Ready()
    if pull is None:
        return Over(False, "its input was removed from the node", OBJECTS_MISSING)
    if pull.state == PullState.FAILED:
        return Over(False, f"its input could not be fetched: {pull.reason}", OBJECTS_MISSING)
    if s.index.clock() - (pull.ended or 0) < _GRACE_SECONDS:
        return UnderWay(10, "its input is fetched")
    of = f"{lacking} of the {len(row.inputs)} instances" if row.inputs else "anything"
    refused = f" ({pull.reason})" if pull.reason else ""
    return Over(False, f"{row.source} did not give {of} that are its input{refused}", OBJECTS_MISSING)


def is_settled(s: Services, study_uid: str) -> bool:
    """Whether a study is not about to be routed."""
    study = s.index.study(study_uid)
    return study is None or study.state not in (StudyState.RECEIVING, StudyState.COMPLETE)


def work_state(s: Services, row: WorkitemRow) -> UnderWay | Over:
    """How far the analysis of a workitem is whose input is here. What had failed before it was claimed runs again."""
    study = s.index.study(row.study_uid)
    if study is None:
        return Over(False, "its study was removed from the node", EQUIPMENT_FAILURE)
    if not is_settled(s, row.study_uid):
        return UnderWay(20, "its study is about to be routed")
    if study.state == StudyState.REFUSED:
        return Over(False, f"the study is refused: {study.reason}", TYPES_NOT_SUPPORTED)
    routes = [r for r in s.runs.routes(row.study_uid) if r["algorithm"] == row.algorithm]
    routes = [r for r in routes if r["revision"] == study.revision]
    runs = runs_of(s, row)
    if not runs:
        return Over(False, _not_routed(s, row, routes), TYPES_NOT_SUPPORTED)
    for run in runs:
        if run.state in (RunState.FAILED, RunState.SET_ASIDE) and (run.ended or 0) < row.claimed:
            retry(s, run.run_id)
            return UnderWay(*_PROGRESS[RunState.QUEUED])
    open_runs = [run.state for run in runs if run.state not in RUN_ENDED]
    if open_runs:
        return UnderWay(*min(_PROGRESS[state] for state in open_runs))
    return _outcome(runs)


def _outcome(runs: Sequence[RunRow]) -> Over:
    by_state = {state: [r for r in runs if r.state == state] for state in RUN_ENDED}
    failed = [r.reason for r in (*by_state[RunState.FAILED], *by_state[RunState.SET_ASIDE])]
    unfit = [f"Not analysed, because {r.reason}" for r in by_state[RunState.NOT_ANALYSED]]
    if failed:
        return Over(False, _joined(failed + unfit), EQUIPMENT_FAILURE)
    if not by_state[RunState.DONE]:
        return Over(False, _joined(unfit), TYPES_NOT_SUPPORTED)
    return Over(True, _joined(unfit))


def runs_of(s: Services, row: WorkitemRow) -> list[RunRow]:
    """The latest runs of the workitem's algorithm on its input: none of them has an image of another of them."""
    named = set(row.inputs)
    wanted = {
        r["series_uid"] for r in _latest_routes(s, row.study_uid) if r["wanted"] and r["algorithm"] == row.algorithm
    }
    found: list[RunRow] = []
    seen: set[str] = set()
    candidates = [r for r in s.runs.all(row.study_uid) if r.algorithm == row.algorithm and r.series_uid in wanted]
    for run in sorted(candidates, key=lambda r: (r.revision, r.created), reverse=True):
        inputs = set(run.inputs)
        if not inputs & seen and (not named or inputs & named):
            found.append(run)
        seen |= inputs
    return found


def _latest_routes(s: Services, study_uid: str) -> list[Mapping[str, object]]:
    routes = s.runs.routes(study_uid)
    latest = max((int(r["revision"]) for r in routes), default=0)
    return [r for r in routes if r["revision"] == latest]


def _not_routed(s: Services, row: WorkitemRow, routes: Sequence[Mapping[str, object]]) -> str:
    """Why nothing is run on a workitem's input."""
    named = set(row.inputs)
    series = {
        x.SeriesInstanceUID
        for x in s.index.series(row.study_uid)
        if not named or named & {i.SOPInstanceUID for i in x.instances}
    }
    reasons = [str(r["reason"]) for r in routes if r["series_uid"] in series and not r["wanted"]]
    return f"{row.algorithm} does not suit: " + (_joined(reasons) or "no rule runs it on such a study")


def stop_runs(s: Services, row: WorkitemRow, reason: str) -> None:
    """End the runs that were made for a workitem and have not come to their results; others' runs go on."""
    for run in runs_of(s, row):
        if run.created >= row.claimed and run.state in (RunState.QUEUED, RunState.RUNNING):
            under_way = s.client.list_workflows(
                workflow_id_prefix=[run.run_id], status=["ENQUEUED", "PENDING", "DELAYED"], load_input=False
            )
            s.client.cancel_workflows([w.workflow_id for w in under_way])
            s.runs.stop(run.run_id, reason)


def performed(s: Services, worklist: Worklist, row: WorkitemRow) -> Performed:
    """What was done for a workitem whose end is decided."""
    end = row.claimed if row.decided is None else row.decided
    return Performed(
        station=station_of(s.settings, worklist),
        workitem=row.code,
        start=datetime.fromtimestamp(row.claimed).astimezone(),
        end=datetime.fromtimestamp(end).astimezone(),
        outputs=tuple(_outputs(s, row)),
        comment=f"For research use only. {row.reason}".strip(),
    )


def _outputs(s: Services, row: WorkitemRow) -> list[OutputSeries]:
    """The results that have arrived, or were sent: one item for each series and place."""
    destinations = {d.name: d for d in s.settings.destinations}
    found: list[OutputSeries] = []
    for run in reversed(runs_of(s, row)):
        results = {o.SOPInstanceUID: o for o in s.runs.results(run.run_id)}
        there: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for d in s.runs.deliveries(run.run_id):
            arrived = d.state in (DeliveryState.SENT, DeliveryState.CONFIRMED)
            if arrived and d.destination in destinations and d.sop_uid in results:
                o = results[d.sop_uid]
                there.setdefault((d.destination, o.SeriesInstanceUID), []).append((o.SOPClassUID, o.SOPInstanceUID))
        for (name, series_uid), instances in there.items():
            ae_title, url = _place(destinations[name], run.study_uid, series_uid)
            found.append(OutputSeries(run.study_uid, series_uid, tuple(instances), ae_title, url))
    return found


def _place(destination: Destination, study_uid: str, series_uid: str) -> tuple[str, str]:
    """Where others retrieve what was delivered there: an AE title, and a URL of WADO-RS."""
    url = ""
    if destination.dicomweb_url:
        url = f"{destination.dicomweb_url.rstrip('/')}/studies/{study_uid}/series/{series_uid}"
    return destination.ae_title or "", url


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))[:_LONGEST_REASON]
