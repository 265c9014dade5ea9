"""The smallest algorithm: from pixels to findings in one function."""

from __future__ import annotations

import numpy as np

from dicom_node.algorithm import AlgorithmFunction, Bundle, Code, Findings, Measurement, NotAnalysed, Segment, Volume

TISSUE = Code("85756007", "SCT", "Body tissue structure")
ANATOMY = Code("91723000", "SCT", "Anatomical structure")
VOLUME = Code("118565006", "SCT", "Volume")


def load(bundle: Bundle) -> AlgorithmFunction:
    """Nothing to load: return the function itself."""
    return bright


def bright(volume: Volume) -> Findings:
    """Mark voxels brighter than half the maximum."""
    if float(np.ptp(volume.array)) == 0.0:
        raise NotAnalysed("all pixels of the series have the same value")
    mask = volume.array > volume.array.max() / 2
    millilitres = float(mask.sum()) * volume.voxel_volume / 1000
    return Findings(
        label_map=mask.astype(np.uint8),
        segments=(Segment(1, "Bright tissue", ANATOMY, TISSUE, color=(255, 180, 0)),),
        measurements=(
            Measurement("Bright tissue volume", millilitres, "mL", VOLUME, TISSUE, segments=(1,), from_mask=True),
        ),
        notes=("An example without medical meaning.",),
    )
