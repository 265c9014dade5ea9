"""What a Modality Performed Procedure Step says (PS3.4 section F.7.2, table F.7.2-1)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.model.completeness import Announcement, Image, StepState
from dicom_node.receive.refusal import INVALID_ATTRIBUTE_VALUE, Refused, items, needed, needed_items, needed_uid


@dataclass(frozen=True)
class Change:
    """What changes of a procedure step; None: that stays."""

    state: StepState | None
    images: tuple[Image, ...] | None


def read_step(attributes: Dataset) -> Announcement:
    """The Attribute List of an N-CREATE.

    Raises:
        Refused: what is read of it is not as the standard says.
    """
    if needed(attributes, "PerformedProcedureStepStatus") != StepState.IN_PROGRESS:
        raise Refused(INVALID_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus must be IN PROGRESS")
    scheduled = needed_items(attributes, "ScheduledStepAttributesSequence")
    studies = tuple(dict.fromkeys(needed_uid(item, "StudyInstanceUID") for item in scheduled))
    return Announcement(studies, _images(attributes))


def read_change(modifications: Dataset) -> Change:
    """The Modification List of an N-SET.

    Raises:
        Refused: what is read of it is not as the standard says.
    """
    state = None
    if "PerformedProcedureStepStatus" in modifications:
        value = needed(modifications, "PerformedProcedureStepStatus")
        if value not in set(StepState):
            accepted = ", ".join(StepState)
            raise Refused(INVALID_ATTRIBUTE_VALUE, f"Status: accepted: {accepted}")
        state = StepState(value)
    # An N-SET replaces the whole sequence.
    return Change(state, _images(modifications) if "PerformedSeriesSequence" in modifications else None)


def _images(ds: Dataset) -> tuple[Image, ...]:
    """What is no image stands in a sequence of its own (Referenced Non-Image Composite SOP Instance Sequence)."""
    found = []
    for series in items(ds, "PerformedSeriesSequence"):
        uid = needed_uid(series, "SeriesInstanceUID")
        listed = items(series, "ReferencedImageSequence")
        found += [Image(uid, needed_uid(image, "ReferencedSOPInstanceUID")) for image in listed]
    return tuple(found)
