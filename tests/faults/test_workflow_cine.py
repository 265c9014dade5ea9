"""A cine on its whole way: one run on all its series, and what becomes of images that come late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from dicom_node import app
from dicom_node.check.objects import content
from dicom_node.model.states import RunState
from dicom_node.testing.phantom_cine import CineSequence, write_cine
from tests.faults.inline_pool import InlinePool
from tests.faults.test_workflow import Site, pacs, until  # noqa: F401 - a fixture

SEQUENCE = CineSequence(phases=8, slices=10, size=24, spacing=10.0)
ROUTES = """
rules:
  - name: hearts
    algorithm: bright_heart
    when: {Modality: MR, series_kind: cine}
    deliver_to: [pacs]
"""
MANIFEST = """
id: bright_heart
name: Bright heart
version: 1.0.0
description: The bright half of the middle slice at two phases. Only for tests.
input: cine
procedure: {value: "25056-3", scheme: LN, meaning: MRI unspecified body region}
time_limit_s: 60
"""
CODE = """
import numpy as np
from dicom_node.algorithm import *

A = Code("91723000", "SCT", "Anatomical structure")
V = Code("87878005", "SCT", "Left ventricle")

def load(bundle):
    return bright

def bright(cine):
    middle = cine.array.shape[1] // 2
    label_map = np.zeros((2, *cine.array.shape[2:]), np.uint8)
    for value, phase in ((1, 0), (2, 4)):
        image = cine.array[phase, middle]
        label_map[value - 1][image > image.max() / 2] = value
    return Findings(
        label_map,
        (Segment(1, "first", A, V), Segment(2, "fifth", A, V)),
        (Measurement("slices", float(cine.array.shape[1]), "1", Code("246205007", "SCT", "Quantity"), V),),
        frames=(cine.frames[0][middle], cine.frames[4][middle]),
    )
"""


@pytest.fixture
def site(tmp_path, pacs, monkeypatch) -> Iterator[Site]:  # noqa: F811
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    folder = tmp_path / "algorithms" / "bright_heart"
    folder.mkdir(parents=True)
    (folder / "algorithm.yaml").write_text(MANIFEST)
    (folder / "algorithm.py").write_text(CODE)
    # Long enough that a machine that stumbles within a hundred images does not end the study there.
    s = Site(tmp_path, pacs, ROUTES, quiet_seconds=3)
    yield s
    s.node.stop()


def by_series(paths: list[Path]) -> list[list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID), []).append(path)
    return list(found.values())


def test_all_series_of_a_cine_are_one_run(site, tmp_path):
    site.send(write_cine(tmp_path / "heart", "series_per_slice", sequence=SEQUENCE, views=True))
    run = site.run(RunState.DONE)

    assert len(site.s.runs.all()) == 1
    assert [m["value"] for m in run.measurements] == [10.0]
    assert len(run.inputs) == 80 + 3 * 8  # the stack and three long axes, which are left out by geometry
    assert any("not in the planes of the short-axis stack" in n for n in run.record["notes"])
    assert len(site.pacs.received) == 2


def test_half_of_the_series_coming_late_end_in_one_result_that_names_the_one_it_replaces(site, tmp_path):
    series = by_series(write_cine(tmp_path / "heart", "series_per_slice", sequence=SEQUENCE))
    # the later half has the lower Series Instance UIDs and Numbers, so that it comes first
    later, first = series[:5], series[5:]
    site.send([path for members in first for path in members])
    early = site.run(RunState.DONE)
    assert [m["value"] for m in early.measurements] == [5.0]
    old = next(o.SOPInstanceUID for o in site.s.runs.results(early.run_id) if o.role == "sr")

    site.send([path for members in later for path in members])
    until(lambda: len(site.s.runs.all()) == 2)
    late = site.run(RunState.DONE)
    assert [m["value"] for m in late.measurements] == [10.0]
    assert late.series_uid != early.series_uid
    new = next(o.SOPInstanceUID for o in site.s.runs.results(late.run_id) if o.role == "sr")
    (predecessor,) = site.pacs.received[new].PredecessorDocumentsSequence
    assert predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old


def test_too_few_slices_are_reported_with_the_reason(site, tmp_path):
    series = by_series(write_cine(tmp_path / "heart", "series_per_slice", sequence=SEQUENCE))
    site.send([path for members in series[:3] for path in members])
    run = site.run(RunState.NOT_ANALYSED)

    assert "no more than 3 parallel cine slices" in run.reason
    (report,) = site.pacs.received.values()
    said = [i.TextValue for i in content(report, deep=True) if i.ValueType == "TEXT"]
    assert any(text.startswith("Not analysed, because there is no short-axis stack") for text in said)
