"""Odd source headers: names in any script survive, missing and ill-formed values do not stop a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.errors import EncodeError
from dicom_node.testing.series import save
from tests.unit.result_samples import context, findings, headers, write_results


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 126", "Διονυσιος"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_names_survive_in_the_sources_own_character_set(
    tmp_path: Path, character_set: str | list[str], name: str
) -> None:
    made = headers(header={"SpecificCharacterSet": character_set, "PatientName": name})
    source = [pydicom.dcmread(p) for p in save(tmp_path / "in", made)]
    paths = write_results(tmp_path / "out", source)
    for path in paths:
        ds = pydicom.dcmread(path)
        assert ds.SpecificCharacterSet == character_set
        assert str(ds.PatientName) == name
    assert check_results(paths, source) == []


def test_findings_in_another_script_than_the_patients_name_are_written_in_utf_8(tmp_path: Path) -> None:
    source = headers(header={"SpecificCharacterSet": "ISO_IR 126", "PatientName": "Διονυσιος"})
    objects = encode_findings(findings(notes=("Größe unsicher – 海馬.",)), source, context(), tmp_path)
    ds = pydicom.dcmread(objects[1].path)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert str(ds.PatientName) == "Διονυσιος"
    assert check_results([o.path for o in objects], source) == []


@pytest.mark.parametrize(
    "keyword",
    [
        "AccessionNumber", "StudyTime", "StudyDate", "StudyID", "PatientName", "PatientBirthDate", "PatientSex",
        "ReferringPhysicianName", "PatientID", "Manufacturer", "SliceThickness", "PositionReferenceIndicator",
        "SpecificCharacterSet",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_missing_value_does_not_stop_a_result(tmp_path: Path, keyword: str, how: str) -> None:
    source = headers()
    for ds in source:
        if how == "absent":
            del ds[keyword]
        else:
            ds[keyword].value = None
    paths = write_results(tmp_path, source)
    assert check_results(paths, source) == []
    for path in paths:
        assert sum(1 for _ in pydicom.dcmread(path).iterall()) > 50


@pytest.mark.parametrize(
    ("keyword", "bad"),
    [
        ("StudyDate", "2026.01.05"),
        ("PatientBirthDate", "00000000"),
        ("PatientBirthDate", "19700230"),
        ("StudyTime", "25:00"),
        ("PatientSex", "male"),
        ("PatientAge", "45"),
        ("BodyPartExamined", "head (brain)"),
        ("PatientWeight", "heavy"),
        ("SliceThickness", "0"),
        ("DeviceSerialNumber", "x" * 80),
    ],
)
def test_an_ill_formed_value_is_left_out(tmp_path: Path, keyword: str, bad: Any) -> None:
    source = headers()
    for ds in source:
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        vr = pydicom.datadict.dictionary_VR(tag)
        ds[tag] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), vr, len(bad), bad.encode(), 0, False, True)
    paths = write_results(tmp_path, source)
    assert check_results(paths, source) == []
    for path in paths:
        assert sum(1 for _ in pydicom.dcmread(path).iterall()) > 50


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "Rows"])
def test_what_a_result_cannot_do_without_is_named(tmp_path: Path, keyword: str) -> None:
    source = headers()
    del source[3][keyword]
    with pytest.raises(EncodeError, match=keyword):
        write_results(tmp_path, source)


def test_images_of_two_patients_are_refused(tmp_path: Path) -> None:
    source = headers()
    source[5].PatientID = "SOMEONE ELSE"
    with pytest.raises(EncodeError, match="PatientID"):
        write_results(tmp_path, source)


def test_a_report_that_says_why_not_takes_images_without_a_place_in_space(tmp_path: Path) -> None:
    source = headers()
    for ds in source:
        for keyword in (
            "FrameOfReferenceUID",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
        ):
            del ds[keyword]
        ds.NumberOfFrames = 20
    (result,) = encode_not_analysed("it has no geometry", source, context(), tmp_path)
    assert check_results([result.path], source) == []


def test_a_name_that_highdicom_finds_odd_is_kept_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = headers(header={"PatientName": "Doe"})
    paths = write_results(tmp_path, source)
    assert all(str(pydicom.dcmread(p).PatientName) == "Doe" for p in paths)
    assert "Doe" not in caplog.text


def test_every_identifier_of_the_patient_is_kept_however_odd(tmp_path: Path) -> None:
    source = headers(header={"PatientID": "A 1\\B/2", "IssuerOfPatientID": "Hospital", "PatientName": "Doe^Jane^^Dr^"})
    for path in write_results(tmp_path, source):
        ds = pydicom.dcmread(path)
        assert list(ds.PatientID) == ["A 1", "B/2"]
        assert ds.IssuerOfPatientID == "Hospital"
        assert ds.PatientName == source[0].PatientName
