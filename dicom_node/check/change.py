"""The change since a prior study: computed again, and the prior's identity compared with that of the source images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from pydicom import Dataset

from dicom_node.algorithm import Findings
from dicom_node.check.objects import CodeKey, ResultFile, Sources, code_of, content, first_item, items, numbers, text
from dicom_node.check.reading import Item

CHANGE = ("99DICOMNODE", "CHANGE-PRIOR")
CHANGE_PER_YEAR = ("99DICOMNODE", "CHANGE-YEAR")
CHANGES = (CHANGE, CHANGE_PER_YEAR)
PROCEDURE_STUDY = ("DCM", "121018")
STUDY_DATE = ("DCM", "111060")
TRACKING_ID = ("DCM", "112039")

SHORTEST_DAYS_FOR_A_YEARLY_CHANGE = 183
DAYS_OF_A_YEAR = 365.25
_RELATIVE = 1e-4
"""Values are written with six digits: the difference of two has fewer."""


@dataclass(frozen=True)
class Prior:
    """The prior study that a run was compared with.

    Attributes:
        headers: of the images that its findings are of.
        findings: what the same algorithm found in them.
    """

    headers: tuple[Dataset, ...]
    findings: Findings


@dataclass(frozen=True)
class _Told:
    """A change in the report, and what the report says that it was computed from."""

    name: str
    concept: CodeKey
    value: float
    unit: str
    current: float
    before: float
    study_uid: str
    day: date | None


def check_change(
    result: ResultFile, sources: Sources, found: Findings | None = None, prior: Prior | None = None
) -> list[str]:
    """Every problem of what a report says of a prior study.

    Args:
        result: the SR.
        sources: the source images; empty: the interval cannot be computed, so changes per year are not compared.
        found: the findings that the report was made of, without changes; None: only what it says itself is used.
        prior: what they were compared with; None, where ``found`` is given: nothing.
    """
    name = result.name
    changes, problems = _read(result)
    evidence = _other_evidence(result)
    if text(result.ds, "StudyInstanceUID") in evidence:
        problems.append(f"{name}: Pertinent Other Evidence is of the report's own study")
    studies = {c.study_uid for c in changes}
    if not studies <= evidence.keys() or len(evidence) > 1:
        problems.append(f"{name}: the changes are since the study {_list(studies)}, the evidence of {_list(evidence)}")
    day = _day(sources.first) if sources.headers else None
    for c in changes:
        problems += _check_arithmetic(name, c, day)
    if found is None:
        return problems
    if prior is None:
        if changes or evidence:
            problems.append(f"{name}: it tells of a prior study, but the run was compared with none")
        return problems
    problems += _check_patient(name, sources, prior)
    problems += _check_evidence(name, evidence, prior)
    return problems + _check_told(name, changes, _expected(found, prior, day))


def other_evidence(result: ResultFile) -> dict[str, str]:
    """SOP Instance UIDs and classes of the Pertinent Other Evidence Sequence: images of other studies."""
    return {uid: c for instances in _other_evidence(result).values() for uid, (c, _) in instances.items()}


def _read(result: ResultFile) -> tuple[list[_Told], list[str]]:
    found, problems = [], []
    for item in content(result.ds, deep=True):
        if _name(item) not in CHANGES:
            continue
        name = next((text(i, "TextValue") for i in content(item) if _name(i) == TRACKING_ID), "")
        values = [i for i in content(item) if text(i, "ValueType") == "NUM"]
        prior = [i for i in values if any(_name(c) == PROCEDURE_STUDY for c in content(i))]
        current = [i for i in values if i not in prior]
        if len(prior) != 1 or len(current) != 1 or code_of(prior[0], "ConceptNameCodeSequence") != _name(current[0]):
            problems.append(f"{result.name}: {name} is not said to be computed from one value of each study")
            continue
        if _number(prior[0])[1] != _number(current[0])[1]:
            problems.append(f"{result.name}: {name} is computed from values in different units")
            continue
        study = next(text(i, "UID") for i in content(prior[0]) if _name(i) == PROCEDURE_STUDY)
        day = next((_parsed(text(i, "Date")) for i in content(prior[0]) if _name(i) == STUDY_DATE), None)
        value, unit = _number(item)
        told = _Told(name, _name(item), value, unit, _number(current[0])[0], _number(prior[0])[0], study, day)
        found.append(told)
        expected = "%/a" if told.concept == CHANGE_PER_YEAR else _number(current[0])[1]
        if unit != expected:
            problems.append(f"{result.name}: {name} is in {unit}, not in {expected}")
    return found, problems


def _check_arithmetic(name: str, c: _Told, day: date | None) -> list[str]:
    """The change is that of the two values beside it."""
    tolerance = _RELATIVE * max(abs(c.current), abs(c.before))
    expected = c.current - c.before
    if c.concept == CHANGE_PER_YEAR:
        if day is None or c.day is None:
            return []
        days = (day - c.day).days
        if days < SHORTEST_DAYS_FOR_A_YEARLY_CHANGE or c.before <= 0:
            return [f"{name}: {c.name} is given, but only {days} days lie between the studies, or the prior value is 0"]
        scale = 100 / c.before / (days / DAYS_OF_A_YEAR)
        expected, tolerance = expected * scale, tolerance * scale
    if abs(c.value - expected) <= tolerance:
        return []
    return [f"{name}: {c.name} is {c.value:g}, its two values give {expected:g}"]


def _expected(found: Findings, prior: Prior, day: date | None) -> Iterator[tuple[str, CodeKey, float, float]]:
    """Name of the measurement, concept, current and prior value of each change that there must be."""
    before = {m.name: m for m in prior.findings.measurements}
    earlier = _day(prior.headers[0]) if prior.headers else None
    days = (day - earlier).days if day is not None and earlier is not None else 0
    for m in found.measurements:
        b = before.get(m.name)
        if m.compare is None or b is None or b.unit != m.unit or b.code != m.code:
            continue
        yield m.name, CHANGE, m.value, b.value
        if m.compare == "yearly" and days >= SHORTEST_DAYS_FOR_A_YEARLY_CHANGE and b.value > 0:
            yield m.name, CHANGE_PER_YEAR, m.value, b.value


def _check_told(
    name: str, changes: Sequence[_Told], expected: Iterator[tuple[str, CodeKey, float, float]]
) -> list[str]:
    """All changes that the two findings give are told, from their very values, and no others."""
    told = {(c.name.partition(": ")[0], c.concept): c for c in changes}
    problems = []
    for of, concept, current, before in expected:
        c = told.pop((of, concept), None)
        if c is None:
            problems.append(f"{name}: the change of {of} ({concept[1]}) is missing")
            continue
        for value, wanted, whose in ((c.current, current, "this study's"), (c.before, before, "the prior's")):
            if abs(value - wanted) > _RELATIVE * abs(wanted):
                problems.append(f"{name}: {c.name} is computed from {value:g}, {whose} findings have {wanted:g}")
    return problems + [f"{name}: {c.name} is no change that the two findings give" for c in told.values()]


def _check_patient(name: str, sources: Sources, prior: Prior) -> list[str]:
    """The prior is the same patient's, and earlier; values that name the patient are not repeated."""
    if not sources.headers:
        return []
    problems = []
    first, day = sources.first, _day(sources.first)
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientBirthDate"):
        if any(text(h, keyword) != text(first, keyword) for h in prior.headers):
            problems.append(f"{name}: the prior study's {keyword} is not that of the source images")
    if any(text(h, "StudyInstanceUID") == text(first, "StudyInstanceUID") for h in prior.headers):
        problems.append(f"{name}: the prior study is the study of the source images")
    days = [_day(h) for h in prior.headers]
    if day is None or not all(d is not None and d < day for d in days):
        problems.append(f"{name}: the prior study is not known to be earlier than that of the source images")
    return problems


