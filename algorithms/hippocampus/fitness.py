"""What this algorithm can work on, or the reason why not, in words for a radiologist."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from dicom_node.algorithm import NotAnalysed, Volume

from . import find
from .resample import Grid, inside_of
from .segment import Hippocampus

THICKEST = 3.05  # mm; 3 mm and what scanners make of it
CROP = 80.0  # mm; a field of view smaller than this along every axis holds no head
SMALLEST_CROP = 20.0  # mm
BRAIN = (550.0, 2600.0)  # mL inside the skull; adults have 1100 to 1900, what is cut off has less
SMALLEST = 0.3  # mL; less is no hippocampus but a remnant of a failed segmentation
LEAST_CERTAIN = 0.6  # mean probability inside the mask


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


def tissue_levels(head: find.Head) -> dict[str, float]:
    """Intensity of white matter, grey matter and CSF, from where they are.

    The hippocampi are grey; most of what lies 20 mm under the skull is white; the darkest or brightest of the outermost
    8 mm is CSF. Empty where the head is too incomplete to tell.
    """
    inside, image = head.inside, head.image.cpu().numpy()
    depth = ndimage.distance_transform_edt(inside) * find.STEP
    grey = image[(head.probability[find.HIPPOCAMPUS] > 0.6).cpu().numpy()]
    deep, shell = image[depth > 20], image[inside & (depth <= 8)]
    if min(len(grey), len(deep), len(shell)) < 10:
        return {}
    return {
        "white matter": float(np.percentile(deep, 75)),
        "grey matter": float(np.median(grey)),
        "CSF": float(np.percentile(shell, 10)),
    }


def check_head(head: find.Head) -> None:
    """Refuse what is no head.

    Raises:
        NotAnalysed: says why.
    """
    if head.intracranial < BRAIN[0]:
        raise NotAnalysed("no brain was recognised in the images")
    if head.intracranial > BRAIN[1]:
        raise NotAnalysed(f"what looks like a brain measures {head.intracranial:.0f} mL, more than any head holds")


def check_contrast(head: find.Head) -> None:
    """Refuse a brain that is not T1-weighted.

    Raises:
        NotAnalysed: says why.
    """
    levels = tissue_levels(head)
    if not levels:
        raise NotAnalysed("too little of the brain is in the field of view to tell its contrast")
    if levels["white matter"] < 1.05 * levels["grey matter"]:
        raise NotAnalysed("the images are not T1-weighted: white matter is not brighter than grey matter")
    if levels["CSF"] > 0.9 * levels["grey matter"]:
        raise NotAnalysed("the images are not T1-weighted: fluid is not darker than grey matter")


def check_places(left: find.Place | None, right: find.Place | None) -> None:
    """Refuse a head in which not both hippocampi were found.

    Raises:
        NotAnalysed: says which.
    """
    missing = [side for side, place in (("left", left), ("right", right)) if place is None]
    if missing:
        raise NotAnalysed(f"the {' and '.join(missing)} hippocampus was not found in the images")


def check_side(name: str, side: Hippocampus | None) -> Hippocampus:
    """Refuse a hippocampus that is cut off or that the networks do not agree on.

    Raises:
        NotAnalysed: says why.
    """
    if side is None or side.volume < SMALLEST or side.certainty < LEAST_CERTAIN:
        raise NotAnalysed(f"the {name} hippocampus cannot be delineated with confidence")
    if not side.complete:
        raise NotAnalysed(f"the {name} hippocampus is not fully in the field of view")
    return side


def brain_is_cut(head: find.Head, source: Grid, device: torch.device) -> bool:
    """Whether more than 20 cm2 of the brain's surface is the edge of the field of view (the spinal cord is less)."""
    outside = ~inside_of(source, head.grid, device).cpu().numpy()
    touching = head.inside & ndimage.binary_dilation(outside)
    return float(touching.sum()) * find.STEP**2 > 2000
