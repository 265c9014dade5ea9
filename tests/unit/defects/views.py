"""Defects of the contour report and of the Secondary Capture."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset

from tests.unit.defects.record import groups
from tests.unit.result_samples import headers

BreakOne = Callable[[Dataset], None]


def regions(group: Dataset) -> list[Dataset]:
    return [i for i in group.ContentSequence if i.ValueType == "SCOORD"]


def _move(ds: Dataset) -> None:
    region = regions(groups(ds)[0])[0]
    region.GraphicData = [v + 1 for v in region.GraphicData]


def _other_image(ds: Dataset) -> None:
    reference = regions(groups(ds)[1])[0].ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = headers()[0].SOPInstanceUID


def _unknown_image(ds: Dataset) -> None:
    regions(groups(ds)[1])[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _another_value(ds: Dataset) -> None:
    number = next(i for i in groups(ds)[0].ContentSequence if i.ValueType == "NUM")
    number.MeasuredValueSequence[0].NumericValue = "0.9"
    number.MeasuredValueSequence[0].FloatingPointValue = 0.9


def _no_group(ds: Dataset) -> None:
    del ds.ContentSequence[-2]


def _one_group_less(ds: Dataset) -> None:
    del ds.ContentSequence[-2].ContentSequence[0]


def _open_line(ds: Dataset) -> None:
    region = regions(groups(ds)[0])[0]
    region.GraphicData = list(region.GraphicData)[:-2]


def _no_research(ds: Dataset) -> None:
    ds.ContentSequence[-1].ContentSequence = [
        i for i in ds.ContentSequence[-1].ContentSequence if "research" not in str(i.get("TextValue", "")).lower()
    ]


def _observer(ds: Dataset) -> None:
    next(i for i in ds.ContentSequence if i.ValueType == "UIDREF").UID = "1.2.3.4"


def _evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[3]


def _title(ds: Dataset) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "126001"


def _flag(ds: Dataset) -> None:
    ds.CompletionFlag = "PARTIAL"


CONTOURS: dict[BreakOne, str] = {
    _move: "group Left hippocampus: its outlines do not enclose the voxels of segment 1",
    _other_image: "group Right hippocampus: its outlines do not enclose the voxels of segment 2",
    _unknown_image: "refers to what is no source image: 1.2.3",
    _another_value: "Left hippocampus volume is 0.9, sr.dcm has 0.7695",
    _no_group: "the measurement Total hippocampus volume of sr.dcm is not shown",
    _one_group_less: "segment 1 of seg.dcm has no outlines",
    _open_line: "not closed or leaves the image",
    _no_research: "no text says 'for research use only'",
    _observer: "Device Observer UID is 1.2.3.4",
    _evidence: "the evidence lacks",
    _title: "the title is",
    _flag: "CompletionFlag is PARTIAL",
}


def _burned_in(ds: Dataset) -> None:
    ds.BurnedInAnnotation = "YES"


def _no_comment(ds: Dataset) -> None:
    ds.ImageComments = ""


def _lossy(ds: Dataset) -> None:
    ds.LossyImageCompression = "01"


def _pixels_cut(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-2]


def _no_source(ds: Dataset) -> None:
    ds.SourceImageSequence = []


def _unknown_source(ds: Dataset) -> None:
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _class_of_source(ds: Dataset) -> None:
    ds.SourceImageSequence[0].ReferencedSOPClassUID = "1.2.3"


def _other_modality(ds: Dataset) -> None:
    ds.Modality = "MR"


def _other_patient(ds: Dataset) -> None:
    ds.PatientID = "SECRET-1"


def _other_algorithm(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[-1].ManufacturerModelName = "Amygdala"


CAPTURE: dict[BreakOne, str] = {
    _burned_in: "BurnedInAnnotation is YES",
    _no_comment: "ImageComments does not say 'research use only'",
    _lossy: "LossyImageCompression is 01, not 00",
    _pixels_cut: "bytes of pixels",
    _no_source: "SourceImageSequence is empty",
    _unknown_source: "no source image: 1.2.3",
    _class_of_source: "another class",
    _other_modality: "Modality is MR, not OT",
    _other_patient: "PatientID is not that of the source images",
    _other_algorithm: "name different algorithms in Contributing Equipment",
}
