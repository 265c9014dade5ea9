"""From ultrasound files to grey B-mode pictures with their scale, decoded one at a time, or the reason why not."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels

from dicom_node.algorithm import Frame, Picture, Region
from dicom_node.errors import NotAnalysed
from dicom_node.model import organ
from dicom_node.model.evidence import Evidence
from dicom_node.run import frame_colour, tissue
from dicom_node.run.frame_regions import check_class, describe, pixel_spacing
from dicom_node.run.images import (
    HEADER_ERRORS,
    PIXEL_TAGS,
    TAGS,
    check_one_patient,
    counted,
    is_image,
    number,
    photometric,
    plain_tags,
    read_header,
)

FRAME_TAGS = (*TAGS, "StudyDescription", "TransducerData", "TransducerType", "PatientSex")
"""What an algorithm gets to see of the header, in ``Clip.tags``."""
LARGEST_SHARE_DAMAGED = 0.2
"""Of a clip's frames; when more cannot be decoded, the others are not to be trusted either."""

# Decoders are third-party plug-ins; what they raise on spoilt data is one of these.
_DECODE_ERRORS = (
    ValueError,
    RuntimeError,
    NotImplementedError,
    EOFError,
    OSError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)
_SPOILT = "the pixel data are damaged, incomplete or compressed in an unknown way"


@dataclass(frozen=True, eq=False)
class Clip:
    """The pictures of one SOP instance (a single image is a clip of one); nothing is decoded until it is asked for.

    Attributes:
        path: the file.
        SOPInstanceUID: of the instance.
        shape: (rows, columns) of every frame.
        count: how many frames there are.
        regions: where tissue is, with mm between (rows, columns) where the header tells; the same in every frame.
        tags: header values by DICOM keyword that are of use to an algorithm; nothing that names the patient.
        part: what the header says is shown, one of ``model.body_part.BODY_PARTS``, and where it says so.
        side: the same of its laterality: ``left``, ``right``, ``both``, ``unknown``.
        notes: sentences about what is wrong with the header.
    """

    path: Path
    SOPInstanceUID: str
    shape: tuple[int, int]
    count: int
    regions: tuple[Region, ...]
    tags: Mapping[str, Any]
    part: Evidence
    side: Evidence
    notes: tuple[str, ...]
    _header: Dataset = field(repr=False)
    _space: str | None = None
    """What the pixels really are, where the header names another colour space."""

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> Picture:
        """One picture (``index`` from 0).

        Raises:
            NotAnalysed: it cannot be decoded, or shows flow.
            IndexError: there is no such frame.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} frames, none of index {index}")
        what = "the image" if self.count == 1 else f"frame {index + 1} of {self.count}"
        try:
            samples = decoded(self._header, self.path, index, self._space)
        except NotAnalysed as e:
            raise NotAnalysed(f"{what} cannot be read: {e}") from e
        return _picture(samples, Frame(self.SOPInstanceUID, index + 1), self.regions, what)

    def pictures(self, left_out: list[str] | None = None) -> Iterator[Picture]:
        """Every picture in turn; one that is damaged or shows flow is passed over, and why is added to ``left_out``.

        Raises:
            NotAnalysed: at the end, when more than a fifth of the frames is damaged or none is left.
        """
        reasons: list[str] = []
        for index in range(self.count):
            try:
                yield self.picture(index)
            except NotAnalysed as e:
                reasons.append(str(e))
        if reasons and len(reasons) > LARGEST_SHARE_DAMAGED * self.count:
            raise NotAnalysed(f"{len(reasons)} of {counted(self.count, 'frame')} cannot be used: {reasons[0]}")
        if left_out is not None:
            left_out += reasons


@dataclass(frozen=True)
class FrameSource:
    """The B-mode clips of a study.

    Attributes:
        clips: in the order of series, instance number, UID.
        headers: of each clip, without pixel data.
        notes: sentences about what was left out (no patient data).
    """

    clips: tuple[Clip, ...]
    headers: tuple[Dataset, ...]
    notes: tuple[str, ...] = ()


def read_frames(paths: Sequence[Path]) -> FrameSource:
    """Every B-mode image and clip of a study; what is none (Doppler, M-mode, captures, reports) is left out and named.

    Raises:
        NotAnalysed: nothing is left; the reasons are sentences for a radiologist.
    """
    headers = [read_header(path, ("SeriesNumber", "InstanceNumber", "SOPInstanceUID")) for path in paths]
    check_one_patient(headers)
    found: dict[str, tuple[Clip, Dataset]] = {}
    reasons: Counter[str] = Counter()
    for path, header in zip(paths, headers, strict=True):
        try:
            clip = _clip(path, header)
        except NotAnalysed as e:
            reasons[str(e)] += 1
            continue
        found.setdefault(clip.SOPInstanceUID, (clip, header))
    notes = [f"{counted(n, 'image')} left out: {reason}" for reason, n in sorted(reasons.items())]
    if not found:
        if len(reasons) == 1:
            raise NotAnalysed(next(iter(reasons)))
        raise NotAnalysed("no image shows tissue in B-mode" + (f" ({'; '.join(notes)})" if notes else ""))
    ordered = sorted(found.values(), key=lambda x: _order(x[1]))
    for header in headers:
        for tag in PIXEL_TAGS:
            header.pop(tag, None)
    return FrameSource(tuple(c for c, _ in ordered), tuple(h for _, h in ordered), tuple(notes))


def open_clip(path: Path) -> Clip:
    """One file.

    Raises:
        NotAnalysed: why it is no B-mode image that can be read.
    """
    return _clip(path, read_header(path))


def _clip(path: Path, header: Dataset) -> Clip:
    check_class(header)
    if not is_image(header):
        raise NotAnalysed("an image is incomplete: it has no rows and columns")
    if not header.get("SOPInstanceUID"):
        raise NotAnalysed("no SOP Instance UID, so that no result could refer to the image")
    shape = (int(number(header, "Rows")), int(number(header, "Columns")))
    if min(shape) < tissue.SMALLEST:
        raise NotAnalysed(f"the image is too small ({shape[1]} x {shape[0]} pixels)")
    frame_colour.check_interpretation(header)
    described = describe(header)
    if described.in_colour and photometric(header) in frame_colour.GREY:
        raise NotAnalysed("Doppler: the header names flow in colour, which a grey image cannot tell from tissue")
    count = max(1, int(number(header, "NumberOfFrames", 1)))
    first, space = _first(header, path, count)
    regions = _seen(frame_colour.grey(first), described.regions, pixel_spacing(header))
    _check_flow(first, regions, "the image" if count == 1 else "the clip")
    notes = list(described.notes)
    if space:
        notes.append(f"The header names {photometric(header)} pixels, but they are {space}: they were read as these.")
    spoken = _anatomy(header)
    return Clip(
        path=path,
        SOPInstanceUID=str(header.SOPInstanceUID),
        shape=shape,
        count=count,
        regions=regions,
        tags=plain_tags(header, FRAME_TAGS),
        part=organ.infer_organ([spoken]),
        side=organ.infer_side(spoken),
        notes=tuple(notes),
        _header=header,
        _space=space,
    )


def _anatomy(header: Dataset) -> dict[str, Any]:
    """What the header says of the organ and its side, as the index keeps it; spoilt codes say nothing."""
    found = dict(plain_tags(header, organ.KEYWORDS))
    for keyword in organ.CODES:
        try:
            items = list(header.get(keyword) or ())
            found[keyword] = [plain_tags(item, ("CodeValue", "CodeMeaning")) for item in items]
            for item in items:
                modifiers = list(item.get("AnatomicRegionModifierSequence") or ())
                if modifiers:
                    found["AnatomicRegionModifierSequence"] = [plain_tags(m, ("CodeValue",)) for m in modifiers]
        except HEADER_ERRORS:
            continue
    return found


def _first(header: Dataset, path: Path, count: int) -> tuple[frame_colour.Samples, str | None]:
    """The first frame that can be decoded, and the colour space where the header names a wrong one."""
    for index in range(count):
        try:
            samples = decoded(header, path, index, None)
        except NotAnalysed:
            if index == count - 1:
                raise
            continue
        space = frame_colour.wrongly_named(samples) if samples.ndim == 3 else None
        return (samples if space is None else decoded(header, path, index, space)), space
    raise NotAnalysed(_SPOILT)


def decoded(header: Dataset, path: Path, index: int, space: str | None = None) -> frame_colour.Samples:
    """One frame (``index`` from 0) as grey or RGB of 8 bits, read from disk and decoded alone.

    Args:
        space: what the samples are, where the header is wrong.

    Raises:
        NotAnalysed: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            # pydicom tells the log of headers that contradict the compressed stream; here the pixels are looked at
            warnings.simplefilter("ignore", UserWarning)
            values = next(iter_pixels(path, indices=[index], raw=space is not None))
    except StopIteration as e:
        raise NotAnalysed(_SPOILT) from e
    except _DECODE_ERRORS as e:
        raise NotAnalysed(_SPOILT) from e
    if values.shape[:2] != (int(header.Rows), int(header.Columns)):
        raise NotAnalysed("the pixel data do not have the size that the header says")
    if space == "YBR_FULL":
        return values[..., 0].astype(np.uint8)
    return frame_colour.eight_bits(values, header)