def _check_evidence(name: str, evidence: Mapping[str, Mapping[str, tuple[str, str]]], prior: Prior) -> list[str]:
    wanted: dict[str, dict[str, tuple[str, str]]] = {}
    for h in prior.headers:
        instances = wanted.setdefault(text(h, "StudyInstanceUID"), {})
        instances[text(h, "SOPInstanceUID")] = (text(h, "SOPClassUID"), text(h, "SeriesInstanceUID"))
    return [] if wanted == evidence else [f"{name}: Pertinent Other Evidence is not the prior study's images"]


def _other_evidence(result: ResultFile) -> dict[str, dict[str, tuple[str, str]]]:
    """By study and SOP Instance UID: SOP Class UID and Series Instance UID."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for study in items(result.ds, "PertinentOtherEvidenceSequence"):
        instances = found.setdefault(text(study, "StudyInstanceUID"), {})
        for series in items(study, "ReferencedSeriesSequence"):
            for i in items(series, "ReferencedSOPSequence"):
                about = (text(i, "ReferencedSOPClassUID"), text(series, "SeriesInstanceUID"))
                instances[text(i, "ReferencedSOPInstanceUID")] = about
    return found


def _number(item: Item) -> tuple[float, str]:
    measured = first_item(item, "MeasuredValueSequence")
    found = numbers(measured, "FloatingPointValue") or numbers(measured, "NumericValue") or [float("nan")]
    return found[0], code_of(measured, "MeasurementUnitsCodeSequence")[1]


def _day(header: Dataset) -> date | None:
    return _parsed(text(header, "StudyDate"))


def _parsed(value: str) -> date | None:
    try:
        return datetime.strptime(value.replace("-", ""), "%Y%m%d").date()
    except ValueError:
        return None


def _name(item: Item) -> CodeKey:
    return code_of(item, "ConceptNameCodeSequence")


def _list(uids: object) -> str:
    return ", ".join(sorted(map(str, uids))) or "none"  # type: ignore[call-overload]
