"""What the check says never names the patient, and names a source image that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest

from dicom_node.check.results import check_results
from tests.unit.result_samples import SHAPE, headers, write_results


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_results(tmp_path_factory.mktemp("sound"))


def test_sound_results_have_no_problem_whatever_the_order_of_the_images(sound: list[Path]) -> None:
    assert check_results(sound, list(reversed(headers()))) == []


def test_no_problem_names_the_patient(sound: list[Path], tmp_path: Path) -> None:
    seg, sr = (pydicom.dcmread(p) for p in sound)
    seg.PatientID, sr.PatientName = "SECRET-1", "Secret^Name"
    for ds, name in ((seg, "seg.dcm"), (sr, "sr.dcm")):
        ds.save_as(tmp_path / name)
    problems = " ".join(check_results([tmp_path / "seg.dcm", tmp_path / "sr.dcm"], headers()))
    assert "PatientID" in problems
    assert not re.search("SECRET|Secret|PHANTOM|Phantom", problems)


def test_a_source_image_that_is_gone_is_named(sound: list[Path]) -> None:
    problems = check_results(sound, headers()[:4] + headers()[5:])
    assert any("which is no source image" in p for p in problems)
    assert any("neither a source image nor a result" in p for p in problems)
    assert len(headers()) == SHAPE[0]
