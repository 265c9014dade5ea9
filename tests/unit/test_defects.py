"""The mutation test of the check: it, and ``dicom-node check``, must catch and name every defect of the list."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from typer.testing import CliRunner

from dicom_node.check.results import check_results
from dicom_node.cli import app as commands
from dicom_node.encode.results import encode_findings
from dicom_node.run.findings_io import save_findings
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.unit.defects import DEFECTS, Defect
from tests.unit.result_samples import SHAPE, SPACING, context, findings


@dataclass(frozen=True)
class Sound:
    """Sound results and what they were made of.

    Attributes:
        folder: ``out`` has the five objects, ``encoded`` those and two more encodings; ``in`` has the images.
        headers: of the images.
    """

    folder: Path
    headers: list[Dataset]

    def results(self, *, encoded: bool) -> Path:
        return self.folder / ("encoded" if encoded else "out")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    affine = plane_affine(PLANES["sagittal"], SPACING, (-60, -100, 80))
    images = slice_datasets(np.zeros(SHAPE, np.uint16), affine, header={"BodyPartExamined": "BRAIN"})
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in save(folder / "in", images)]
    encode_findings(findings(), headers, context(), folder / "out", ("contours", "sc", "pdf"))
    encode_findings(findings(), headers, context(), folder / "encoded", encodings=("labelmap", "labelmap_jls"))
    for name in ("out", "encoded"):
        save_findings(findings(), folder / name / "findings")
    return Sound(folder, headers)


def check(*arguments: Path | str) -> tuple[int, list[str], str]:
    """``dicom-node check``: exit code, lines on standard output, standard error."""
    ended = CliRunner().invoke(commands, ["check", *map(str, arguments)])
    return ended.exit_code, ended.stdout.splitlines(), ended.stderr


class Loaded(dict[str, Dataset]):
    """Result objects by role, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.removed: set[str] = set()

    def __missing__(self, role: str) -> Dataset:
        self[role] = pydicom.dcmread(self.folder / f"{role}.dcm")
        return self[role]

    def __delitem__(self, role: str) -> None:
        self.pop(role, None)
        self.removed.add(role)


def spoilt(sound: Sound, defect: Defect, out: Path) -> Path:
    """A copy of the sound results with the defect."""
    shutil.copytree(sound.results(encoded=defect.encoded), out)
    read = Loaded(out)
    defect.spoil(read)
    for role, ds in read.items():
        ds.save_as(out / f"{role}.dcm")
    for role in read.removed:
        (out / f"{role}.dcm").unlink()
    return out


@pytest.mark.parametrize("encoded", [False, True])
def test_sound_results_have_no_problem(sound: Sound, encoded: bool) -> None:
    out = sound.results(encoded=encoded)
    assert check_results(sorted(out.glob("*.dcm")), sound.headers, findings=findings()) == []
    assert check(out, "--source", sound.folder / "in") == (0, [], "sound: no problem found\n")


def test_there_are_enough_of_them_and_each_once() -> None:
    assert len(DEFECTS) >= 100
    assert len({d.name for d in DEFECTS}) == len(DEFECTS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name)
def test_a_defect_is_caught_and_named(sound: Sound, tmp_path: Path, defect: Defect) -> None:
    out = spoilt(sound, defect, tmp_path / "out")
    found = check_results(sorted(out.glob("*.dcm")), sound.headers, findings=findings())
    assert any(re.search(defect.said, line) for line in found), found
    code, lines, errors = check(out, "--source", sound.folder / "in")
    assert code == 1
    assert any(re.search(defect.said, line) for line in lines), lines
    assert re.search(r"\b\d+ problems?$", errors.strip())
