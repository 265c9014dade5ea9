"""The contour report and the Secondary Capture against the record that they are views of, and the source images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.check.frames import described_segments, frame_size, masks, pixel_problem, source_plane
from dicom_node.check.identity import Identity
from dicom_node.check.objects import (
    CodeKey,
    PlaneKey,
    ResultFile,
    Sources,
    code_of,
    content,
    first_item,
    items,
    numbers,
    text,
    value,
)
from dicom_node.check.reading import Item

_TITLE = ("DCM", "126000")
_GROUP = ("DCM", "125007")
_TRACKING_UID = ("DCM", "112040")
_OBSERVER_UID = ("DCM", "121012")
_RESEARCH = "research use only"

Line = npt.NDArray[np.float64]
Planes = Mapping[PlaneKey, npt.NDArray[np.uint8]]
"""Planes by image, eight pixels a byte: there may be thousands."""
Masks = dict[int, dict[PlaneKey, npt.NDArray[np.uint8]]]
"""By segment number and image, the planes that hold a voxel."""


@dataclass(frozen=True)
class _Value:
    """A number of a report."""

    concept: CodeKey
    unit: CodeKey
    value: float


def check_contours(
    result: ResultFile, records: Sequence[ResultFile], segs: Sequence[ResultFile], sources: Sources, identity: Identity
) -> list[str]:
    """Every problem of a contour report.

    Args:
        records: the Measurement Reports of the run: each number of the view must be theirs, and the other way round.
        segs: the SEGs of the run: each group's outlines must enclose whole segments and nothing else.
        sources: empty: references to images are not checked.
        identity: what its Contributing Equipment names.
    """
    ds, name = result.ds, result.name
    problems = []
    if code_of(ds, "ConceptNameCodeSequence") != _TITLE:
        problems.append(f"{name}: the title is {code_of(ds, 'ConceptNameCodeSequence')}, not {_TITLE}")
    if text(ds, "CompletionFlag") != "COMPLETE":
        problems.append(f"{name}: CompletionFlag is {text(ds, 'CompletionFlag') or 'absent'}, not COMPLETE")
    observer = next((text(i, "UID") for i in content(ds) if _name(i) == _OBSERVER_UID), "")
    if observer != identity[2]:
        problems.append(f"{name}: Device Observer UID is {observer}, Contributing Equipment's DeviceUID {identity[2]}")
    if not any(_RESEARCH in w.lower() for w in _words(ds)):
        problems.append(f"{name}: no text says 'for research use only'")
    problems += _check_references(result, sources)
    for record in records:
        problems += _check_values(result, record)
    groups = [i for i in content(ds, deep=True) if _name(i) == _GROUP]
    if not groups:
        problems.append(f"{name}: it has no measurement group")
    for seg in segs:
        problems += _check_outlines(result, groups, seg)
    return problems


def check_capture(result: ResultFile, sources: Sources) -> list[str]:
    """Every problem of a Secondary Capture that can be read from its header."""
    ds, name = result.ds, result.name
    problems = []
    references = items(ds, "SourceImageSequence")
    drawn = [sources.by_uid.get(_instance(r), Item()) for r in references]
    expected = "YES" if sources.flat and any(text(h, "BurnedInAnnotation") == "YES" for h in drawn) else "NO"
    if sources.headers and text(ds, "BurnedInAnnotation") != expected:
        problems.append(f"{name}: BurnedInAnnotation is {text(ds, 'BurnedInAnnotation') or 'absent'}, not {expected}")
    if _RESEARCH not in text(ds, "ImageComments").lower():
        problems.append(f"{name}: ImageComments does not say 'research use only'")
    size = int(np.prod([int(text(ds, k) or 0) for k in ("Rows", "Columns", "SamplesPerPixel")]))
    held = len(value(ds, "PixelData") or b"")
    if held != size + size % 2:
        problems.append(f"{name}: it has {held} bytes of pixels, its size asks for {size}")
    if not references:
        problems.append(f"{name}: SourceImageSequence is empty")
    return problems + unknown_references(name, references, sources)


def _check_references(result: ResultFile, sources: Sources) -> list[str]:
    """Each image that an outline lies on exists and is in the evidence (PS3.3 C.17.2)."""
    ds, name = result.ds, result.name
    referenced = [r for i in content(ds, deep=True) for r in items(i, "ReferencedSOPSequence")]
    evidence = []
    problems = []
    for study in items(ds, "CurrentRequestedProcedureEvidenceSequence"):
        if text(study, "StudyInstanceUID") != text(ds, "StudyInstanceUID"):
            problems.append(f"{name}: the evidence is of another study, {text(study, 'StudyInstanceUID')}")
        for series in items(study, "ReferencedSeriesSequence"):
            evidence += items(series, "ReferencedSOPSequence")
    missing = {_instance(r) for r in referenced} - {_instance(r) for r in evidence}
    if missing:
        problems.append(f"{name}: the evidence lacks {min(missing)}{_more(missing)}")
    return problems + unknown_references(name, [*referenced, *evidence], sources)


def unknown_references(name: str, references: Sequence[Item], sources: Sources) -> list[str]:
    """What a view refers to that is no source image, or one of another class; nothing without source images."""
    if not sources.headers:
        return []
    problems = []
    unknown = {_instance(r) for r in references} - sources.by_uid.keys()
    if unknown:
        problems.append(f"{name}: it refers to what is no source image: {min(unknown)}{_more(unknown)}")
    for r in references:
        header = sources.by_uid.get(_instance(r))
        if header is not None and text(header, "SOPClassUID") != text(r, "ReferencedSOPClassUID"):
            problems.append(f"{name}: it gives {_instance(r)} another class than it has")
    return problems


def _check_values(result: ResultFile, record: ResultFile) -> list[str]:
    """The view has the record's numbers: as numbers on an image, or in words where there is no place on one."""
    shown, recorded = dict(_values(result.ds)), dict(_values(record.ds))
    problems = []
    for uid, (tracking_id, shown_value) in shown.items():
        if uid not in recorded:
            problems.append(f"{result.name}: {record.name} has no measurement {tracking_id} ({uid})")
        elif recorded[uid][1] != shown_value:
            problems.append(
                f"{result.name}: {tracking_id} is {shown_value.value}, {record.name} has {recorded[uid][1].value}"
            )
    words = _words(result.ds)
    for uid, (tracking_id, _) in recorded.items():
        if uid not in shown and not any(w.startswith(f"{tracking_id} ") for w in words):
            problems.append(f"{result.name}: the measurement {tracking_id} of {record.name} is not shown")
    return problems


