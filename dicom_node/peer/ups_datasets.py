"""Workitems as datasets: what is read of one, and what a performer writes into it (PS3.4 Table CC.2.5-3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence as ItemSequence

from dicom_node.model.instance import valid_uid
from dicom_node.model.workitem import Coded, InputSeries, Workitem

_LONGEST_TEXT = 10240  # of Long Text (PS3.5 section 6.2)
_LONGEST_SHORT_TEXT = 1024


@dataclass(frozen=True)
class OutputSeries:
    """Result objects of one series at one place, for Output Information Sequence.

    Attributes:
        instances: (SOP Class UID, SOP Instance UID) each.
        ae_title: where they are had by C-MOVE or C-GET, or empty.
        url: where they are had by WADO-RS, or empty.
    """

    study_uid: str
    series_uid: str
    instances: tuple[tuple[str, str], ...]
    ae_title: str = ""
    url: str = ""


@dataclass(frozen=True)
class Performed:
    """What was done, for Unified Procedure Step Performed Procedure Sequence. Times are local, with their offset."""

    station: Coded
    workitem: Coded
    start: datetime
    end: datetime
    outputs: tuple[OutputSeries, ...] = field(default=())
    comment: str = ""


def read_workitem(ds: Dataset) -> Workitem:
    """A workitem; what it lacks, or has in a wrong form, is empty."""
    study_uid = _uid(ds, "StudyInstanceUID")
    requests = _items(ds, "ReferencedRequestSequence")
    if not study_uid and requests:
        study_uid = _uid(requests[0], "StudyInstanceUID")
    return Workitem(
        uid=_uid(ds, "SOPInstanceUID"),
        state=_text(ds, "ProcedureStepState"),
        readiness=_text(ds, "InputReadinessState"),
        priority=_text(ds, "ScheduledProcedureStepPriority"),
        start=_text(ds, "ScheduledProcedureStepStartDateTime"),
        codes=read_codes(ds, "ScheduledWorkitemCodeSequence"),
        stations=read_codes(ds, "ScheduledStationNameCodeSequence"),
        study_uid=study_uid,
        inputs=tuple(_input(item, study_uid) for item in _items(ds, "InputInformationSequence")),
    )


def progress(percent: int, text: str) -> Dataset:
    """Procedure Step Progress Information Sequence of a step that is under way."""
    item = Dataset()
    item.ProcedureStepProgress = str(percent)
    item.ProcedureStepProgressDescription = text[:_LONGEST_SHORT_TEXT]
    ds = Dataset()
    ds.ProcedureStepProgressInformationSequence = ItemSequence([item])
    return ds


def completed(done: Performed) -> Dataset:
    """What a workitem lacks to be COMPLETED: the final state requirements R and P of PS3.4 Table CC.2.5-3."""
    ds = progress(100, "completed")
    ds.UnifiedProcedureStepPerformedProcedureSequence = ItemSequence([_performed(done)])
    return ds


def discontinued(done: Performed, reason: str, codes: Iterable[Coded]) -> Dataset:
    """What a workitem lacks to be CANCELED (final state requirements R and X), and what was done of it."""
    item = Dataset()
    item.ProcedureStepCancellationDateTime = _moment(done.end)
    if reason:
        item.ReasonForCancellation = reason[:_LONGEST_TEXT]
    item.ProcedureStepDiscontinuationReasonCodeSequence = ItemSequence([_code(code) for code in codes])
    ds = Dataset()
    ds.ProcedureStepProgressInformationSequence = ItemSequence([item])
    ds.UnifiedProcedureStepPerformedProcedureSequence = ItemSequence([_performed(done)])
    return ds


def _performed(done: Performed) -> Dataset:
    item = Dataset()
    item.PerformedStationNameCodeSequence = ItemSequence([_code(done.station)])
    item.PerformedWorkitemCodeSequence = ItemSequence([_code(done.workitem)])
    item.PerformedProcedureStepStartDateTime = _moment(done.start)
    item.PerformedProcedureStepEndDateTime = _moment(done.end)
    if done.comment:
        item.CommentsOnThePerformedProcedureStep = done.comment[:_LONGEST_SHORT_TEXT]
    # Without any output the sequence is there, and has no items.
    item.OutputInformationSequence = ItemSequence([_output(series) for series in done.outputs])
    return item


def _output(series: OutputSeries) -> Dataset:
    """One item of the Referenced Instances and Access Macro (PS3.3 Table 10-3b)."""
    item = Dataset()
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID = series.study_uid
    item.SeriesInstanceUID = series.series_uid
    references = []
    for sop_class, sop_instance in series.instances:
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class
        reference.ReferencedSOPInstanceUID = sop_instance
        references.append(reference)
    item.ReferencedSOPSequence = ItemSequence(references)
    if series.ae_title:
        retrieval = Dataset()
        retrieval.RetrieveAETitle = series.ae_title
        item.DICOMRetrievalSequence = ItemSequence([retrieval])
    if series.url:
        retrieval = Dataset()
        retrieval.RetrieveURL = series.url
        item.WADORSRetrievalSequence = ItemSequence([retrieval])
    return item


def _code(code: Coded) -> Dataset:
    item = Dataset()
    # A Code Value longer than a Short String goes as a long one (PS3.3 section 8.1).
    setattr(item, "CodeValue" if len(code.value) <= 16 else "LongCodeValue", code.value)
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def _moment(when: datetime) -> str:
    return f"{when:%Y%m%d%H%M%S%z}"


def _input(item: Dataset, study_uid: str) -> InputSeries:
    named = [_uid(i, "ReferencedSOPInstanceUID") for i in _items(item, "ReferencedSOPSequence")]
    titles = [_text(i, "RetrieveAETitle") for i in _items(item, "DICOMRetrievalSequence")]
    urls = [_text(i, "RetrieveURL") for i in _items(item, "WADORSRetrievalSequence")]
    return InputSeries(
        study_uid=_uid(item, "StudyInstanceUID") or study_uid,
        instances=tuple(uid for uid in named if uid),
        ae_titles=tuple(title for title in titles if title),
        urls=tuple(url for url in urls if url),
    )


def read_codes(ds: Dataset, keyword: str) -> tuple[Coded, ...]:
    """The coded entries of a sequence."""
    found = []
    for item in _items(ds, keyword):
        values = (_text(item, k) for k in ("CodeValue", "LongCodeValue", "URNCodeValue"))
        value = next((v for v in values if v), "")
        if value:
            found.append(Coded(value, _text(item, "CodingSchemeDesignator"), _text(item, "CodeMeaning")))
    return tuple(found)


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    value: Any = ds.get(keyword)
    return list(value) if isinstance(value, ItemSequence) else []


def _text(ds: Dataset, keyword: str) -> str:
    value: Any = ds.get(keyword)
    return "" if value is None else str(value).strip()


def _uid(ds: Dataset, keyword: str) -> str:
    uid = _text(ds, keyword)
    return uid if valid_uid(uid) else ""
