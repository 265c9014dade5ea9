"""The training data: labelled slices, and which patients are held out of which fold."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

FIND_FOLDS = 2
SEGMENT_FOLDS = 5
FOLDER = "cardiac_cine_sunnybrook"
UNLABELLED = 25.0
"""mm around the cavity of an end-systolic slice within which what is not cavity may be muscle: nobody labelled it."""


def data_folder(given: str | None = None) -> Path:
    """``--data``, else the environment's DICOM_NODE_DATA, else ``../shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(given or os.environ.get("DICOM_NODE_DATA") or beside)


@dataclass(frozen=True)
class Slices:
    """Labelled slices.

    Attributes:
        images: (n, 1, rows, columns) uint8.
        regions: (n, 3, rows, columns) bool: cavity, myocardium, surely neither. A pixel in none of them is not
            cavity, and nobody says whether it is myocardium.
        spacing: (n, 2) float32, mm between (rows, columns).
        centres: (n, 2) float32, (row, column) of the cavity's middle.
        subjects: patient of each slice.
        phases: ``"ED"`` or ``"ES"`` of each slice.
        slices: index of each slice in its patient's stack.
        step: (n,) float32, mm from slice to slice.
    """

    images: torch.Tensor
    regions: torch.Tensor
    spacing: torch.Tensor
    centres: torch.Tensor
    subjects: tuple[str, ...]
    phases: tuple[str, ...]
    slices: tuple[int, ...]
    step: torch.Tensor

    def __len__(self) -> int:
        return len(self.subjects)

    def only(self, indices: Sequence[int]) -> Slices:
        """Some of them."""
        chosen = list(indices)
        return Slices(
            self.images[chosen],
            self.regions[chosen],
            self.spacing[chosen],
            self.centres[chosen],
            tuple(self.subjects[k] for k in chosen),
            tuple(self.phases[k] for k in chosen),
            tuple(self.slices[k] for k in chosen),
            self.step[chosen],
        )


def rows(data: Path) -> list[dict[str, str]]:
    """The manifest, one row a slice."""
    with (data / FOLDER / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def folds_of(manifest: Sequence[dict[str, str]], folds: int) -> dict[str, int]:
    """The fold of each patient: every fold gets its share of each group of the challenge.

    Patients are dealt out in the order of their names, group by group, and the dealing goes on where it stopped.
    """
    groups = sorted({(row["group"], row["subject"]) for row in manifest})
    return {subject: number % folds for number, (_, subject) in enumerate(groups)}


def read(data: Path) -> Slices:
    """All slices."""
    manifest = rows(data)
    with np.load(data / FOLDER / "slices.npz", allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    regions, centres, order = [], [], []
    for row in manifest:
        k = int(row["row"])
        spacing = (float(row["dy_mm"]), float(row["dx_mm"]))
        regions.append(regions_of(labels[k], row["ed_es"] == "ED", spacing))
        centres.append(ndimage.center_of_mass(labels[k] == 1))
        order.append(k)
    return Slices(
        torch.from_numpy(images[order][:, None]),
        torch.from_numpy(np.stack(regions)),
        torch.tensor([[float(row["dy_mm"]), float(row["dx_mm"])] for row in manifest]),
        torch.tensor(centres, dtype=torch.float32),
        tuple(row["subject"] for row in manifest),
        tuple(row["ed_es"] for row in manifest),
        tuple(int(row["slice"]) for row in manifest),
        torch.tensor([float(row["dz_mm"]) for row in manifest]),
    )


def regions_of(
    labels: npt.NDArray[np.uint8], end_diastolic: bool, spacing: tuple[float, float]
) -> npt.NDArray[np.bool_]:
    """Cavity, myocardium and surely neither, (3, rows, columns), of one slice's labels.

    At end-systole myocardium is unlabelled, not absent: near the cavity nothing is surely neither.
    """
    cavity, muscle = labels == 1, labels == 2
    if end_diastolic:
        neither = labels == 0
    else:
        neither = ndimage.distance_transform_edt(~cavity, sampling=spacing) > UNLABELLED
        muscle = np.zeros_like(cavity)
    return np.stack([cavity, muscle, neither])


def held_in(slices: Slices, folds: dict[str, int], fold: int) -> list[int]:
    """Indices of the slices that ``fold`` trains on."""
    return [k for k, subject in enumerate(slices.subjects) if folds[subject] != fold]


def held_out(slices: Slices, folds: dict[str, int], fold: int) -> list[int]:
    """Indices of the slices that ``fold`` never sees."""
    return [k for k, subject in enumerate(slices.subjects) if folds[subject] == fold]
