"""UPS-RS with an origin server that fails on purpose, others who want the same work, and requests to cancel.

The server, its network and the node's rows are real; the study's runs are rows that a test moves on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.deliver.dimse import send
from dicom_node.model.result import ResultObject
from dicom_node.model.states import DeliveryState, PullState, RunState, StudyState, WorkitemState
from dicom_node.settings import Destination, Settings
from dicom_node.store.pulls import Pulls
from dicom_node.store.runs import RunRow, Runs
from dicom_node.store.workitems import WorkitemRow
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from dicom_node.testing.ups_server import Fault, UpsServer
from dicom_node.workflow.ups import Performer
from tests.listening import Listening, listening
from tests.ups_site import CODE, code, input_series, until, workitem

UID = "1.2.3.9"
AFFINE = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A node's rows, and a worklist that is worked on by ``tick``."""

    server: UpsServer
    node: Listening
    clock: Clock
    runs: Runs
    images: list[Dataset]
    files: list[Path]
    canceled_workflows: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    performer: Any = None

    def begin(self, **more: Any) -> None:
        """A (new) process: nothing but the rows is left of an earlier one."""
        if self.performer is not None:
            self.performer.stop()
        self.more |= more
        worklist = {
            "name": "ris",
            "dicomweb_url": self.server.url,
            "workitems": [{"value": CODE[0], "scheme": CODE[1], "algorithm": "liver"}],
            "every_seconds": 10,
            "retry_first_seconds": 5,
            "timeout_seconds": 10,
            **self.more,
        }
        archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 9}
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9, "dicomweb_url": "http://pacs/dw"}
        settings = Settings(worklists=(worklist,), sources=(archive,), destinations=(pacs,))
        cancel = SimpleNamespace(
            list_workflows=lambda workflow_id_prefix, **_: [SimpleNamespace(workflow_id=workflow_id_prefix[0])],
            cancel_workflows=self.canceled_workflows.extend,
        )
        services: Any = SimpleNamespace(
            settings=settings, engine=self.node.index.engine, index=self.node.index, runs=self.runs, client=cancel
        )
        self.performer = Performer(services, settings.worklists[0])
        self.performer.start()

    @property
    def pulls(self) -> Pulls:
        return Pulls(self.node.index.engine, self.clock)

    def schedule(self, uid: str = UID, **more: Any) -> None:
        self.server.worklist.create(uid, workitem(input_series(self.images), **more))

    def tick(self, seconds: float = 0) -> None:
        self.clock.now += seconds
        self.performer.tick()

    def row(self, uid: str = UID) -> WorkitemRow:
        found = self.performer._rows.get("ris", uid)
        assert found is not None
        return found

    def state(self, uid: str = UID) -> str:
        """At the server."""
        return str(self.server.worklist.retrieve(uid).ProcedureStepState)

    def reason(self, uid: str = UID) -> str:
        """Why it was canceled, as the server has it."""
        return str(self.server.worklist.retrieve(uid).ProcedureStepProgressInformationSequence[0].ReasonForCancellation)

    def fetch(self) -> None:
        """The pull that was asked for is done."""
        to = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=self.node.port)
        assert not any(send(to, "ARCHIVE", self.files).values())
        self.node.intake.rows.flush()
        (pull,) = self.pulls.due("archive")
        assert self.pulls.settle(pull, PullState.DONE)

    def route(self, *, wanted: bool = True, reason: str = "body part brain") -> None:
        study = self.node.index.study(str(self.images[0].StudyInstanceUID))
        assert study is not None
        with self.node.index.engine.begin() as c:
            assert self.node.index.finish(c, study, StudyState.COMPLETE, "")
        study = self.node.index.study(study.study_uid)
        assert study is not None
        series = str(self.images[0].SeriesInstanceUID)
        route = {"series_uid": series, "rule": "r", "algorithm": "liver", "wanted": wanted, "reason": reason}
        with self.node.index.engine.begin() as c:
            self.node.index.finish(c, study, StudyState.ROUTED, "")
            self.runs.set_routes(c, study.study_uid, study.revision, [route])
            if wanted:
                self.runs.create(c, self._run(study.revision))

    def _run(self, revision: int) -> RunRow:
        return RunRow(
            run_id="1.2.77",
            study_uid=str(self.images[0].StudyInstanceUID),
            revision=revision,
            series_uid=str(self.images[0].SeriesInstanceUID),
            algorithm="liver",
            destinations=("pacs",),
            inputs=tuple(str(i.SOPInstanceUID) for i in self.images),
            state=RunState.QUEUED,
            reason="",
            created=self.clock(),
            last_arrival=self.clock(),
            ended=None,
            measurements=(),
            record={"outcome": "found"},
        )

    def run_to(self, *states: RunState, reason: str = "") -> None:
        for state in states:
            if state == RunState.DELIVERING:
                self.runs.set_results("1.2.77", [ResultObject("sr", "1.2.77.1", SR, "1.2.77.2", Path("sr"))])
                with self.runs.engine.begin() as c:
                    self.runs.open_deliveries(c, "1.2.77", "pacs", ["1.2.77.1"])
            if state == RunState.DONE:
                self.runs.set_delivery("1.2.77", "pacs", "1.2.77.1", DeliveryState.SENT)
            self.runs.set_state("1.2.77", state, reason)

    def done(self) -> None:
        self.route()
        self.run_to(RunState.RUNNING, RunState.DELIVERING, RunState.DONE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    clock = Clock()
    images = slice_datasets(np.ones((3, 16, 16), np.uint16), AFFINE, key="ups")
    with UpsServer() as server, listening(tmp_path / "node") as node:
        node.index.clock = clock
        site = Site(server, node, clock, Runs(node.index.engine, clock), images, save(tmp_path / "images", images))
        site.begin()
        yield site
        site.performer.stop()


def test_a_workitem_goes_its_way(site: Site) -> None:
    site.schedule()
    site.tick()
    assert (site.row().state, site.state()) == (WorkitemState.FETCHING, "IN PROGRESS")
    assert [(p.source, p.study_uid) for p in site.pulls.all()] == [("archive", site.images[0].StudyInstanceUID)]
    told = []
    running, delivering = (lambda: site.run_to(RunState.RUNNING)), (lambda: site.run_to(RunState.DELIVERING))
    for step in (lambda: None, site.fetch, site.route, running, delivering):
        step()
        for _ in range(2):
            site.tick(1)
        (progress,) = site.server.worklist.retrieve(UID).ProcedureStepProgressInformationSequence
        told.append(int(progress.ProcedureStepProgress))
    assert told == [10, 20, 30, 50, 80]
    site.run_to(RunState.DONE)
    for _ in range(2):
        site.tick(1)

    assert (site.row().state, site.state()) == (WorkitemState.COMPLETED, "COMPLETED")
    (done,) = site.server.worklist.retrieve(UID).UnifiedProcedureStepPerformedProcedureSequence
    (output,) = done.OutputInformationSequence
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.77.1"
    assert output.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    where = f"http://pacs/dw/studies/{site.images[0].StudyInstanceUID}/series/1.2.77.2"
    assert output.WADORSRetrievalSequence[0].RetrieveURL == where
    assert done.PerformedWorkitemCodeSequence[0].CodeValue == CODE[0]
    assert done.PerformedStationNameCodeSequence[0].CodeValue == "dicom-node"
    site.server.asked.clear()
    site.tick(100)
    assert site.server.asked == [("GET", "/workitems", 204)]  # it is looked for new ones, and no more


def test_what_is_here_is_not_fetched(site: Site) -> None:
    to = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=site.node.port)
    assert not any(send(to, "ARCHIVE", site.files).values())
    site.node.intake.rows.flush()
    site.schedule()
    for _ in range(3):
        site.tick(1)
    assert site.row().state == WorkitemState.ANALYSING
    assert site.pulls.all() == []


