"""The header values that routing reads: the keywords of ``Instance.tags``, which a rule may name.

Nothing here identifies the patient. Values are plain JSON types: numbers for DS, IS, US and FD, lists where
the value multiplicity allows several and there are several, absent where the header has none or an empty one.
"""

from __future__ import annotations

from typing import Final

CODE_SEQUENCES: Final = ("AnatomicRegionSequence", "ProcedureCodeSequence")
"""Sequences kept as a list of ``{"CodeValue", "CodingSchemeDesignator", "CodeMeaning"}``."""

STUDY_INPUTS: Final = ("cine", "frames")
"""Inputs of algorithms that take all series of a study that suit, in one run."""

ROUTING_KEYWORDS: Final = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    *CODE_SEQUENCES,
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "InstitutionName",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "SequenceName",
    "PulseSequenceName",
    "MRAcquisitionType",
    "AcquisitionContrast",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "DiffusionBValue",
    "ContrastBolusAgent",
    "PerformedProcedureStepDescription",
    "TransducerType",
    "TransducerData",
    "ConvolutionKernel",
    "KVP",
    "CardiacNumberOfImages",
    "CardiacSynchronizationTechnique",
    "TriggerTime",
    "TemporalPositionIdentifier",
    "NumberOfTemporalPositions",
    "PatientPosition",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "BurnedInAnnotation",
)
