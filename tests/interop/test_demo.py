"""``dicom-node demo``, as README tells a newcomer to run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import Image

from dicom_node.run.registry import load_registry
from dicom_node.testing.heart import Ventricle
from dicom_node.testing.phantom_cine import CineSequence
from tests.conftest import data_dir

PROGRAM = Path(sys.executable).parent / "dicom-node"


def demo(out: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(PROGRAM), "demo", "--out", str(out), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "summary.json").read_text())


def assert_complete(summary: dict[str, Any], out: Path, algorithm: str) -> dict[str, float]:
    """Everything is there, delivered and confirmed; returns the measurements by name."""
    (study,) = (s for s in summary["studies"] if s["algorithm"] == algorithm)
    assert study["state"] == "done"
    assert {"sc", "seg", "sr"} == {d["role"] for d in study["deliveries"]}
    assert all(d["delivered"] and d["confirmed"] for d in study["deliveries"])
    assert {"receive", "complete", "infer", "encode", "check"} <= {s["step"] for s in study["steps"]}
    for role in ("sc", "seg", "sr"):
        ds = pydicom.dcmread(out / f"{algorithm}_{role}.dcm")
        assert ds.SOPInstanceUID in {d["SOPInstanceUID"] for d in study["deliveries"]}
    return {m["name"]: m["value"] for m in study["measurements"]}


def assert_overlay(out: Path) -> None:
    with Image.open(out / "hippocampus_overlay.png") as picture:
        red, green, blue = (channel.getextrema()[1] for channel in picture.convert("RGB").split())
        assert picture.width > 1000
        assert red > 200
        assert max(green, blue) > 100


def test_the_demo_shows_every_algorithm(tmp_path):
    out = tmp_path / "out"
    summary = demo(out)
    installed = load_registry().keys() - {"threshold_demo"}
    assert {s["algorithm"] for s in summary["studies"]} == installed
    values = assert_complete(summary, out, "hippocampus")
    for side in ("Left", "Right"):
        assert 1.5 < values[f"{side} hippocampus volume"] < 6.5
    assert_overlay(out)
    values = assert_complete(summary, out, "left_ventricle")
    truth = Ventricle()
    assert values["LV end-diastolic volume"] == pytest.approx(truth.end_diastolic, rel=0.1)
    assert values["LV end-systolic volume"] == pytest.approx(truth.end_systolic, rel=0.1)
    with Image.open(out / "left_ventricle_beating.gif") as picture:
        assert picture.n_frames == CineSequence().phases
    for organ, lesion in (("breast_us", "Breast lesion"), ("thyroid_us", "Thyroid nodule")):
        if organ in installed:
            values = assert_complete(summary, out, organ)
            assert values[f"{lesion} 1: longest axis"] == pytest.approx(16.8, rel=0.15)
            with Image.open(out / f"{organ}_overlay.png") as picture:
                assert picture.width >= 960


def test_the_demo_takes_a_real_head(tmp_path):
    source = data_dir("brain_t1_philips_dicom")
    values = assert_complete(demo(tmp_path / "out", "--input", str(source)), tmp_path / "out", "hippocampus")
    assert_overlay(tmp_path / "out")
    for side in ("Left", "Right"):
        assert 2 <= values[f"{side} hippocampus volume"] <= 5.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--input", "nowhere"), "nowhere is not a folder"), (("--input", "empty"), "there is no DICOM file in empty")],
)
def test_a_wrong_input_is_told_in_a_sentence(tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    command = [str(PROGRAM), "demo", "--out", "out", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_other_things_is_never_emptied(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "node.yaml").write_text("node_id: a real one\n")
    command = [str(PROGRAM), "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "holds other things" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
