"""What results take from the headers of their source images, and which headers those are."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from dicom_node.check.results import check_folder, check_results
from dicom_node.encode.results import encode_not_analysed
from dicom_node.testing.series import save
from tests.unit.result_samples import SHAPE, context, headers, write_results

OTHER = {
    "AccessionNumber": "OTHER-1",
    "StudyID": "OTHER-1",
    "StudyDate": "20200229",
    "StudyTime": "010203",
    "PatientSex": "O",
    "PatientName": "Secret^Name",
    "PatientBirthDate": "19500101",
    "PatientID": "OTHER-1",
}
"""Nothing of the sample series."""


FILLED = {
    "AccessionNumber": "A-77",
    "StudyID": "S 7",
    "StudyTime": "101112.5",
    "PatientSex": "F",
    "PatientBirthDate": "19700102",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_results(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("keyword", OTHER)
@pytest.mark.parametrize("index", [0, 1], ids=["seg", "sr"])
@pytest.mark.parametrize("value", ["other", ""])
def test_a_value_that_is_not_the_sources_is_named_and_not_told(
    sound: list[Path], tmp_path: Path, keyword: str, index: int, value: str
) -> None:
    source = headers(header={k: v for k, v in FILLED.items() if k == keyword})
    datasets = [pydicom.dcmread(p) for p in sound]
    for ds in datasets:
        setattr(ds, keyword, source[0].get(keyword))
    setattr(datasets[index], keyword, OTHER[keyword] if value else "")
    paths = [tmp_path / p.name for p in sound]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path)
    problems = check_results(paths, source)
    assert f"{paths[index].name}: {keyword} is not that of the source images" in problems
    assert not any(OTHER[keyword] in p for p in problems)


@pytest.mark.parametrize(
    "header",
    [
        FILLED,
        {"StudyTime": "10", "StudyDate": "19991231", "StudyID": "a" * 16, "AccessionNumber": "A\\B"},
        {"StudyTime": "101112.123456", "PatientSex": "O", "AccessionNumber": "ä", "SpecificCharacterSet": "ISO_IR 100"},
    ],
)
def test_what_the_encoder_copies_is_sound(tmp_path: Path, header: dict[str, str]) -> None:
    source = [pydicom.dcmread(p) for p in save(tmp_path / "in", headers(header=header))]
    paths = write_results(tmp_path / "out", source)
    assert all(pydicom.dcmread(p).StudyTime == header["StudyTime"] for p in paths)
    assert check_results(paths, source) == []
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "PatientBirthDate"])
def test_images_of_two_patients_are_a_problem(sound: list[Path], keyword: str) -> None:
    source = headers()
    setattr(source[4], keyword, OTHER[keyword])
    problems = check_results(sound, source)
    assert problems == [f"the source images have 2 different values of {keyword}"]


def test_a_name_in_another_spelling_is_no_other_patient(sound: list[Path]) -> None:
    source = headers()
    source[4].PatientName = f"{str(source[4].PatientName).upper()}^^"
    assert check_results(sound, source) == []


def test_a_value_that_only_some_images_have_is_sound(tmp_path: Path) -> None:
    source = headers(header=FILLED)
    for ds in source[3:]:
        del ds.StudyID
    paths = write_results(tmp_path, source)
    assert check_results(paths, source) == []
    assert check_results(paths, source[::-1]) == []


def test_a_report_on_a_series_without_positions_finds_its_images(tmp_path: Path) -> None:
    source = headers()
    for ds in source:
        del ds.ImagePositionPatient
        del ds.ImageOrientationPatient
    save(tmp_path / "in", source)
    encode_not_analysed("it has no geometry", source, context(), tmp_path / "out")
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


def test_images_of_the_series_that_a_result_leaves_out_do_not_count_against_it(tmp_path: Path) -> None:
    """A localizer or a copy among the slices is not analysed, and the report does not name it."""
    source = headers(shape=(SHAPE[0] + 1, *SHAPE[1:]))
    save(tmp_path / "in" / "all", source)
    save(tmp_path / "in" / "twice", source)
    write_results(tmp_path / "out", source[:-1])
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


def test_an_image_that_is_not_in_the_folder_is_named(tmp_path: Path) -> None:
    source = headers()
    save(tmp_path / "in", source[1:])
    write_results(tmp_path / "out", source)
    problems = check_folder(tmp_path / "out", tmp_path / "in")
    assert any(f"neither a source image nor a result: {source[0].SOPInstanceUID}" in p for p in problems)
