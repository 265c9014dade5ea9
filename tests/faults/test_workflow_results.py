"""Which objects a run makes and sends: encodings by destination, and views that cannot be made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicom_node import app
from dicom_node.encode import panels
from dicom_node.errors import ConfigurationError
from dicom_node.model.states import RunState
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head
from dicom_node.views import run_view
from tests.faults.inline_pool import InlinePool
from tests.faults.test_workflow import Site


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_head(tmp_path_factory.mktemp("head"), spacing=(12, 8, 8))


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WorkerPool", InlinePool)


def test_a_destination_gets_the_seg_in_its_encoding_and_the_report_on_it(tmp_path: Path, head: list[Path]) -> None:
    with FakePacs() as pacs:
        site = Site(tmp_path, pacs, seg_encoding="labelmap_jls")
        try:
            site.send(head)
            run = site.run(RunState.DONE)
            roles = {o.SOPInstanceUID: o.role for o in site.s.runs.results(run.run_id)}
            assert sorted(roles.values()) == ["seg", "seg_labelmap_jls", "sr", "sr_labelmap_jls"]
            received = {roles[uid]: ds for uid, ds in pacs.received.items()}
            assert sorted(received) == ["seg_labelmap_jls", "sr_labelmap_jls"]
            seg, sr = received["seg_labelmap_jls"], received["sr_labelmap_jls"]
            assert seg.SegmentationType == "LABELMAP"
            assert seg.SOPInstanceUID in sr.to_json()
            (binary,) = (uid for uid, role in roles.items() if role == "seg")
            assert binary not in sr.to_json()
        finally:
            site.node.stop()


def test_a_view_that_cannot_be_made_is_told_and_the_record_goes_out(
    tmp_path: Path, head: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no decoder for it")

    monkeypatch.setattr(panels, "pixel_array", broken)
    with FakePacs() as pacs:
        site = Site(tmp_path, pacs, results=("seg", "sr", "contours", "sc"))
        try:
            site.send(head)
            run = site.run(RunState.DONE)
            why = "the pixels of a source image cannot be read: RuntimeError"
            assert run.record["missing"] == {"sc": why}
            assert run.reason == f"the result sc could not be made: {why}"
            assert json.loads(json.dumps(run_view(site.s, run)))["reason"] == run.reason
            roles = {o.SOPInstanceUID: o.role for o in site.s.runs.results(run.run_id)}
            assert sorted(roles[uid] for uid in pacs.received) == ["contours", "seg", "sr"]
        finally:
            site.node.stop()


def test_series_are_called_and_counted_as_the_site_wants(tmp_path: Path, head: list[Path]) -> None:
    with FakePacs() as pacs:
        settings = {"DICOM_NODE__RESULTS__SERIES_NUMBERS": '{"threshold_demo": 7001}'}
        settings["DICOM_NODE__RESULTS__SERIES_DESCRIPTION"] = "AI {algorithm} {result}"
        settings["DICOM_NODE__RESULTS__SERIES_DATE"] = "source"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            site = Site(tmp_path, pacs)
        try:
            site.send(head)
            site.run(RunState.DONE)
            seg, sr = sorted(pacs.received.values(), key=lambda ds: int(ds.SeriesNumber))
            assert (seg.SeriesNumber, sr.SeriesNumber) == (7001, 7002)
            assert seg.SeriesDescription == "AI Threshold demo SEG (research use only)"
            assert sr.SeriesDescription == "AI Threshold demo SR (research use only)"
            assert seg.SeriesDate == "20260105"
            assert seg.InstanceCreationDate != "20260105"
        finally:
            site.node.stop()


def test_numbers_of_an_algorithm_that_is_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__RESULTS__SERIES_NUMBERS", '{"hipocampus": 7001}')
    said = "results.series_numbers: there is no algorithm 'hipocampus'; there are: threshold_demo"
    with FakePacs() as pacs, pytest.raises(ConfigurationError, match=said):
        Site(tmp_path, pacs)