def _seen(
    gray: frame_colour.Samples, described: Sequence[Region], spacing: tuple[float, float] | None
) -> tuple[Region, ...]:
    """The regions, drawn in to where something is seen."""
    whole = (0, 0, gray.shape[0], gray.shape[1])
    regions = []
    for region in described or (Region(whole, spacing),):
        top, left, bottom, right = region.box
        part = gray[top:bottom, left:right]
        box = None if described and tissue.is_empty(part) else tissue.tissue_box(part)
        if box is not None:
            if described:  # a header's region is believed but for its black margins: a cyst at its edge belongs to it
                box = tissue.not_black(part)
            regions.append(Region((top + box[0], left + box[1], top + box[2], left + box[3]), region.spacing))
    if not regions:
        raise NotAnalysed("no tissue is seen: the image is empty, or shows text only")
    return tuple(regions)


def _picture(samples: frame_colour.Samples, frame: Frame, regions: tuple[Region, ...], what: str) -> Picture:
    _check_flow(samples, regions, what)
    gray = frame_colour.grey(samples)
    filled, written = gray.copy(), np.zeros(gray.shape, bool)
    for region in regions:
        inside = _slices(region)
        written[inside] = tissue.strokes(gray[inside]) | frame_colour.coloured(samples[inside])
        filled[inside] = tissue.without(gray[inside], written[inside])
    return Picture(frame, filled, written, regions)


def _slices(region: Region) -> tuple[slice, slice]:
    top, left, bottom, right = region.box
    return slice(top, bottom), slice(left, right)


def _check_flow(samples: frame_colour.Samples, regions: Sequence[Region], what: str) -> None:
    if any(frame_colour.shows_flow(samples[_slices(region)]) for region in regions):
        raise NotAnalysed(f"{what} shows flow or stiffness in colour (Doppler, elastography), not tissue alone")


def _order(header: Dataset) -> tuple[float, float, str]:
    series, instance = (number(header, k, float("inf")) for k in ("SeriesNumber", "InstanceNumber"))
    return series, instance, str(header.SOPInstanceUID)
