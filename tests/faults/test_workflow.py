"""The whole way from C-STORE to the PACS, and what goes wrong on it. Models are stand-ins; all else is real."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node import app
from dicom_node.deliver.dimse import send
from dicom_node.errors import ConfigurationError, WorkerDied
from dicom_node.model.states import DeliveryState, RunState, StudyState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import Destination, load_settings
from dicom_node.store.runs import RunRow
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head, write_localizer, write_two_patients
from dicom_node.workflow import analyse, housekeeping
from dicom_node.workflow.services import bind
from tests.faults.inline_pool import InlinePool

ROUTES = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain, series_kind: [t1_volume, t1_slices, volume]}
    deliver_to: [pacs]
"""


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Site:
    """A node with a PACS, in this process."""

    def __init__(
        self,
        folder: Path,
        pacs: FakePacs,
        routes: str = ROUTES,
        results: Sequence[str] = ("seg", "sr"),
        quiet_seconds: float = 0.4,
        **more: Any,
    ) -> None:
        (folder / "routes.yaml").write_text(routes)
        installed = folder / "algorithms" / "threshold_demo"
        shutil.copytree(DEFAULT_FOLDER / "threshold_demo", installed, dirs_exist_ok=True)
        values: dict[str, Any] = {
            "data_dir": str(folder / "data"),
            "run": {"algorithms_dir": str(folder / "algorithms")},
            "receive": {"port": 0, "disk_reserve_mb": 0},
            "complete": {"quiet_seconds": quiet_seconds, "sweep_seconds": 0.05},
            "destinations": [
                {
                    "name": "pacs",
                    "ae_title": "FAKEPACS",
                    "host": "127.0.0.1",
                    "port": pacs.port,
                    "confirm": "find",
                    "results": list(results),
                    "retry_first_seconds": 0.2,
                    "retry_longest_seconds": 0.5,
                    "timeout_seconds": 5,
                    **more,
                }
            ],
        }
        (folder / "node.yaml").write_text(yaml.safe_dump(values))
        self.pacs = pacs
        self.node = app.Node(load_settings(folder / "node.yaml"))
        self.node.start()
        self.s = self.node.services

    def send(self, files: list[Path]) -> None:
        to = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=self.node.listener.port)
        assert set(send(to, "TEST", files).values()) == {""}

    def run(self, state: RunState) -> RunRow:
        """Wait until the latest run is in ``state``."""
        until(lambda: self.s.runs.all() and self.s.runs.all()[0].state == state)
        return self.s.runs.all()[0]

    def study(self, state: StudyState) -> None:
        until(lambda: [r.state for r in self.s.index.studies()] == [state])


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with FakePacs() as p:
        yield p


@pytest.fixture
def site(tmp_path, pacs, monkeypatch) -> Iterator[Site]:
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    s = Site(tmp_path, pacs)
    yield s
    s.node.stop()


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[Path]:
    return write_head(tmp_path_factory.mktemp("head"), spacing=(12, 8, 8))


def test_a_destination_gets_the_objects_that_it_takes(tmp_path, pacs, head, monkeypatch):
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    site = Site(tmp_path, pacs, results=["sr", "contours", "sc", "pdf"])
    try:
        site.send(head)
        run = site.run(RunState.DONE)
        roles = {o.SOPInstanceUID: o.role for o in site.s.runs.results(run.run_id)}
        assert sorted(roles.values()) == ["contours", "pdf", "sc", "seg", "sr"]
        assert sorted(roles[uid] for uid in site.pacs.received) == ["contours", "pdf", "sc", "sr"]
    finally:
        site.node.stop()


def test_a_study_goes_the_whole_way(site, head, tmp_path):
    site.send(head + write_localizer(tmp_path / "localizer"))
    run = site.run(RunState.DONE)
    assert run.measurements[0]["name"] == "Bright tissue volume"
    objects = site.s.runs.results(run.run_id)
    assert {o.SOPInstanceUID for o in objects} == set(site.pacs.received)
    assert [o.role for o in objects] == ["seg", "sr"]
    assert all(d.state == DeliveryState.CONFIRMED for d in site.s.runs.deliveries(run.run_id))
    routes = site.s.runs.routes(run.study_uid)
    assert sorted(r["wanted"] for r in routes) == [False, True]
    assert all(r["reason"] for r in routes)
    assert [name for name, _, _ in site.s.runs.steps(run.run_id)] == [
        "infer",
        "encode",
        "check",
        "deliver to pacs",
        "confirm at pacs",
    ]


