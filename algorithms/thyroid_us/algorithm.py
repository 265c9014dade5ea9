"""Thyroid ultrasound: find and outline nodules, and say how suspicious a reader would call each (TI-RADS)."""

from __future__ import annotations

from dicom_node.algorithm import Bundle, Code

from ..ultrasound.load import Function, loaded
from ..ultrasound.report import Organ

GRADES = 6
"""Outputs of the grading network: suspicious, and TI-RADS above 2, 3, 4a, 4b, 4c."""

THYROID = Organ(
    lesion="Thyroid nodule",
    site=Code("69748006", "SCT", "Thyroid"),
    type=Code("27925004", "SCT", "Nodule"),
    code=Code("111013", "DCM", "Certainty of impression"),
    probability="probability of a suspicious TI-RADS reading",
    low="low suspicion (as TI-RADS 2 or 3)",
    high="suspicious (as TI-RADS 4a to 5)",
    limits=("TI-RADS suspicion predicts how a radiologist would read the nodule; it is not pathology.",),
)


def load(bundle: Bundle) -> Function:
    """Load all networks once; the returned function keeps them warm."""
    return loaded(bundle, THYROID, GRADES)
