"""The cross-check of results: against their source images and against one another.

No validator catches a source image that does not exist, another patient's frame of reference, a doubled
pixel spacing, a segment that the SEG lacks, or a volume that is not the mask's. This does.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.algorithm import Findings
from dicom_node.check.change import Prior, check_change, other_evidence
from dicom_node.check.findings import (
    FOUND_ERRORS,
    Found,
    check_segments_found,
    check_values_found,
    read_found,
    what_was_found,
)
from dicom_node.check.frames import frames_of, source_references
from dicom_node.check.identity import Identity, check_identity, check_lossy, check_origin, check_sources
from dicom_node.check.mask import check_mask
from dicom_node.check.objects import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENCAPSULATED_PDF,
    LABEL_MAP,
    MODALITIES,
    READ_ERRORS,
    SECONDARY_CAPTURE,
    SEGMENTATION,
    ResultFile,
    Sources,
    content,
    items,
    read_result,
    text,
)
from dicom_node.check.pdf import check_pdf
from dicom_node.check.reading import Item
from dicom_node.check.seg import check_seg
from dicom_node.check.sr import SegObject, check_sr, says_not_analysed
from dicom_node.check.views import check_capture, check_contours

NOTE = "note: "
"""A line of :func:`check_folder` that starts so is no problem, but says what could not be checked."""


def check_results(
    results: Sequence[Path],
    headers: Sequence[Dataset],
    *,
    findings: Findings | None = None,
    prior: Prior | None = None,
) -> list[str]:
    """Every problem of the result objects of one run, a sentence each; an empty list when they are sound.

    Sentences name the object's file and the two values that disagree, but never a value that names the patient.

    Args:
        results: Part 10 files. An unreadable one is a problem, not an exception.
        headers: the source series, in any order; empty: only what the results say of themselves and of
            one another is checked.
        findings: what the results were made of. Every mask must be the label map's, whose planes are the findings'
            frames, or the source images in their order along the normal. None: masks are not compared.
        prior: the study that the findings were compared with: every change is computed again.
    """
    found = None
    if findings is not None:
        found = what_was_found(findings)
    with _quiet():
        objects, problems = _read(results)
        if not results:
            problems.append("there is no result object")
        return problems + _check_objects(objects, Sources(headers), found, findings, prior)


def check_folder(results: Path, sources: Path | None = None) -> list[str]:
    """Check all result objects (``*.dcm``) of a folder, with the findings if those lie in its ``findings``.

    Args:
        results: the folder with ``seg.dcm`` and ``sr.dcm``.
        sources: a folder with the source images at any depth, or one such image; None: what needs them is left out.

    Returns:
        Problems as :func:`check_results` gives them, and lines that start with :data:`NOTE`.
    """
    paths = sorted(results.glob("*.dcm"))
    if not paths:
        return [f"{results}: there is no result object (*.dcm)"]
    with _quiet():
        objects, lines = _read(paths)
        if sources is None:
            headers = []
            note = "patient, study, references, geometry and the mask's place could not be compared with them"
            lines.append(f"{NOTE}without the source images, {note}")
        else:
            headers = list(_headers(sources, _referenced(objects)))
            if not headers:
                lines.append(f"{sources}: the series that the results refer to is not there")
        found, note = _saved_findings(results / "findings", objects)
        if note:
            lines.append(NOTE + note)
        return _check_objects(objects, Sources(headers), found) + lines


def _read(paths: Sequence[Path]) -> tuple[list[ResultFile], list[str]]:
    """The result objects, and what is wrong with those that cannot be read."""
    read = [read_result(path) for path in paths]
    return [r for r, _ in read if r is not None], [problem for r, problem in read if r is None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's warnings, which repeat the values that they are about and so may name the patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _saved_findings(folder: Path, objects: Sequence[ResultFile]) -> tuple[Found | None, str]:
    """What an offline run left beside its results, None where there is nothing; and why it cannot be had."""
    if not (folder / "findings.npz").is_file() or any(map(says_not_analysed, objects)):
        return None, ""  # where nothing was analysed, they are an earlier run's
    try:
        return read_found(folder), ""
    except FOUND_ERRORS as e:
        return None, f"the findings beside the results cannot be read ({type(e).__name__}): masks were not compared"


def _check_objects(
    objects: Sequence[ResultFile],
    sources: Sources,
    found: Found | None,
    findings: Findings | None = None,
    prior: Prior | None = None,
) -> list[str]:
    run = _Run(sources, found, findings, prior)
    run.problems += check_sources(sources)
    for check in (run.check_origin, run.check_seg, run.check_sr, run.check_view):
        for result in objects:
            try:
                check(result)
            except READ_ERRORS as error:
                run.problems.append(f"{result.name}: {check.__name__} met {type(error).__name__}: it is malformed")
    run.check_pairs()
    if objects and not run.reports:
        run.problems.append("there is no Comprehensive 3D SR among the results")
    if objects and found is not None and found.label_map.any() and not run.segs:
        run.problems.append("the findings mark voxels, but there is no Segmentation among the results")
    return run.problems + _check_together(objects, run.identities)


class _Run:
    """The check of the objects of one run: what was found, and what later checks need of earlier ones."""

    def __init__(self, sources: Sources, found: Found | None, findings: Findings | None, prior: Prior | None) -> None:
        self.sources = sources
        self.found = found
        self.findings = findings
        self.prior = prior
        self.problems: list[str] = []
        self.identities: dict[str, Identity] = {}
        self.segs: dict[str, SegObject] = {}
        self.reports: list[ResultFile] = []
        self.reported: set[str] = set()

    def check_origin(self, result: ResultFile) -> None:
        found, self.identities[result.name] = check_origin(result)
        self.problems += found
        if self.sources.headers:
            self.problems += check_identity(result, self.sources)
        sop_class = text(result.ds, "SOPClassUID")
        if sop_class not in MODALITIES:
            self.problems.append(f"{result.name}: its SOPClassUID {sop_class} is no class that this check knows")
        if sop_class in (SEGMENTATION, LABEL_MAP, SECONDARY_CAPTURE):
            self.problems += check_lossy(result, self.sources)

    def check_seg(self, result: ResultFile) -> None:
        if text(result.ds, "SOPClassUID") in (SEGMENTATION, LABEL_MAP):
            problems, segments = check_seg(result, self.sources, self.identities.get(result.name, ("", "", "")))
            self.problems += problems
            self.segs[text(result.ds, "SOPInstanceUID")] = SegObject(result, segments)
            if self.found is not None:
                self.problems += check_segments_found(result, segments, self.found)
                self.problems += check_mask(result, self.sources, self.found)

    def check_sr(self, result: ResultFile) -> None:
        if text(result.ds, "SOPClassUID") == COMPREHENSIVE_3D_SR:
            self.reports.append(result)
            identity = self.identities.get(result.name, ("", "", ""))
            measured = self.found is None or bool(self.found.values)
            self.problems += check_sr(result, self._segs_of(result), self.sources, identity, measured=measured)
            if self.found is not None and not says_not_analysed(result):
                self.problems += check_values_found(result, self.found)
            self.problems += check_change(result, self.sources, self.findings, self.prior)

    def _segs_of(self, report: ResultFile) -> dict[str, SegObject]:
        """The SEGs that a report must agree with: those of a run are one mask in several encodings.

        Each has a report of its own; one that refers to no SEG of the run must agree with all there are.
        """
        referenced = {
            text(r, "ReferencedSOPInstanceUID")
            for i in content(report.ds, deep=True)
            for r in items(i, "ReferencedSOPSequence")
        }
        own = {uid: seg for uid, seg in self.segs.items() if uid in referenced}
        if len(own) > 1:
            names = " and ".join(sorted(seg.result.name for seg in own.values()))
            self.problems.append(f"{report.name}: it refers to {names}, but a destination gets one of them")
        self.reported |= own.keys()
        return own or dict(self.segs)

    def check_pairs(self) -> None:
        """Each SEG has its report."""
        for uid, seg in self.segs.items():
            if self.reports and uid not in self.reported:
                self.problems.append(f"{seg.result.name}: no report refers to it")

    def check_view(self, result: ResultFile) -> None:
        sop_class = text(result.ds, "SOPClassUID")
        if sop_class == COMPREHENSIVE_SR:
            segs = [seg.result for seg in self.segs.values()]
            identity = self.identities.get(result.name, ("", "", ""))
            self.problems += check_contours(result, self.reports, segs, self.sources, identity)
        elif sop_class == SECONDARY_CAPTURE:
            self.problems += check_capture(result, self.sources)
        elif sop_class == ENCAPSULATED_PDF:
            self.problems += check_pdf(result, self.reports, self.sources)


def _check_together(objects: Sequence[ResultFile], identities: dict[str, Identity]) -> list[str]:
    """What all objects of a run share, and what each has for itself."""
    problems = []
    for first, second in itertools.pairwise(objects):
        pair = f"{first.name} and {second.name}"
        if identities.get(first.name) != identities.get(second.name):
            problems.append(
                f"{pair} name different algorithms in Contributing Equipment: "
                f"{identities.get(first.name)}, {identities.get(second.name)}"
            )
        for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
            if text(first.ds, keyword) != text(second.ds, keyword):
                problems.append(f"{pair} differ in {keyword}")
        if text(first.ds, "StudyInstanceUID") != text(second.ds, "StudyInstanceUID"):
            problems.append(
                f"{pair} differ in StudyInstanceUID: "
                f"{text(first.ds, 'StudyInstanceUID')}, {text(second.ds, 'StudyInstanceUID')}"
            )
    for first, second in itertools.combinations(objects, 2):
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            if text(first.ds, keyword) == text(second.ds, keyword):
                problems.append(f"{first.name} and {second.name} share the {keyword} {text(first.ds, keyword)}")
    return problems


def _referenced(objects: Sequence[ResultFile]) -> set[str]:
    """SOP Instance UIDs of the images that the results refer to, in whatever place."""
    images: list[Item] = []
    reported: list[Item] = []
    prior: set[str] = set()
    for result in objects:
        ds = result.ds
        series = items(ds, "ReferencedSeriesSequence")
        images += [i for s in series for i in items(s, "ReferencedInstanceSequence")]
        images += [r for frame in frames_of(ds) for r in source_references(frame)]
        images += items(ds, "SourceImageSequence") + items(ds, "SourceInstanceSequence")
        reported += [r for item in content(ds, deep=True) for r in items(item, "ReferencedSOPSequence")]
        for study in items(ds, "CurrentRequestedProcedureEvidenceSequence"):
            for s in items(study, "ReferencedSeriesSequence"):
                reported += items(s, "ReferencedSOPSequence")
        # A prior study may lie in the same folder, but is no source of these results.
        prior |= other_evidence(result).keys()
    # A report refers to results too; what a mask or a picture refers to is an image, even if a result took its UID.
    others = {text(r, "ReferencedSOPInstanceUID") for r in reported} - {text(r.ds, "SOPInstanceUID") for r in objects}
    return (others | {text(r, "ReferencedSOPInstanceUID") for r in images}) - prior


def _headers(sources: Path, wanted: set[str]) -> Iterator[Dataset]:
    """The headers with these SOP Instance UIDs below a folder, each once; what is no DICOM is passed over."""
    seen = set()
    for path in [sources] if sources.is_file() else sorted(p for p in sources.rglob("*") if p.is_file()):
        try:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        except READ_ERRORS:
            # A spoilt image is then missed by name, since the results refer to it.
            continue
        uid = text(ds, "SOPInstanceUID")
        if uid in wanted and uid not in seen:
            seen.add(uid)
            yield ds
