"""The hippocampus algorithm on real data that its networks never saw; skipped where the data folder is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.hippocampus import evaluate, evaluate_reslice, train_data

DATA = train_data.data_folder()
MODELS = Path(evaluate.__file__).parent / "models"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA} (set DICOM_NODE_DATA)")


def test_held_out_crops() -> None:
    fold = 1
    held_out = [c for c in train_data.msd_cases(DATA) if train_data.fold_of(c.name, train_data.SEGMENT_FOLDS) == fold]
    scores = []
    with torch.inference_mode():
        network = evaluate.fold_network("segment", fold, MODELS)
        for case in held_out[:12]:
            labels = train_data.read_ras(case.labels)[0]
            found = evaluate.segment_crop(train_data.read_ras(case.image)[0], network)
            scores.append(
                [evaluate.dice(found > 0, labels > 0), *(evaluate.dice(found == k, labels == k) for k in (1, 2))]
            )
    whole, anterior, posterior = np.mean(scores, 0)
    assert whole > 0.89
    assert anterior > 0.87
    assert posterior > 0.85


def test_held_out_heads() -> None:
    with torch.inference_mode():
        for case in train_data.ixi_cases(DATA)[::16]:
            image, affine = evaluate.head_image(case.image)
            labels, _ = train_data.read_ras(case.labels)
            _, _, outlined = evaluate.held_out_head(image, case.name, MODELS)
            for side, value in zip(outlined, (1, 2), strict=True):
                assert side is not None, case.name
                assert np.linalg.norm(side.centre - evaluate.centre_of(labels == value, affine)) < 3, case.name


def test_a_real_head_and_its_reslices() -> None:
    analyse = evaluate_reslice.load_released()
    head = evaluate_reslice.read_series(DATA / "brain_t1_philips_dicom")
    original = {m.name: m.value for m in analyse(head).measurements}
    names = [f"{side} hippocampus volume" for side in ("Left", "Right")]
    assert all(2 < original[name] < 5.5 for name in names)
    for plane in ("axial oblique 20 degrees", "axial 1x1x3 mm"):
        directions, spacing = evaluate_reslice.RESLICES[plane]
        again = {m.name: m.value for m in analyse(evaluate_reslice.resliced(head, directions, spacing)).measurements}
        for name in names:
            assert again[name] == pytest.approx(original[name], rel=0.08), plane
