"""A Measurement Report (TID 1500) against the SEG that it refers to and the source images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dicom_node.check.axes import axis_problem
from dicom_node.check.change import other_evidence
from dicom_node.check.identity import MANUFACTURER, Identity
from dicom_node.check.objects import (
    CodeKey,
    ResultFile,
    Sources,
    code,
    code_of,
    content,
    first_item,
    items,
    numbers,
    text,
    value,
)
from dicom_node.check.reading import Item
from dicom_node.check.seg import SegmentSummary

TITLE = ("DCM", "126000")
PROCEDURE_REPORTED = ("DCM", "121058")
OBSERVER_UID = ("DCM", "121012")
OBSERVER_NAME = ("DCM", "121013")
OBSERVER_MANUFACTURER = ("DCM", "121014")
OBSERVER_MODEL = ("DCM", "121015")
ALGORITHM_NAME = ("DCM", "111001")
ALGORITHM_VERSION = ("DCM", "111003")
MEASUREMENT_GROUP = ("DCM", "125007")
TRACKING_ID = ("DCM", "112039")
TRACKING_UID = ("DCM", "112040")
FINDING = ("DCM", "121071")
FINDING_CATEGORY = ("SCT", "276214006")
FINDING_SITE = ("SCT", "363698007")
LATERALITY = ("SCT", "272741003")
REFERENCED_SEGMENT = ("DCM", "121191")
SOURCE_SERIES = ("DCM", "121232")
VOLUME = ("SCT", "118565006")
LONG_AXIS, SHORT_AXIS = ("SCT", "103339001"), ("SCT", "103340004")

NOT_ANALYSED = "Not analysed, because"
MILLILITRES: Mapping[str, float] = {"mL": 1.0, "ml": 1.0, "cm3": 1.0, "mm3": 1e-3, "uL": 1e-3, "L": 1e3, "l": 1e3}
RELATIVE, ABSOLUTE = 0.005, 0.01
"""A volume may differ from its mask's by 0.5 % or 0.01 mL, whichever is more."""


@dataclass(frozen=True)
class SegObject:
    """A SEG of the same run and its segments by number."""

    result: ResultFile
    segments: dict[int, SegmentSummary]


def check_sr(
    result: ResultFile, segs: Mapping[str, SegObject], sources: Sources, identity: Identity, *, measured: bool = True
) -> list[str]:
    """Every problem of a report.

    Args:
        result: the SR.
        segs: the run's SEGs by SOP Instance UID.
        sources: the source images; empty: references to images are not checked.
        identity: what the SR's Contributing Equipment names.
        measured: whether a report on segments must have a number; False when the algorithm measures nothing.
    """
    groups = [i for i in content(result.ds, deep=True) if _name(i) == MEASUREMENT_GROUP]
    problems = _check_frame(result, identity)
    problems += _check_words(result, segs, groups)
    problems += _check_references(result, segs, sources)
    if measured and not any(text(i, "ValueType") == "NUM" for i in content(result.ds, deep=True)):
        problems += [
            f"{result.name}: it has no measurement (NUM), but {seg.result.name} describes {len(seg.segments)} segments"
            for seg in segs.values()
            if seg.segments
        ]
    for index, group in enumerate(groups, start=1):
        where = f"{result.name}: measurement group {_tracking(group)[0] or index}"
        problems += _check_group(where, group, segs, identity, sources)
    described = {uid for group in groups for uid in [_tracking(group)[1]]}
    for seg in segs.values():
        for s in seg.segments.values():
            if s.tracking_uid and s.tracking_uid not in described:
                problems.append(
                    f"{result.name}: no measurement group has the TrackingUID {s.tracking_uid} "
                    f"of segment {s.number} ({s.label}) of {seg.result.name}"
                )
    return problems


