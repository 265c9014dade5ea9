"""UPS-RS with an origin server that fails on purpose, and others who want the same work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from dicom_node.model.states import RunState, WorkitemState
from dicom_node.testing.ups_server import Fault
from dicom_node.workflow import ups
from tests.ups_node import UID, Site, ups_node
from tests.ups_site import CODE, code


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ups_node(tmp_path) as site:
        yield site


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
    site.push()
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
        assert {(r.attempts, r.error) for r in site.performer._rows.all()} == {(0, "")}

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


def test_a_workitem_that_breaks_the_node_stops_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ups.needed_input

    def breaking(s: Any, worklist: Any, item: Any) -> Any:
        if item.uid == "1.2.3.1":
            raise ZeroDivisionError("a defect")
        return real(s, worklist, item)

    monkeypatch.setattr(ups, "needed_input", breaking)
    for uid in ("1.2.3.1", "1.2.3.2"):
        site.schedule(uid)
    site.tick()
    assert [site.row(f"1.2.3.{n}").state for n in (1, 2)] == [WorkitemState.CLAIMING, WorkitemState.FETCHING]
    assert site.row("1.2.3.1").error == "ZeroDivisionError: a defect"
    monkeypatch.undo()
    site.tick(5)
    assert site.row("1.2.3.1").state == WorkitemState.FETCHING


def test_credentials_that_the_environment_lacks_are_told_and_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.server.authorization = "Basic bm9kZTpzZWNyZXQ="
    site.begin(username_env="RIS_USER", password_env="RIS_PASSWORD")
    site.schedule()
    for _ in range(3):
        site.tick(1)
    assert site.server.asked == []
    monkeypatch.setenv("RIS_USER", "node")
    monkeypatch.setenv("RIS_PASSWORD", "secret")
    site.tick(400)
    assert site.state() == "IN PROGRESS"
