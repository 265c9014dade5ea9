"""Findings to SEG and SR: what is written is read back, under strict validation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicom_node.algorithm import Findings
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.errors import EncodeError
from dicom_node.model.result import ResultObject
from tests.unit.result_samples import SHAPE, context, findings, headers, write_results


def texts(ds: Dataset) -> list[str]:
    """Every text of a report, at any depth."""
    found = []
    for item in ds.get("ContentSequence", []):
        found += [item.TextValue] if "TextValue" in item else []
        found += texts(item)
    return found


def read_strictly(path: Path) -> Dataset:
    ds = pydicom.dcmread(path)
    assert sum(1 for _ in ds.iterall()) > 50
    return ds


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_mask_comes_back_where_it_was(tmp_path: Path, orientation: str, reverse: bool) -> None:
    source = headers(orientation)
    if reverse:
        source.reverse()
    encode_findings(findings(), source, context(), tmp_path)

    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [h.SOPInstanceUID for h in source]
    mask = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(mask, findings().label_map)
    assert check_results([tmp_path / "seg.dcm", tmp_path / "sr.dcm"], source) == []


def test_a_tilted_gantry_is_encoded_and_its_volume_is_that_of_the_sheared_grid(tmp_path: Path) -> None:
    source = headers("axial", shear=0.4)
    paths = write_results(tmp_path, source)
    assert check_results(paths, source) == []
    measures = read_strictly(paths[0]).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(1.5)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_results(tmp_path / "1"), write_results(tmp_path / "2")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_no_value_comes_from_the_clock(tmp_path: Path) -> None:
    for path in write_results(tmp_path):
        for element in read_strictly(path).iterall():
            if element.VR in ("DA", "DT") and element.value:
                assert str(element.value).startswith("20260105"), element


def test_results_carry_the_injected_time_and_numbers(tmp_path: Path) -> None:
    seg, sr = (read_strictly(p) for p in write_results(tmp_path))
    assert (seg.SeriesNumber, sr.SeriesNumber) == (9000, 9001)
    assert seg.SeriesInstanceUID != sr.SeriesInstanceUID
    assert seg.SeriesDescription == "Hippocampus SEG (research use only)"
    assert sr.SeriesDescription == "Hippocampus SR (research use only)"
    assert {seg.ContentDate, sr.ContentDate} == {"20260105"}
    assert seg.BodyPartExamined == "BRAIN"
    assert {seg.InstitutionName, sr.InstitutionName} == {"Hospital"}


def test_a_reader_of_the_report_finds_names_values_flags_and_notes(tmp_path: Path) -> None:
    sr = read_strictly(write_results(tmp_path)[1])
    words = texts(sr)
    assert "Left hippocampus volume 0.769 mL" in words
    assert "Asymmetry index 12.34 % (2 (L - R) / (L + R))" in words
    assert "To be reviewed: Left hippocampus volume 0.769 mL is below the plausible range 2 to 5.5 mL." in words
    assert "The right end is blurred." in words
    assert "For research use only. Not for diagnosis." in words
    assert any("Hippocampus, version 1.2.3" in w for w in words)
    assert not any(w.startswith("No finding") for w in words)


def test_highdicom_reads_the_report_as_tid_1500(tmp_path: Path) -> None:
    sr = highdicom.sr.srread(write_results(tmp_path)[1])
    groups = sr.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["Left hippocampus", "Right hippocampus"]
    assert [len(g.get_measurements(name=codes.SCT.Volume)) for g in groups] == [1, 1]
    others = sr.content.get_image_measurement_groups()
    assert [g.tracking_identifier for g in others] == [
        "Total hippocampus volume",
        "Left volume, head size 1500 mL",
        "Asymmetry index",
    ]
    assert others[1].finding_sites[0].laterality == codes.SCT.Left


def test_an_empty_mask_gives_a_report_that_says_so(tmp_path: Path) -> None:
    found = findings()
    empty = replace(
        found,
        label_map=np.zeros(SHAPE, np.uint8),
        measurements=tuple(replace(m, value=0.0) for m in found.measurements),
    )
    objects = encode_findings(empty, headers(), context(), tmp_path)
    assert [o.role for o in objects] == ["sr"]
    assert not (tmp_path / "seg.dcm").exists()
    words = texts(read_strictly(objects[0].path))
    assert any(w.startswith("No finding") for w in words)
    assert "Left hippocampus volume 0.00 mL" in words
    assert check_results([objects[0].path], headers()) == []


def test_a_segment_without_voxels_keeps_its_number_and_is_reported_as_not_found(tmp_path: Path) -> None:
    found = findings()
    label_map = found.label_map.copy()
    label_map[label_map == 1] = 0
    values = {"Left hippocampus volume": 0.0, "Total hippocampus volume": found.measurements[1].value}
    measurements = tuple(replace(m, value=values.get(m.name, m.value)) for m in found.measurements)
    objects = encode_findings(
        replace(found, label_map=label_map, measurements=measurements), headers(), context(), tmp_path
    )
    seg, sr = (read_strictly(o.path) for o in objects)
    assert [s.SegmentNumber for s in seg.SegmentSequence] == [1, 2]
    assert seg.NumberOfFrames == 3
    assert "Left hippocampus: not found, no voxel was marked." in texts(sr)
    assert check_results([o.path for o in objects], headers()) == []


def test_not_analysed_is_said_and_refers_to_the_images(tmp_path: Path) -> None:
    (result,) = encode_not_analysed("the series has only 4 slices.", headers(), context(), tmp_path)
    ds = read_strictly(result.path)
    assert "Not analysed, because the series has only 4 slices." in texts(ds)
    assert "For research use only. Not for diagnosis." in texts(ds)
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(series.ReferencedSOPSequence) == SHAPE[0]
    assert check_results([result.path], headers()) == []
    other = encode_not_analysed("another reason", headers(), context(), tmp_path / "other")[0]
    assert other.SOPInstanceUID != result.SOPInstanceUID


def test_a_rerun_names_the_report_that_it_replaces(tmp_path: Path) -> None:
    old = ResultObject("sr", "2.25.11", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.12", tmp_path)
    objects = encode_findings(findings(), headers(), context(predecessors=(old,)), tmp_path)
    item = read_strictly(objects[1].path).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert item.SeriesInstanceUID == "2.25.12"
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.11"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    found = findings()
    broken = replace(found, measurements=(replace(found.measurements[4], value=value),))
    with pytest.raises(EncodeError, match="Asymmetry index"):
        encode_findings(broken, headers(), context(), tmp_path)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    other = findings((12, 20, 25))
    with pytest.raises(EncodeError, match="shape"):
        encode_findings(other, headers(), context(), tmp_path)


def test_findings_without_segments_give_a_report_alone(tmp_path: Path) -> None:
    numbers = Findings(np.zeros(SHAPE, np.uint8), (), findings().measurements[4:])
    objects = encode_findings(numbers, headers(), context(), tmp_path)
    assert [o.role for o in objects] == ["sr"]
    assert not any(w.startswith("No finding") for w in texts(read_strictly(objects[0].path)))


@pytest.mark.parametrize("slices", [1, 4])
def test_one_segment_alone_whose_number_the_frames_share(tmp_path: Path, slices: int) -> None:
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[3 : 3 + slices, 5:15, 5:20] = 1
    found = findings()
    left = replace(found.measurements[0], value=slices * 10 * 15 * 1.5 * 0.9 * 0.95 / 1000)
    one = Findings(label_map, found.segments[:1], (left,))
    objects = encode_findings(one, headers(), context(), tmp_path)
    assert check_results([o.path for o in objects], headers()) == []
    wrong = encode_findings(replace(one, measurements=(replace(left, value=9.0),)), headers(), context(), tmp_path)
    assert any("9.000 mL" in p for p in check_results([o.path for o in wrong], headers()))
