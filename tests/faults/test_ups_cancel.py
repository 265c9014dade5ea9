"""UPS-RS workitems that end without success: what cannot be done, and what shall not be, over a WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.model.states import DeliveryState, PullState, RunState, WorkitemState
from dicom_node.testing.series import slice_datasets
from dicom_node.testing.ups_server import Fault
from tests.certificates import Authority
from tests.ups_node import AFFINE, UID, Site, canceled, ups_node
from tests.ups_site import code, input_series, until, workitem


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ups_node(tmp_path) as site:
        yield site


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
    site.push()
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

    def looks() -> bool:
        site.server.asked.clear()
        site.tick()
        return "/workitems" in [path for _, path, _ in site.server.asked]

    # Each event, those of its own claim too, is one reason to look; after the last there is none.
    until(lambda: not any(looks() for _ in range(3)))


def test_events_come_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.issue("worklist")
    with ups_node(tmp_path, (files.certificate_file, files.private_key_file)) as site:
        site.begin(subscribe=True, every_seconds=10_000, ca_file=authority.file)
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
