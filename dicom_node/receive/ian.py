"""What an Instance Availability Notification says (PS3.4 section R.3.1.2, table R.3.1-1)."""

from __future__ import annotations

from pydicom import Dataset

from dicom_node.model.completeness import Announcement, Image, is_image_class
from dicom_node.receive.refusal import needed, needed_items, needed_uid

_GONE = "UNAVAILABLE"


def read_notification(attributes: Dataset) -> Announcement:
    """The Attribute List of an N-CREATE: the study, and its images that are, or can be made, available.

    Raises:
        Refused: what is read of it is not as the standard says.
    """
    study_uid = needed_uid(attributes, "StudyInstanceUID")
    found = []
    for series in needed_items(attributes, "ReferencedSeriesSequence"):
        uid = needed_uid(series, "SeriesInstanceUID")
        for item in needed_items(series, "ReferencedSOPSequence"):
            image = Image(uid, needed_uid(item, "ReferencedSOPInstanceUID"))
            # What was deleted or rejected is announced as unavailable.
            if needed(item, "InstanceAvailability") != _GONE and is_image_class(
                needed_uid(item, "ReferencedSOPClassUID")
            ):
                found.append(image)
    return Announcement((study_uid,), tuple(found))