def test_results_that_come_back_are_kept_and_never_run(site, head, tmp_path):
    site.send(head)
    site.run(RunState.DONE)
    before = site.s.index.studies()
    back = []
    for uid, ds in site.pacs.received.items():
        back.append(tmp_path / f"{uid}.dcm")
        ds.save_as(back[-1], enforce_file_format=True)
    site.send(back)
    time_to_notice = time.monotonic() + 1.0
    until(lambda: time.monotonic() > time_to_notice)
    assert site.s.index.studies() == before
    assert len(site.s.runs.all()) == 1
    own = site.s.index.series(before[0].study_uid, own=True)
    assert sum(len(s.instances) for s in own) == 2


def test_a_late_image_makes_a_new_revision_with_new_results(site, head):
    site.send(head[:-1])
    first = site.run(RunState.DONE)
    site.send(head[-1:])
    until(lambda: len(site.s.runs.all()) == 2)
    second = site.run(RunState.DONE)
    assert (first.revision, second.revision) == (1, 2)
    assert len(site.pacs.received) == 4
    old, new = (
        next(o.SOPInstanceUID for o in site.s.runs.results(run.run_id) if o.role == "sr") for run in (first, second)
    )
    (predecessor,) = site.pacs.received[new].PredecessorDocumentsSequence
    assert predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old
    assert "PredecessorDocumentsSequence" not in site.pacs.received[old]


def test_the_same_images_again_change_nothing(site, head):
    site.send(head)
    site.run(RunState.DONE)
    before = site.s.index.studies()
    site.send(head)
    assert site.s.index.studies() == before


def test_a_pacs_that_is_down_gets_its_results_when_it_comes_back(site, head):
    site.pacs.down()
    site.send(head)
    run = site.run(RunState.DELIVERING)
    until(lambda: min(d.attempts for d in site.s.runs.deliveries(run.run_id)) >= 2)
    assert all(d.error for d in site.s.runs.deliveries(run.run_id))
    site.pacs.up()
    site.run(RunState.DONE)
    assert len(site.pacs.received) == 2


def test_a_pacs_that_refuses_for_good_fails_the_run_until_a_person_retries(site, head):
    site.pacs.refuse_with(0xA900)
    site.send(head)
    run = site.run(RunState.FAILED)
    assert "A900" in run.reason.upper()
    made = {o.SOPInstanceUID: o.path.read_bytes() for o in site.s.runs.results(run.run_id)}
    site.pacs.refuse_with(0x0000)
    analyse.retry(site.s, run.run_id)
    with pytest.raises(ValueError, match="is not failed or set_aside"):
        analyse.retry(site.s, run.run_id)
    site.run(RunState.DONE)
    # what another destination may have already is sent as it is, not made anew
    assert {o.SOPInstanceUID: o.path.read_bytes() for o in site.s.runs.results(run.run_id)} == made
    assert [step for step, *_ in site.s.runs.steps(run.run_id)].count("infer") == 1
    with pytest.raises(ValueError, match="is not failed or set_aside"):
        analyse.retry(site.s, run.run_id)


def test_two_patients_in_one_study_are_refused(site, tmp_path):
    site.send(write_two_patients(tmp_path / "two", spacing=(12, 8, 8)))
    site.study(StudyState.REFUSED)
    assert "2 patients" in site.s.index.studies()[0].reason
    assert not site.s.runs.all()


def test_scouts_alone_are_not_wanted_and_the_reason_is_kept(site, tmp_path):
    site.send(write_localizer(tmp_path))
    site.study(StudyState.UNWANTED)
    (route,) = site.s.runs.routes(site.s.index.studies()[0].study_uid)
    assert not route["wanted"]
    assert "localizer" in route["reason"]


def test_a_series_with_a_hole_gets_a_report_that_says_so(site, tmp_path):
    site.send(write_head(tmp_path, spacing=(12, 8, 8), missing=(5,)))
    run = site.run(RunState.NOT_ANALYSED)
    assert "missing" in run.reason
    (report,) = site.pacs.received.values()
    assert report.Modality == "SR"
    texts = [str(e.value) for e in report.iterall() if e.keyword == "TextValue"]
    assert any(t.startswith("Not analysed, because") and "missing" in t for t in texts)


