"""The contour report: its outlines are the mask's, its numbers the record's, and it is proved before it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import GraphicTypeValues, ImageRegion, SourceImageForRegion
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node.algorithm import Findings, Frame
from dicom_node.check.views import enclosed
from dicom_node.encode.contours import build_contours, on_image, region
from dicom_node.encode.outlines import outlines
from dicom_node.encode.seg import build_seg
from dicom_node.encode.source import read_source
from dicom_node.encode.sr import build_report
from dicom_node.errors import EncodeError
from tests.unit.result_samples import IDENTITY, SHAPE, context, findings, headers

IMAGE_REGION = "111030"
NAMES = (IDENTITY.name, IDENTITY.version, IDENTITY.device_uid)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_outlines_enclose_the_mask_and_nothing_else(seed: int, rows: int, columns: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    lines = outlines(mask)
    for line in lines:
        np.testing.assert_array_equal(line[0], line[-1])
        assert line.min() >= 0
        assert (line.max(axis=0) <= (columns, rows)).all()
    np.testing.assert_array_equal(enclosed(lines, mask.shape), mask)


def test_a_ring_has_two_outlines_and_its_hole_is_outside() -> None:
    mask = np.zeros((20, 24), np.bool_)
    mask[4:15, 6:20] = True
    mask[8:11, 10:14] = False
    outer, inner = outlines(mask)
    assert (outer.min(axis=0) == (6, 4)).all()
    assert (outer.max(axis=0) == (20, 15)).all()
    assert (inner.min(axis=0) > (9, 7)).all()
    assert not enclosed([outer, inner], mask.shape)[9, 12]


def view(found: Findings | None = None) -> Dataset:
    return build_contours(found or findings(), read_source(headers(), []), context())


def groups(ds: Dataset) -> list[Dataset]:
    (measurements,) = [i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return list(measurements.ContentSequence)


def regions(group: Dataset) -> list[Dataset]:
    return [i for i in group.ContentSequence if i.ValueType == "SCOORD"]


def words(ds: Dataset) -> list[str]:
    return [str(i.TextValue) for i in ds.ContentSequence[-1].ContentSequence if i.ValueType == "TEXT"]


def test_each_segment_and_each_measured_set_has_a_group_with_its_values(tmp_path: Path) -> None:
    view().save_as(tmp_path / "contours.dcm", enforce_file_format=True)
    ds = pydicom.dcmread(tmp_path / "contours.dcm")
    names, values = [], []
    for group in groups(ds):
        names.append(group.ContentSequence[0].TextValue)
        numbers = [i for i in group.ContentSequence if i.ValueType == "NUM"]
        values.append([float(i.MeasuredValueSequence[0].NumericValue) for i in numbers])
    assert names == ["Left hippocampus", "Right hippocampus", "Left hippocampus and Right hippocampus"]
    assert values == [[0.7695, 3.3], [0.21546], [0.98496]]
    assert "Asymmetry index 12.34 % (2 (L - R) / (L + R))" in words(ds)
    assert "The right end is blurred." in words(ds)
    assert any("research use only" in w.lower() for w in words(ds))


def test_it_is_another_series_than_the_record_and_made_the_same_twice() -> None:
    source = read_source(headers(), [])
    record = build_report(findings(), build_seg(findings(), source, context()), source, context())
    first, second = view(), view()
    assert first == second
    assert first.SeriesInstanceUID != record.SeriesInstanceUID
    assert first.SeriesNumber == 9002


def test_a_key_plane_comes_first_or_else_the_largest() -> None:
    found = findings()
    label_map = found.label_map.copy()
    label_map[4, 5, 5] = 0
    label_map[3, 15, 5:20] = 1
    source = headers()

    def first(f: Findings) -> str:
        group = groups(view(f))[0]
        return str(regions(group)[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)

    assert first(replace(found, label_map=label_map)) == source[3].SOPInstanceUID
    assert first(replace(found, label_map=label_map, key_planes=(8, 4))) == source[4].SOPInstanceUID


def test_outlines_lie_on_the_frames_that_the_findings_name() -> None:
    source = headers()
    marked = findings().label_map[2:3]
    one = replace(findings(), label_map=marked, frames=(Frame(str(source[9].SOPInstanceUID)),), measurements=())
    report = build_contours(one, read_source(source, [], frames=one.frames), context())
    references = [r.ContentSequence[0].ReferencedSOPSequence[0] for g in groups(report) for r in regions(g)]
    assert {str(r.ReferencedSOPInstanceUID) for r in references} == {source[9].SOPInstanceUID}


def test_an_empty_mask_has_no_contours() -> None:
    with pytest.raises(EncodeError, match="empty"):
        view(replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=()))


@pytest.mark.parametrize("number", [None, 3])
def test_an_outline_is_the_item_that_the_library_would_make(number: int | None) -> None:
    plane = replace(read_source(headers(), []).planes[2], number=number)
    line = np.array([(0.5, 0.5), (9.5, 0.5), (9.5, 7.25), (0.5, 0.5)])
    made = ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=line,
        source_image=SourceImageForRegion(
            plane.image.SOPClassUID, plane.image.SOPInstanceUID, None if number is None else [number]
        ),
    )
    assert region(line, on_image(plane)).to_json() == made.to_json()
