"""The cross-check of results: against their source images and against one another.

No validator catches a source image that does not exist, another patient's frame of reference, a doubled
pixel spacing, a segment that the SEG lacks, or a volume that is not the mask's. This does.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.check.identity import MANUFACTURER, Identity, check_identity, check_origin
from dicom_node.check.objects import (
    COMPREHENSIVE_3D_SR,
    READ_ERRORS,
    SEGMENTATION,
    ResultFile,
    Sources,
    items,
    read_result,
    text,
)
from dicom_node.check.seg import check_seg
from dicom_node.check.sr import SegObject, check_sr

NOTE = "note: "
"""A line of :func:`check_folder` that starts so is no problem, but says what could not be checked."""


def check_results(results: Sequence[Path], headers: Sequence[Dataset]) -> list[str]:
    """Every problem of the result objects of one run, a sentence each; an empty list when they are sound.

    Sentences name the object's file and the two values that disagree, but never a value that names the patient.

    Args:
        results: Part 10 files. An unreadable one is a problem, not an exception.
        headers: the source series, in any order; empty: only what the results say of themselves and of
            one another is checked.
    """
    problems = []
    objects: list[ResultFile] = []
    with warnings.catch_warnings():
        # pydicom's repeat the values that they are about, which may name the patient.
        warnings.simplefilter("ignore")
        for path in results:
            result, problem = read_result(path)
            if result is None:
                problems.append(problem)
            else:
                objects.append(result)
        if not results:
            problems.append("there is no result object")
        return problems + _check_objects(objects, Sources(headers))


def check_folder(results: Path, sources: Path | None = None) -> list[str]:
    """Check all result objects (``*.dcm``) of a folder.

    Args:
        results: the folder with ``seg.dcm`` and ``sr.dcm``.
        sources: a folder with the source images at any depth, or one such image; None: what needs them is left out.

    Returns:
        Problems as :func:`check_results` gives them, and lines that start with :data:`NOTE`.
    """
    paths = sorted(results.glob("*.dcm"))
    if not paths:
        return [f"{results}: there is no result object (*.dcm)"]
    if sources is None:
        note = "without the source images, patient, study, references and geometry could not be compared with them"
        return [*check_results(paths, []), NOTE + note]
    wanted = _referenced_series(paths)
    headers = [h for h in _headers(sources) if not wanted or text(h, "SeriesInstanceUID") in wanted]
    if not headers:
        return [*check_results(paths, []), f"{sources}: the series that the results refer to is not there"]
    return check_results(paths, headers)


def _check_objects(objects: Sequence[ResultFile], sources: Sources) -> list[str]:
    run = _Run(sources)
    for check in (run.check_origin, run.check_seg, run.check_sr):
        for result in objects:
            try:
                check(result)
            except READ_ERRORS as error:
                run.problems.append(f"{result.name}: {check.__name__} met {type(error).__name__}: it is malformed")
    if objects and not run.reports:
        run.problems.append("there is no Comprehensive 3D SR among the results")
    return run.problems + _check_together(objects, run.identities)


class _Run:
    """The check of the objects of one run: what was found, and what later checks need of earlier ones."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.problems: list[str] = []
        self.identities: dict[str, Identity] = {}
        self.segs: dict[str, SegObject] = {}
        self.reports = 0

    def check_origin(self, result: ResultFile) -> None:
        found, self.identities[result.name] = check_origin(result)
        self.problems += found
        if self.sources.headers:
            self.problems += check_identity(result, self.sources)
        sop_class = text(result.ds, "SOPClassUID")
        if sop_class not in (SEGMENTATION, COMPREHENSIVE_3D_SR):
            self.problems.append(f"{result.name}: its SOPClassUID {sop_class} is no class that this check knows")

    def check_seg(self, result: ResultFile) -> None:
        if text(result.ds, "SOPClassUID") == SEGMENTATION:
            found, segments = check_seg(result, self.sources, self.identities.get(result.name, ("", "", "")))
            self.problems += found
            self.segs[text(result.ds, "SOPInstanceUID")] = SegObject(result, segments)

    def check_sr(self, result: ResultFile) -> None:
        if text(result.ds, "SOPClassUID") == COMPREHENSIVE_3D_SR:
            self.reports += 1
            self.problems += check_sr(result, self.segs, self.sources, self.identities.get(result.name, ("", "", "")))


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
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            if text(first.ds, keyword) == text(second.ds, keyword):
                problems.append(f"{pair} share the {keyword} {text(first.ds, keyword)}")
    return problems


def _referenced_series(paths: Sequence[Path]) -> set[str]:
    """Series that the results refer to: the SEG's source, and the SR's evidence."""
    wanted = set()
    own = set()
    for path in paths:
        result, _ = read_result(path)
        if result is None:
            continue
        own.add(text(result.ds, "SeriesInstanceUID"))
        wanted |= {text(i, "SeriesInstanceUID") for i in items(result.ds, "ReferencedSeriesSequence")}
        for study in items(result.ds, "CurrentRequestedProcedureEvidenceSequence"):
            wanted |= {text(i, "SeriesInstanceUID") for i in items(study, "ReferencedSeriesSequence")}
    return wanted - own


def _headers(sources: Path) -> Iterator[Dataset]:
    """The image headers below a folder; the node's own objects and what is no DICOM are passed over."""
    for path in [sources] if sources.is_file() else sorted(p for p in sources.rglob("*") if p.is_file()):
        try:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        except READ_ERRORS:
            # A spoilt image is then missed by name, since the results refer to it.
            continue
        if text(ds, "Manufacturer") != MANUFACTURER and "ImagePositionPatient" in ds:
            yield ds
