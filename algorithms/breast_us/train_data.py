"""The training data: BUS-BRA, breast lesions with biopsy truth (Gómez-Flores et al., Medical Physics 2023)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from algorithms.ultrasound.batches import Lesion

FOLDER = "breast_us_busbra"
GRADES = 4
"""BI-RADS 2 to 5."""


def read(data: Path) -> list[Lesion]:
    """Every image's lesion; the folds are those of the data set, by patient."""
    folder = data / FOLDER
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [_lesion(folder, row) for row in rows]


def _lesion(folder: Path, row: dict[str, str]) -> Lesion:
    name = f"{row['id']}.png"
    image = np.array(Image.open(folder / "images" / name).convert("L"))
    mask = np.array(Image.open(folder / "masks" / name).convert("L")) > 127
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Lesion(
        torch.from_numpy(image),
        torch.from_numpy(mask),
        (int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1),
        float(row["pathology"] == "malignant"),
        int(row["birads"]) - 2,
        row["id"],
        row["case"],
        int(row["fold"]),
    )
