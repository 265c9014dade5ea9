"""The ultrasound algorithms as the node installs them, with stand-ins for what is learned.

All is real but the networks: in their place a finder calls dark patches lesions, and gives each the same grades.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from algorithms.ultrasound import looks, networks
from algorithms.ultrasound.calibrate import Calibration
from algorithms.ultrasound.train_jobs import write_manifest
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.testing.phantom_ultrasound import Lesion

NODULE = Lesion(depth=20, across=2, radii=(5, 8), echo=-30, behind=0, lobes=0)
"""Dark enough for the stand-in."""
OUTPUTS = {"breast_us": 4, "thyroid_us": 6}
FIND = '''
"""A stand-in for the networks: what is dark and large is a lesion."""

from dataclasses import dataclass

import torch
from scipy import ndimage


@dataclass(frozen=True)
class Candidate:
    box: tuple
    certainty: float


@dataclass(frozen=True)
class Graded:
    mask: object
    certainty: float
    grades: object


def _dark(region):
    smooth = ndimage.gaussian_filter(region.cpu().numpy(), 4)
    parts, count = ndimage.label(smooth[20:-20, 20:-20] < 0.55 * smooth.mean())
    places = ndimage.find_objects(parts)
    found = [(20 + d.start, 20 + a.start, 20 + d.stop, 20 + a.stop) for d, a in places if d.stop - d.start > 30]
    return smooth < 0.55 * smooth.mean(), found


def find(regions, finders, *, mirrored=True):
    assert finders
    return [[Candidate(box, 0.9) for box in _dark(region)[1]] for region in regions]


def grade(regions, boxes, graders, *, ace=False, mirrored=True):
    results = []
    for region, (top, left, bottom, right) in zip(regions, boxes, strict=True):
        mask, _ = _dark(region)
        mask[:top], mask[bottom:], mask[:, :left], mask[:, right:] = False, False, False, False
        grades = torch.full((graders[0].head.last.out_features,), 1.0)
        results.append(Graded(ndimage.binary_fill_holes(mask), 0.9, grades))
    return results
'''


def install(folder: Path, organs: Sequence[str] = ("breast_us", "thyroid_us"), limit: float = 1e9) -> None:
    """Put the algorithms into ``folder``; what lies farther than ``limit`` from the training data looks unlike it."""
    skip = shutil.ignore_patterns("models", "algorithm.yaml", "__pycache__")
    shutil.copytree(DEFAULT_FOLDER / "ultrasound", folder / "ultrasound", ignore=skip)
    (folder / "ultrasound" / "find.py").write_text(FIND, encoding="utf-8")
    for organ in organs:
        shutil.copytree(DEFAULT_FOLDER / organ, folder / organ, ignore=skip)
        models = folder / organ / "models"
        models.mkdir()
        networks.save_weights(networks.find_network(), models / "find-1.safetensors")
        networks.save_weights(networks.grade_network(OUTPUTS[organ]), models / "grade-1.safetensors")
        Calibration((1.0, 0.0), 0.0, (0.3, 0.7)).save(models / "calibration.json")
        looks.Looks(np.zeros(9), np.eye(9), limit).save(models / "looks.json")
        assert write_manifest(folder / organ)