def _check_frame(result: ResultFile, identity: Identity) -> list[str]:
    """Title, completeness, procedure and observer."""
    ds, name = result.ds, result.name
    problems = []
    if text(ds, "CompletionFlag") != "COMPLETE":
        problems.append(f"{name}: CompletionFlag is {text(ds, 'CompletionFlag') or 'absent'}, not COMPLETE")
    if code_of(ds, "ConceptNameCodeSequence") != TITLE:
        problems.append(f"{name}: the title is {code_of(ds, 'ConceptNameCodeSequence')}, not {TITLE}")
    template = first_item(ds, "ContentTemplateSequence")
    if text(template, "TemplateIdentifier") != "1500":
        problems.append(f"{name}: the template is {text(template, 'TemplateIdentifier') or 'absent'}, not 1500")
    procedures = [code_of(i, "ConceptCodeSequence") for i in content(ds) if _name(i) == PROCEDURE_REPORTED]
    if not any(value for _, value in procedures):
        problems.append(f"{name}: Procedure Reported is absent")
    uid = _first(ds, OBSERVER_UID, "UID")
    if not uid:
        problems.append(f"{name}: the device observer (Device Observer UID) is absent")
    elif uid != identity[2]:
        problems.append(f"{name}: Device Observer UID is {uid}, Contributing Equipment's DeviceUID is {identity[2]}")
    if not _first(ds, OBSERVER_NAME, "TextValue"):
        problems.append(f"{name}: Device Observer Name is absent")
    expected = {OBSERVER_MANUFACTURER: MANUFACTURER, OBSERVER_MODEL: identity[0]}
    for concept, wanted in expected.items():
        found = _first(ds, concept, "TextValue")
        if found != wanted:
            what = "Manufacturer" if concept == OBSERVER_MANUFACTURER else "Model Name"
            problems.append(f"{name}: Device Observer {what} is {found or 'absent'}, not {wanted}")
    return problems


def _check_words(result: ResultFile, segs: Mapping[str, SegObject], groups: Sequence[Item]) -> list[str]:
    """What must be said in words."""
    words = _words(result.ds)
    problems = []
    if not any("research use only" in w.lower() for w in words):
        problems.append(f"{result.name}: no text says 'for research use only'")
    silent = not any(w.startswith((NOT_ANALYSED, "No finding")) for w in words)
    if not groups and silent:
        problems.append(f"{result.name}: it has no measurement and says neither 'No finding' nor 'Not analysed'")
    if segs and not silent:
        problems.append(f"{result.name}: it says that nothing was found or analysed, but there is a SEG")
    return problems


def says_not_analysed(result: ResultFile) -> bool:
    """Whether a report says that there was no analysis."""
    return any(w.startswith(NOT_ANALYSED) for w in _words(result.ds))


def _words(ds: Item) -> list[str]:
    return [text(i, "TextValue") for i in content(ds, deep=True) if text(i, "ValueType") == "TEXT"]


def _check_references(result: ResultFile, segs: Mapping[str, SegObject], sources: Sources) -> list[str]:
    """Every reference exists, and the evidence is complete (PS3.3 C.17.2)."""
    ds, name = result.ds, result.name
    classes = {uid: text(h, "SOPClassUID") for uid, h in sources.by_uid.items()}
    classes |= {uid: text(seg.result.ds, "SOPClassUID") for uid, seg in segs.items()}
    referenced = {}
    for item in content(ds, deep=True):
        for reference in items(item, "ReferencedSOPSequence"):
            referenced[text(reference, "ReferencedSOPInstanceUID")] = text(reference, "ReferencedSOPClassUID")
    evidence: dict[str, str] = {}
    problems = []
    for study in items(ds, "CurrentRequestedProcedureEvidenceSequence"):
        if text(study, "StudyInstanceUID") != text(ds, "StudyInstanceUID"):
            problems.append(
                f"{name}: the evidence is of the study {text(study, 'StudyInstanceUID')}, "
                f"the report of {text(ds, 'StudyInstanceUID')}"
            )
        for series in items(study, "ReferencedSeriesSequence"):
            for i in items(series, "ReferencedSOPSequence"):
                evidence[text(i, "ReferencedSOPInstanceUID")] = text(i, "ReferencedSOPClassUID")
    # Images of a prior study are evidence of another procedure; check_change looks at them.
    elsewhere = other_evidence(result)
    classes |= elsewhere
    evidence |= elsewhere
    required = {*referenced, *sources.by_uid, *segs}
    problems += _some(f"{name}: the evidence lacks", sorted(required - evidence.keys()))
    if sources.headers:
        unknown = sorted({*referenced, *evidence} - classes.keys())
        problems += _some(f"{name}: it refers to what is neither a source image nor a result:", unknown)
        named = {text(i, "UID") for i in content(ds, deep=True) if _name(i) == SOURCE_SERIES}
        wrong = sorted(named - sources.series)
        problems += _some(f"{name}: the source series for a segmentation is not that of the source images:", wrong)
    for uid, sop_class in (evidence | referenced).items():
        if uid in classes and classes[uid] != sop_class:
            problems.append(f"{name}: it gives {uid} the class {sop_class}, which has {classes[uid]}")
    return problems