def _values(ds: Item) -> Iterator[tuple[str, tuple[str, _Value]]]:
    """By Tracking Unique Identifier: Tracking Identifier and value. What a number was inferred from is passed over."""
    for item in content(ds):
        if text(item, "ValueType") != "NUM":
            yield from _values(item)
        else:
            measured = first_item(item, "MeasuredValueSequence")
            found = numbers(measured, "FloatingPointValue") or numbers(measured, "NumericValue") or [float("nan")]
            unit = code_of(measured, "MeasurementUnitsCodeSequence")
            tracking_id = next((text(i, "TextValue") for i in content(item) if text(i, "ValueType") == "TEXT"), "")
            yield _tracking(item), (tracking_id, _Value(_name(item), unit, found[0]))


def _check_outlines(result: ResultFile, groups: Sequence[Item], seg: ResultFile) -> list[str]:
    """What a group's outlines enclose, by the even-odd rule, is a whole number of the SEG's segments."""
    if pixel_problem(seg):
        return []  # said elsewhere
    shape = frame_size(seg.ds)
    planes_of = _masks(seg)
    tracked = {text(s, "TrackingUID"): int(value(s, "SegmentNumber")) for s in described_segments(seg.ds)}
    problems = []
    drawn: set[str] = set()
    for group in groups:
        where = f"{result.name}: the group {_label(group)}"
        regions = [i for i in content(group) if text(i, "ValueType") == "SCOORD"]
        if not regions:
            problems.append(f"{where} has no outline")
            continue
        found, misdrawn = _enclosed(where, regions, shape)
        problems += misdrawn
        number = tracked.get(_tracking(group))
        drawn.add(_tracking(group))
        inside = [n for n, planes in planes_of.items() if _holds(found, planes)] if number is None else [number]
        if not inside or not _same(found, _union(planes_of, inside)):
            of = f"segment {number}" if number is not None else "any segments"
            problems.append(f"{where}: its outlines do not enclose the voxels of {of} of {seg.name}")
    for uid, number in tracked.items():
        if uid not in drawn and number in planes_of:
            problems.append(f"{result.name}: segment {number} of {seg.name} has no outlines")
    return problems


