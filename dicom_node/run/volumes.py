"""From the files of a series to one regular grid of voxels, or the reason why there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.algorithm import Volume
from dicom_node.errors import NotAnalysed
from dicom_node.run.images import (
    COSINE_TOLERANCE,
    PIXEL_TAGS,
    ROUNDING_MM,
    STEP_TOLERANCE,
    check_one_patient,
    counted,
    fill,
    image_type,
    is_image,
    number,
    numbers,
    photometric,
    plain_tags,
    read_header,
    stored_values,
    unit_directions,
)

FEWEST_SLICES = 3
"""Two positions are at even steps whatever they are."""
STEEPEST_TILT = 45.0
"""Degrees between slice normal and stack; gantries tilt by up to 30, and beyond 45 it is not this stack."""

_SAME_PLACE_DIFFERENCES: Mapping[str, str] = {
    "EchoTime": "echo times",
    "TemporalPositionIdentifier": "time points",
    "TriggerTime": "heart phases",
    "DiffusionBValue": "diffusion weightings",
    "ImageType": "kinds of image",
    "AcquisitionNumber": "acquisitions",
}


@dataclass(frozen=True)
class Source:
    """A series as read.

    Attributes:
        volume: the voxels and where they are.
        headers: one dataset a slice without its pixel data, in the slice order of ``volume.array``.
        notes: sentences about what was left out of the series (no patient data).
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: Dataset
    position: npt.NDArray[np.float64]


def read_volume(paths: Sequence[Path]) -> Source:
    """Read a series of single-frame images (PS3.3 C.7.6.2) as a regular grid.

    Slices are sorted along the normal of their plane; Instance Number, Slice Location and file order are not
    believed. The slice axis of the affine is the measured step from slice to slice: with a tilted gantry it is not
    the normal and the grid is sheared, as the patient was imaged.

    Args:
        paths: the series' files in any order. Instances without pixels (reports, presentation states) are left
            out and noted, as are localizer images in a series of slices and copies with identical pixels.

    Returns:
        Voxels float32 after rescale slope and intercept. MONOCHROME1 is turned so that more signal is brighter,
        but where values have a unit (CT, PET).

    Raises:
        NotAnalysed: no regular grid: the reason is a sentence for a radiologist.
    """
    headers = [(path, read_header(path, _SAME_PLACE_DIFFERENCES)) for path in paths]
    images = [(path, ds) for path, ds in headers if is_image(ds)]
    notes = []
    if not images:
        raise NotAnalysed("the series holds no images")
    if len(images) < len(headers):
        notes.append(_left_out(len(headers) - len(images), "no pixels (a report or presentation state)"))
    _check_one_series([ds for _, ds in images])
    _check_kind([ds for _, ds in images])
    images, scouts = _without_scouts(images)
    if scouts:
        notes.append(_left_out(scouts, "marked as localizer"))
    if len(images) < FEWEST_SLICES:
        raise NotAnalysed(f"the series has {counted(len(images), 'image')}, too few to make a volume")
    _check_same_plane([ds for _, ds in images])
    slices, copies = _without_copies(_sorted(images))
    if copies:
        notes.append(_left_out(copies, "same position and pixels as another image"))
    affine = _affine(slices)
    array = np.empty((len(slices), int(slices[0].header.Rows), int(slices[0].header.Columns)), dtype=np.float32)
    for target, s in zip(array, slices, strict=True):
        header = s.header
        slope, intercept = number(header, "RescaleSlope", 1.0), number(header, "RescaleIntercept", 0.0)
        fill(target, _stored(s), header, slope, intercept)
        for tag in PIXEL_TAGS:
            s.header.pop(tag, None)
    volume = Volume(array, affine, plain_tags(slices[0].header))
    return Source(volume, tuple(s.header for s in slices), tuple(notes))