def _check_group(
    where: str, group: Item, segs: Mapping[str, SegObject], identity: Identity, sources: Sources
) -> list[str]:
    problems = []
    tracking_id, tracking_uid = _tracking(group)
    if not tracking_id:
        problems.append(f"{where}: Tracking Identifier is absent")
    if not tracking_uid:
        problems.append(f"{where}: Tracking Unique Identifier is absent")
    for concept, wanted, what in (
        (ALGORITHM_NAME, identity[0], "Algorithm Name"),
        (ALGORITHM_VERSION, identity[1], "Algorithm Version"),
    ):
        found = _first(group, concept, "TextValue")
        if found != wanted:
            problems.append(f"{where}: {what} is {found or 'absent'}, Contributing Equipment says {wanted}")
    own: list[SegmentSummary] = []
    for item in content(group):
        if _name(item) == REFERENCED_SEGMENT:
            found_segments, reference_problems = _segments(where, item, segs)
            own += found_segments
            problems += reference_problems
    for s in own:
        problems += _check_segment(where, group, s)
    for item in content(group):
        if text(item, "ValueType") == "NUM":
            problems += _check_number(where, item, own, segs, sources)
    return problems


def _check_segment(where: str, group: Item, s: SegmentSummary) -> list[str]:
    """The group and the segment that it refers to say the same of it."""
    site = next((i for i in content(group) if _name(i) == FINDING_SITE), Item())
    pairs: list[tuple[str, str | CodeKey, str | CodeKey]] = [
        ("Tracking Unique Identifier", _tracking(group)[1], s.tracking_uid),
        ("Tracking Identifier", _tracking(group)[0], s.tracking_id),
        ("Finding", _code_value(group, FINDING), s.type),
        ("Finding Category", _code_value(group, FINDING_CATEGORY), s.category),
        ("Laterality", _code_value(site, LATERALITY), s.laterality),
    ]
    if s.anatomy[1]:
        measured = [i for i in content(group) if text(i, "ValueType") == "NUM"]
        own = [i for parent in (group, *measured) for i in content(parent) if _name(i) == FINDING_SITE]
        sites = dict.fromkeys(code_of(i, "ConceptCodeSequence") for i in own) or [("", "")]
        pairs += [("Finding Site", found, s.anatomy) for found in sites]
    return [
        f"{where}: {what} is {found if any(found) else 'absent'}, segment {s.number} of the SEG has {wanted}"
        for what, found, wanted in pairs
        if found != wanted
    ]


