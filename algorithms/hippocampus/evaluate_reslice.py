"""The released algorithm on a real head, and on the same head re-sliced as other protocols would have done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import yaml
from scipy import ndimage

from dicom_node.algorithm import Bundle, Findings, Volume

from . import algorithm

Matrix = npt.NDArray[np.float64]
HERE = Path(__file__).resolve().parent

# Directions (LPS) of slices, rows and columns of the array: what a scanner writes for each plane.
AXIAL: Matrix = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float).T
CORONAL: Matrix = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float).T
SAGITTAL: Matrix = np.array([[-1, 0, 0], [0, 0, -1], [0, 1, 0]], float).T


def turned(directions: Matrix, degrees: float) -> Matrix:
    """Directions turned about the left-right and then a little about the head-foot axis."""
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    result: Matrix = about_z @ about_x @ directions
    return result


RESLICES: dict[str, tuple[Matrix, tuple[float, float, float]]] = {
    "axial 1 mm": (AXIAL, (1, 1, 1)),
    "coronal 1 mm": (CORONAL, (1, 1, 1)),
    "sagittal 1 mm": (SAGITTAL, (1, 1, 1)),
    "axial oblique 20 degrees": (turned(AXIAL, 20), (1, 1, 1)),
    "coronal oblique 20 degrees": (turned(CORONAL, 20), (1, 1, 1)),
    "axial 1x1x3 mm": (AXIAL, (3, 1, 1)),
    "coronal 1x1x3 mm": (CORONAL, (3, 1, 1)),
    "sagittal 1x1x3 mm": (SAGITTAL, (3, 1, 1)),
}


def load_released() -> Callable[[Volume], Findings]:
    """The algorithm as the node loads it: weights named and hashed by the manifest."""
    manifest: dict[str, Any] = yaml.safe_load((HERE / "algorithm.yaml").read_text(encoding="utf-8"))
    weights = {name: HERE / entry["file"] for name, entry in manifest["weights"].items()}
    for name, file in weights.items():
        if hashlib.sha256(file.read_bytes()).hexdigest() != manifest["weights"][name]["sha256"]:
            raise ValueError(f"{file.name} is not the file that the manifest names")
    return algorithm.load(Bundle(HERE, "cpu", weights))


def read_series(folder: Path) -> Volume:
    """A classic MR series as a Volume."""
    slices = [pydicom.dcmread(f) for f in sorted(folder.glob("*.dcm"))]
    row, column = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    slices.sort(key=lambda s: float(np.dot(np.array(s.ImagePositionPatient, float), normal)))
    positions = np.array([s.ImagePositionPatient for s in slices], float)
    between_rows, between_columns = (float(v) for v in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = positions[0]
    return Volume(np.stack([s.pixel_array for s in slices]).astype(np.float32), affine)


def resliced(volume: Volume, directions: Matrix, spacing: tuple[float, float, float]) -> Volume:
    """The head on a grid of other directions and voxel sizes (mm) around the same centre; thick voxels are averages."""
    parts = [max(1, round(s)) for s in spacing]
    small = np.array(spacing) / parts
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in volume.array.shape], indexing="ij")).reshape(3, -1)
    mm = volume.affine[:3, :3] @ corners + volume.affine[:3, 3:]
    along = directions.T @ mm
    low, high = along.min(1), along.max(1)
    counts = np.ceil((high - low) / np.array(spacing)).astype(int)
    fine = counts * parts
    affine = np.eye(4)
    affine[:3, :3] = directions * small
    affine[:3, 3] = directions @ low
    matrix = np.linalg.inv(volume.affine) @ affine
    array = ndimage.affine_transform(volume.array, matrix, output_shape=tuple(fine), order=3, mode="constant")
    blocks = np.maximum(array, 0).reshape(counts[0], parts[0], counts[1], parts[1], counts[2], parts[2])
    coarse = affine.copy()
    coarse[:3, :3] = directions * np.array(spacing)
    coarse[:3, 3] = affine[:3, :3] @ ((np.array(parts) - 1) / 2) + affine[:3, 3]
    return Volume(blocks.mean((1, 3, 5)).astype(np.float32), coarse)


def philips(data: Path) -> dict[str, Any]:
    """Volumes of the head as it was scanned, and of each re-slice with its change in percent."""
    analyse = load_released()
    head = read_series(data / "brain_t1_philips_dicom")
    original = {m.name: round(m.value, 3) for m in analyse(head).measurements}
    figures: dict[str, Any] = {"as scanned": original}
    worst: dict[str, float] = {}
    for name, (directions, spacing) in RESLICES.items():
        value = {m.name: m.value for m in analyse(resliced(head, directions, spacing)).measurements}
        row = {}
        for key in ("Left hippocampus volume", "Right hippocampus volume", "Brain envelope volume"):
            change = 100 * (value[key] / original[key] - 1)
            worst[key] = max(worst.get(key, 0.0), round(abs(change), 1))
            row[key] = {"mL": round(value[key], 3), "change_percent": round(change, 1)}
        figures[name] = row
    figures["largest_change_percent"] = worst
    return figures