def _check_one_series(headers: Sequence[Dataset]) -> None:
    check_one_patient(headers)
    found = {ds.get("SeriesInstanceUID") for ds in headers}
    if len(found) > 1:
        raise NotAnalysed(f"the images belong to {len(found)} series")


def _is_enhanced(ds: Dataset) -> bool:
    # some exporters leave per-frame groups behind in single images, whose own place is at the top level then
    return "PerFrameFunctionalGroupsSequence" in ds and "ImagePositionPatient" not in ds


def _check_kind(headers: Sequence[Dataset]) -> None:
    """Refuse what holds images that are not single grey slices in space."""
    if any(int(ds.get("NumberOfFrames") or 1) > 1 or _is_enhanced(ds) for ds in headers):
        raise NotAnalysed("the series comes as a multi-frame object, which is not supported; send it as single images")
    if any(int(ds.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in photometric(ds) for ds in headers):
        raise NotAnalysed("the series holds colour images")
    if any("MOSAIC" in image_type(ds) for ds in headers):
        raise NotAnalysed("the series comes as mosaics, with many slices in one image")
    for keyword, count, what in (
        ("ImagePositionPatient", 3, "position"),
        ("ImageOrientationPatient", 6, "orientation"),
        ("PixelSpacing", 2, "pixel spacing"),
    ):
        lacking = sum(numbers(ds, keyword, count) is None for ds in headers)
        if lacking:
            raise NotAnalysed(f"{lacking} of {counted(len(headers), 'image')} say nothing of their {what}")
    if any(not ds.get("FrameOfReferenceUID") for ds in headers):
        raise NotAnalysed("the images have no Frame of Reference UID, so that no result could be laid over them")


def _without_scouts(images: list[tuple[Path, Dataset]]) -> tuple[list[tuple[Path, Dataset]], int]:
    """The images without localizers, if there are others; and how many were taken out."""
    kept = [(path, ds) for path, ds in images if "LOCALIZER" not in image_type(ds)]
    return (kept, len(images) - len(kept)) if kept else (images, 0)


def _check_same_plane(headers: Sequence[Dataset]) -> None:
    sizes = Counter((int(ds.Rows), int(ds.Columns)) for ds in headers)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {r} x {c}" for (r, c), n in sizes.most_common(4))
        raise NotAnalysed(f"the images differ in size ({listed} pixels)")
    if len({ds.FrameOfReferenceUID for ds in headers}) > 1:
        raise NotAnalysed("the images do not share one frame of reference")
    spacing = np.array([numbers(ds, "PixelSpacing", 2) for ds in headers])
    if (spacing <= 0).any():
        raise NotAnalysed("the pixel spacing in the header is not a distance")
    if np.ptp(spacing, axis=0).max() > 1e-3 * spacing.min():
        raise NotAnalysed("the images differ in pixel spacing")
    cosines = np.array([numbers(ds, "ImageOrientationPatient", 6) for ds in headers])
    row, column = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm(cosines.reshape(-1, 2, 3), axis=2)
    if abs(lengths - 1).max() > 0.01 or abs((row * column).sum(axis=1)).max() > 0.01:
        raise NotAnalysed("the orientation in the header is not one of an image plane")
    reference = np.median(cosines, axis=0)
    odd = int((abs(cosines - reference).max(axis=1) > COSINE_TOLERANCE).sum())
    if odd:
        raise NotAnalysed(f"the images are not parallel: {odd} of {len(headers)} are turned against the others")


def _sorted(images: Sequence[tuple[Path, Dataset]]) -> list[_Slice]:
    """Along the normal; at the same place by Instance Number and UID, so that the order is always the same."""
    normal = np.cross(*_directions(images[0][1]))
    slices = [_Slice(p, ds, np.array(numbers(ds, "ImagePositionPatient", 3))) for p, ds in images]
    slices.sort(key=lambda s: str(s.header.get("SOPInstanceUID", "")))
    return sorted(slices, key=lambda s: round(float(s.position @ normal), 3))


def _without_copies(slices: list[_Slice]) -> tuple[list[_Slice], int]:
    """One slice a place, and how many copies were left out.

    Raises:
        NotAnalysed: two images that differ lie in the same place.
    """
    normal = np.cross(*_directions(slices[0].header))
    places: list[list[_Slice]] = []
    for s in slices:
        # A tenth of a millimetre apart is one place: no scanner stacks slices as close as that.
        if places and abs(float((s.position - places[-1][0].position) @ normal)) < ROUNDING_MM:
            places[-1].append(s)
        else:
            places.append([s])
    for place in places:
        first = place[0]
        if any(not np.array_equal(_stored(first), _stored(other)) for other in place[1:]):
            raise NotAnalysed(_several_at_one_place(places))
    return [place[0] for place in places], len(slices) - len(places)


def _several_at_one_place(places: Sequence[Sequence[_Slice]]) -> str:
    crowded = [place for place in places if len(place) > 1]
    text = f"there are two or more different images at the same position ({len(crowded)} of {len(places)} positions)"
    for keyword, what in _SAME_PLACE_DIFFERENCES.items():
        if all(len({str(s.header.get(keyword, "")) for s in place}) > 1 for place in crowded):
            return f"{text}: the series mixes several {what}"
    return text


def _affine(slices: Sequence[_Slice]) -> npt.NDArray[np.float64]:
    """(slice, row, column, 1) index to LPS mm, once the slices are known to make a regular grid."""
    if len(slices) < FEWEST_SLICES:
        raise NotAnalysed(f"the series has {counted(len(slices), 'position')}, too few to make a volume")
    header = slices[0].header
    along_row, along_column = _directions(header)
    normal = np.cross(along_row, along_column)
    positions = np.array([s.position for s in slices])
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps[gaps < 1.5 * gaps.min()]))  # of neighbours, even if many slices are missing
    tolerance = max(STEP_TOLERANCE * typical, ROUNDING_MM)
    _check_gaps(gaps, typical, tolerance)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > tolerance:
        raise NotAnalysed("the images do not lie at even steps on one straight line")
    tilt = math.degrees(math.acos(min(1.0, float(step @ normal) / float(np.linalg.norm(step)))))
    if tilt > STEEPEST_TILT:
        raise NotAnalysed(f"the stack of images is slanted by {tilt:.0f} degrees")
    spacing = numbers(header, "PixelSpacing", 2) or (math.nan, math.nan)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = along_row * spacing[1]
    affine[:3, 3] = positions[0]
    return affine


