"""The change since a prior study: measurements of two findings, and where the prior one stands in the report.

The node's check computes each change again by itself (``check/change.py``), from the same two findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicom_node.algorithm import Code, Findings, Measurement
from dicom_node.encode.codes import concept, unit
from dicom_node.encode.context import MANUFACTURER
from dicom_node.encode.references import library_group
from dicom_node.errors import EncodeError
from dicom_node.model.result import readable

PRIVATE = "99DICOMNODE"
"""Coding scheme of what no standard scheme has a code for."""
CHANGE = Code("CHANGE-PRIOR", PRIVATE, "Change since prior study")
CHANGE_A_YEAR = Code("CHANGE-YEAR", PRIVATE, "Relative change per year since prior study")
INTERVAL = Code("385673002", "SCT", "Interval")
PROCEDURE_STUDY = Code("121018", "DCM", "Procedure Study Instance UID")  # TID 1005
TEMPORAL_PREDECESSOR = Code("121348", "DCM", "Temporal Predecessor")  # CID 7201

GROUP = "Change since the prior study"
HALF_YEAR = 183
"""Days below which no change a year is given: the error of two measurements would be multiplied."""
YEAR = 365.25

INFERRED_FROM = sr.RelationshipTypeValues.INFERRED_FROM
HAS_OBS_CONTEXT = sr.RelationshipTypeValues.HAS_OBS_CONTEXT
HAS_ACQ_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT


@dataclass(frozen=True)
class PriorStudy:
    """What a report compares with.

    Attributes:
        images: of the prior's images StudyInstanceUID, SeriesInstanceUID, SOPClassUID, SOPInstanceUID.
        day: the prior's Study Date.
        measurements: of its findings, by name, made by the same algorithm, version and weights.
    """

    images: tuple[Dataset, ...]
    day: date
    measurements: Mapping[str, Measurement]

    @property
    def study_uid(self) -> str:
        """Its Study Instance UID."""
        return str(self.images[0].StudyInstanceUID)


def prior_study(headers: Sequence[Dataset], findings: Findings) -> PriorStudy:
    """The prior, from the headers of its images and the findings in them.

    Raises:
        EncodeError: there is no image, they are of several studies, or of no date.
    """
    images = []
    for header in headers:
        image = Dataset()
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
            setattr(image, keyword, str(header[keyword].value))
        images.append(image)
    day = study_day(headers[0]) if headers else None
    if day is None or len({i.StudyInstanceUID for i in images}) != 1:
        raise EncodeError("the prior study has no image, no date, or is several studies")
    return PriorStudy(tuple(images), day, {m.name: m for m in findings.measurements})


def study_day(header: Dataset) -> date | None:
    """Study Date; None where there is none, or it is ill-formed."""
    text = str(header.get("StudyDate") or "").strip()
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def with_changes(findings: Findings, prior: PriorStudy, day: date, remarks: Sequence[str] = ()) -> Findings:
    """The findings with the changes of what is to be compared, and sentences about the comparison.

    A measurement that the prior lacks, or has in another unit, has no change; it is named in a note.

    Args:
        day: the Study Date of the findings' images, later than the prior's.
        remarks: more sentences, such as the algorithm's caution.
    """
    days = (day - prior.day).days
    wanted = [m for m in findings.measurements if m.compare is not None]
    changes: list[Measurement] = []
    missing = []
    for m in wanted:
        before = prior.measurements.get(m.name)
        if before is None or (before.unit, before.code) != (m.unit, m.code):
            missing.append(m.name)
            continue
        changes += _changes(m, before, days)
    notes = [f"Compared with a prior study {days} days earlier, measured by the same algorithm, version and weights."]
    if days < HALF_YEAR and any(m.compare == "yearly" for m in wanted):
        notes.append("Less than half a year lies between the studies: no change per year is given.")
    if missing:
        notes.append(f"The prior study has no such measurement, so there is no change of: {', '.join(missing)}.")
    if changes:
        site = changes[0].site
        changes.insert(0, Measurement("Interval since the prior study", days, "d", INTERVAL, site, group=GROUP))
    every = (*findings.measurements, *changes)
    return replace(findings, measurements=every, notes=(*findings.notes, *notes, *remarks))


def _changes(m: Measurement, before: Measurement, days: int) -> list[Measurement]:
    difference = m.value - before.value
    # A change from 60 to 54 % is one of 6 points and of a tenth: the name must say which is given.
    name = "change in points since the prior" if m.unit == "%" else "change since the prior study"
    of: dict[str, Any] = {"site": m.site, "laterality": m.laterality, "group": GROUP, "change_of": m.name}
    found = [
        Measurement(
            f"{m.name}: {name}",
            difference,
            m.unit,
            CHANGE,
            method=f"from {readable(before.value)} to {readable(m.value)}",
            **of,
        )
    ]
    if m.compare == "yearly" and days >= HALF_YEAR and before.value > 0:
        yearly = 100 * difference / before.value / (days / YEAR)
        method = f"of the prior value, over {days / YEAR:.2f} years, taken as even"
        found.append(Measurement(f"{m.name}: change per year", yearly, "%/a", CHANGE_A_YEAR, method=method, **of))
    return found


def refer_to_prior(item: Dataset, current: Measurement, prior: PriorStudy) -> None:
    """Put the two values that a change is computed from below it (INFERRED FROM, PS3.3 A.35.13.3.1.2).

    The prior's value has the observation context of its study (PS3.16 TID 1005) in place of the report's.
    """
    item.ContentSequence.append(_value(current))
    before = _value(prior.measurements[current.name])
    before.ContentSequence = sr.ContentSequence(
        [
            sr.UIDRefContentItem(concept(PROCEDURE_STUDY), prior.study_uid, relationship_type=HAS_OBS_CONTEXT),
            sr.DateContentItem(codes.DCM.StudyDate, prior.day, relationship_type=HAS_OBS_CONTEXT),
        ]
    )
    item.ContentSequence.append(before)


def _value(m: Measurement) -> Dataset:
    item: Dataset = sr.NumContentItem(
        concept(m.code), float(f"{m.value:.6g}"), unit(m.unit), relationship_type=INFERRED_FROM
    )
    return item


def name_scheme(report: Dataset) -> None:
    """Say whose the private coding scheme is (Coding Scheme Identification Sequence, PS3.3 C.12.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE
    item.CodingSchemeName = "dicom_node"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    report.CodingSchemeIdentificationSequence = [item]


def prior_group(prior: PriorStudy) -> Dataset:
    """The prior's images as a group of the Image Library (TID 1600), with the date of their study (TID 1602)."""
    day = sr.DateContentItem(codes.DCM.StudyDate, prior.day, relationship_type=HAS_ACQ_CONTEXT)
    return library_group(prior.images, TEMPORAL_PREDECESSOR, [day])