@pytest.mark.parametrize(
    "more",
    [
        {"codes": [("OTHER", "99X", "other")]},
        {"InputReadinessState": "INCOMPLETE"},
        {"ScheduledStationNameCodeSequence": [code("ELSEWHERE", "99X", "another node")]},
    ],
)
def test_others_work_is_left_alone(site: Site, more: dict[str, Any]) -> None:
    site.schedule(**more)
    site.tick()
    assert site.state() == "SCHEDULED"
    assert site.performer._rows.all() == []


def test_work_for_this_station_is_taken(site: Site) -> None:
    site.begin(station={"value": "AI1", "scheme": "99SITE", "meaning": "the AI node"})
    others = [code("ELSEWHERE", "99X", "another node"), code("AI1", "99SITE", "as the RIS calls it")]
    site.schedule(ScheduledStationNameCodeSequence=others)
    site.tick()
    assert site.state() == "IN PROGRESS"


def test_the_most_urgent_first_and_no_more_than_fit(site: Site) -> None:
    site.begin(at_once=2)
    for number, priority in enumerate(("LOW", "MEDIUM", "HIGH", "HIGH"), 1):
        site.schedule(f"1.2.3.{number}", ScheduledProcedureStepPriority=priority)
    site.tick()
    assert [site.state(f"1.2.3.{n}") for n in range(1, 5)] == ["SCHEDULED"] * 2 + ["IN PROGRESS"] * 2
    site.tick(10)
    assert site.state("1.2.3.2") == "SCHEDULED"