def _check_gaps(gaps: npt.NDArray[np.float64], typical: float, tolerance: float) -> None:
    """Refuse missing and unevenly spaced slices; ``gaps``: mm from each slice to the next."""
    steps = np.rint(gaps / typical)
    off = abs(gaps - steps * typical) > tolerance
    if off.any():
        raise NotAnalysed(
            f"the images are unevenly spaced: {gaps.min():.2f} to {gaps.max():.2f} mm apart, usually {typical:.2f} mm"
        )
    lost = int((steps - 1).sum())
    if lost:
        where = [f"{i + 1} and {i + 2}" for i in np.flatnonzero(steps > 1)]
        listed = "; ".join(where[:5]) + ("; ..." if len(where) > 5 else "")
        verb = "is" if lost == 1 else "are"
        raise NotAnalysed(
            f"{counted(lost, 'image')} of the stack {verb} missing (between images {listed} of the stack)"
        )


def _stored(s: _Slice) -> npt.NDArray[Any]:
    """Stored values of one image, shape (rows, columns)."""
    values = stored_values(s.header)
    if values.ndim != 2:
        raise NotAnalysed("the pixel data of an image do not have the size that its header says")
    return values


def _directions(header: Dataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors in which columns and rows count up."""
    return unit_directions(numbers(header, "ImageOrientationPatient", 6) or ())


def _left_out(n: int, what: str) -> str:
    return f"{counted(n, 'instance')} left out of the series: {what}"
