"""Breast ultrasound: find and outline lesions, and say how likely each is malignant."""

from __future__ import annotations

from dicom_node.algorithm import Bundle, Code

from ..ultrasound.load import Function, loaded
from ..ultrasound.report import Organ

GRADES = 4
"""Outputs of the grading network: malignant, and BI-RADS above 2, 3, 4."""

BREAST = Organ(
    lesion="Breast lesion",
    site=Code("76752008", "SCT", "Breast"),
    type=Code("4147007", "SCT", "Mass"),
    code=Code("111047", "DCM", "Probability of cancer"),
    probability="probability of malignancy",
    low="probably benign",
    high="suspicious of malignancy",
    limits=("Trained on biopsied lesions of one hospital: a normal breast or other tissue is not what it knows.",),
)


def load(bundle: Bundle) -> Function:
    """Load all networks once; the returned function keeps them warm."""
    return loaded(bundle, BREAST, GRADES)
