"""Enhanced multi-frame MR objects (PS3.3 A.36) as scanners write a cine: one object for all slices and phases."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import EnhancedMRImageStorage

from dicom_node.testing.series import file_meta, phantom_uid, slice_datasets

_TYPES = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "UNKNOWN",
}
_IMAGE_TYPE = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
_MOMENT = "20260105093000.000000"
_RECEIVE_COIL = {
    "ReceiveCoilName": "BODY",
    "ReceiveCoilManufacturerName": "",
    "ReceiveCoilType": "BODY",
    "QuadratureReceiveCoil": "YES",
}
_TRANSMIT_COIL = {"TransmitCoilName": "BODY", "TransmitCoilManufacturerName": "", "TransmitCoilType": "BODY"}
# What is the same of every frame, by functional group (PS3.3 C.7.6.16.2, C.8.13.5).
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "MRTimingAndRelatedParametersSequence": {
        "RepetitionTime": "3.3",
        "FlipAngle": "45",
        "EchoTrainLength": 1,
        "RFEchoTrainLength": 0,
        "GradientEchoTrainLength": 1,
    },
    "MRFOVGeometrySequence": {
        "InPlanePhaseEncodingDirection": "COLUMN",
        "MRAcquisitionFrequencyEncodingSteps": 192,
        "MRAcquisitionPhaseEncodingStepsInPlane": 192,
        "PercentSampling": "100",
        "PercentPhaseFieldOfView": "100",
    },
    "MREchoSequence": {"EffectiveEchoTime": 1.5},
    "MRModifierSequence": {
        "InversionRecovery": "NO",
        "FlowCompensation": "NONE",
        "Spoiling": "NONE",
        "T2Preparation": "NO",
        "SpectrallySelectedExcitation": "NONE",
        "SpatialPresaturation": "NONE",
        "PartialFourier": "NO",
        "ParallelAcquisition": "NO",
    },
    "MRImagingModifierSequence": {
        "MagnetizationTransfer": "NONE",
        "BloodSignalNulling": "NO",
        "Tagging": "NONE",
        "TransmitterFrequency": 63.87,
        "PixelBandwidth": "976",
    },
    "MRAveragesSequence": {"NumberOfAverages": "1"},
    "PixelValueTransformationSequence": {"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"},
    "FrameVOILUTSequence": {"WindowCenter": "600", "WindowWidth": "1200"},
    "MRImageFrameTypeSequence": {"FrameType": _IMAGE_TYPE, **_TYPES},
}


def enhanced_mr(
    pixels: npt.NDArray[np.uint16],
    affine: npt.NDArray[np.float64],
    trigger_times: npt.NDArray[np.float64],
    intervals: npt.NDArray[np.float64],
    *,
    key: str,
    header: Mapping[str, Any],
) -> Dataset:
    """One object; its frames go phase by phase within each slice, the last slice first.

    Args:
        pixels: shape (phases, slices, rows, columns).
        affine: (4, 4), (slice, row, column, 1) index to LPS mm.
        trigger_times: ms from the R wave, shape (phases, slices).
        intervals: ms from R wave to R wave, shape (slices,).
        key: its UIDs derive from it.
        header: further attributes at the top, by keyword; those that belong into functional groups are taken away.
    """
    phases, slices, rows, columns = pixels.shape
    (ds,) = slice_datasets(pixels[0, :1], affine, key=key, header=header, sop_class=EnhancedMRImageStorage)
    spacing, thickness, cosines = ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient
    _take_away(ds)
    order = [(phase, k) for k in reversed(range(slices)) for phase in range(phases)]
    ds.PixelData = b"".join(pixels[place].astype("<u2").tobytes() for place in order)
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.InstanceNumber = len(order), rows, columns, 1
    ds.ImageType = _IMAGE_TYPE
    for keyword, value in {**_TYPES, **_whole()}.items():
        setattr(ds, keyword, value)
    measures = _item(PixelSpacing=spacing, SliceThickness=thickness)
    orientation = _item(ImageOrientationPatient=cosines)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for name, values in _SHARED.items():
        setattr(shared, name, [_item(**values)])
    region = _item(CodeValue="80891009", CodingSchemeDesignator="SCT", CodeMeaning="Heart")
    shared.FrameAnatomySequence = [_item(FrameLaterality="U", AnatomicRegionSequence=[region])]
    timing = shared.MRTimingAndRelatedParametersSequence[0]
    timing.OperatingModeSequence = [_item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL")]
    timing.SpecificAbsorptionRateSequence = [
        _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=1.0)
    ]
    shared.MRReceiveCoilSequence = [_item(**_RECEIVE_COIL)]
    shared.MRTransmitCoilSequence = [_item(**_TRANSMIT_COIL)]
    ds.SharedFunctionalGroupsSequence = [shared]
    dimensions = phantom_uid(key, "dimensions")
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=dimensions)]
    ds.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=dimensions, DimensionIndexPointer=tag_for_keyword(index),
              FunctionalGroupPointer=tag_for_keyword(group))
        for index, group in (
            ("ImagePositionPatient", "PlanePositionSequence"),
            ("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
        )
    ]  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(affine, phase, k, float(trigger_times[phase, k]), float(intervals[k])) for phase, k in order
    ]
    ds.file_meta = file_meta(ds)
    return ds


def _take_away(ds: Dataset) -> None:
    """What the top of a single image has and that of an enhanced one has not."""
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ScanningSequence",
        "SequenceVariant", "ScanOptions", "RepetitionTime", "EchoTime", "EchoTrainLength", "FlipAngle",
        "WindowCenter", "WindowWidth",
    ):  # fmt: skip
        if keyword in ds:
            del ds[keyword]


def _whole() -> dict[str, Any]:
    """Attributes of the object (PS3.3 C.8.13.1, C.8.13.2, C.7.6.18, C.7.6.14)."""
    return {
        "ContentDate": "20260105",
        "ContentTime": "093000",
        "AcquisitionDateTime": _MOMENT,
        "AcquisitionDuration": 8000.0,
        "ContentQualification": "RESEARCH",
        "ResonantNucleus": "1H",
        "KSpaceFiltering": "NONE",
        "ApplicableSafetyStandardAgency": "IEC",
        "PulseSequenceName": "bSSFP",
        "MRAcquisitionType": "2D",
        "EchoPulseSequence": "GRADIENT",
        "MultiPlanarExcitation": "NO",
        "PhaseContrast": "NO",
        "TimeOfFlightContrast": "NO",
        "SteadyStatePulseSequence": "FREE_PRECESSION",
        "EchoPlanarPulseSequence": "NO",
        "SaturationRecovery": "NO",
        "SpectrallySelectedSuppression": "NONE",
        "OversamplingPhase": "NONE",
        "GeometryOfKSpaceTraversal": "RECTILINEAR",
        "SegmentedKSpaceTraversal": "PARTIAL",
        "RectilinearPhaseEncodeReordering": "LINEAR",
        "NumberOfKSpaceTrajectories": 1,
        "BulkMotionCompensationTechnique": "NONE",
        "CardiacSynchronizationTechnique": "RETROSPECTIVE",
        "CardiacSignalSource": "ECG",
        "CardiacRRIntervalSpecified": 857.0,
        "CardiacBeatRejectionTechnique": "NONE",
        "IntervalsAcquired": 10,
        "IntervalsRejected": 0,
        "LowRRValue": 800,
        "HighRRValue": 900,
        "RespiratoryMotionCompensationTechnique": "NONE",
        "SynchronizationFrameOfReferenceUID": phantom_uid("synchronization"),
        "SynchronizationTrigger": "NO TRIGGER",
        "AcquisitionTimeSynchronized": "N",
        "AcquisitionContextSequence": [],
        "PresentationLUTShape": "IDENTITY",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }


def _frame(affine: npt.NDArray[np.float64], phase: int, k: int, time: float, interval: float) -> Dataset:
    position = affine[:3, 3] + k * affine[:3, 0]
    frame = Dataset()
    frame.FrameContentSequence = [
        _item(
            FrameReferenceDateTime=_MOMENT,
            FrameAcquisitionDateTime=_MOMENT,
            FrameAcquisitionDuration=8000.0,
            FrameAcquisitionNumber=1,
            StackID="1",
            InStackPositionNumber=k + 1,
            TemporalPositionIndex=phase + 1,
            DimensionIndexValues=[k + 1, phase + 1],
        )
    ]
    frame.PlanePositionSequence = [_item(ImagePositionPatient=[f"{v:.9f}"[:16] for v in position])]
    frame.CardiacSynchronizationSequence = [
        _item(NominalCardiacTriggerDelayTime=time, ActualCardiacTriggerDelayTime=time, RRIntervalTimeNominal=interval)
    ]
    return frame


def _item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def huge_object(header: bytes, frames: int, frame_bytes: int, *, fragments: bool) -> Iterator[bytes]:
    """A multi-frame object in Explicit VR Little Endian, made piece by piece: it need not fit into memory.

    Args:
        header: all elements before Pixel Data, encoded.
        frame_bytes: even, and at most 2^32 - 2 for all frames where there are no fragments.
        fragments: whether Pixel Data has no length, and a fragment for each frame (PS3.5 section A.4).
    """
    frame = bytes(range(256)) * (frame_bytes // 256) + bytes(frame_bytes % 256)
    length = 0xFFFFFFFF if fragments else frames * frame_bytes
    vr = b"OB" if fragments else b"OW"
    yield header + struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length)
    if fragments:
        yield struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    for _ in range(frames):
        yield struct.pack("<HHI", 0xFFFE, 0xE000, frame_bytes) + frame if fragments else frame
    if fragments:
        yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