def _check_number(
    where: str, item: Item, own: Sequence[SegmentSummary], segs: Mapping[str, SegObject], sources: Sources
) -> list[str]:
    """A measurement has a number and a unit; a volume and an axis are computed again from the mask."""
    measured = first_item(item, "MeasuredValueSequence")
    found = numbers(measured, "FloatingPointValue") or numbers(measured, "NumericValue")
    decimal = numbers(measured, "NumericValue")
    unit = code_of(measured, "MeasurementUnitsCodeSequence")
    if not found or not decimal or not unit[1]:
        return [f"{where}: a measurement has no value or no unit"]
    name = _tracking(item)[0] or "a measurement"
    problems = []
    if abs(found[0] - decimal[0]) > 1e-6 * max(1.0, abs(found[0])):
        problems.append(f"{where}: {name} is {decimal[0]} as NumericValue, {found[0]} as FloatingPointValue")
    segments: list[SegmentSummary] = []
    for child in content(item):
        if text(child, "ValueType") == "IMAGE" and _refers_to_segments(child):
            more, reference_problems = _segments(f"{where}: {name}", child, segs)
            segments += more
            problems += reference_problems
    if _name(item) in (LONG_AXIS, SHORT_AXIS):
        # of ultrasound all axes are of the outline
        segments = segments or (list(own) if sources.flat else [])
        return problems + _check_axis(f"{where}: {name}", item, found[0], unit[1], segments, sources)
    if _name(item) == VOLUME and own:
        segments = segments or list(own)
    if (_name(item) == VOLUME or segments) and not (unit[0] == "UCUM" and unit[1] in MILLILITRES):
        problems.append(f"{where}: {name} is a volume in {unit[1]} ({unit[0]}), which is no known unit of volume")
    elif segments:
        problems += _check_volume(where, name, found[0] * MILLILITRES[unit[1]], segments)
    return problems


def _check_axis(
    where: str, item: Item, length: float, unit: str, segments: Sequence[SegmentSummary], sources: Sources
) -> list[str]:
    """A length that is an axis of one segment in its plane, measured again there."""
    if not segments or not sources.headers:
        return []
    plane = segments[0].plane
    if len(segments) > 1 or plane is None:
        return [f"{where} is an axis, but its mask does not lie in one plane"]
    header = sources.planes.get(plane[0])
    if header is None:
        return []  # said of the SEG
    problem = axis_problem(length, unit, _name(item) == LONG_AXIS, plane[1], header)
    return [f"{where} {problem}"] if problem else []


def _check_volume(where: str, name: str, millilitres: float, segments: Iterable[SegmentSummary]) -> list[str]:
    segments = list(segments)
    expected = sum(s.millilitres for s in segments)
    if abs(millilitres - expected) <= max(ABSOLUTE, RELATIVE * expected):
        return []
    of = " and ".join(str(s.number) for s in segments)
    return [f"{where}: {name} is {millilitres:.3f} mL, the mask of segment {of} has {expected:.3f} mL"]


def _segments(where: str, item: Item, segs: Mapping[str, SegObject]) -> tuple[list[SegmentSummary], list[str]]:
    """The segments that an IMAGE item refers to, and the references that lead nowhere."""
    found, problems = [], []
    for reference in items(item, "ReferencedSOPSequence"):
        uid = text(reference, "ReferencedSOPInstanceUID")
        seg = segs.get(uid)
        if seg is None:
            problems.append(f"{where}: it refers to the SEG {uid}, which is not among the results")
            continue
        wanted = numbers(reference, "ReferencedSegmentNumber")
        if not wanted:
            problems.append(f"{where}: it refers to {seg.result.name}, but to no segment")
        for number in map(int, wanted):
            if number in seg.segments:
                found.append(seg.segments[number])
            else:
                problems.append(f"{where}: it refers to segment {number}, {seg.result.name} has {sorted(seg.segments)}")
    return found, problems


def _refers_to_segments(item: Item) -> bool:
    return any(value(r, "ReferencedSegmentNumber") is not None for r in items(item, "ReferencedSOPSequence"))


def _tracking(item: Item) -> tuple[str, str]:
    return _first(item, TRACKING_ID, "TextValue"), _first(item, TRACKING_UID, "UID")


def _name(item: Item) -> CodeKey:
    return code_of(item, "ConceptNameCodeSequence")


def _first(item: Item, concept: CodeKey, keyword: str) -> str:
    """The value of the first child of that concept."""
    return next((text(i, keyword) for i in content(item) if _name(i) == concept), "")


def _code_value(item: Item, concept: CodeKey) -> CodeKey:
    found = next((i for i in content(item) if _name(i) == concept), None)
    return ("", "") if found is None else code(first_item(found, "ConceptCodeSequence"))


def _some(what: str, uids: Sequence[str]) -> list[str]:
    if not uids:
        return []
    more = f" and {len(uids) - 1} more" if len(uids) > 1 else ""
    return [f"{what} {uids[0]}{more}"]
