"""The change that the real algorithms find between two phantoms, of which it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_node.offline import run_offline
from dicom_node.settings import RunSettings, Settings
from dicom_node.testing.heart import Ventricle
from dicom_node.testing.phantom_cine import CineSequence, write_cine
from dicom_node.testing.phantom_head import write_head
from tests.interop.test_dciodvfy import assert_valid


def compare(algorithm: str, now: Path, before: Path, out: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The changes by the measurement's name, and the result; what is written is sound."""
    settings = Settings(run=RunSettings(device="cpu"))
    result = run_offline(settings, algorithm, now, out, before)
    assert result["state"] == "done", result["reason"]
    assert_valid(out / "sr.dcm")
    sr = pydicom.dcmread(out / "sr.dcm")
    assert len(sr.PertinentOtherEvidenceSequence) == 1
    return {m["name"]: m["value"] for m in result["measurements"] if "prior" in m["name"] or ":" in m["name"]}, result


def test_smaller_hippocampi_are_seen_as_such(tmp_path: Path) -> None:
    common: dict[str, Any] = {"spacing": (1.6, 1.2, 1.2)}
    write_head(tmp_path / "before", study="1", header={"StudyDate": "20250105"}, **common)
    write_head(tmp_path / "now", study="2", seed=1, hippocampi=0.85, header={"StudyDate": "20260105"}, **common)
    change, result = compare("hippocampus", tmp_path / "now", tmp_path / "before", tmp_path / "out")

    assert change["Interval since the prior study"] == 365
    yearly = {side: change[f"{side} hippocampus volume: change per year"] for side in ("Left", "Right", "Total")}
    # The warp takes 15% of an ellipsoid's volume, of which a hippocampus fills the most.
    assert all(-19 < v < -8 for v in yearly.values()), yearly
    assert any("4.2% on average" in note for note in result["notes"])


def test_a_weaker_heart_is_seen_as_such(tmp_path: Path) -> None:
    phases, fraction, smallest = 8, {}, {}
    for name, day, systole in (("before", "20251105", 56.0), ("now", "20260105", 76.0)):
        heart = Ventricle(end_systolic=systole)
        sequence = CineSequence(phases=phases, slices=10, size=128, ventricle=heart)
        write_cine(tmp_path / name, sequence=sequence, study=name, header={"StudyDate": day})
        volumes = heart.volumes(phases)
        smallest[name], fraction[name] = volumes.min(), 100 * (1 - volumes.min() / volumes.max())
    change, result = compare("left_ventricle", tmp_path / "now", tmp_path / "before", tmp_path / "out")

    points = change["LV ejection fraction: change in points since the prior"]
    assert points == pytest.approx(fraction["now"] - fraction["before"], abs=4)
    systolic = change["LV end-systolic volume: change since the prior study"]
    assert systolic == pytest.approx(smallest["now"] - smallest["before"], abs=6)
    assert change["LV end-diastolic volume: change since the prior study"] == pytest.approx(0, abs=6)
    assert not any("per year" in name for name in change)
    assert any("Please compare the end slices" in note for note in result["notes"])
