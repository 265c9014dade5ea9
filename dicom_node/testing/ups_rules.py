"""What PS3.4 Annex CC asks of workitems: which attributes when, and which state follows which. No network.

Checks name the first thing that is wrong; they are strict, for their use is to find a performer's mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence as ItemSequence

from dicom_node.model.instance import valid_uid

PRIORITIES: Final = ("HIGH", "MEDIUM", "LOW")
READINESS: Final = ("INCOMPLETE", "UNAVAILABLE", "READY")

CREATED_WITH_VALUE: Final = (
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
    "ProcedureStepState",
)
"""Type 1 at N-CREATE (Table CC.2.5-3)."""
_RELATIONSHIP: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
)
"""Whom and what a workitem is about: there from the beginning, and never changed."""
CREATED_PRESENT: Final = (
    "WorklistLabel",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    *_RELATIONSHIP,
)
"""Type 2 at N-CREATE."""
CREATED_EMPTY: Final = (
    "TransactionUID",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
NEVER_SET: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ProcedureStepState",
    *_RELATIONSHIP,
    "ReplacedProcedureStepSequence",
    "ScheduledProcedureStepModificationDateTime",
)
"""Not allowed at N-SET."""
RETURNED: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    *CREATED_WITH_VALUE,
    *CREATED_PRESENT,
    "ProcedureStepProgressInformationSequence",
    "StudyInstanceUID",
)
"""Return Key Types 1 and 2 of a search; others come only where they are asked for."""
_RETRIEVALS: Final = {
    "DICOMRetrievalSequence": "RetrieveAETitle",
    "DICOMMediaRetrievalSequence": "StorageMediaFileSetUID",
    "WADORetrievalSequence": "RetrieveURI",
    "XDSRetrievalSequence": "RepositoryUniqueID",
    "WADORSRetrievalSequence": "RetrieveURL",
}


class RuleBroken(Exception):
    """A request that the standard forbids; the message says why."""


def check_created(ds: Dataset) -> None:
    """The dataset of a Create Workitem request (N-CREATE column).

    Raises:
        RuleBroken: it does not comply.
    """
    _need(ds, CREATED_WITH_VALUE)
    for keyword in CREATED_PRESENT:
        if keyword not in ds:
            raise RuleBroken(f"{keyword} is missing (Type 2)")
    for keyword in CREATED_EMPTY:
        if not _empty(ds, keyword):
            raise RuleBroken(f"{keyword} must be created empty")
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if keyword in ds:
            raise RuleBroken(f"{keyword} is not allowed in the dataset")
    if ds.ProcedureStepState != "SCHEDULED":
        raise RuleBroken("ProcedureStepState must be SCHEDULED (C309)")
    _check_scheduled(ds)


def check_changes(ds: Dataset) -> None:
    """The dataset of an Update Workitem request (N-SET column), its Transaction UID aside.

    Raises:
        RuleBroken: it does not comply.
    """
    for keyword in NEVER_SET:
        if keyword in ds:
            raise RuleBroken(f"{keyword} must not be set")
    _check_scheduled(ds)
    for item in _one_at_most(ds, "ProcedureStepProgressInformationSequence"):
        _check_progress(item)
    for item in _one_at_most(ds, "UnifiedProcedureStepPerformedProcedureSequence"):
        _check_performed(item)


def check_final(ds: Dataset, state: str) -> None:
    """The final state requirements (section CC.2.5.1.1).

    Raises:
        RuleBroken: what is not met (C304).
    """
    _need(ds, ("SOPClassUID", "SOPInstanceUID", *(k for k in CREATED_WITH_VALUE if k != "ProcedureStepLabel")))
    if state == "COMPLETED":
        performed = _the_item(ds, "UnifiedProcedureStepPerformedProcedureSequence")
        needed = (
            "PerformedStationNameCodeSequence",
            "PerformedWorkitemCodeSequence",
            "PerformedProcedureStepStartDateTime",
            "PerformedProcedureStepEndDateTime",
        )
        _need(performed, needed)
        if "OutputInformationSequence" not in performed:
            raise RuleBroken("OutputInformationSequence is missing; without output it has no items")
    else:
        _need(
            _the_item(ds, "ProcedureStepProgressInformationSequence"),
            ("ProcedureStepDiscontinuationReasonCodeSequence",),
        )


def _check_scheduled(ds: Dataset) -> None:
    _among(ds, "ScheduledProcedureStepPriority", PRIORITIES)
    _among(ds, "InputReadinessState", READINESS)
    for keyword in ("ScheduledWorkitemCodeSequence", "ScheduledStationNameCodeSequence"):
        _check_codes(ds, keyword)
    for item in ds.get("InputInformationSequence") or ():
        check_references(item)


def _check_progress(item: Dataset) -> None:
    for keyword in ("ProcedureStepProgress", "ProcedureStepProgressDescription", "ReasonForCancellation"):
        if keyword in item and _empty(item, keyword):
            raise RuleBroken(f"{keyword} is empty")
    if not _empty(item, "ProcedureStepProgress") and not 0 <= float(item.ProcedureStepProgress) <= 100:
        raise RuleBroken("ProcedureStepProgress is no percentage")
    _check_codes(item, "ProcedureStepDiscontinuationReasonCodeSequence")


def _check_performed(item: Dataset) -> None:
    if "OutputInformationSequence" not in item:
        raise RuleBroken("OutputInformationSequence is missing (Type 2)")
    for keyword in ("PerformedProcedureStepStartDateTime", "PerformedProcedureStepEndDateTime"):
        if keyword in item and _empty(item, keyword):
            raise RuleBroken(f"{keyword} is empty")
    for keyword in ("PerformedStationNameCodeSequence", "PerformedWorkitemCodeSequence"):
        _check_codes(item, keyword)
    for series in item.OutputInformationSequence:
        check_references(series)


def check_references(item: Dataset) -> None:
    """The Referenced Instances and Access Macro (Table CC.2.5-2c).

    Raises:
        RuleBroken: it does not comply.
    """
    _need(item, ("TypeOfInstances", "ReferencedSOPSequence"))
    if item.TypeOfInstances == "DICOM":
        _need(item, ("StudyInstanceUID", "SeriesInstanceUID"))
    for reference in item.ReferencedSOPSequence:
        _need(reference, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))
    ways = [keyword for keyword in _RETRIEVALS if keyword in item]
    if not ways:
        raise RuleBroken("no retrieval sequence says where the instances are")
    for keyword in ways:
        _need(item, (keyword,))
        for way in item[keyword].value:
            _need(way, (_RETRIEVALS[keyword],))


def _check_codes(ds: Dataset, keyword: str) -> None:
    """The UPS Code Sequence Macro (Table CC.2.5-2a), where the sequence has items."""
    for item in ds.get(keyword) or ():
        _need(item, ("CodeMeaning",))
        values = [k for k in ("CodeValue", "LongCodeValue", "URNCodeValue") if not _empty(item, k)]
        if len(values) != 1:
            raise RuleBroken(f"{keyword}: an item has {len(values)} code values")
        if values != ["URNCodeValue"]:
            _need(item, ("CodingSchemeDesignator",))


def matches(ds: Dataset, path: str, value: str) -> bool:
    """Whether a workitem matches one key of a search: a keyword, or keywords of sequences, dotted.

    Raises:
        RuleBroken: there is no such attribute.
    """
    keyword, _, rest = path.partition(".")
    tag = _tag(keyword)
    found: Any = ds[tag].value if tag in ds else None
    if rest:
        return any(matches(item, rest, value) for item in found or ())
    if isinstance(found, ItemSequence):
        raise RuleBroken(f"{keyword} is a sequence: name an attribute in it")
    return not value or (found is not None and str(found) == value)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword) if not keyword.isdigit() else int(keyword, 16)
    if tag is None:
        raise RuleBroken(f"there is no attribute {keyword}")
    return tag


def _among(ds: Dataset, keyword: str, values: Iterable[str]) -> None:
    if keyword in ds and ds[keyword].value not in values:
        raise RuleBroken(f"{keyword} must be one of {', '.join(values)}")


def _one_at_most(ds: Dataset, keyword: str) -> Iterator[Dataset]:
    items = ds.get(keyword) or ()
    if len(items) > 1:
        raise RuleBroken(f"{keyword} has {len(items)} items")
    yield from items


def _the_item(ds: Dataset, keyword: str) -> Dataset:
    items: list[Dataset] = list(ds.get(keyword) or ())
    if not items:
        raise RuleBroken(f"{keyword} is missing or empty")
    return items[0]


def _need(ds: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if _empty(ds, keyword):
            raise RuleBroken(f"{keyword} is missing or empty")
        if keyword.endswith("InstanceUID") and not valid_uid(str(ds[keyword].value)):
            raise RuleBroken(f"{keyword} is no UID")


def _empty(ds: Dataset, keyword: str) -> bool:
    return keyword not in ds or bool(ds[keyword].is_empty)
