"""The model cards of the ultrasound algorithms are made of their figures."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from algorithms.ultrasound.evaluate_card import card

ROOT = Path(__file__).resolve().parents[2]
FIGURE = {"value": 0.9123, "ci95": [0.881, 0.939]}
FOUND: dict[str, Any] = {
    "folds": [1, 2, 3, 4, 5],
    "lesions": 1875,
    "subjects": 1064,
    "auc": FIGURE,
    "auc_by_subject": 0.9,
    "sensitivity_at_90_specificity": FIGURE,
    "expected_calibration_error": 0.04,
    "dice": FIGURE,
    "dice_median": 0.92,
    "found": 0.97,
}
TURNED = {f"{organ}_turned_away": FIGURE for organ in ("breast", "thyroid")}
ORGAN = {
    **TURNED,
    **{f"others_taken_for_{organ}": FIGURE for organ in ("breast", "thyroid")},
    "auc_breast_thyroid": 0.99,
    "nine numbers": 0.98,
    "coarse": TURNED,
    "texture": TURNED,
    "scanner left out": {"GE Logiq 5": TURNED},
}
SPEED = {
    "one_image_s": 0.6,
    "clip_frame_s": 0.1,
    "images_per_s_together": 2.0,
    "studies": 500,
    "device": "cpu",
    "threads": 2,
    "load": 1.0,
    "weights": "installed",
}


@pytest.mark.parametrize("name", ["breast_us", "thyroid_us"])
def test_everything_measured_stands_in_the_card(name: str) -> None:
    text = card(
        name,
        {
            "found": FOUND,
            "given": FOUND,
            "ace": {**FOUND, "boxes": "given"},
            "plain": FOUND,
            "organ": ORGAN,
            "speed": SPEED,
            "unmirrored": {**FOUND, "dice": {"value": 0.9, "ci95": [0.8, 0.95]}},
        },
    )

    assert "Research use only" in text
    assert "0.912 (0.881 to 0.939)" in text
    words = " ".join(text.split())
    assert "91.2% (88.1 to 93.9)" in words
    assert "all five folds" in words
    assert "**Ablation** (1875 lesions of" in words
    assert "Dice 0.900 in place of 0.912" in words
    assert "0.6 s for one image" in words
    assert "{" not in text
    assert max(map(len, text.splitlines())) < 120
    if name == "thyroid_us":
        assert "malignan" not in words.replace("never speaks of malignancy", "")
    else:
        assert "With no image of GE Logiq 5 in training" in words


def test_what_was_not_measured_is_said_so() -> None:
    part = {**FOUND, "folds": [1]}

    text = " ".join(card("breast_us", {"found": part, "given": part}).split())

    assert "fold 1 of five" in text
    assert "its networks were not trained" in text
    assert "there is no classifier" in text
    assert "Not measured." in text


def test_an_ablation_on_other_folds_is_no_ablation() -> None:
    other = copy.deepcopy(FOUND) | {"folds": [1]}

    with pytest.raises(SystemExit, match="the ablation is of folds"):
        card("breast_us", {"found": FOUND, "given": FOUND, "ace": other, "plain": FOUND})


def test_what_is_not_mirrored_is_compared_with_the_same_images() -> None:
    other = copy.deepcopy(FOUND) | {"folds": [1]}

    with pytest.raises(SystemExit, match="not mirrored are of folds"):
        card("breast_us", {"found": FOUND, "given": FOUND, "unmirrored": other})


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(json.dumps(FOUND))
    script = ROOT / "algorithms" / "ultrasound" / "evaluate_card.py"

    ended = subprocess.run(
        [sys.executable, str(script), "breast_us", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 1
    assert "lacks given.json" in ended.stderr
