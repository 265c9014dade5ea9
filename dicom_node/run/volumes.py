"""From the files of a series to one regular grid of voxels, or the reason why there is none."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag
from pydicom.valuerep import IS, DSdecimal, DSfloat

from dicom_node.algorithm import Volume
from dicom_node.errors import NotAnalysed

TAGS = (
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "ImageType",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "Laterality",
    "ImageLaterality",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "SliceThickness",
    "PatientPosition",
    "MRAcquisitionType",
    "ContrastBolusAgent",
)
"""What an algorithm gets to see of the header, in ``Volume.tags``."""

FEWEST_SLICES = 3
"""Two positions are at even steps whatever they are."""
COSINE_TOLERANCE = 1e-3
"""Direction cosines are often written with four decimals, some with three."""
STEP_TOLERANCE = 0.05
"""Part of a step by which a slice may lie off its place in the grid: it changes a volume by far less."""
ROUNDING_MM = 0.1
"""Some headers give positions with one decimal: up to 0.05 mm wrong at each end of a distance."""
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
_DEFER_BYTES = 4096
_PIXEL_TAGS = tuple(Tag(k) for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
_UNITS_MODALITIES = ("CT", "PT")


# What is read of each header; all of it is converted when the file is opened, so that a spoilt value shows there.
_IDENTITY = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PhotometricInterpretation",
)
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_NUMBERS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
)
# What pydicom raises on a header that was damaged.
_HEADER_ERRORS = (ValueError, TypeError, NotImplementedError, BytesLengthException, struct.error)


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
    headers = [(path, _read_header(path)) for path in paths]
    images = [(path, ds) for path, ds in headers if _is_image(ds)]
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
        raise NotAnalysed(f"the series has {_count(len(images), 'image')}, too few to make a volume")
    _check_same_plane([ds for _, ds in images])
    slices, copies = _without_copies(_sorted(images))
    if copies:
        notes.append(_left_out(copies, "same position and pixels as another image"))
    affine = _affine(slices)
    array = np.empty((len(slices), int(slices[0].header.Rows), int(slices[0].header.Columns)), dtype=np.float32)
    for target, s in zip(array, slices, strict=True):
        _fill(target, s)
        for tag in _PIXEL_TAGS:
            s.header.pop(tag, None)
    volume = Volume(array, affine, _tags(slices[0].header))
    return Source(volume, tuple(s.header for s in slices), tuple(notes))


def _read_header(path: Path) -> Dataset:
    try:
        # Pixels stay on disk until they are asked for: one pass over headers that may hold hundreds of elements.
        header = pydicom.dcmread(path, defer_size=_DEFER_BYTES)
    except (InvalidDicomError, EOFError, OSError, *_HEADER_ERRORS) as e:
        raise NotAnalysed(f"an image of the series cannot be read ({type(e).__name__})") from e
    for keyword in (*_IDENTITY, *_GEOMETRY, *_NUMBERS, *_SAME_PLACE_DIFFERENCES, *TAGS):
        try:
            value = header.get(keyword)  # pydicom converts a value when it is first asked for
            if keyword in _NUMBERS:
                _number(header, keyword)
        except _HEADER_ERRORS as e:
            raise NotAnalysed(f"the header of an image holds an invalid {dictionary_description(keyword)}") from e
        if keyword in _IDENTITY and isinstance(value, MultiValue):
            raise NotAnalysed(f"the header of an image holds an invalid {dictionary_description(keyword)}")
    return header


def _is_image(header: Dataset) -> bool:
    """Whether the instance has pixels; one whose class is an image's and that lacks them is damaged."""
    if "Rows" in header and "Columns" in header:
        return True
    sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    if "Image Storage" in pydicom.uid.UID(str(sop_class)).name:
        raise NotAnalysed("an image of the series is incomplete")
    return False


def _check_one_series(headers: Sequence[Dataset]) -> None:
    # An empty ID is common (emergencies), so the name and the date of birth must agree too.
    patients = {
        (
            ds.get("PatientID"),
            ds.get("IssuerOfPatientID"),
            ds.get("PatientBirthDate"),
            str(ds.get("PatientName") or "").strip(" ^").upper(),
        )
        for ds in headers
    }
    if len(patients) > 1:
        raise NotAnalysed(f"the images belong to {len(patients)} patients")
    for keyword, what in (("StudyInstanceUID", "studies"), ("SeriesInstanceUID", "series")):
        found = {ds.get(keyword) for ds in headers}
        if len(found) > 1:
            raise NotAnalysed(f"the images belong to {len(found)} {what}")


def _is_enhanced(ds: Dataset) -> bool:
    # some exporters leave per-frame groups behind in single images, whose own place is at the top level then
    return "PerFrameFunctionalGroupsSequence" in ds and "ImagePositionPatient" not in ds


