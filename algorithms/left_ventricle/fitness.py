"""What this algorithm can work on, or the reason why not, in words for a radiologist."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Cine, NotAnalysed

COARSEST = 3.2  # mm between pixels: the wall is 6 to 12 mm
SMALLEST_FIELD = 120.0  # mm
LEAST_CERTAIN = 0.5  # of the most likely place; labelled stacks have 0.8 and more
FEWEST_SLICES = 3  # with a ventricle at end diastole
LARGEST_STEP = 13.0  # mm from slice to slice
LEAST_STROKE = 0.03  # of the largest volume: less does not beat


def check_geometry(cine: Cine) -> None:
    """Refuse what cannot be measured whatever its pixels show.

    Raises:
        NotAnalysed: says why.
    """
    if not np.isfinite(cine.array).all():
        raise NotAnalysed("the images hold values that are no numbers")
    if float(np.ptp(cine.array)) == 0.0:
        raise NotAnalysed("all pixels of the short-axis stack have the same value")
    step, *pixels = cine.spacing
    if max(pixels) > COARSEST:
        raise NotAnalysed(
            f"pixels of {max(pixels):.1f} mm are too coarse: this algorithm needs {COARSEST:g} mm or less"
        )
    if step > LARGEST_STEP:
        raise NotAnalysed(f"the slices are {step:.0f} mm apart: volumes need {LARGEST_STEP:g} mm or less")
    field = min(n * mm for n, mm in zip(cine.array.shape[2:], pixels, strict=True))
    if field < SMALLEST_FIELD:
        raise NotAnalysed(f"the field of view is only {field:.0f} mm wide: the heart with its surroundings needs more")


def check_place(certainty: float) -> None:
    """Raises NotAnalysed where nothing looks like a ventricle; ``certainty``: 0..1."""
    if certainty < LEAST_CERTAIN:
        raise NotAnalysed("no left ventricle was found in the short-axis stack")


def check_volumes(curve: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_]) -> None:
    """Raises NotAnalysed where what was outlined is no beating ventricle.

    Args:
        curve: mL at each phase.
        inside: (phases, slices), which slices hold the ventricle.
    """
    slices = int(inside[int(np.argmax(curve))].sum())
    if slices < FEWEST_SLICES:
        raise NotAnalysed(f"the left ventricle was found in {slices} slices only, it takes {FEWEST_SLICES} or more")
    if curve.min() <= 0:
        raise NotAnalysed("the left ventricle was not found at every heart phase")
    if (curve.max() - curve.min()) / curve.max() < LEAST_STROKE:
        raise NotAnalysed("what was outlined does not beat: the heart phases show the same volume")
