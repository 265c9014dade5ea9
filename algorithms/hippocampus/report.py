"""Findings from the label map: segments, volumes and ratios with their names, codes and limits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Code, Measurement, Segment

ANATOMY = Code("91723000", "SCT", "Anatomical structure")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
VOLUME = Code("118565006", "SCT", "Volume")
INDEX = Code("121425", "DCM", "Index")
RATIO = Code("113288", "DCM", "Volume Ratio")
BRAIN = Code("12738006", "SCT", "Brain")

PARTS = {"left": (1, 2), "right": (3, 4)}
"""Values in the label map: anterior and posterior part of each side."""

COLORS = {1: (230, 85, 60), 2: (250, 190, 70), 3: (60, 130, 220), 4: (90, 205, 190)}

# Limits of plausibility: the range of the 260 expert labels, rounded outwards. They belong to that labelling protocol:
# FreeSurfer's volumes of the same hippocampus are 21 to 31% larger.
WHOLE = (2.3, 4.5)
ANTERIOR = (1.0, 2.7)
POSTERIOR = (0.9, 2.3)
TOTAL = (4.7, 8.8)
ASYMMETRY = (-20.0, 20.0)
ENVELOPE = (900.0, 1800.0)  # IXI's 112 adults, rounded outwards

NO_HEAD_SIZE = (
    "Head size was not measured, because the brain is not wholly in the field of view or does not stand out: no volume "
    "is given relative to it."
)
ENHANCED = "The header names a contrast medium. The training data had none: volumes may be less exact."
PROTOCOL = (
    "Volumes follow the labelling protocol of the Medical Segmentation Decathlon (Vanderbilt): values of FreeSurfer "
    "or of other protocols are not comparable (FreeSurfer's are 21 to 31% larger)."
)


def segments(sides: tuple[str, ...]) -> tuple[Segment, ...]:
    """The entries of the label map for ``sides``, numbered from 1."""
    result: list[Segment] = []
    for side in sides:
        for value, part in zip(PARTS[side], ("anterior", "posterior"), strict=True):
            label = f"{side.capitalize()} hippocampus, {part} part"
            result.append(Segment(len(result) + 1, label, ANATOMY, HIPPOCAMPUS, laterality=side, color=COLORS[value]))
    return tuple(result)


def volumes(label_map: npt.NDArray[np.uint8], voxel_volume: float, sides: tuple[str, ...]) -> tuple[Measurement, ...]:
    """Volumes in mL of the mask that is sent: whole, anterior and posterior of each side, then both together."""
    counts = np.bincount(label_map.ravel(), minlength=2 * len(sides) + 1)
    result = []
    for k, side in enumerate(sides):
        numbers = (2 * k + 1, 2 * k + 2)
        name = f"{side.capitalize()} hippocampus"
        for label, values, limits in (
            (f"{name} volume", numbers, WHOLE),
            (f"{name} anterior volume", numbers[:1], ANTERIOR),
            (f"{name} posterior volume", numbers[1:], POSTERIOR),
        ):
            result.append(_volume(label, counts, values, voxel_volume, limits, side))
    if len(sides) == 2:
        result.append(_volume("Total hippocampus volume", counts, (1, 2, 3, 4), voxel_volume, TOTAL, None))
    return tuple(result)


def _volume(
    name: str,
    counts: npt.NDArray[np.int64],
    values: tuple[int, ...],
    voxel_volume: float,
    limits: tuple[float, float],
    laterality: str | None,
) -> Measurement:
    millilitres = float(sum(int(counts[v]) for v in values)) * voxel_volume / 1000
    return Measurement(
        name,
        millilitres,
        "mL",
        VOLUME,
        HIPPOCAMPUS,
        laterality=laterality,
        segments=values,
        from_mask=True,
        plausible=limits,
        # Of a whole hippocampus: the border between its parts is too uncertain for their change to mean much.
        compare="yearly" if len(values) > 1 else None,
    )


def asymmetry(left: float, right: float) -> Measurement:
    """Difference of both volumes over their mean."""
    return Measurement(
        "Hippocampus asymmetry index",
        200 * (left - right) / (left + right),
        "%",
        INDEX,
        HIPPOCAMPUS,
        plausible=ASYMMETRY,
        method="(left - right) / mean of left and right; negative: the left is smaller",
    )


def head_size(millilitres: float) -> Measurement:
    """The brain envelope's volume."""
    return Measurement(
        "Brain envelope volume",
        millilitres,
        "mL",
        VOLUME,
        BRAIN,
        plausible=ENVELOPE,
        method="brain, ventricles and the fluid in its folds, on a 2 mm grid; less than the intracranial volume",
    )


def relative(volumes: tuple[Measurement, ...], envelope: float) -> tuple[Measurement, ...]:
    """Each volume as a share of the brain envelope's (mL)."""
    return tuple(
        Measurement(
            f"{m.name} relative to head size",
            100 * m.value / envelope,
            "%",
            RATIO,
            m.site,
            laterality=m.laterality,
            method="percent of the brain envelope volume",
        )
        for m in volumes
    )