def test_a_workitem_that_another_performer_has_claimed_is_let_go(site: Site) -> None:
    site.schedule()
    taken = Dataset()
    taken.ProcedureStepState, taken.TransactionUID = "IN PROGRESS", "2.25.4711"

    def first(method: str, path: str) -> Fault | None:
        if (method, path) == ("PUT", f"/workitems/{UID}/state") and site.state() == "SCHEDULED":
            site.server.worklist.change_state(UID, taken)
        return None

    site.server.fault = first
    site.tick()
    row = site.row()
    assert (row.state, "HTTP 400 (The Transaction UID is incorrect)" in row.reason) == (WorkitemState.LOST, True)
    assert site.pulls.all() == []
    site.tick(1000)
    assert site.row().state == WorkitemState.LOST


@pytest.mark.parametrize("status", [400, 409])
def test_a_claim_that_is_refused_is_tried_again_after_a_while(site: Site, status: int) -> None:
    site.schedule()
    site.server.fault = lambda method, _: Fault(status) if method == "PUT" else None
    site.tick()
    first = site.row()
    assert first.state == WorkitemState.LOST
    site.server.fault = lambda *_: None
    site.tick(20)
    assert site.state() == "SCHEDULED"
    site.tick(300)
    assert site.state() == "IN PROGRESS"
    assert site.row().transaction_uid != first.transaction_uid


@pytest.mark.parametrize("retrieves", [False, True])
def test_a_claim_whose_answer_was_lost_is_ours(site: Site, retrieves: bool) -> None:
    site.schedule()
    lost = ("GET", f"/workitems/{UID}") if retrieves else ("PUT", f"/workitems/{UID}/state")
    site.server.fault = lambda *asked: Fault(503, performed=True) if asked == lost else None
    site.tick()
    assert (site.row().state, site.state()) == (WorkitemState.CLAIMING, "IN PROGRESS")
    site.server.fault = lambda *_: None
    site.begin()  # the process was killed, too
    site.tick(5)
    assert site.row().state == WorkitemState.FETCHING


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403])
def test_a_storm_of_errors_is_waited_out_at_every_step(site: Site, status: int) -> None:
    """401 and 403, too: credentials that have expired are renewed, and the work is still ours."""
    site.schedule()

    def storm() -> None:
        """Everything fails for a while; then one tick goes through."""
        site.server.fault = lambda *_: Fault(status)
        before, asked = site.performer._rows.all(), len(site.server.asked)
        for _ in range(3):
            site.tick(400)
        assert len(site.server.asked) - asked <= 2 * 3
        site.tick(1)
        assert len(site.server.asked) - asked <= 2 * 3  # not due
        assert [r.state for r in site.performer._rows.all()] == [r.state for r in before]
        site.server.fault = lambda *_: None
        site.tick(400)

    storm()
    assert site.row().state == WorkitemState.FETCHING
    site.fetch()
    site.tick(1)
    storm()
    assert site.row().state == WorkitemState.ANALYSING
    site.done()
    storm()
    site.tick(1)
    assert (site.row().state, site.state()) == (WorkitemState.COMPLETED, "COMPLETED")


