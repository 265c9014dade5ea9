"""The training data: DDTI, thyroid frames with outlines and TI-RADS readings (Pedraza et al., SIPAIM 2015)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from algorithms.ultrasound.batches import Lesion
from dicom_node.run.tissue import tissue_box

FOLDER = "thyroid_us_ddti"
READINGS = ("2", "3", "4a", "4b", "4c", "5")
SUSPICIOUS = 2
"""From this grade (4a) on a nodule is called suspicious."""
GRADES = len(READINGS)
FOLDS = 5


def read(data: Path) -> list[Lesion]:
    """Every outlined nodule; frames are cut to their sector, so that no burned-in reading is seen."""
    folder = data / FOLDER
    rows = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    folds = folds_of(rows)
    return [lesion for row in _once(rows) for lesion in _lesions(folder, row, folds[row["group"]])]


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Frames that are outlined, and of near duplicates the first; one with a reading before one without."""
    kept: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["tirads"] is None, r["image"])):
        if row["polygons"]:
            kept.setdefault(row["near_duplicate_cluster"] or row["image"], row)
    return sorted(kept.values(), key=lambda r: str(r["image"]))


def folds_of(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The fold (1 to 5) of each group of patients: every fold gets its share of each reading."""
    best: dict[str, str] = {}
    for row in rows:
        best[row["group"]] = max(best.get(row["group"], ""), row["tirads"] or "")
    ordered = sorted(best, key=lambda group: (best[group], group))
    return {group: number % FOLDS + 1 for number, group in enumerate(ordered)}


def _lesions(folder: Path, row: dict[str, Any], fold: int) -> list[Lesion]:
    image = np.array(Image.open(folder / "images" / row["image"]).convert("L"))
    top, left, bottom, right = tissue_box(image)
    masks = [_filled(polygon, image.shape)[top:bottom, left:right] for polygon in row["polygons"]]
    masks = [m for m in masks if m.any()]
    cropped = torch.from_numpy(image[top:bottom, left:right].copy())
    union = torch.from_numpy(np.any(masks, 0)) if masks else torch.zeros(cropped.shape, dtype=torch.bool)
    grade = READINGS.index(row["tirads"]) if row["tirads"] else -1
    label = float("nan") if grade < 0 else float(grade >= SUSPICIOUS)
    found = []
    for mask in masks:
        down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1)
        found.append(Lesion(cropped, union, box, label, grade, row["image"], row["case"], fold))
    return found


def _filled(polygon: Sequence[Sequence[float]], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    canvas = Image.new("1", (shape[1], shape[0]))
    if len(polygon) > 2:
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    return np.array(canvas)