def test_a_result_that_fails_the_check_is_not_sent(site, head, monkeypatch):
    monkeypatch.setattr(analyse, "check_results", lambda *_, **__: ["seg.dcm: it is mirrored"])
    site.send(head)
    run = site.run(RunState.SET_ASIDE)
    assert run.reason == "seg.dcm: it is mirrored"
    assert not site.pacs.received
    monkeypatch.undo()
    analyse.retry(site.s, run.run_id)
    site.run(RunState.DONE)


def test_a_lost_worker_is_tried_again_and_then_given_up(site, head, tmp_path, monkeypatch):
    real, deaths = site.s.pool.run, [WorkerDied("killed"), WorkerDied("killed")]

    def dying(*arguments: Any) -> dict[str, Any]:
        if deaths:
            raise deaths.pop()
        return real(*arguments)

    monkeypatch.setattr(site.s.pool, "run", dying)
    site.send(head)
    site.run(RunState.DONE)
    deaths += [WorkerDied("killed")] * 3
    site.send(write_head(tmp_path, spacing=(12, 8, 8), study="2"))
    until(lambda: len(site.s.runs.all()) == 2)
    assert site.run(RunState.FAILED).reason == "killed (attempt 3 of 3)"


def test_input_files_that_are_gone_fail_the_run_with_that_reason(site, head, monkeypatch):
    monkeypatch.setattr(site.s.files, "path", lambda relative: Path("/nowhere") / relative)
    site.send(head)
    assert "input files are gone" in site.run(RunState.FAILED).reason


def remove_all(site) -> int:
    keep = site.s.settings.model_copy(
        update={"retention": site.s.settings.retention.model_copy(update={"keep_days": 1e-9})}
    )
    return housekeeping.remove_old(replace(site.s, settings=keep), site.node.intake)


def test_old_studies_go_and_are_analysed_anew_when_they_come_again(site, head):
    site.send(head)
    run = site.run(RunState.DONE)
    assert remove_all(site) == 1
    assert not site.s.index.studies()
    assert not site.s.folder(run.run_id).exists()
    assert not list(site.s.files.walk())
    site.pacs.received.clear()
    site.send(head)
    again = site.run(RunState.DONE)
    assert again.run_id == run.run_id  # the same input: the same results under the same UIDs
    assert len(site.pacs.received) == 2


def test_what_is_under_way_is_not_removed(site, head):
    site.pacs.down()
    site.send(head)
    site.run(RunState.DELIVERING)
    assert remove_all(site) == 0
    assert site.s.index.studies()


def test_what_the_engine_gave_up_ends_with_that_reason_and_can_be_repeated(site, head, monkeypatch):
    def broken(*_: Any) -> None:
        raise OSError("database or disk is full")

    monkeypatch.setattr(analyse, "prepare_step", broken)
    monkeypatch.setattr(analyse, "fail_step", broken)
    site.send(head)
    until(lambda: site.s.client.list_workflows(status="ERROR"))
    site.run(RunState.QUEUED)
    monkeypatch.undo()
    assert housekeeping.bury_dead(site.s) == 1
    assert housekeeping.bury_dead(site.s) == 0
    run = site.run(RunState.FAILED)
    assert "the engine gave up" in run.reason
    analyse.retry(site.s, run.run_id)
    site.run(RunState.DONE)


def test_a_second_node_on_the_same_data_does_not_start(site):
    with pytest.raises(ConfigurationError, match="another node is running on"):
        app.Node(site.s.settings).start()
    assert site.s.index.studies() == []


def test_a_port_that_is_taken_stops_the_start_and_what_had_been_started(tmp_path, site, monkeypatch):
    monkeypatch.setattr(app.DBOS, "destroy", lambda **_: None)  # the engine is one a process: it is the site's
    monkeypatch.setattr(app.Node, "_launch_engine", lambda self, engine: None)
    receive = site.s.settings.receive.model_copy(update={"port": site.node.listener.port})
    other = app.Node(site.s.settings.model_copy(update={"receive": receive, "data_dir": tmp_path / "other"}))
    with pytest.raises(ConfigurationError, match=r"receive\.port: cannot listen on 127\.0\.0\.1"):
        other.start()
    bind(site.s)