def test_the_end_is_told_until_it_is_heard(site: Site) -> None:
    site.schedule()
    site.tick()
    site.fetch()
    site.tick(1)
    site.done()
    site.tick(1)
    assert site.row().state == WorkitemState.COMPLETING
    site.server.fault = lambda method, _: Fault(502, performed=True) if method == "PUT" else None
    site.tick(1)
    assert (site.row().state, site.state()) == (WorkitemState.COMPLETING, "COMPLETED")
    assert "HTTP 502" in site.row().error
    site.server.fault = lambda *_: None
    site.begin()
    site.tick(5)
    assert site.row().state == WorkitemState.COMPLETED


def test_a_server_that_is_gone_for_good_is_given_up(site: Site) -> None:
    site.begin(give_up_hours=1)
    site.schedule()
    site.tick()
    site.fetch()
    site.tick(1)
    site.server.down()
    for _ in range(40):
        site.tick(300)
    row = site.row()
    assert row.state == WorkitemState.LOST
    assert row.reason.startswith("given up after 1 h: ris (")
    assert "no connection: is it running?" in row.reason


def test_a_workitem_that_the_server_forgot_or_ended_is_let_go(site: Site) -> None:
    for uid in ("1.2.3.1", "1.2.3.2"):
        site.schedule(uid)
    site.tick()
    site.fetch()
    site.tick(1)
    site.route()
    site.tick(1)
    site.server.worklist.remove("1.2.3.1")
    site.server.worklist.cancel_itself("1.2.3.2")
    site.tick(10)
    assert (site.row("1.2.3.1").state, "HTTP 404" in site.row("1.2.3.1").reason) == (WorkitemState.LOST, True)
    assert site.row("1.2.3.2").reason == "the worklist says that it is CANCELED"
    assert (site.runs.all()[0].state, site.canceled_workflows) == (RunState.FAILED, ["1.2.77"])


def canceled(site: Site) -> tuple[str, str, str]:
    """State and reason at the server, and the reason's code, when the node has told them."""
    for _ in range(3):
        site.tick(1)
    assert site.row().state == WorkitemState.CANCELED
    (told,) = site.server.worklist.retrieve(UID).ProcedureStepProgressInformationSequence
    return site.state(), site.reason(), told.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue


def test_no_algorithm_suits(site: Site) -> None:
    site.schedule()
    site.tick()
    site.fetch()
    site.route(wanted=False, reason="body_part is knee, the rule wants liver")
    reason = "liver does not suit: body_part is knee, the rule wants liver"
    assert canceled(site) == ("CANCELED", reason, "110522")


def test_input_that_the_archive_refuses(site: Site) -> None:
    site.schedule()
    site.tick()
    (pull,) = site.pulls.due("archive")
    site.pulls.settle(pull, PullState.FAILED, "archive has no such study")
    assert canceled(site) == ("CANCELED", "its input could not be fetched: archive has no such study", "110523")


def test_input_of_which_something_is_missing(site: Site) -> None:
    site.files.pop()
    site.schedule()
    site.tick()
    site.fetch()
    site.tick(1)
    assert site.row().state == WorkitemState.FETCHING  # rows may follow
    site.clock.now += 5
    reason = "archive did not give 1 of the 3 instances that are its input"
    assert canceled(site) == ("CANCELED", reason, "110523")


def test_input_at_a_place_that_is_not_configured(site: Site) -> None:
    series = input_series(site.images, url="https://elsewhere.example/dw/studies/1")
    site.server.worklist.create(UID, workitem(series))
    site.tick()
    reason = "its input is at none of the node's sources (https://elsewhere.example/dw/studies/1)"
    assert canceled(site) == ("CANCELED", reason, "110513")
    assert site.pulls.all() == []


def test_input_of_two_studies(site: Site) -> None:
    other = slice_datasets(np.ones((2, 16, 16), np.uint16), AFFINE, key="other")
    site.server.worklist.create(UID, workitem(input_series(site.images), input_series(other)))
    site.tick()
    assert "its input is of 2 studies" in canceled(site)[1]


def test_a_run_that_failed(site: Site) -> None:
    site.schedule()
    site.tick()
    site.fetch()
    site.route()
    site.run_to(RunState.RUNNING)
    site.run_to(RunState.FAILED, reason="CUDA out of memory")
    assert canceled(site) == ("CANCELED", "CUDA out of memory", "110501")


