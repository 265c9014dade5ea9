"""The frames that a mask is of: which lie at the same place, and the references to each of them.

A heart's slice is imaged many times in a beat. Its end-diastolic mask is of one of these frames, its end-systolic
mask of another, at the same place in space: highdicom, which knows a frame by its place, is given each place once, and
then told which frame each mask is of. Ultrasound has no place in space: highdicom is given one for each frame, and it
is taken away again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import MRImageStorage

from dicom_node.algorithm import Findings
from dicom_node.encode.source import Plane
from dicom_node.encode.uids import derive_uid
from dicom_node.errors import EncodeError

Place = tuple[float, ...]


def slices_of(findings: Findings, planes: Sequence[Plane]) -> list[list[int]]:
    """The planes at each place, as indices into ``planes``, places in the order of their first plane.

    Raises:
        EncodeError: a segment is marked in two planes at the same place.
    """
    places: dict[Place, list[int]] = {}
    for index, plane in enumerate(planes):
        places.setdefault(_place(plane, index), []).append(index)
    for members in places.values():
        seen: set[int] = set()
        for index in members if len(members) > 1 else ():
            marked = set(np.unique(findings.label_map[index]).tolist()) - {0}
            if seen & marked:
                raise EncodeError(f"segment {min(seen & marked)} is marked in two images of the same slice")
            seen |= marked
    return list(places.values())


def stand_ins(planes: Sequence[Plane]) -> list[Dataset]:
    """Single images of one series in place of frames and of several series, which highdicom takes no mask of.

    They have the places; the references to them are replaced by :func:`refer_to_frames`.
    """
    copies = []
    for number, plane in enumerate(planes):
        other = copy.deepcopy(plane.image)
        other.SOPClassUID = MRImageStorage
        other.SOPInstanceUID = derive_uid("stand-in", str(number))
        other.SeriesInstanceUID = planes[0].image.SeriesInstanceUID
        if plane.flat:
            other.FrameOfReferenceUID = derive_uid("stand-in", "frame of reference")
            other.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            other.ImagePositionPatient = list(_place(plane, number))
            other.PixelSpacing = [1, 1]
            other.SliceThickness = 1
        copies.append(other)
    return copies


def take_off_places(seg: Dataset, planes: Sequence[Plane]) -> None:
    """Leave nothing of the places that :func:`stand_ins` gave to flat planes, in the order of ``planes``.

    PS3.3 A.51.4: Pixel Measures, Plane Position and Plane Orientation may be absent where Derivation Image is there,
    and so may the Frame of Reference, which is kept where all sources name the same. Frames are then told apart by
    segment and Frame Label, which says which image they are of.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        shared.pop(keyword, None)
    used = sorted({_index_of(frame) for frame in seg.PerFrameFunctionalGroupsSequence})
    for frame in seg.PerFrameFunctionalGroupsSequence:
        index = _index_of(frame)
        content = frame.FrameContentSequence[0]
        content.FrameLabel = planes[index].label
        content.DimensionIndexValues = [content.DimensionIndexValues[0], used.index(index) + 1]
        frame.pop("PlanePositionSequence")
    by_segment, by_plane = seg.DimensionIndexSequence[:2]
    by_plane.DimensionIndexPointer = tag_for_keyword("FrameLabel")
    by_plane.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
    by_plane.DimensionDescriptionLabel = "Frame Label"
    seg.DimensionIndexSequence = [by_segment, by_plane]
    references = {str(plane.image.get("FrameOfReferenceUID") or "") for plane in planes}
    seg.PatientOrientation = ""  # PS3.3 C.7.6.1: demanded of an image that has no place
    seg.pop("FrameOfReferenceUID", None)
    seg.pop("PositionReferenceIndicator", None)
    if len(references) == 1 and references != {""}:
        seg.FrameOfReferenceUID = references.pop()
        seg.PositionReferenceIndicator = planes[0].image.get("PositionReferenceIndicator") or ""


def _index_of(frame: Dataset) -> int:
    """Of the stand-in that a frame lies on."""
    return round(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]))


def refer_to_frames(seg: Dataset, label_map: npt.NDArray[np.uint8], planes: Sequence[Plane]) -> None:
    """Make each frame of the SEG refer to the plane that it is of, and the SEG to all images that have planes.

    PS3.3 C.7.6.16.2.6 (Derivation Image) and C.12.1.1 (Referenced Series).
    """
    own: dict[tuple[Place, int], Plane] = {}
    for index, (plane, labels) in enumerate(zip(planes, label_map, strict=True)):
        for value in np.unique(labels):
            own[(_place(plane, index), int(value))] = plane
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        identified = frame if "SegmentIdentificationSequence" in frame else shared
        number = int(identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        plane = own[(_position(frame.PlanePositionSequence[0]), number)]
        # Frames at one place share their item.
        frame.DerivationImageSequence = copy.deepcopy(frame.DerivationImageSequence)
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        reference.ReferencedSOPClassUID = plane.image.SOPClassUID
        reference.ReferencedSOPInstanceUID = plane.image.SOPInstanceUID
        if plane.number is not None:
            reference.ReferencedFrameNumber = plane.number
    # highdicom names the stand-ins here
    seg.SourceImageSequence = _source_images(planes)
    by_series: dict[str, dict[str, str]] = {}
    for plane in planes:
        series = by_series.setdefault(str(plane.image.SeriesInstanceUID), {})
        series[str(plane.image.SOPInstanceUID)] = str(plane.image.SOPClassUID)
    seg.ReferencedSeriesSequence = [_series(uid, instances) for uid, instances in by_series.items()]


def _source_images(planes: Sequence[Plane]) -> list[Dataset]:
    """The images that have planes, each once."""
    classes = {str(plane.image.SOPInstanceUID): str(plane.image.SOPClassUID) for plane in planes}
    found = []
    for uid, sop_class in classes.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        numbers = [p.number for p in planes if p.image.SOPInstanceUID == uid and p.number is not None]
        if numbers:
            item.ReferencedFrameNumber = numbers
        found.append(item)
    return found


def _series(uid: str, instances: dict[str, str]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uid
    series.ReferencedInstanceSequence = []
    for instance, sop_class in instances.items():
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = instance
        series.ReferencedInstanceSequence.append(item)
    return series


def _place(plane: Plane, index: int) -> Place:
    """Where the plane of this index lies; a flat one is given a place of its own."""
    return (0.0, 0.0, float(index)) if plane.flat else _position(plane.image)


def _position(image: Dataset) -> Place:
    return tuple(round(float(v), 3) for v in image.ImagePositionPatient)
