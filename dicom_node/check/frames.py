"""The frames of a Segmentation one by one: what each is of, where it lies, and its pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.check.objects import PlaneKey, ResultFile, items, numbers, text, value


def frames_of(ds: Dataset) -> list[Dataset]:
    """The functional groups of each frame."""
    return items(ds, "PerFrameFunctionalGroupsSequence")


def shared(ds: Dataset, keyword: str) -> Dataset:
    """The first item of a functional group that all frames share; empty where there is none."""
    return (items(ds, "SharedFunctionalGroupsSequence", keyword) or [Dataset()])[0]


def position(frame: Dataset) -> list[float]:
    """Image Position (Patient) of a frame, LPS in mm."""
    return numbers((items(frame, "PlanePositionSequence") or [Dataset()])[0], "ImagePositionPatient")


def segment_number(frame: Dataset, ds: Dataset) -> object:
    """The frame's own, or, in a SEG of one segment, the one that all frames share."""
    own = items(frame, "SegmentIdentificationSequence")
    return value(own[0] if own else shared(ds, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")


def source_references(frame: Dataset) -> list[Dataset]:
    """The references to the source images of a frame; a sound frame has one."""
    return items(frame, "DerivationImageSequence", "SourceImageSequence")


def source_plane(frame: Dataset) -> PlaneKey:
    """The image plane that the frame is of by its first reference; an empty UID where there is none."""
    references = source_references(frame)
    if not references:
        return "", 1
    number = numbers(references[0], "ReferencedFrameNumber")
    return text(references[0], "ReferencedSOPInstanceUID"), int(number[0]) if number else 1


def frame_size(ds: Dataset) -> tuple[int, int]:
    """Rows and columns; zeros where they are not given."""
    rows, columns = numbers(ds, "Rows"), numbers(ds, "Columns")
    return (int(rows[0]), int(columns[0])) if rows and columns else (0, 0)


def pixel_problem(result: ResultFile) -> str:
    """Why the pixels are not one bit for each pixel of each frame; empty when they are."""
    rows, columns = frame_size(result.ds)
    count = len(frames_of(result.ds))
    needed = -(-count * rows * columns // 8)
    held = len(value(result.ds, "PixelData") or b"")
    if rows * columns and value(result.ds, "BitsAllocated") == 1 and 0 <= held - needed <= 1:
        return ""
    return f"{result.name}: PixelData has {held} bytes, {count} frames of 1 bit need {needed}"


def masks(ds: Dataset) -> Iterator[tuple[Dataset, npt.NDArray[np.bool_]]]:
    """Each frame and its mask, shape (rows, columns); only where there is no :func:`pixel_problem`.

    The bits follow one another without gaps, also from frame to frame, and the first is the lowest bit of its
    byte (PS3.5 section 8.1.1).
    """
    rows, columns = frame_size(ds)
    size = rows * columns
    data = np.frombuffer(value(ds, "PixelData") or b"", np.uint8)
    for index, frame in enumerate(frames_of(ds)):
        start = index * size
        whole = np.unpackbits(data[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield frame, whole[start % 8 : start % 8 + size].reshape(rows, columns).astype(bool)


def summed_up(problems: list[str]) -> str:
    """One sentence for a problem that many frames share."""
    more = len(problems) - 1
    return problems[0] if not more else f"{problems[0]}; so do {more} more frames"