def test_a_study_that_is_not_fit(site: Site) -> None:
    site.schedule()
    site.tick()
    site.fetch()
    site.route()
    site.run_to(RunState.RUNNING, RunState.DELIVERING)
    site.runs.set_delivery("1.2.77", "pacs", "1.2.77.1", DeliveryState.SENT)
    site.run_to(RunState.NOT_ANALYSED, reason="slices are missing")
    assert canceled(site) == ("CANCELED", "Not analysed, because slices are missing", "110522")
    (done,) = site.server.worklist.retrieve(UID).UnifiedProcedureStepPerformedProcedureSequence
    assert len(done.OutputInformationSequence) == 1  # the report that says so


def ask_to_cancel(site: Site, reason: str = "wrong patient") -> None:
    request = Dataset()
    request.ReasonForCancellation = reason
    request.ProcedureStepDiscontinuationReasonCodeSequence = [
        code("110514", "DCM", "Incorrect worklist entry selected")
    ]
    site.server.worklist.request_cancel(UID, request, "RIS")
    until(lambda: site.row().cancel is not None)


@pytest.fixture
def subscribed(site: Site) -> Site:
    site.begin(subscribe=True)
    site.schedule()
    until(lambda: site.server.listeners == {"DICOMNODE"})
    site.tick()
    site.tick(1)
    return site


def test_a_request_to_cancel_while_images_come(subscribed: Site) -> None:
    site = subscribed
    ask_to_cancel(site)
    site.tick(1)
    assert site.state() == "IN PROGRESS"  # the fetch is under way: a study may come of it
    (pull,) = site.pulls.due("archive")
    site.pulls.settle(pull, PullState.PENDING, "archive: no connection", 1000)
    assert canceled(site) == ("CANCELED", "canceled on request: wrong patient", "110514")
    assert [p.state for p in site.pulls.all()] == [PullState.FAILED]


@pytest.mark.parametrize("states", [(), (RunState.RUNNING,)])
def test_a_request_to_cancel_stops_the_run(subscribed: Site, states: tuple[RunState, ...]) -> None:
    site = subscribed
    site.fetch()
    ask_to_cancel(site)
    site.tick(1)
    assert site.state() == "IN PROGRESS"  # about to be routed
    site.route()
    site.run_to(*states)
    assert canceled(site)[:2] == ("CANCELED", "canceled on request: wrong patient")
    assert (site.runs.all()[0].state, site.canceled_workflows) == (RunState.FAILED, ["1.2.77"])


def test_a_request_to_cancel_survives_a_kill(subscribed: Site) -> None:
    site = subscribed
    site.fetch()
    site.route()
    ask_to_cancel(site)
    site.begin()
    assert canceled(site)[0] == "CANCELED"


def test_a_run_that_others_wanted_first_goes_on(site: Site) -> None:
    to = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=site.node.port)
    assert not any(send(to, "ARCHIVE", site.files).values())
    site.node.intake.rows.flush()
    site.route()
    site.clock.now += 10
    site.begin(subscribe=True)
    site.schedule()
    until(lambda: site.server.listeners == {"DICOMNODE"})
    site.tick()
    site.tick(1)
    ask_to_cancel(site)
    assert canceled(site)[0] == "CANCELED"
    assert site.runs.all()[0].state == RunState.QUEUED


def test_a_new_workitem_is_heard_of_at_once(site: Site) -> None:
    site.begin(subscribe=True, every_seconds=10_000)
    until(lambda: site.server.listeners == {"DICOMNODE"})
    site.tick()
    site.schedule()
    until(lambda: site.tick() or site.state() == "IN PROGRESS")


def test_a_connection_that_broke_is_opened_again(site: Site) -> None:
    site.begin(subscribe=True, retry_first_seconds=0.05)
    site.schedule()
    until(lambda: site.server.listeners)
    site.tick()
    site.server.hang_up()
    until(lambda: not site.server.listeners)
    until(lambda: site.server.listeners)
    until(lambda: site.tick() or any("subscribers" in path for _, path, _ in site.server.asked[-2:]))
    ask_to_cancel(site)


def test_a_server_without_events_is_polled(site: Site) -> None:
    site.begin(subscribe=True)
    site.server.fault = lambda _, path: Fault(403) if "subscribers" in path else None
    site.schedule()
    until(lambda: site.server.listeners)
    site.tick()
    assert site.state() == "IN PROGRESS"
