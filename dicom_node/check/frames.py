"""The frames of a Segmentation one by one: what each is of, where it lies, and its pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.check.objects import (
    READ_ERRORS,
    Attributes,
    PlaneKey,
    ResultFile,
    first_item,
    items,
    numbers,
    text,
    value,
)
from dicom_node.check.reading import Item

DECODE_ERRORS = (*READ_ERRORS, RuntimeError)
"""What spoilt compressed pixels can make a decoder raise."""


def frames_of(ds: Item) -> list[Item]:
    """The functional groups of each frame."""
    return items(ds, "PerFrameFunctionalGroupsSequence")


def shared(ds: Item, keyword: str) -> Attributes:
    """The first item of a functional group that all frames share; empty where there is none."""
    return first_item(ds, "SharedFunctionalGroupsSequence", keyword)


def position(frame: Item) -> list[float]:
    """Image Position (Patient) of a frame, LPS in mm."""
    return numbers(first_item(frame, "PlanePositionSequence"), "ImagePositionPatient")


def segment_number(frame: Item, ds: Item) -> object:
    """The frame's own, or, in a SEG of one segment, the one that all frames share."""
    own = items(frame, "SegmentIdentificationSequence")
    return value(own[0] if own else shared(ds, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")


def source_references(frame: Item) -> list[Item]:
    """The references to the source images of a frame; a sound frame has one."""
    return items(frame, "DerivationImageSequence", "SourceImageSequence")


def source_plane(frame: Item) -> PlaneKey:
    """The image plane that the frame is of by its first reference; an empty UID where there is none."""
    references = source_references(frame)
    if not references:
        return "", 1
    number = numbers(references[0], "ReferencedFrameNumber")
    return text(references[0], "ReferencedSOPInstanceUID"), int(number[0]) if number else 1


def frame_size(ds: Attributes) -> tuple[int, int]:
    """Rows and columns; zeros where they are not given."""
    rows, columns = numbers(ds, "Rows"), numbers(ds, "Columns")
    return (int(rows[0]), int(columns[0])) if rows and columns else (0, 0)


def is_label_map(ds: Item) -> bool:
    """Whether one frame holds the numbers of all segments, instead of one bit for a single one."""
    return text(ds, "SegmentationType") == "LABELMAP"


def described_segments(ds: Item) -> list[Item]:
    """The items of Segment Sequence, without the background that a label map describes as number 0."""
    found = items(ds, "SegmentSequence")
    return [s for s in found if not (is_label_map(ds) and value(s, "SegmentNumber") == 0)]


def pixel_problem(result: ResultFile) -> str:
    """Why the pixels are not one bit, or in a label map one byte, for each pixel of each frame; empty if they are."""
    rows, columns = frame_size(result.ds)
    count, bits = len(frames_of(result.ds)), 8 if is_label_map(result.ds) else 1
    syntax = UID(text(result.meta, "TransferSyntaxUID") or ExplicitVRLittleEndian)
    if bits == 8 and syntax.is_private is False and syntax.is_compressed:
        try:
            found = _decoded(result).shape
        except DECODE_ERRORS as error:
            return f"{result.name}: PixelData cannot be decoded: {type(error).__name__}"
        wanted = (count, rows, columns)
        return "" if found == wanted else f"{result.name}: PixelData decodes to {found} pixels, not to {wanted}"
    needed = -(-count * rows * columns * bits // 8)
    held = len(value(result.ds, "PixelData") or b"")
    if rows * columns and value(result.ds, "BitsAllocated") == bits and 0 <= held - needed <= 1:
        return ""
    unit = "1 bit" if bits == 1 else "8 bits"
    return f"{result.name}: PixelData has {held} bytes, {count} frames of {unit} need {needed}"


def _decoded(result: ResultFile) -> npt.NDArray[np.uint8]:
    """The frames of a label map, (frames, rows, columns)."""
    pixels: npt.NDArray[np.uint8] = pixel_array(result.path)
    return pixels.reshape(-1, *pixels.shape[-2:])


def masks(result: ResultFile) -> Iterator[tuple[int, Item, object, npt.NDArray[np.bool_]]]:
    """(index of the frame, frame, segment number, mask of shape (rows, columns)), each segment of a frame by itself.

    Only where there is no :func:`pixel_problem`. Of a label map only the numbers that occur in a frame.

    The bits follow one another without gaps, also from frame to frame, and the first is the lowest bit of its
    byte (PS3.5 section 8.1.1).
    """
    ds = result.ds
    if is_label_map(ds):
        for index, (frame, labels) in enumerate(zip(frames_of(ds), _decoded(result), strict=True)):
            for number in np.flatnonzero(np.bincount(labels.ravel())):
                if number:
                    yield index, frame, int(number), labels == number
        return
    rows, columns = frame_size(ds)
    size = rows * columns
    data = np.frombuffer(value(ds, "PixelData") or b"", np.uint8)
    for index, frame in enumerate(frames_of(ds)):
        start = index * size
        whole = np.unpackbits(data[start // 8 : -(-(start + size) // 8)], bitorder="little")
        mask = whole[start % 8 : start % 8 + size].reshape(rows, columns).view(np.bool_)
        yield index, frame, segment_number(frame, ds), mask


def summed_up(problems: list[str]) -> str:
    """One sentence for a problem that many frames share."""
    more = len(problems) - 1
    return problems[0] if not more else f"{problems[0]}; so do {more} more frames"
