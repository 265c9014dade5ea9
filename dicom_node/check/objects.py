"""Result objects and source series, read for the check. Unreadable input is a problem to report, not an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import DataElement, Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from dicom_node.check.reading import CutOffError, Item, OtherEncodingError, read_file
from dicom_node.model.planes import frame_count, is_flat, plane_header

READ_ERRORS = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, struct.error,
)  # fmt: skip
"""What reading a spoilt file can raise."""

TOLERANCE = 1e-3
"""Positions and distances may differ by this much, in mm."""

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
MODALITIES = {
    SEGMENTATION: "SEG",
    LABEL_MAP: "SEG",
    COMPREHENSIVE_3D_SR: "SR",
    COMPREHENSIVE_SR: "SR",
    SECONDARY_CAPTURE: "OT",
    ENCAPSULATED_PDF: "DOC",
}
"""The Modality of each class of results."""

Attributes = Dataset | Item
"""A source image's header, or part of a result."""
A = TypeVar("A", bound=Attributes)

CodeKey = tuple[str, str]
"""Coding scheme and value of a concept."""


@dataclass(frozen=True)
class ResultFile:
    """One result object.

    Attributes:
        path: its file.
        meta: its File Meta Information.
        ds: what it holds.
    """

    path: Path
    meta: Item
    ds: Item

    @property
    def name(self) -> str:
        """Its file name, for the sentences."""
        return self.path.name


PlaneKey = tuple[str, int]
"""SOP Instance UID and Frame Number (1 of a single image)."""


class Sources:
    """The source images.

    Attributes:
        headers: as given.
        by_uid: the same by SOP Instance UID.
        planes: the header of each image plane; a multi-frame object has several.
        flat: whether they are images without a place in the patient (ultrasound).
        slice_distance: mm between neighbouring slices along the planes' normal, None for a single slice.
    """

    def __init__(self, headers: Sequence[Dataset]) -> None:
        self.headers = tuple(headers)
        self.by_uid = {text(h, "SOPInstanceUID"): h for h in headers}
        self.series = {text(h, "SeriesInstanceUID") for h in headers}
        self.references = {text(h, "FrameOfReferenceUID") for h in headers}
        self.planes = {(text(h, "SOPInstanceUID"), n): p for h in headers for n, p in _planes(h)}
        self.flat = any(map(is_flat, headers))
        self.slice_distance = slice_distance(
            [numbers(p, "ImagePositionPatient") for p in self.planes.values()],
            numbers(self.first_plane, "ImageOrientationPatient") if headers else [],
        )

    @property
    def first(self) -> Dataset:
        """The first header; only where there is one."""
        return self.headers[0]

    @property
    def first_plane(self) -> Dataset:
        """The first plane; only where there is a header."""
        return next(iter(self.planes.values()))

    @property
    def stacked(self) -> list[PlaneKey] | None:
        """The planes in the order of the slices along their normal; None if one has no place in space."""
        positions = [numbers(p, "ImagePositionPatient") for p in self.planes.values()]
        orientation = numbers(self.first_plane, "ImageOrientationPatient") if self.headers else []
        if len(orientation) != 6 or any(len(p) != 3 for p in positions):
            return None
        depths = np.asarray(positions) @ unit_normal(orientation)
        keys = list(self.planes)
        return [keys[i] for i in np.argsort(depths, kind="stable")]


def _planes(header: Dataset) -> Iterator[tuple[int, Dataset]]:
    for number in range(1, frame_count(header) + 1):
        yield number, plane_header(header, number)


def read_result(path: Path) -> tuple[ResultFile | None, str]:
    """Read a result whole; returns it, or None and the problem."""
    try:
        meta, ds = read_file(path)
    except CutOffError:
        return None, f"{path.name} is cut off: an element is longer than what is left of the file or of its item"
    except OtherEncodingError as error:
        return None, f"{path.name} cannot be read: its transfer syntax {error} is deflated or big endian"
    except READ_ERRORS as error:
        return None, f"{path.name} cannot be read: {type(error).__name__}"
    if not text(ds, "SOPClassUID") or not text(ds, "SOPInstanceUID"):
        return None, f"{path.name} cannot be read: it has no SOP Class UID or no SOP Instance UID"
    return ResultFile(path, meta, ds), ""


def value(of: Attributes, keyword: str) -> Any:
    """The value, or None where it is absent or cannot be converted."""
    tag = _tag(keyword)
    if isinstance(of, Item):
        return of.get(tag)
    try:
        # As of.get(keyword), which looks up more than this needs, many thousand times.
        element = of.get_item(tag)
        return None if element is None else (element if isinstance(element, DataElement) else of[tag]).value
    except READ_ERRORS:
        return None


@cache
def _tag(keyword: str) -> int:
    return int(Tag(keyword))


def text(of: Attributes, keyword: str) -> str:
    """The value as a string, empty where there is none."""
    found = value(of, keyword)
    return "" if found is None else str(found).strip()


def numbers(of: Attributes, keyword: str) -> list[float]:
    """The values as floats, empty where there are none."""
    found = value(of, keyword)
    if found is None or found == "":
        return []
    try:
        return [float(v) for v in found] if hasattr(found, "__iter__") else [float(found)]
    except (TypeError, ValueError):
        return []


def items(of: A | None, *keywords: str) -> list[A]:
    """The items of a sequence; with several keywords, those of the first item's sequence, and so on."""
    found: list[A] = [] if of is None else [of]
    for keyword in keywords:
        sequence = value(found[0], keyword) if found else None
        found = list(sequence) if sequence is not None else []
    return found


def first_item(of: Attributes, *keywords: str) -> Attributes:
    """The first of :func:`items`; an empty one where there is none."""
    found = items(of, *keywords)
    return found[0] if found else Item()


def code(of: Attributes | None) -> CodeKey:
    """Scheme and value of a code sequence item; empty strings where there is none."""
    if of is None:
        return ("", "")
    return (
        text(of, "CodingSchemeDesignator"),
        text(of, "CodeValue") or text(of, "LongCodeValue") or text(of, "URNCodeValue"),
    )


def code_of(of: Attributes, *keywords: str) -> CodeKey:
    """The code of the first item of a code sequence."""
    found = items(of, *keywords)
    return code(found[0] if found else None)


def content(of: A, *, deep: bool = False) -> Iterator[A]:
    """The content items below an SR content item."""
    waiting = items(of, "ContentSequence")[::-1]
    while waiting:
        child = waiting.pop()
        yield child
        if deep:
            waiting += items(child, "ContentSequence")[::-1]


def close(a: Sequence[float], b: Sequence[float], tolerance: float = TOLERANCE) -> bool:
    """Whether both have the same length and values."""
    return len(a) == len(b) > 0 and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def slice_distance(positions: Sequence[Sequence[float]], orientation: Sequence[float]) -> float | None:
    """The median distance in mm of neighbouring parallel planes along their normal; None for one plane."""
    usable = [p for p in positions if len(p) == 3]
    if len(orientation) != 6 or len(usable) < 2:
        return None
    depths = np.unique(np.round(np.asarray(usable) @ unit_normal(orientation), 4))
    return float(np.median(np.diff(depths))) if len(depths) > 1 else None


def unit_normal(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """The unit normal of a plane from six direction cosines."""
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length else normal