def _enclosed(where: str, regions: Sequence[Item], shape: tuple[int, int]) -> tuple[Planes, list[str]]:
    """The planes that outlines enclose pixels of, and the problems of those that do not."""
    lines: dict[PlaneKey, list[Line]] = {}
    problems = []
    for region in regions:
        places = [_place(r) for i in content(region) for r in items(i, "ReferencedSOPSequence")]
        points = np.asarray(numbers(region, "GraphicData"), dtype=np.float64)
        if len(places) != 1 or text(region, "GraphicType") != "POLYLINE" or len(points) < 8 or len(points) % 2:
            problems.append(f"{where} has an outline that is no POLYLINE on one image")
            continue
        line = points.reshape(-1, 2)
        if not np.array_equal(line[0], line[-1]) or line.min() < 0 or (line.max(axis=0) > (shape[1], shape[0])).any():
            problems.append(f"{where} has an outline that is not closed or leaves the image")
            continue
        lines.setdefault(places[0], []).append(line)
    return {place: np.packbits(enclosed(of_place, shape)) for place, of_place in lines.items()}, problems


def enclosed(lines: Sequence[Line], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels whose centre closed lines enclose (even-odd over all of them).

    Args:
        lines: (points, 2) as (column, row) within the image, the centre of the first pixel at (0.5, 0.5)
            (PS3.3 C.18.6.1.1).
        shape: (rows, columns).
    """
    mask = np.zeros(shape, np.bool_)
    for line in lines:
        # An outline is small beside its image: only the pixels around it are looked at.
        (left, top), (right, bottom) = np.floor(line.min(axis=0)), np.ceil(line.max(axis=0))
        around = np.s_[int(top) : int(bottom), int(left) : int(right)]
        mask[around] ^= _enclosed_by_one(line - (left, top), mask[around].shape)
    return mask


def _enclosed_by_one(line: Line, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    rows, columns = shape
    x, y = line[:, 0], line[:, 1]
    # An end that lies on a row's middle counts for the edge below it only, so that no corner counts twice.
    middle = np.clip(np.ceil(y - 0.5), 0, rows).astype(np.intp)
    first, last = np.minimum(middle[:-1], middle[1:]), np.maximum(middle[:-1], middle[1:])
    crossings = last - first
    edge = np.repeat(np.arange(len(crossings)), crossings)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    at = x[edge] + (row + 0.5 - y[edge]) * (x[edge + 1] - x[edge]) / (y[edge + 1] - y[edge])
    column = np.clip(np.ceil(at - 0.5), 0, columns).astype(np.intp)
    counted = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    crossed = (counted & 1).astype(np.bool_).reshape(rows, columns + 1)
    return np.logical_xor.accumulate(crossed[:, :columns], axis=1)


def _masks(seg: ResultFile) -> Masks:
    """The planes of a SEG by segment and source image."""
    found: Masks = {}
    for _, frame, number, plane in masks(seg):
        if isinstance(number, int) and plane.any():
            found.setdefault(number, {})[source_plane(frame)] = np.packbits(plane)
    return found


def _holds(found: Planes, planes: Planes) -> bool:
    return all(place in found and not (plane & ~found[place]).any() for place, plane in planes.items())


def _union(planes_of: Masks, inside: Sequence[int]) -> Planes:
    union: dict[PlaneKey, npt.NDArray[np.uint8]] = {}
    for n in inside:
        for place, plane in planes_of.get(n, {}).items():
            union[place] = union[place] | plane if place in union else plane
    return union


def _same(a: Planes, b: Planes) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def _place(reference: Item) -> PlaneKey:
    return _instance(reference), int((numbers(reference, "ReferencedFrameNumber") or [1])[0])


def _instance(reference: Item) -> str:
    return text(reference, "ReferencedSOPInstanceUID")


def _tracking(item: Item) -> str:
    return next((text(i, "UID") for i in content(item) if _name(i) == _TRACKING_UID), "")


def _label(group: Item) -> str:
    return next((text(i, "TextValue") for i in content(group) if text(i, "ValueType") == "TEXT"), "")


def _name(item: Item) -> CodeKey:
    return code_of(item, "ConceptNameCodeSequence")


def _words(ds: Item) -> list[str]:
    return [text(i, "TextValue") for i in content(ds, deep=True) if text(i, "ValueType") == "TEXT"]


def _more(uids: set[str]) -> str:
    return f" and {len(uids) - 1} more" if len(uids) > 1 else ""
