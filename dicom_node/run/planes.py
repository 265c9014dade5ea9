"""Image planes, wherever they came from: single images, or frames of an enhanced multi-frame MR object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from dicom_node.errors import NotAnalysed
from dicom_node.run.images import HEADER_ERRORS, image_type, is_image, number, numbers, photometric

CLOCKS = ("TriggerTime", "NominalCardiacTriggerDelayTime", "TemporalPositionIdentifier")
"""What tells the phase of the heartbeat, the best first; the first two in ms from the R wave (PS3.3 C.7.6.18)."""
CLOCKS_IN_MS = CLOCKS[:2]
KEYWORDS = (
    *CLOCKS,
    "NominalInterval",
    "HeartRate",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "SeriesNumber",
    "InstanceNumber",
    "ComplexImageComponent",
)
"""What is read here beside what places and decodes an image."""

_ENHANCED = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
_PHASE_IMAGES = frozenset({"P", "PHASE", "PHASE MAP", "VELOCITY", "V"})
# The functional groups (PS3.3 C.7.6.16.2, C.8.13.5) that hold what single images have at the top.
_GROUPS: Mapping[str, str] = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "RRIntervalTimeNominal": "CardiacSynchronizationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
}


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane.

    Attributes:
        header: of its file; planes of one multi-frame object share it.
        frame: index of the frame, 0 of a single image.
        reference: Frame of Reference UID.
        position: LPS mm of the first pixel's centre.
        cosines: Image Orientation (Patient).
        spacing: mm between (rows, columns).
        slope, intercept: from stored to real values.
        clocks: of ``CLOCKS``, what the header tells.
        interval: ms from R wave to R wave, or None.
        kind: Image Type or Frame Type in capitals.
        acquisition: Acquisition Number, or ``""``.
        acquired: date and time of acquisition as sortable text, or ``""``.
        order: (series number, instance number, frame).
    """

    header: Dataset
    frame: int
    reference: str
    position: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    slope: float
    intercept: float
    clocks: Mapping[str, float]
    interval: float | None
    kind: tuple[str, ...]
    acquisition: str
    acquired: str
    order: tuple[float, float, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.header.Rows), int(self.header.Columns)

    @property
    def series(self) -> str:
        """Series Instance UID."""
        return str(self.header.get("SeriesInstanceUID", ""))


@dataclass(frozen=True)
class LeftOut:
    """Why images are not used, and of which series they are."""

    header: Dataset
    reason: str


def planes_of(header: Dataset) -> tuple[list[Plane], list[LeftOut]]:
    """The planes of a file that may be part of a stack, and what is left out of it, once for each image.

    Raises:
        NotAnalysed: the header is spoilt.
    """
    reason = _unfit(header)
    if reason:
        return [], [LeftOut(header, reason)]
    frames = [_Single(header)] if header.get("SOPClassUID") not in _ENHANCED else _frames(header)
    planes, left_out = [], []
    for index, source in enumerate(frames):
        try:
            plane = _plane(source, index)
        except HEADER_ERRORS as e:
            raise NotAnalysed("the header of an image holds invalid numbers") from e
        if isinstance(plane, Plane):
            planes.append(plane)
        else:
            left_out.append(LeftOut(header, plane))
    return planes, left_out


