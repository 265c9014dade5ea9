"""The source series as the encoder takes it: only what is needed, tidied.

Scanners and archives leave out attributes, send them empty or ill-formed. What names the patient is kept as
it is; what is ill-formed beyond that becomes empty, which the standard allows (Type 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pydicom.charset
import pydicom.config
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from dicom_node.algorithm import Frame
from dicom_node.encode.header_values import numbers_of, text_of, value_of
from dicom_node.encode.lossy import lossy_compression
from dicom_node.errors import EncodeError
from dicom_node.model.planes import is_flat, plane_header

# Kept verbatim, ill-formed or not: a result must carry the identity that its images carry.
_IDENTITY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
_DATES = ("PatientBirthDate", "StudyDate", "SeriesDate")
_TIMES = ("StudyTime", "SeriesTime")
_TEXTS = (
    "StudyDescription", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName",
    "PositionReferenceIndicator",
)  # fmt: skip
_NUMBERS = ("PatientSize", "PatientWeight")
_CODES = ("BodyPartExamined", "PatientSex", "Laterality")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_GEOMETRY = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
_TYPE_2 = frozenset(
    ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
     "StudyID", "ReferringPhysicianName", "PositionReferenceIndicator")
)  # fmt: skip

_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")
_ESCAPE = re.compile(r"\x1b[ -/]+[0-~]")
"""A code extension (PS3.5 section 6.1.2.5)."""
_AGE = re.compile(r"\d{3}[DWMY]")

UTF_8 = "ISO_IR 192"


@dataclass(frozen=True)
class Plane:
    """Where one plane of a label map lies.

    Attributes:
        image: the plane's own position, orientation and spacing, and the UIDs of the image it is of. Of ultrasound
            (``flat``) there is no more than rows and columns.
        number: Frame Number, from 1, in a multi-frame image; None: the image is a single one.
    """

    image: Dataset
    number: int | None = None

    @property
    def flat(self) -> bool:
        """Whether it has no place in the patient."""
        return is_flat(self.image)

    @property
    def label(self) -> str:
        """Which image it is, for people; of the patient nothing is said."""
        image = f"image {self.image.InstanceNumber}" if self.image.get("InstanceNumber") else "image"
        return image if self.number is None else f"{image}, frame {self.number}"


@dataclass(frozen=True)
class Source:
    """What was analysed, without pixels.

    Attributes:
        images: one dataset for each image, with what the results need but the patient's name.
        planes: one for each plane of the label map; empty where no mask is to be placed.
        slice_distance: mm between neighbouring slices of what was analysed; None for one slice.
        patient_name: kept apart from highdicom, which logs a name that it finds odd.
        character_set: Specific Character Set for the results.
        lossy: attributes that say how an image was compressed with loss; None: none was.
    """

    images: tuple[Dataset, ...]
    planes: tuple[Plane, ...]
    slice_distance: float | None
    patient_name: DataElement
    character_set: str | list[str]
    lossy: Dataset | None = None

    @property
    def flat(self) -> bool:
        """Whether the planes have no place in the patient."""
        return bool(self.planes) and self.planes[0].flat

    @property
    def first(self) -> Dataset:
        """The first image: it speaks for patient and study."""
        return self.images[0]

    @property
    def series_moment(self) -> tuple[str, str]:
        """Series Date and Time; where an image has no Series Date, those of its study (they may be empty)."""
        if "SeriesDate" in self.first:
            return str(self.first.SeriesDate), str(self.first.get("SeriesTime", ""))
        return str(self.first.StudyDate), str(self.first.StudyTime)


def read_source(
    headers: Sequence[Dataset], own_texts: Iterable[str], *, on_grid: bool = True, frames: Sequence[Frame] = ()
) -> Source:
    """Take what results need from the source's headers.

    Args:
        headers: one an image; pixel data is not needed and not kept.
        own_texts: what the results will say beside the source's strings; it may need another character set.
        on_grid: whether a mask is to be placed on the images. False for a report that only names them:
            images that have no place in space, or are multi-frame, will do.
        frames: the planes of the mask, if they are not the images in their order. They may be of several series,
            and then need not name the same frame of reference: some scanners give each image one of its own. The
            reader of the images has found out that they lie in one.

    Raises:
        EncodeError: there is no image, an image has no UID or no place in space, or the headers are of
            several patients, studies, series or frames of reference.
    """
    if not headers:
        raise EncodeError("there is no source image")
    if on_grid and not frames and any(map(is_flat, headers)):
        raise EncodeError("findings on ultrasound must name the frame of each plane")
    alone = on_grid and not frames
    images = tuple(_tidy(header, alone) for header in headers)
    for keyword in (
        "StudyInstanceUID",
        "PatientID",
        *(("SeriesInstanceUID", "FrameOfReferenceUID") if alone else ()),
    ):
        values = {str(image.get(keyword)) for image in images}
        if len(values) > 1:
            raise EncodeError(f"the source images have {len(values)} different values of {keyword}")
    planes = _planes(headers, frames) if frames else tuple(Plane(image) for image in images if on_grid)
    distance = None
    if any(plane.flat for plane in planes):
        if not all(plane.flat for plane in planes):
            raise EncodeError("the findings are of images with and without a place in the patient")
    elif planes:
        # Of frames, some slices may be missing: the step is that of all images.
        placed = [h for header in headers for h in _each_plane(header)] if frames else [p.image for p in planes]
        distance = slice_distance(placed)
        _complete_thickness([p.image for p in planes], distance)
    character_set = _character_set(headers[0], images[0], own_texts)
    if character_set == UTF_8:
        # pydicom leaves those of ISO 2022 IR 58 in the text; in UTF-8 they would be an error.
        for image in (*images, *(p.image for p in planes)):
            _strip_escapes(image)
    patient_name = images[0]["PatientName"]
    for image in (*images, *(p.image for p in planes)):
        _add(image, "PatientName", "")
    lossy = lossy_compression(headers) if on_grid else None
    return Source(images, planes, distance, patient_name, character_set, lossy)


def _planes(headers: Sequence[Dataset], frames: Sequence[Frame]) -> tuple[Plane, ...]:
    """The frames' own headers, all in the frame of reference of the first."""
    by_uid = {text_of(h, "SOPInstanceUID"): h for h in headers}
    planes = []
    for frame in frames:
        header = by_uid.get(frame.SOPInstanceUID)
        if header is None:
            raise EncodeError(f"the findings name the image {frame.SOPInstanceUID}, which is no source image")
        try:
            image = _tidy(plane_header(header, frame.number), on_grid=True)
        except LookupError as e:
            raise EncodeError(str(e)) from e
        is_frame = (numbers_of(header, "NumberOfFrames", 1) or [0])[0] > 0
        planes.append(Plane(image, frame.number if is_frame else None))
    for plane in planes:
        if not plane.flat:
            plane.image.FrameOfReferenceUID = planes[0].image.FrameOfReferenceUID
    return tuple(planes)


