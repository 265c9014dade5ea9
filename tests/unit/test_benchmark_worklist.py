"""The worklist benchmark says what fell short."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.algorithm import Findings

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "worklist.py"))
GOOD: dict[str, Any] = {
    "device": "cuda:0",
    "one_image_s": 0.9,
    "clip_frame_s": 0.09,
    "images_per_s_together": 120.0,
    "equal": True,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"device": "cpu", "images_per_s_together": 3.0}, []),
        ({"one_image_s": 1.1}, ["one image takes 1.1 s"]),
        ({"clip_frame_s": 0.2}, ["a frame takes 0.2 s"]),
        ({"images_per_s_together": 99.0}, ["99.0 images/s, fewer than 100"]),
        ({"equal": False}, ["findings depend on what went with it"]),
    ],
)
def test_what_falls_short_is_named(changed: dict[str, Any], said: list[str]) -> None:
    wrong = SCRIPT["short"]({**GOOD, **changed})

    assert len(wrong) == len(said)
    assert all(part in line for part, line in zip(said, wrong, strict=True))


def test_findings_are_compared_to_the_last_bit() -> None:
    one = Findings(np.zeros((1, 4, 4), np.uint8), (), details={"grades": [0.1]})

    assert SCRIPT["same"](one, replace(one))
    assert not SCRIPT["same"](one, replace(one, details={"grades": [0.1000001]}))
    assert not SCRIPT["same"](one, replace(one, notes=("other",)))
