"""What this algorithm can work on, or the reason why not, in words for a radiologist."""

from __future__ import annotations

import numpy as np

from dicom_node.algorithm import NotAnalysed, Volume

from . import find
from .contrast import Tissues
from .resample import Grid
from .segment import Hippocampus

THICKEST = 3.05  # mm; 3 mm and what scanners make of it
CROP = 80.0  # mm; a field of view smaller than this along every axis holds no head
SMALLEST_CROP = 20.0  # mm
SMALLEST_BRAIN = 550.0  # mL inside the skull; adults have 1100 to 1900, what is cut off has less
SMALLEST = 0.3  # mL; less is no hippocampus but a remnant of a failed segmentation
LEAST_CERTAIN = 0.8  # mean probability inside the mask: 0.9 and more in heads, 0.7 and less in what is none


def check_geometry(volume: Volume, grid: Grid) -> None:
    """Refuse what cannot be a 3-D head scan whatever its pixels show.

    Raises:
        NotAnalysed: says why.
    """
    if not np.isfinite(volume.array).all():
        raise NotAnalysed("the images hold values that are no numbers")
    if float(np.ptp(volume.array)) == 0.0:
        raise NotAnalysed("all pixels of the series have the same value")
    coarsest = float(max(grid.spacing))
    if coarsest > THICKEST:
        raise NotAnalysed(f"voxels of {coarsest:.1f} mm are too large: this algorithm needs 3 mm or less in each axis")
    extent = grid.spacing * np.array(grid.shape)
    if float(min(extent)) < SMALLEST_CROP:
        raise NotAnalysed(f"the series covers only {float(min(extent)):.0f} mm: the hippocampus does not fit into it")


def is_crop(grid: Grid) -> bool:
    """Whether the field of view is a small box, as around one hippocampus, in which no head can be found."""
    return bool(max(grid.spacing * np.array(grid.shape)) <= CROP)


def check_head(head: find.Head) -> None:
    """Refuse what is no head.

    Raises:
        NotAnalysed: says why.
    """
    if head.brain_volume < SMALLEST_BRAIN:
        raise NotAnalysed("no brain was recognised in the images")


def check_contrast(levels: Tissues | None) -> None:
    """Refuse a brain that is not T1-weighted.

    Raises:
        NotAnalysed: says why.
    """
    if levels is None:
        raise NotAnalysed("too little of the brain is in the field of view to tell its contrast")
    if levels.white < 1.03 * levels.grey:
        raise NotAnalysed("the images are not T1-weighted: white matter is not brighter than grey matter")
    if levels.fluid > 0.9 * levels.grey:
        raise NotAnalysed("the images are not T1-weighted: fluid is not darker than grey matter")


def check_places(left: find.Place | None, right: find.Place | None) -> tuple[find.Place, find.Place]:
    """Both places; refuse a head in which not both hippocampi were found.

    Raises:
        NotAnalysed: says which.
    """
    if left is None or right is None:
        missing = "left and right" if left is right else "left" if left is None else "right"
        raise NotAnalysed(f"the {missing} hippocampus was not found in the images")
    return left, right


def check_side(name: str, side: Hippocampus | None) -> Hippocampus:
    """Refuse a side on which there is nothing like a hippocampus.

    Raises:
        NotAnalysed: says why.
    """
    if side is None or side.volume < SMALLEST:
        raise NotAnalysed(f"the {name} hippocampus cannot be delineated with confidence")
    return side


def check_outline(name: str, side: Hippocampus) -> None:
    """Refuse a hippocampus that is cut off or that the networks are not sure of.

    Raises:
        NotAnalysed: says why.
    """
    if side.certainty < LEAST_CERTAIN:
        raise NotAnalysed(f"the {name} hippocampus cannot be delineated with confidence")
    if not side.complete:
        raise NotAnalysed(f"the {name} hippocampus is not fully in the field of view")
