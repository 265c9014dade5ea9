"""dicom3tools' validator finds nothing wrong in results on ultrasound, though these have no place in the patient."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.run.frames import FrameSource
from tests.conftest import need_program
from tests.interop.test_validators import DCIODVFY_KNOWN, IODS
from tests.unit.result_samples import context
from tests.unit.ultrasound_samples import OTHER, SHOWN, findings, image, study


def said_of(path: Path) -> list[str]:
    """Every complaint but those that are known to be the validator's age."""
    done = subprocess.run(
        [need_program("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    assert any(kind in lines for kind in IODS), lines
    return [line for line in lines if line.startswith(("Error", "Warning")) and line not in DCIODVFY_KNOWN]


@pytest.fixture(params=["single", "clip", "placed", "no scale"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> FrameSource:
    images = {
        "single": [image("one")],
        "clip": [image("one", BodyPartExamined="BREAST"), image("clip", (SHOWN, OTHER), InstanceNumber=2)],
        "placed": [image("one", FrameOfReferenceUID="1.2.3", PositionReferenceIndicator="")],
        "no scale": [image("one", scale=False)],
    }
    return study(tmp_path / "in", images[request.param])


def test_all_results(source: FrameSource, tmp_path: Path) -> None:
    found = findings(source, [SHOWN, OTHER][: len(source.clips)], [1, 2][: len(source.clips)], "left")
    objects = encode_findings(found, source.headers, context(), tmp_path / "out", ("contours", "sc", "pdf"))

    assert len(objects) == 5
    assert {o.role: said_of(o.path) for o in objects} == {"seg": [], "sr": [], "contours": [], "sc": [], "pdf": []}


def test_not_analysed(source: FrameSource, tmp_path: Path) -> None:
    (result,) = encode_not_analysed("M-mode", source.headers, context(), tmp_path / "out")

    assert said_of(result.path) == []


def test_the_results_of_a_run_fit_together(source: FrameSource, tmp_path: Path) -> None:
    found = findings(source, [SHOWN, OTHER][: len(source.clips)], [1, 2][: len(source.clips)])
    paths = [str(o.path) for o in encode_findings(found, source.headers, context(), tmp_path / "out")]
    done = subprocess.run(
        [need_program("dcentvfy"), *paths], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert "Error" not in done.stdout + done.stderr
