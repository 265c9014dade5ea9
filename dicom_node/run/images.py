"""Image files of any series: their headers read with suspicion, their pixels decoded, or the reason why not."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
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
"""What an algorithm gets to see of the header."""

COSINE_TOLERANCE = 1e-3
"""Direction cosines are often written with four decimals, some with three."""
STEP_TOLERANCE = 0.05
"""Part of a step by which a slice may lie off its place in the grid: it changes a volume by far less."""
ROUNDING_MM = 0.1
"""Some headers give positions with one decimal: up to 0.05 mm wrong at each end of a distance."""

_DEFER_BYTES = 4096
PIXEL_TAGS = tuple(Tag(k) for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
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
_PATIENT = ("PatientName", "PatientBirthDate")
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
HEADER_ERRORS = (ValueError, TypeError, NotImplementedError, BytesLengthException, struct.error)


def read_header(path: Path, more: Collection[str] = ()) -> Dataset:
    """The header of a file, converted where it is used; pixels stay on disk until they are asked for.

    Args:
        more: keywords that are used beside those that place and decode an image.

    Raises:
        NotAnalysed: the file cannot be read, or one of these attributes is spoilt.
    """
    try:
        # One pass over headers that may hold hundreds of elements.
        header = pydicom.dcmread(path, defer_size=_DEFER_BYTES)
    except (InvalidDicomError, EOFError, OSError, *HEADER_ERRORS) as e:
        raise NotAnalysed(f"an image of the series cannot be read ({type(e).__name__})") from e
    for keyword in (*_IDENTITY, *_PATIENT, *_GEOMETRY, *_NUMBERS, *more, *TAGS):
        try:
            value = header.get(keyword)  # pydicom converts a value when it is first asked for
            if keyword in _NUMBERS:
                number(header, keyword)
        except HEADER_ERRORS as e:
            raise NotAnalysed(f"the header of an image holds an invalid {dictionary_description(keyword)}") from e
        if keyword in _IDENTITY and isinstance(value, MultiValue):
            raise NotAnalysed(f"the header of an image holds an invalid {dictionary_description(keyword)}")
    return header


def is_image(header: Dataset) -> bool:
    """Whether the instance has pixels.

    Raises:
        NotAnalysed: its class is an image's and it has none: it is damaged.
    """
    if "Rows" in header and "Columns" in header:
        return True
    sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    if "Image Storage" in pydicom.uid.UID(str(sop_class)).name:
        raise NotAnalysed("an image of the series is incomplete")
    return False


def check_one_patient(headers: Sequence[Dataset]) -> None:
    """Refuse images of several patients or studies.

    Raises:
        NotAnalysed: says how many there are.
    """
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
    studies = {ds.get("StudyInstanceUID") for ds in headers}
    if len(studies) > 1:
        raise NotAnalysed(f"the images belong to {len(studies)} studies")


def stored_values(header: Dataset) -> npt.NDArray[Any]:
    """Stored values of an image, decoded; unused high bits (overlays) cleared by pydicom.

    Returns:
        Shape (rows, columns), or (frames, rows, columns) of a multi-frame image.

    Raises:
        NotAnalysed: the pixels are missing or damaged.
    """
    on_disk = {tag: header.get_item(tag, keep_deferred=True) for tag in PIXEL_TAGS if tag in header}
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
    if values.shape[-2:] != (int(header.Rows), int(header.Columns)):
        raise NotAnalysed("the pixel data of an image do not have the size that its header says")
    return values


def fill(
    target: npt.NDArray[np.float32], stored: npt.NDArray[Any], header: Dataset, slope: float, intercept: float
) -> None:
    """Write an image's values, after rescale slope and intercept, into ``target`` (rows, columns).

    MONOCHROME1 is turned so that more signal is brighter, but where values have a unit (CT, PET).

    Raises:
        NotAnalysed: values that are not numbers.
    """
    target[:] = stored
    if photometric(header) == "MONOCHROME1" and header.get("Modality") not in _UNITS_MODALITIES:
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


def unit_directions(cosines: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors in which columns and rows count up, of six direction cosines (Image Orientation (Patient))."""
    row, column = np.reshape(np.array(cosines, dtype=np.float64), (2, 3))
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def plain_tags(header: Dataset, keywords: Sequence[str] = TAGS) -> Mapping[str, Any]:
    """Header values in plain Python types, by keyword; what is absent, empty or spoilt is left out."""
    found = {}
    for keyword in keywords:
        try:
            value = header.get(keyword)
        except HEADER_ERRORS:
            continue  # typed by people ("1,75" m): worth no refusal
        if value not in (None, ""):
            found[keyword] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return [_plain(v) for v in value]
    if isinstance(value, (DSfloat, DSdecimal)):
        return float(value)
    if isinstance(value, IS):
        return int(value)
    return value if isinstance(value, (int, float)) else str(value)


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The attribute's finite numbers, or None if there are not ``count`` (two or more) of them."""
    value = header.get(keyword)
    if not isinstance(value, MultiValue) or len(value) != count:
        return None
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def number(header: Dataset, keyword: str, default: float = 0.0) -> float:
    """The attribute's number, or ``default`` where it is absent or empty."""
    value = header.get(keyword)
    return default if value is None or value == "" else float(value)


def image_type(header: Dataset) -> tuple[str, ...]:
    """The values of Image Type in capitals."""
    value = header.get("ImageType") or ()
    return tuple(str(v).upper() for v in ([value] if isinstance(value, str) else value))


def photometric(header: Dataset) -> str:
    """Photometric Interpretation, or ``""``."""
    return str(header.get("PhotometricInterpretation") or "")


def counted(n: int, what: str) -> str:
    """``"1 image"``, ``"2 images"``."""
    plural = what if n == 1 or what == "series" else f"{what}s"
    return f"{n} {plural}"
