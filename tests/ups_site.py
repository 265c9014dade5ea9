"""What the tests of UPS-RS share: workitems, and polling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence

CODE = ("110004", "DCM", "Computer Aided Detection")


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Poll until it holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def input_series(images: Sequence[Dataset], ae_title: str = "", url: str = "") -> Dataset:
    """An item of Input Information Sequence that names these images, all of one series."""
    item = Dataset()
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID = images[0].StudyInstanceUID
    item.SeriesInstanceUID = images[0].SeriesInstanceUID
    references = []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        references.append(reference)
    item.ReferencedSOPSequence = ItemSequence(references)
    place = Dataset()
    if url:
        place.RetrieveURL = url
        item.WADORSRetrievalSequence = ItemSequence([place])
    else:
        place.RetrieveAETitle = ae_title or "ARCHIVE"
        item.DICOMRetrievalSequence = ItemSequence([place])
    return item


def workitem(*inputs: Dataset, codes: Sequence[tuple[str, str, str]] = (CODE,), **more: Any) -> Dataset:
    """A workitem as a requester creates it: all that PS3.4 Table CC.2.5-3 asks for at N-CREATE."""
    ds = Dataset()
    ds.ScheduledProcedureStepPriority = "MEDIUM"
    ds.ProcedureStepLabel = "analysis"
    ds.WorklistLabel = ""
    ds.ScheduledProcessingParametersSequence = ItemSequence([])
    for keyword in ("Name", "Class", "GeographicLocation"):
        setattr(ds, f"ScheduledStation{keyword}CodeSequence", ItemSequence([]))
    ds.ScheduledProcedureStepStartDateTime = "20260102030405"
    ds.ScheduledWorkitemCodeSequence = ItemSequence([code(*c) for c in codes])
    ds.CommentsOnTheScheduledProcedureStep = ""
    ds.InputReadinessState = "READY"
    ds.InputInformationSequence = ItemSequence(inputs)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AdmissionID", "TransactionUID"):
        setattr(ds, keyword, "")
    ds.AdmittingDiagnosesDescription = ""
    ds.AdmittingDiagnosesCodeSequence = ItemSequence([])
    ds.ReferencedRequestSequence = ItemSequence([])
    ds.ProcedureStepState = "SCHEDULED"
    ds.ProcedureStepProgressInformationSequence = ItemSequence([])
    ds.UnifiedProcedureStepPerformedProcedureSequence = ItemSequence([])
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def images(count: int = 3, study: str = "1.2.3", series: str = "1.2.3.1") -> list[Dataset]:
    """Headers with the UIDs of images."""
    found = []
    for number in range(count):
        ds = Dataset()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"{series}.{number + 1}"
        found.append(ds)
    return found
