"""A Segmentation against its source images: every frame's place, and how many voxels each segment has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

from dicom_node.check.frames import (
    described_segments,
    frame_size,
    frames_of,
    is_label_map,
    masks,
    pixel_problem,
    position,
    segment_number,
    shared,
    source_plane,
    source_references,
    summed_up,
)
from dicom_node.check.identity import Identity
from dicom_node.check.objects import (
    LABEL_MAP,
    SEGMENTATION,
    CodeKey,
    PlaneKey,
    ResultFile,
    Sources,
    close,
    code_of,
    first_item,
    items,
    numbers,
    slice_distance,
    text,
    value,
)
from dicom_node.check.reading import Item

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_LOSSLESS = ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80")
ANATOMICAL_STRUCTURE = ("SCT", "91723000")


@dataclass(frozen=True)
class SegmentSummary:
    """What an SR must agree with: one segment as the SEG has it.

    Attributes:
        anatomy: where it is: its Anatomic Region, or its type if that is an anatomical structure; else empty strings.
        millilitres: from its own pixels.
        plane: the image plane that alone holds the segment, and its mask there; None where there are several.
    """

    number: int
    label: str
    category: CodeKey
    type: CodeKey
    laterality: CodeKey
    tracking_id: str
    tracking_uid: str
    anatomy: CodeKey
    voxels: int
    millilitres: float
    plane: tuple[PlaneKey, npt.NDArray[np.bool_]] | None = None


def check_seg(result: ResultFile, sources: Sources, identity: Identity) -> tuple[list[str], dict[int, SegmentSummary]]:
    """Every problem of a SEG, and its segments by number. Without sources only what it says of itself is checked."""
    problems = _check_layout(result)
    if sources.headers:
        problems += _check_references(result, sources)
        problems += _check_grid(result, sources)
    problems += _check_frames(result, sources)
    problems += _check_algorithm(result, identity)
    counted, pixel_problems = _count_voxels(result)
    segments = _summaries(result, sources, counted)
    return problems + pixel_problems + _check_segments(result, segments), segments


def _check_layout(result: ResultFile) -> list[str]:
    ds, name = result.ds, result.name
    problems = []
    kind, sop_class = text(ds, "SegmentationType"), text(ds, "SOPClassUID")
    wanted = {"BINARY": SEGMENTATION, "LABELMAP": LABEL_MAP}.get(kind)
    if wanted is None:
        problems.append(f"{name}: SegmentationType is {kind}, not BINARY or LABELMAP")
    elif sop_class != wanted:
        problems.append(f"{name}: SegmentationType is {kind}, which the class {sop_class} is not for")
    frames = len(frames_of(ds))
    if numbers(ds, "NumberOfFrames") != [frames]:
        problems.append(
            f"{name}: NumberOfFrames is {text(ds, 'NumberOfFrames') or 'absent'}, but {frames} frames are described"
        )
    syntax = UID(text(result.meta, "TransferSyntaxUID"))
    if syntax not in (*_NATIVE, *(_LOSSLESS if kind == "LABELMAP" else ())):
        lossless = ", RLE or JPEG-LS Lossless" if kind == "LABELMAP" else ""
        problems.append(f"{name}: the transfer syntax {syntax} is not native little endian{lossless}")
    return problems


def _check_references(result: ResultFile, sources: Sources) -> list[str]:
    ds, name = result.ds, result.name
    problems = []
    references = sources.references | ({""} if sources.flat else set())
    if text(ds, "FrameOfReferenceUID") not in references:
        problems.append(
            f"{name}: FrameOfReferenceUID is {text(ds, 'FrameOfReferenceUID')}, "
            f"that of the source images is {' or '.join(sorted(sources.references)[:3])}"
        )
    series = items(ds, "ReferencedSeriesSequence")
    if not series:
        return [*problems, f"{name}: ReferencedSeriesSequence is absent"]
    for item in series:
        if text(item, "SeriesInstanceUID") not in sources.series:
            problems.append(
                f"{name}: ReferencedSeriesSequence names the series {text(item, 'SeriesInstanceUID')}, "
                f"the source images are of {', '.join(sorted(sources.series))}"
            )
    derived_from = {text(i, "ReferencedSOPInstanceUID") for i in items(ds, "SourceImageSequence")}
    if strangers := sorted(derived_from - sources.by_uid.keys()):
        problems.append(f"{name}: SourceImageSequence names {strangers[0]}, which is no source image")
    unknown = sorted(_listed(ds) - sources.by_uid.keys())
    if unknown:
        problems.append(
            f"{name}: ReferencedSeriesSequence names {len(unknown)} instances that are no source image, "
            f"the first is {unknown[0]}"
        )
    return problems


def _listed(ds: Item) -> set[str]:
    """The SOP Instance UIDs in ReferencedSeriesSequence."""
    return {
        text(i, "ReferencedSOPInstanceUID")
        for series in items(ds, "ReferencedSeriesSequence")
        for i in items(series, "ReferencedInstanceSequence")
    }


def _check_flat(result: ResultFile, sources: Sources) -> list[str]:
    """Of images without a place in the patient the SEG has none either, and each frame has the size of its image."""
    ds, name = result.ds, result.name
    groups = [*items(ds, "SharedFunctionalGroupsSequence"), *frames_of(ds)]
    places = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
    problems = [
        f"{name}: it has a {keyword}, but the source images have no place in the patient"
        for keyword in places
        if any(value(group, keyword) is not None for group in groups)
    ]
    wrong = []
    for index, frame in enumerate(frames_of(ds), start=1):
        image = sources.planes.get(source_plane(frame))
        if image is not None and frame_size(image) != frame_size(ds):
            wrong.append(f"{name}: frame {index} has {frame_size(ds)} pixels, its source image {frame_size(image)}")
    return problems + ([summed_up(wrong)] if wrong else [])


def _check_grid(result: ResultFile, sources: Sources) -> list[str]:
    if sources.flat:
        return _check_flat(result, sources)
    ds, name, first = result.ds, result.name, sources.first_plane
    problems = []
    for keyword in ("Rows", "Columns"):
        if value(ds, keyword) != value(first, keyword):
            problems.append(f"{name}: {keyword} is {value(ds, keyword)}, that of the source is {value(first, keyword)}")
    measures = shared(ds, "PixelMeasuresSequence")
    spacing, expected = numbers(measures, "PixelSpacing"), numbers(first, "PixelSpacing")
    if not close(spacing, expected):
        problems.append(f"{name}: PixelSpacing is {spacing}, that of the source images is {expected}")
    between = numbers(measures, "SpacingBetweenSlices")
    if sources.slice_distance is not None and not close(between, [sources.slice_distance]):
        problems.append(
            f"{name}: SpacingBetweenSlices is {between}, the source images are {sources.slice_distance:.4f} mm apart"
        )
    orientation = numbers(shared(ds, "PlaneOrientationSequence"), "ImageOrientationPatient")
    expected = numbers(first, "ImageOrientationPatient")
    if not close(orientation, expected):
        problems.append(f"{name}: ImageOrientationPatient is {orientation}, that of the source images is {expected}")
    return problems


def _check_frames(result: ResultFile, sources: Sources) -> list[str]:
    """Each frame: its segment, its source image, and that it lies where that image lies."""
    numbers_known = {value(s, "SegmentNumber") for s in described_segments(result.ds)}
    of_all = is_label_map(result.ds)
    seen: set[tuple[object, object]] = set()
    indices: set[tuple[float, ...]] = set()
    listed = _listed(result.ds)
    found: dict[str, list[str]] = {}
    for index, frame in enumerate(frames_of(result.ds), start=1):
        segment = segment_number(frame, result.ds)
        place = position(frame)
        where = f"{result.name}: frame {index}"
        if segment not in numbers_known and not of_all:
            found.setdefault("segment", []).append(
                f"{where} is of segment {segment}, but SegmentSequence has {sorted(map(str, numbers_known))}"
            )
        key = (segment, tuple(round(p, 3) for p in place) if place else source_plane(frame))
        if key in seen:
            found.setdefault("twice", []).append(f"{where} repeats the place {place or ''} of segment {segment}")
        seen.add(key)
        dimensions = tuple(numbers(first_item(frame, "FrameContentSequence"), "DimensionIndexValues"))
        if not dimensions or dimensions in indices:
            fault = f"repeats the DimensionIndexValues {dimensions}" if dimensions else "has no DimensionIndexValues"
            found.setdefault("dimensions", []).append(f"{where} {fault}")
        indices.add(dimensions)
        uid, _ = source_plane(frame)
        if uid and uid not in listed:
            found.setdefault("unlisted", []).append(f"{where} refers to {uid}, which ReferencedSeriesSequence lacks")
        for kind, problem in _check_frame_source(frame, place, sources):
            found.setdefault(kind, []).append(f"{where} {problem}")
    return [summed_up(all_of_kind) for all_of_kind in found.values()]


def _check_frame_source(frame: Item, place: list[float], sources: Sources) -> list[tuple[str, str]]:
    references = source_references(frame)
    if len(references) != 1:
        return [("references", f"refers to {len(references)} source images in DerivationImageSequence, not to one")]
    uid = text(references[0], "ReferencedSOPInstanceUID")
    if not sources.headers:
        return []
    key = source_plane(frame)
    image = sources.planes.get(key)
    if image is None:
        of_frame = f"frame {key[1]} of " if uid in sources.by_uid else ""
        return [("unknown", f"refers to {of_frame}the image {uid}, which is no source image")]
    problems = []
    multiple = numbers(sources.by_uid[uid], "NumberOfFrames")
    if bool(multiple) != bool(numbers(references[0], "ReferencedFrameNumber")):
        problems.append(
            (
                "number",
                f"refers to the {'multi-frame' if multiple else 'single'} image {uid} "
                f"{'without' if multiple else 'with'} a ReferencedFrameNumber",
            )
        )
    if text(references[0], "ReferencedSOPClassUID") != text(image, "SOPClassUID"):
        problems.append(("class", f"gives the image {uid} another ReferencedSOPClassUID than it has"))
    expected = numbers(image, "ImagePositionPatient")
    if not sources.flat and not close(place, expected):
        problems.append(("position", f"lies at {place}, the source image that it refers to lies at {expected}"))
    return problems


def _check_algorithm(result: ResultFile, identity: Identity) -> list[str]:
    problems = []
    for item in described_segments(result.ds):
        kind = text(item, "SegmentAlgorithmType")
        if kind != "AUTOMATIC":
            problems.append(
                f"{result.name}: SegmentAlgorithmType of segment {value(item, 'SegmentNumber')} is "
                f"{kind or 'absent'}, not AUTOMATIC"
            )
        algorithm = first_item(item, "SegmentationAlgorithmIdentificationSequence")
        named = (text(algorithm, "AlgorithmName"), text(algorithm, "AlgorithmVersion"))
        if named != identity[:2]:
            problems.append(
                f"{result.name}: segment {value(item, 'SegmentNumber')} was made by {named[0] or 'no algorithm'} "
                f"{named[1] or 'without version'}, Contributing Equipment says {identity[0]} {identity[1]}"
            )
    return problems


def _check_segments(result: ResultFile, segments: dict[int, SegmentSummary]) -> list[str]:
    problems = []
    if list(segments) != list(range(1, len(segments) + 1)):
        problems.append(f"{result.name}: the segment numbers are {list(segments)}, not 1, 2, 3 ... in order")
    if not any(s.voxels for s in segments.values()):
        problems.append(f"{result.name}: no segment has a voxel")
    for s in segments.values():
        if not s.tracking_uid or not s.tracking_id:
            problems.append(f"{result.name}: segment {s.number} has no TrackingUID or no TrackingID")
    return problems


@dataclass
class _Counted:
    """Voxels of a segment, and its first frame and how many it has."""

    plane: tuple[PlaneKey, npt.NDArray[np.bool_]]
    voxels: int = 0
    frames: int = 0


def _count_voxels(result: ResultFile) -> tuple[dict[int, _Counted], list[str]]:
    """Voxels by segment number."""
    problem = pixel_problem(result)
    if problem:
        return {}, [problem]
    counted: dict[int, _Counted] = {}
    for _, frame, number, mask in masks(result):
        if isinstance(number, int):
            of = counted.setdefault(number, _Counted((source_plane(frame), mask)))
            of.voxels, of.frames = of.voxels + int(np.count_nonzero(mask)), of.frames + 1
    known = [value(s, "SegmentNumber") for s in described_segments(result.ds)]
    unknown = sorted(set(counted) - set(known)) if is_label_map(result.ds) else []
    return counted, [f"{result.name}: the label map holds {unknown[0]}, which no segment describes"] if unknown else []


def _summaries(result: ResultFile, sources: Sources, counted: dict[int, _Counted]) -> dict[int, SegmentSummary]:
    volume = _voxel_volume(result.ds, sources)
    segments = {}
    for item in described_segments(result.ds):
        number = int(value(item, "SegmentNumber") or 0)
        found = counted.get(number)
        voxels = found.voxels if found else 0
        kind = first_item(item, "SegmentedPropertyTypeCodeSequence")
        segments[number] = SegmentSummary(
            number=number,
            label=text(item, "SegmentLabel"),
            category=code_of(item, "SegmentedPropertyCategoryCodeSequence"),
            type=code_of(item, "SegmentedPropertyTypeCodeSequence"),
            laterality=code_of(kind, "SegmentedPropertyTypeModifierCodeSequence"),
            tracking_id=text(item, "TrackingID"),
            tracking_uid=text(item, "TrackingUID"),
            anatomy=_anatomy(item),
            voxels=voxels,
            millilitres=voxels * volume / 1000,
            plane=found.plane if found and found.frames == 1 and voxels else None,
        )
    return segments


def _anatomy(item: Item) -> CodeKey:
    if items(item, "AnatomicRegionSequence"):
        return code_of(item, "AnatomicRegionSequence")
    is_structure = code_of(item, "SegmentedPropertyCategoryCodeSequence") == ANATOMICAL_STRUCTURE
    return code_of(item, "SegmentedPropertyTypeCodeSequence") if is_structure else ("", "")


def _voxel_volume(ds: Item, sources: Sources) -> float:
    """mm³, by the source's geometry where it is known, since the SEG's own may be what is wrong."""
    measures = shared(ds, "PixelMeasuresSequence")
    spacing = numbers(sources.first_plane, "PixelSpacing") if sources.headers else numbers(measures, "PixelSpacing")
    distance = sources.slice_distance
    if distance is None:
        own = numbers(measures, "SpacingBetweenSlices") or numbers(measures, "SliceThickness")
        orientation = numbers(shared(ds, "PlaneOrientationSequence"), "ImageOrientationPatient")
        positions = [position(f) for f in frames_of(ds)]
        distance = own[0] if own else slice_distance(positions, orientation)
    return spacing[0] * spacing[1] * distance if len(spacing) == 2 and distance else 0.0
