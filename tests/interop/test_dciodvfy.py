"""dicom3tools' validator finds no error in what the node writes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_node.encode.results import encode_findings, encode_not_analysed
from tests.conftest import need_program
from tests.unit.result_samples import SHAPE, context, findings, headers


def assert_valid(path: Path) -> None:
    done = subprocess.run(
        [need_program("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert "Segmentation" in said or "Comprehensive3DSR" in said, said
    assert "Error" not in said, said


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
def test_seg_and_sr(tmp_path: Path, orientation: str) -> None:
    for result in encode_findings(findings(), headers(orientation), context(), tmp_path):
        assert_valid(result.path)


def test_results_of_a_sparse_header(tmp_path: Path) -> None:
    source = headers(header={"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"})
    for ds in source:
        for keyword in ("StudyTime", "StudyDate", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientSex"):
            del ds[keyword]
    for result in encode_findings(findings(), source, context(institution_name=""), tmp_path):
        assert_valid(result.path)


def test_no_finding(tmp_path: Path) -> None:
    found = findings()
    nothing = replace(found, label_map=np.zeros(SHAPE, np.uint8), measurements=())
    (result,) = encode_findings(nothing, headers(), context(), tmp_path)
    assert_valid(result.path)


def test_not_analysed(tmp_path: Path) -> None:
    (result,) = encode_not_analysed("the series has only 4 slices", headers(), context(), tmp_path)
    assert_valid(result.path)


def test_the_results_of_a_run_fit_together(tmp_path: Path) -> None:
    paths = [str(r.path) for r in encode_findings(findings(), headers(), context(), tmp_path)]
    done = subprocess.run(
        [need_program("dcentvfy"), *paths], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert "Error" not in done.stdout + done.stderr
