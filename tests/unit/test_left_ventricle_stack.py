"""The released networks on whole stacks: the phantom in two ways of sending, and a real patient."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from algorithms.left_ventricle.algorithm import load
from algorithms.left_ventricle.evaluate_stack import PATIENT
from algorithms.left_ventricle.train_data import FOLDER, rows
from dicom_node.algorithm import AlgorithmFunction, Bundle, Findings, NotAnalysed
from dicom_node.run.cine import read_cine
from dicom_node.run.registry import DEFAULT_FOLDER, load_registry
from dicom_node.testing.phantom_cine import CineSequence, Way, write_cine
from tests.conftest import data_dir

SEQUENCE = CineSequence(phases=10)


@cache
def analyse() -> AlgorithmFunction:
    folder = DEFAULT_FOLDER / "left_ventricle"
    weights = load_registry()["left_ventricle"].manifest.weights
    return load(Bundle(folder, "cpu", {name: folder / entry.file for name, entry in weights.items()}))


def found_in(paths: list[Path]) -> Findings:
    return analyse()(read_cine(paths).cine)  # type: ignore[arg-type]


def values(findings: Findings) -> dict[str, float]:
    return {m.name: m.value for m in findings.measurements}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> dict[Way, Findings]:
    ways: tuple[Way, ...] = ("series_per_slice", "multi_frame")
    return {w: found_in(write_cine(tmp_path_factory.mktemp(w), w, sequence=SEQUENCE)) for w in ways}


def test_the_phantom_is_measured_and_the_same_in_every_way_of_sending(phantom: dict[Way, Findings]) -> None:
    one, other = phantom.values()
    assert values(one) == values(other)
    assert np.array_equal(one.label_map, other.label_map)
    truth = SEQUENCE.ventricle.volumes(SEQUENCE.phases)
    found = values(one)
    assert found["LV end-diastolic volume"] == pytest.approx(truth.max(), rel=0.05)
    assert found["LV end-systolic volume"] == pytest.approx(truth.min(), rel=0.08)
    assert len(one.curves[0].values) == SEQUENCE.phases
    assert np.corrcoef(one.curves[0].values, truth)[0, 1] > 0.995


@pytest.mark.filterwarnings("ignore")
def test_a_real_patient_has_the_ejection_fraction_of_the_contours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)
    data = data_dir(FOLDER).parent
    pixels = {"ED": 0, "ES": 0}
    for row in rows(data):
        if row["subject"] == PATIENT:
            pixels[row["ed_es"]] += int(row["endo_px"])
    expected = 100 * (1 - pixels["ES"] / pixels["ED"])
    found = values(found_in([p for p in (data / FOLDER / "dicom").rglob("*") if p.is_file()]))
    assert found["LV ejection fraction"] == pytest.approx(expected, abs=5)


def test_noise_is_no_heart(tmp_path: Path) -> None:
    cine = read_cine(write_cine(tmp_path, sequence=replace(SEQUENCE, size=96, spacing=3.0))).cine
    noise = np.random.default_rng(0).normal(100, 20, cine.array.shape).astype(np.float32)
    with torch.inference_mode(), pytest.raises(NotAnalysed, match="no left ventricle was found"):
        analyse()(replace(cine, array=noise))  # type: ignore[arg-type]