def _unfit(header: Dataset) -> str | None:
    if not is_image(header):
        return "no pixels (reports, presentation states)"
    if "LOCALIZER" in image_type(header):
        return "marked as localizer"
    if int(header.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in photometric(header):
        return "colour images"
    if header.get("SOPClassUID") not in _ENHANCED and int(header.get("NumberOfFrames") or 1) > 1:
        return "multi-frame images that do not say where each frame lies"
    if not header.get("SOPInstanceUID"):
        return "no SOP Instance UID, so that no result could refer to them"
    if not header.get("FrameOfReferenceUID"):
        return "no Frame of Reference UID, so that no result could be laid over them"
    return None


class _Single:
    """The attributes of a single image."""

    def __init__(self, header: Dataset) -> None:
        self.header = header

    def holder(self, keyword: str) -> Dataset:
        """The dataset that has the attribute, if any has it."""
        return self.header


class _EnhancedFrame(_Single):
    """The attributes of one frame: its own functional groups come before the shared ones."""

    def __init__(self, header: Dataset, own: Dataset, shared: Dataset) -> None:
        super().__init__(header)
        self._groups = (own, shared)

    def holder(self, keyword: str) -> Dataset:
        for group in self._groups if keyword in _GROUPS else ():
            sequence = group.get(_GROUPS[keyword])
            if sequence and keyword in sequence[0]:
                found: Dataset = sequence[0]
                return found
        return self.header


def _frames(header: Dataset) -> list[_Single]:
    try:
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        own = header.get("PerFrameFunctionalGroupsSequence") or []
        count = int(header.get("NumberOfFrames") or 1)
    except HEADER_ERRORS as e:
        raise NotAnalysed("the functional groups of a multi-frame image are damaged") from e
    if len(own) != count:
        raise NotAnalysed("a multi-frame image does not describe each of its frames")
    return [_EnhancedFrame(header, item, shared[0]) for item in own]


def _plane(source: _Single, index: int) -> Plane | str:
    """The plane, or why it can be no part of a stack."""
    header = source.header
    kind = _texts(source, "FrameType") or image_type(header)
    if _PHASE_IMAGES & set(kind[2:]) or _texts(source, "ComplexImageComponent") == ("PHASE",):
        return "phase or velocity images"
    position = numbers(source.holder("ImagePositionPatient"), "ImagePositionPatient", 3)
    cosines = numbers(source.holder("ImageOrientationPatient"), "ImageOrientationPatient", 6)
    spacing = numbers(source.holder("PixelSpacing"), "PixelSpacing", 2)
    if position is None or cosines is None or spacing is None or min(spacing) <= 0:
        return "no position, orientation or pixel spacing"
    turned = np.reshape(cosines, (2, 3))
    if abs(np.linalg.norm(turned, axis=1) - 1).max() > 0.01 or abs(turned[0] @ turned[1]) > 0.01:
        return "an orientation that is not one of an image plane"
    clocks = {k: _number(source, k) for k in CLOCKS}
    clocks["TemporalPositionIdentifier"] = _number(source, "TemporalPositionIndex", clocks[CLOCKS[2]])
    rate = _number(source, "HeartRate")
    interval = _number(source, "RRIntervalTimeNominal", _number(source, "NominalInterval"))
    if not interval and rate:
        interval = 60000 / rate
    series, instance = number(header, "SeriesNumber"), number(header, "InstanceNumber")
    return Plane(
        header=header,
        frame=index,
        reference=str(header.FrameOfReferenceUID),
        position=np.array(position),
        cosines=np.array(cosines),
        spacing=(spacing[0], spacing[1]),
        slope=number(source.holder("RescaleSlope"), "RescaleSlope", 1.0),
        intercept=number(source.holder("RescaleIntercept"), "RescaleIntercept", 0.0),
        clocks={k: v for k, v in clocks.items() if v is not None and np.isfinite(v)},
        interval=interval if interval and 200 <= interval <= 3000 else None,
        kind=kind,
        acquisition=str(source.holder("FrameAcquisitionNumber").get("FrameAcquisitionNumber", ""))
        or str(header.get("AcquisitionNumber") or ""),
        acquired=_acquired(source),
        order=(series, instance, index),
    )


def _acquired(source: _Single) -> str:
    header = source.header
    whole = source.holder("FrameAcquisitionDateTime").get("FrameAcquisitionDateTime")
    whole = whole or header.get("AcquisitionDateTime")
    date, time = header.get("AcquisitionDate"), header.get("AcquisitionTime")
    return str(whole or (f"{date or ''}{time}" if time else ""))


def _number(source: _Single, keyword: str, default: float | None = None) -> float | None:
    value = source.holder(keyword).get(keyword)
    return default if value is None or value == "" else float(value)


def _texts(source: _Single, keyword: str) -> tuple[str, ...]:
    value: Any = source.holder(keyword).get(keyword) or ()
    return tuple(str(v).upper() for v in (value if isinstance(value, MultiValue) else [value] if value else ()))
