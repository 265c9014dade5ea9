"""One image plane out of a DICOM header: a single image, or a frame of a multi-frame object."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import Dataset

_GROUPS: Mapping[str, str] = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
}
"""The functional groups (PS3.3 C.7.6.16.2) that hold what a single image has at its top."""

ULTRASOUND = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame Image Storage (Retired)
        "1.2.840.10008.5.1.4.1.1.3.1",
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage (Retired)
        "1.2.840.10008.5.1.4.1.1.6.1",
    }
)
"""SOP classes of ultrasound pictures (PS3.3 A.6 and A.7), which have no place in the patient: they are known by their
UID and frame number alone."""
MOST_FRAMES = 100_000
"""Of one object: a header that says more is not believed."""

_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def is_flat(header: Dataset) -> bool:
    """Whether the image's planes have no place in the patient, so that a mask can only be laid over their pixels."""
    return str(header.get("SOPClassUID") or "") in ULTRASOUND


def frame_count(header: Dataset) -> int:
    """How many frames an image has, by its header; 1 of a single image."""
    if not is_flat(header):
        return max(1, len(header.get(_PER_FRAME) or ()))
    try:
        return min(max(1, int(header.get("NumberOfFrames") or 1)), MOST_FRAMES)
    except (ValueError, TypeError):
        return 1


def plane_header(header: Dataset, number: int) -> Dataset:
    """The header of one plane, with its position, orientation and spacing at the top; of ultrasound that of the image.

    Args:
        header: of a file; without pixel data it costs little.
        number: Frame Number, from 1; 1 of a single image, whose header comes back as it is.

    Raises:
        LookupError: the object has no such frame.
    """
    if is_flat(header):
        if not 1 <= number <= (count := frame_count(header)):
            raise LookupError(f"the image has {count} frames, and none of number {number}")
        return header
    if _PER_FRAME not in header:
        if number != 1:
            raise LookupError(f"the image is no enhanced multi-frame object and has no frame {number}")
        return header
    groups = header[_PER_FRAME].value
    if not 1 <= number <= len(groups):
        raise LookupError(f"the image has {len(groups)} frames, and none of number {number}")
    plane = Dataset()
    for element in header:
        if element.keyword not in (_PER_FRAME, _SHARED, "NumberOfFrames", "PixelData"):
            plane.add(element)
    shared = header.get(_SHARED) or [Dataset()]
    for keyword, sequence in _GROUPS.items():
        for group in (groups[number - 1], shared[0]):
            found = group.get(sequence)
            if found and keyword in found[0]:
                plane.add(found[0][keyword])
                break
    return plane
