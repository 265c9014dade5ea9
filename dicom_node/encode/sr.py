"""The Measurement Report: a Comprehensive 3D SR by TID 1500 (PS3.16), whose ROIs are the SEG's segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.algorithm import Code, Findings, Measurement, Segment
from dicom_node.encode.change import PriorStudy, name_scheme, prior_group, refer_to_prior
from dicom_node.encode.codes import concept, long_string
from dicom_node.encode.common import build, finish
from dicom_node.encode.context import MANUFACTURER, RESEARCH_USE, Context
from dicom_node.encode.references import add_library, library_group
from dicom_node.encode.report_parts import (
    CONTAINS,
    algorithm_identification,
    comment,
    measurement_item,
    sentences,
    site,
    sites,
)
from dicom_node.encode.seg import present_segments
from dicom_node.encode.source import Source
from dicom_node.encode.uids import ResultUids
from dicom_node.errors import EncodeError
from dicom_node.model.result import DEFAULT_ENCODING, SegEncoding, encoded_role

QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500 row 12
MASK_VOLUME_UNITS = ("mL", "mm3")
MASK_AXES = ("103339001", "103340004")  # SCT Long Axis, Short Axis
MASK_AXIS_UNITS = ("mm", "{pixels}")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
HAS_CONCEPT_MOD = sr.RelationshipTypeValues.HAS_CONCEPT_MOD


def build_report(
    findings: Findings,
    seg: Dataset | None,
    source: Source,
    context: Context,
    encoding: SegEncoding = DEFAULT_ENCODING,
    prior: PriorStudy | None = None,
) -> Dataset:
    """The report of an analysis.

    One group for each segment that has voxels (TID 1411, with the SEG's tracking identifiers), one for each
    measurement that is not of exactly one such segment (TID 1501), and the algorithm's notes.

    Args:
        findings: what was found.
        seg: the SEG it refers to; None when the label map is empty, and the report then says "No finding".
        encoding: that of ``seg``: the report on it is another one than that on the same mask in another encoding.
        prior: the study that the findings' changes are since.

    Raises:
        EncodeError: the findings cannot be written.
    """
    groups = build("SR", lambda: _Groups(findings, seg, source, context, prior).all())
    remarks: list[Dataset] = [_code(codes.DCM.SummaryOfAnalyses, codes.DCM.Succeeded)]
    if seg is None and (findings.segments or not findings.measurements):
        remarks.append(_code(codes.DCM.Finding, codes.DCM.Absent))
        what = "pixel of these images" if source.flat else "voxel of this series"
        remarks.append(comment(f"No finding: the algorithm marked no {what}."))
    remarks.extend(comment(note) for note in findings.notes)
    evidence = [*source.images, *([seg] if seg is not None else [])]
    role_key = ("findings", str(seg.SOPInstanceUID) if seg is not None else "", *context.compared)
    return _document(groups, remarks, evidence, role_key, source, context, encoded_role("sr", encoding), prior)


def build_not_analysed(reason: str, source: Source, context: Context) -> Dataset:
    """The report that says why there is no analysis.

    Args:
        reason: completes the sentence "Not analysed, because ...".

    Raises:
        EncodeError: it cannot be written.
    """
    remarks = [
        _code(codes.DCM.SummaryOfAnalyses, codes.DCM.NotAttempted),
        comment(f"Not analysed, because {reason.strip().rstrip('.')}."),
    ]
    return _document([], remarks, source.images, ("not analysed", reason), source, context)


def texts(findings: Findings) -> list[str]:
    """All that the report says in the algorithm's words."""
    found = [*findings.notes]
    for s in findings.segments:
        found += [s.label, s.category.meaning, s.type.meaning]
    for m in findings.measurements:
        found += [m.name, m.unit, m.code.meaning, m.site.meaning, m.method or "", m.group or ""]
    return found


def _document(
    groups: Sequence[Dataset],
    remarks: Sequence[Dataset],
    evidence: Sequence[Dataset],
    role_key: tuple[str, ...],
    source: Source,
    context: Context,
    role: str = "sr",
    prior: PriorStudy | None = None,
) -> Dataset:
    uids = ResultUids(context.key)
    identity = context.identity

    def make() -> Dataset:
        report: Dataset = sr.Comprehensive3DSR(
            # What is of another study goes to the Pertinent Other Evidence Sequence (PS3.3 C.17.2).
            evidence=[*evidence, *(prior.images if prior is not None else ())],
            content=report_root(groups, remarks, context),
            series_instance_uid=uids.series(role),
            series_number=context.series_number + 1,
            sop_instance_uid=uids.instance(role, *role_key),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=long_string(identity.name),
            software_versions=long_string(identity.version),
            device_serial_number=identity.device_uid,
            is_complete=True,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=context.describe("SR"),
            content_date=context.when.date(),
            content_time=context.when.time(),
            specific_character_set=None,
            previous_versions=_predecessors(source, context, role),
        )
        add_library(report, [library_group(source.images), *([prior_group(prior)] if prior is not None else [])])
        return report

    report = build("SR", make)
    finish(report, source, context)
    if prior is not None:
        name_scheme(report)
    return report


def _predecessors(source: Source, context: Context, role: str) -> list[Dataset] | None:
    """What the report replaces: its like, or, where the encoding has changed since, whatever was sent."""
    replaced = [p for p in context.predecessors if p.role == role] or list(context.predecessors)
    found = []
    for report in replaced:
        item = Dataset()
        item.StudyInstanceUID = source.first.StudyInstanceUID
        item.SeriesInstanceUID = report.SeriesInstanceUID
        item.SOPClassUID = report.SOPClassUID
        item.SOPInstanceUID = report.SOPInstanceUID
        found.append(item)
    return found or None


def report_root(
    groups: Sequence[Dataset],
    remarks: Sequence[Dataset],
    context: Context,
) -> Dataset:
    """TID 1500: language, device observer, procedure, measurements, remarks; without the images."""
    root: Dataset = sr.ContainerContentItem(name=codes.cid7021.ImagingMeasurementReport, template_id="1500")
    content = sr.ContentSequence()
    content.extend(sr.LanguageOfContentItemAndDescendants(concept(ENGLISH)))
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=context.identity.device_uid,
        name=long_string(f"{context.identity.name} {context.identity.version}"),
        manufacturer_name=MANUFACTURER,
        model_name=long_string(context.identity.name),
    )
    content.extend(
        sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=observer
            )
        )
    )
    content.append(
        sr.CodeContentItem(codes.DCM.ProcedureReported, concept(context.procedure), relationship_type=HAS_CONCEPT_MOD)
    )
    if groups:
        measurements = sr.ContainerContentItem(codes.DCM.ImagingMeasurements, relationship_type=CONTAINS)
        measurements.ContentSequence = sr.ContentSequence(groups)
        content.append(measurements)
    evaluations = sr.ContainerContentItem(concept(QUALITATIVE_EVALUATIONS), relationship_type=CONTAINS)
    made_by = f"Made by the algorithm {context.identity.name}, version {context.identity.version}."
    evaluations.ContentSequence = sr.ContentSequence([*remarks, comment(made_by), comment(RESEARCH_USE)])
    content.append(evaluations)
    root.ContentSequence = content
    return root


