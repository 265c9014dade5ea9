"""A small series with findings, and the results made of them, for the tests of encode and check."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node.algorithm import Code, Findings, Measurement, Segment
from dicom_node.encode.results import Context, encode_findings
from dicom_node.model.result import AlgorithmIdentity
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets

ANATOMY = Code("91723000", "SCT", "Anatomical structure")
HIPPOCAMPUS = Code("5302003", "SCT", "Hippocampus")
VOLUME = Code("118565006", "SCT", "Volume")
INDEX = Code("103372001", "SCT", "Index")
MRI = Code("25056-3", "LN", "MRI unspecified body region")  # CID 100
IDENTITY = AlgorithmIdentity("hippocampus", "Hippocampus", "1.2.3", "ab" * 32, "2.25.123456789")
OBLIQUE = (0.9396926208, 0.3420201433, 0.0, -0.2961981327, 0.8137976814, -0.5)
"""Turned by 20 degrees about the long axis, then tipped by 30 degrees."""
SHAPE = (12, 20, 24)
SPACING = (1.5, 0.9, 0.95)


def context(**changes: Any) -> Context:
    values: dict[str, Any] = {
        "identity": IDENTITY,
        "procedure": MRI,
        "node_id": "node-1",
        "key": "study/series/hippocampus",
        "when": datetime(2026, 1, 5, 10, 30, 15, 250000),
        "series_number": 9000,
        "institution_name": "Hospital",
    }
    return Context(**{**values, **changes})


def headers(
    orientation: str = "sagittal",
    header: Mapping[str, Any] | None = None,
    shear: float = 0.0,
    shape: tuple[int, int, int] = SHAPE,
) -> list[Dataset]:
    """Slices without pixels; ``shear`` tilts the stack as a gantry does (mm a slice along the columns)."""
    cosines = OBLIQUE if orientation == "oblique" else PLANES[orientation]
    affine = plane_affine(cosines, SPACING, (-60, -100, 80))
    affine[:3, 0] += shear * affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    datasets = slice_datasets(
        np.zeros(shape, np.uint16), affine, header={"BodyPartExamined": "BRAIN", **(header or {})}
    )
    for ds in datasets:
        del ds.PixelData
    return datasets


def findings(shape: tuple[int, int, int] = SHAPE, notes: tuple[str, ...] = ("The right end is blurred.",)) -> Findings:
    """Two hippocampi of different sizes, in different slices."""
    label_map = np.zeros(shape, np.uint8)
    label_map[2:6, 5:15, 5:20] = 1
    label_map[7:10, 4:12, 3:10] = 2
    voxel = float(np.prod(SPACING)) / 1000
    left, right = float((label_map == 1).sum()) * voxel, float((label_map == 2).sum()) * voxel
    return Findings(
        label_map=label_map,
        segments=(
            Segment(1, "Left hippocampus", ANATOMY, HIPPOCAMPUS, "left", (255, 0, 0)),
            Segment(2, "Right hippocampus", ANATOMY, HIPPOCAMPUS, "right", (0, 255, 0)),
        ),
        measurements=(
            Measurement(
                "Left hippocampus volume", left, "mL", VOLUME, HIPPOCAMPUS, "left", (1,), True, plausible=(2.0, 5.5)
            ),
            Measurement("Right hippocampus volume", right, "mL", VOLUME, HIPPOCAMPUS, "right", (2,), True),
            Measurement("Total hippocampus volume", left + right, "mL", VOLUME, HIPPOCAMPUS, None, (1, 2), True),
            Measurement("Left volume, head size 1500 mL", 3.3, "mL", VOLUME, HIPPOCAMPUS, "left", (1,)),
            Measurement("Asymmetry index", 12.34, "%", INDEX, HIPPOCAMPUS, method="2 (L - R) / (L + R)"),
        ),
        notes=notes,
    )


def write_results(out: Path, source: list[Dataset] | None = None) -> list[Path]:
    """The sound ``seg.dcm`` and ``sr.dcm``."""
    return [r.path for r in encode_findings(findings(), source or headers(), context(), out)]
