"""One image plane out of a DICOM header, whether it is a single image or a frame of an enhanced multi-frame object."""

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

_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def plane_header(header: Dataset, number: int) -> Dataset:
    """The header of one plane, with its position, orientation and spacing at the top.

    Args:
        header: of a file; without pixel data it costs little.
        number: Frame Number, from 1; 1 of a single image, whose header comes back as it is.

    Raises:
        LookupError: the object has no such frame.
    """
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