class _Groups:
    """The measurement groups of one report."""

    def __init__(
        self, findings: Findings, seg: Dataset | None, source: Source, context: Context, prior: PriorStudy | None
    ) -> None:
        self.findings = findings
        self.prior = prior
        self.seg = seg
        self.source = source
        self.context = context
        self.uids = ResultUids(context.key)
        self.present = present_segments(findings) if seg is not None else frozenset()

    def all(self) -> list[Dataset]:
        """Segments first, in their order, then the other measurements in theirs."""
        groups = [self._of_segment(s) for s in self.findings.segments if s.value in self.present]
        groups += [self._of_absent_segment(s) for s in self.findings.segments if self._is_absent(s)]
        others: dict[tuple[str, str], list[Measurement]] = {}
        for m in self.findings.measurements:
            if not self._is_of_one_segment(m):
                others.setdefault(("group", m.group) if m.group else ("measurement", m.name), []).append(m)
        groups += [self._of_measurements(title, ms) for (_, title), ms in others.items()]
        return groups

    def _is_absent(self, segment: Segment) -> bool:
        # With no SEG at all the report says "No finding" once, for all.
        return self.seg is not None and segment.value not in self.present

    def _is_of_one_segment(self, m: Measurement) -> bool:
        """Whether it stands in the segment's own group.

        There every volume is the segment's, so that a reader, and the node's check, may take it as such.
        """
        if len(m.segments) != 1 or m.segments[0] not in self.present:
            return False
        return m.from_mask or m.code.value != codes.SCT.Volume.value

    def _of_segment(self, segment: Segment) -> Dataset:
        assert self.seg is not None
        measurements = self.findings.measurements
        own = [m for m in measurements if m.segments == (segment.value,) and self._is_of_one_segment(m)]
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=self.uids.segment(segment.value), identifier=long_string(segment.label)
            ),
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=self.seg.SOPClassUID,
                sop_instance_uid=self.seg.SOPInstanceUID,
                segment_number=segment.value,
                **self._sources(segment),
            ),
            finding_category=concept(segment.category),
            finding_type=concept(segment.type),
            finding_sites=sites(own) or [site(segment.type, segment.laterality)],
            algorithm_id=algorithm_identification(self.context),
            measurements=[self._measurement(m) for m in own],
        )
        return _with_comments(group[0], [c for m in own for c in sentences(m)])

    def _sources(self, segment: Segment) -> dict[str, Any]:
        """What the segment was found in: the series, or, of a part of what was analysed, the very frames."""
        if not self.findings.frames:
            series = self.source.first.SeriesInstanceUID
            return {"source_series": sr.SourceSeriesForSegmentation(referenced_series_instance_uid=series)}
        numbers: dict[tuple[str, str], list[int]] = {}
        for plane, labels in zip(self.source.planes, self.findings.label_map, strict=True):
            if (labels == segment.value).any():
                image = (str(plane.image.SOPClassUID), str(plane.image.SOPInstanceUID))
                numbers.setdefault(image, []).extend([plane.number] if plane.number is not None else [])
        images = [
            sr.SourceImageForSegmentation(sop_class, instance, referenced_frame_numbers=frames or None)
            for (sop_class, instance), frames in numbers.items()
        ]
        return {"source_images": images}

    def _of_absent_segment(self, segment: Segment) -> Dataset:
        group = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=self.uids.segment(segment.value), identifier=long_string(segment.label)
            ),
            finding_category=concept(segment.category),
            finding_type=concept(segment.type),
            finding_sites=[site(segment.type, segment.laterality)],
            algorithm_id=algorithm_identification(self.context),
            qualitative_evaluations=[sr.QualitativeEvaluation(codes.DCM.SummaryOfDetections, codes.DCM.Absent)],
        )
        return _with_comments(group[0], [f"{segment.label}: not found, no voxel was marked."])

    def _of_measurements(self, title: str, measurements: Sequence[Measurement]) -> Dataset:
        group = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=self.uids.measurement(title), identifier=title),
            finding_type=concept(measurements[0].site),
            finding_sites=sites(measurements),
            algorithm_id=algorithm_identification(self.context),
            measurements=[self._measurement(m) for m in measurements],
        )
        return _with_comments(group[0], [c for m in measurements for c in sentences(m)])

    def _measurement(self, m: Measurement) -> sr.Measurement:
        """TID 300. A number that is of segments refers to them (TID 320), so that it can be computed again."""
        units = MASK_AXIS_UNITS if m.code.value in MASK_AXES else MASK_VOLUME_UNITS
        if m.from_mask and m.unit not in units:
            what = "axis" if units is MASK_AXIS_UNITS else "volume"
            raise EncodeError(f"{m.name} is a mask's {what} in {m.unit}: it takes {' or '.join(units)}")
        if m.from_mask and m.value > 0 and not self.present.intersection(m.segments):
            raise EncodeError(f"{m.name} is {m.value} {m.unit}, but its segments have no voxel")
        images = None
        if m.from_mask and self.seg is not None and self.present.intersection(m.segments):
            image = sr.SourceImageForMeasurement(self.seg.SOPClassUID, self.seg.SOPInstanceUID)
            numbers = sorted(self.present.intersection(m.segments))
            image.ReferencedSOPSequence[0].ReferencedSegmentNumber = numbers if len(numbers) > 1 else numbers[0]
            images = [image]
        item = measurement_item(m, self.uids, images)
        if m.change_of is not None:
            if self.prior is None or m.change_of not in self.prior.measurements:
                raise EncodeError(f"{m.name} is a change, but the prior's value is not known")
            current = next(c for c in self.findings.measurements if c.name == m.change_of)
            refer_to_prior(item[0], current, self.prior)
        return item


def _with_comments(group: Dataset, comments: Sequence[str]) -> Dataset:
    for text in comments:
        group.ContentSequence.append(comment(text))
    return group


def _code(name: Code, value: Code) -> Dataset:
    item: Dataset = sr.CodeContentItem(name, value, relationship_type=CONTAINS)
    return item