def _check_kind(headers: Sequence[Dataset]) -> None:
    """Refuse what holds images that are not single grey slices in space."""
    if any(int(ds.get("NumberOfFrames") or 1) > 1 or _is_enhanced(ds) for ds in headers):
        raise NotAnalysed("the series comes as a multi-frame object, which is not supported; send it as single images")
    if any(int(ds.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in _photometric(ds) for ds in headers):
        raise NotAnalysed("the series holds colour images")
    if any("MOSAIC" in _image_type(ds) for ds in headers):
        raise NotAnalysed("the series comes as mosaics, with many slices in one image")
    for keyword, count, what in (
        ("ImagePositionPatient", 3, "position"),
        ("ImageOrientationPatient", 6, "orientation"),
        ("PixelSpacing", 2, "pixel spacing"),
    ):
        lacking = sum(_numbers(ds, keyword, count) is None for ds in headers)
        if lacking:
            raise NotAnalysed(f"{lacking} of {_count(len(headers), 'image')} say nothing of their {what}")
    if any(not ds.get("FrameOfReferenceUID") for ds in headers):
        raise NotAnalysed("the images have no Frame of Reference UID, so that no result could be laid over them")


def _without_scouts(images: list[tuple[Path, Dataset]]) -> tuple[list[tuple[Path, Dataset]], int]:
    """The images without localizers, if there are others; and how many were taken out."""
    kept = [(path, ds) for path, ds in images if "LOCALIZER" not in _image_type(ds)]
    return (kept, len(images) - len(kept)) if kept else (images, 0)


def _check_same_plane(headers: Sequence[Dataset]) -> None:
    sizes = Counter((int(ds.Rows), int(ds.Columns)) for ds in headers)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {r} x {c}" for (r, c), n in sizes.most_common(4))
        raise NotAnalysed(f"the images differ in size ({listed} pixels)")
    if len({ds.FrameOfReferenceUID for ds in headers}) > 1:
        raise NotAnalysed("the images do not share one frame of reference")
    spacing = np.array([_numbers(ds, "PixelSpacing", 2) for ds in headers])
    if (spacing <= 0).any():
        raise NotAnalysed("the pixel spacing in the header is not a distance")
    if np.ptp(spacing, axis=0).max() > 1e-3 * spacing.min():
        raise NotAnalysed("the images differ in pixel spacing")
    cosines = np.array([_numbers(ds, "ImageOrientationPatient", 6) for ds in headers])
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
    slices = [_Slice(p, ds, np.array(_numbers(ds, "ImagePositionPatient", 3))) for p, ds in images]
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
        raise NotAnalysed(f"the series has {_count(len(slices), 'position')}, too few to make a volume")
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
    spacing = _numbers(header, "PixelSpacing", 2) or (math.nan, math.nan)
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
        raise NotAnalysed(f"{_count(lost, 'image')} of the stack {verb} missing (between images {listed} of the stack)")


def _stored(s: _Slice) -> npt.NDArray[Any]:
    """Stored values of one image, decoded, shape (rows, columns); unused high bits (overlays) cleared by pydicom."""
    header = s.header
    on_disk = {tag: header.get_item(tag, keep_deferred=True) for tag in _PIXEL_TAGS if tag in header}
    try:
        values: npt.NDArray[Any] = pixel_array(header, raw=True)
    except AttributeError as e:
        raise NotAnalysed("an image of the series has no pixel data") from e
    # Decoders are third-party plug-ins; what they raise on spoilt data is one of these.
    except (ValueError, RuntimeError, NotImplementedError, EOFError, OSError, KeyError, IndexError, TypeError) as e:
        raise NotAnalysed("the pixel data of an image are damaged, incomplete or compressed in an unknown way") from e
    finally:
        for tag, element in on_disk.items():
            header[tag] = element  # let go of the bytes, which are read again if asked for again
    if values.shape != (int(header.Rows), int(header.Columns)):
        raise NotAnalysed("the pixel data of an image do not have the size that its header says")
    return values


def _fill(target: npt.NDArray[np.float32], s: _Slice) -> None:
    """Write one image's values into its plane of the volume."""
    header = s.header
    target[:] = _stored(s)
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    if _photometric(header) == "MONOCHROME1" and header.get("Modality") not in _UNITS_MODALITIES:
        signed = int(header.get("PixelRepresentation") or 0)
        brightest = -1 if signed else 2 ** int(header.get("BitsStored") or 16) - 1
        np.subtract(np.float32(brightest), target, out=target)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        if slope != 1.0:
            target *= np.float32(slope)
        if intercept != 0.0:
            target += np.float32(intercept)
    if not np.isfinite(target).all():
        raise NotAnalysed("an image holds values that are not numbers")


def _directions(header: Dataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors in which columns and rows count up."""
    row, column = np.reshape(np.array(_numbers(header, "ImageOrientationPatient", 6)), (2, 3))
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def _tags(header: Dataset) -> dict[str, Any]:
    found = {keyword: header.get(keyword) for keyword in TAGS}
    return {keyword: _plain(value) for keyword, value in found.items() if value not in (None, "")}


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return [_plain(v) for v in value]
    if isinstance(value, (DSfloat, DSdecimal)):
        return float(value)
    if isinstance(value, IS):
        return int(value)
    return value if isinstance(value, (int, float)) else str(value)


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The attribute's finite numbers, or None if there are not ``count`` of them."""
    value = header.get(keyword)
    if not isinstance(value, MultiValue) or len(value) != count:
        return None
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _number(header: Dataset, keyword: str, default: float = 0.0) -> float:
    value = header.get(keyword)
    return default if value is None or value == "" else float(value)


def _image_type(header: Dataset) -> tuple[str, ...]:
    value = header.get("ImageType") or ()
    return tuple(str(v).upper() for v in ([value] if isinstance(value, str) else value))


def _photometric(header: Dataset) -> str:
    return str(header.get("PhotometricInterpretation") or "")


def _left_out(count: int, what: str) -> str:
    return f"{_count(count, 'instance')} left out of the series: {what}"


def _count(n: int, what: str) -> str:
    plural = what if n == 1 or what == "series" else f"{what}s"
    return f"{n} {plural}"
