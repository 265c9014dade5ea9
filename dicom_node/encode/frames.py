"""The frames that a mask is of: which lie at the same place, and the references to each of them.

A heart's slice is imaged many times in a beat. Its end-diastolic mask is of one of these frames, its end-systolic
mask of another, at the same place in space: highdicom, which knows a frame by its place, is given each place once, and
then told which frame each mask is of.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
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
        places.setdefault(_place(plane.image), []).append(index)
    for members in places.values():
        seen: set[int] = set()
        for index in members if len(members) > 1 else ():
            marked = set(np.unique(findings.label_map[index]).tolist()) - {0}
            if seen & marked:
                raise EncodeError(f"segment {min(seen & marked)} is marked in two images of the same slice")
            seen |= marked
    return list(places.values())


def stand_ins(images: Sequence[Dataset]) -> list[Dataset]:
    """Single images of one series in place of frames and of several series, which highdicom takes no mask of.

    They have the places; the references to them are replaced by :func:`refer_to_frames`.
    """
    copies = []
    for number, image in enumerate(images):
        other = copy.deepcopy(image)
        other.SOPClassUID = MRImageStorage
        other.SOPInstanceUID = derive_uid("stand-in", str(number))
        other.SeriesInstanceUID = images[0].SeriesInstanceUID
        copies.append(other)
    return copies


def refer_to_frames(seg: Dataset, label_map: npt.NDArray[np.uint8], planes: Sequence[Plane]) -> None:
    """Make each frame of the SEG refer to the plane that it is of, and the SEG to all images that have planes.

    PS3.3 C.7.6.16.2.6 (Derivation Image) and C.12.1.1 (Referenced Series).
    """
    own: dict[tuple[Place, int], Plane] = {}
    for plane, labels in zip(planes, label_map, strict=True):
        for value in np.unique(labels):
            own[(_place(plane.image), int(value))] = plane
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        identified = frame if "SegmentIdentificationSequence" in frame else shared
        number = int(identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        plane = own[(_place(frame.PlanePositionSequence[0]), number)]
        # Frames at one place share their item.
        frame.DerivationImageSequence = copy.deepcopy(frame.DerivationImageSequence)
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        reference.ReferencedSOPClassUID = plane.image.SOPClassUID
        reference.ReferencedSOPInstanceUID = plane.image.SOPInstanceUID
        if plane.number is not None:
            reference.ReferencedFrameNumber = plane.number
    by_series: dict[str, dict[str, str]] = {}
    for plane in planes:
        series = by_series.setdefault(str(plane.image.SeriesInstanceUID), {})
        series[str(plane.image.SOPInstanceUID)] = str(plane.image.SOPClassUID)
    seg.ReferencedSeriesSequence = [_series(uid, instances) for uid, instances in by_series.items()]


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


def _place(image: Dataset) -> Place:
    return tuple(round(float(v), 3) for v in image.ImagePositionPatient)