def _each_plane(header: Dataset) -> Iterator[Dataset]:
    for number in range(1, len(value_of(header, "PerFrameFunctionalGroupsSequence") or [header]) + 1):
        yield plane_header(header, number)


def _complete_thickness(images: Sequence[Dataset], distance: float | None) -> None:
    for image in images:
        if "SliceThickness" not in image:
            # The SEG must have one (PS3.3 C.7.6.16.2.1); slices without gaps are as good a guess as any.
            if distance is None:
                raise EncodeError("a single source image has no valid SliceThickness")
            image.SliceThickness = _decimal(distance)


def slice_distance(images: Sequence[Dataset]) -> float | None:
    """Median distance in mm of neighbouring slices along the normal of the planes; None for one slice."""
    cosines = np.asarray(numbers_of(images[0], "ImageOrientationPatient", 6), dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    positions = [p for i in images if (p := numbers_of(i, "ImagePositionPatient", 3)) is not None]
    depths = np.unique(np.round(np.asarray(positions) @ (normal / np.linalg.norm(normal)), 4))
    return float(np.median(np.diff(depths))) if len(depths) > 1 else None


def _tidy(header: Dataset, on_grid: bool) -> Dataset:
    image = Dataset()
    placed = on_grid and not is_flat(header)
    for keyword in _UIDS if not placed else (*_UIDS, "FrameOfReferenceUID"):
        value = text_of(header, keyword)
        if not value:
            raise EncodeError(f"a source image has no {keyword}")
        setattr(image, keyword, value)
    if placed and (numbers_of(header, "NumberOfFrames", 1) or [1])[0] > 1:
        raise EncodeError("multi-frame source images are not supported: the slices must be single-frame images")
    for keyword in _IDENTITY:
        _add(image, keyword, text_of(header, keyword))
    for keyword in _DATES:
        _add(image, keyword, _date(text_of(header, keyword)))
    for keyword in _TIMES:
        _add(image, keyword, _matching(_TIME, text_of(header, keyword)))
    for keyword in _TEXTS:
        _add(image, keyword, text_of(header, keyword)[:64])
    for keyword in _CODES:
        _add(image, keyword, _matching(_CODE_STRING, text_of(header, keyword)))
    _add(image, "PatientAge", _matching(_AGE, text_of(header, "PatientAge")))
    if image.PatientSex not in ("M", "F", "O"):
        image.PatientSex = ""
    for keyword in _NUMBERS:
        number = numbers_of(header, keyword, 1)
        if number:
            setattr(image, keyword, f"{number[0]:.6g}")
    if on_grid:
        _tidy_size(header, image)
    if placed:
        _tidy_geometry(header, image)
    elif on_grid:
        reference = text_of(header, "FrameOfReferenceUID")
        if reference:
            image.FrameOfReferenceUID = reference
        number = numbers_of(header, "InstanceNumber", 1)
        if number:
            image.InstanceNumber = f"{number[0]:.0f}"
    return image


def _tidy_geometry(header: Dataset, image: Dataset) -> None:
    for keyword, count in _GEOMETRY.items():
        numbers = numbers_of(header, keyword, count)
        if numbers is None:
            raise EncodeError(f"a source image has no valid {keyword}")
        setattr(image, keyword, [_decimal(n) for n in numbers])
    thickness = numbers_of(header, "SliceThickness", 1)
    if thickness and thickness[0] > 0:
        image.SliceThickness = _decimal(thickness[0])


def _tidy_size(header: Dataset, image: Dataset) -> None:
    for keyword in ("Rows", "Columns"):
        size = value_of(header, keyword)
        if not isinstance(size, int) or size < 1:
            raise EncodeError(f"a source image has no valid {keyword}")
        setattr(image, keyword, size)


def _strip_escapes(image: Dataset) -> None:
    for element in list(image):
        if element.VR in ("PN", "LO", "SH") and "\x1b" in str(element.value):
            _add(image, element.keyword, _ESCAPE.sub("", str(element.value)))


def _date(text: str) -> str:
    if not _DATE.fullmatch(text):
        return ""
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return ""
    return text


def _matching(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else ""


def _add(image: Dataset, keyword: str, value: str) -> None:
    if not value and keyword not in _TYPE_2:
        return
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    image.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom.config.IGNORE))


def _decimal(value: float) -> str:
    """A Decimal String: 16 characters at most (PS3.5 section 6.2)."""
    for digits in range(16, 5, -1):
        text = f"{value + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise EncodeError(f"{value!r} does not fit a Decimal String")


def _character_set(header: Dataset, image: Dataset, own_texts: Iterable[str]) -> str | list[str]:
    """The source's own, or UTF-8 where that cannot hold what is written."""
    value = value_of(header, "SpecificCharacterSet")
    terms = [str(t) for t in value] if isinstance(value, MultiValue | list | tuple) else [str(value or "")]
    if not all(text.isascii() for text in own_texts):
        return UTF_8
    if any(term not in pydicom.charset.python_encoding for term in terms):
        return UTF_8
    source_texts = [str(e.value) for e in image if e.VR in ("PN", "LO", "SH")]
    if terms in ([""], ["ISO_IR 6"]) and not all(text.isascii() for text in source_texts):
        return UTF_8
    return terms if len(terms) > 1 else (terms[0] or "ISO_IR 6")
