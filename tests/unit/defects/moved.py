"""Defects that only the findings show: SEG and report agree, and say something else than what was found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from tests.unit.defects.record import Break, frames, groups, item
from tests.unit.result_samples import headers

Plane = npt.NDArray[np.uint8]


def _redraw(seg: Dataset, change: Callable[[Plane], Plane]) -> None:
    planes = seg.pixel_array
    seg.PixelData = np.packbits(np.stack([change(p) for p in planes]).ravel(), bitorder="little").tobytes()


def mask_mirrored(seg: Dataset, sr: Dataset) -> None:
    _redraw(seg, lambda plane: plane[:, ::-1])


def mask_upside_down(seg: Dataset, sr: Dataset) -> None:
    _redraw(seg, lambda plane: plane[::-1])


def mask_one_pixel_off(seg: Dataset, sr: Dataset) -> None:
    _redraw(seg, lambda plane: np.roll(plane, 1, axis=1))


def mask_one_slice_off(seg: Dataset, sr: Dataset) -> None:
    """Every frame at the next image's place, and referring to it: consistent in itself."""
    source = headers()
    order = [str(h.SOPInstanceUID) for h in source]
    for frame in frames(seg):
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        following = source[order.index(reference.ReferencedSOPInstanceUID) + 1]
        reference.ReferencedSOPInstanceUID = following.SOPInstanceUID
        frame.PlanePositionSequence[0].ImagePositionPatient = following.ImagePositionPatient


def frame_left_out(seg: Dataset, sr: Dataset) -> None:
    """One slice of the first segment is empty."""
    planes = seg.pixel_array
    planes[1] = 0
    seg.PixelData = np.packbits(planes.ravel(), bitorder="little").tobytes()


def sides_exchanged(seg: Dataset, sr: Dataset) -> None:
    """Left is called right and right left, in SEG and SR alike."""
    one, two = seg.SegmentSequence
    one.SegmentLabel, two.SegmentLabel = two.SegmentLabel, one.SegmentLabel
    one.TrackingID, two.TrackingID = two.TrackingID, one.TrackingID
    first, second = (item(g, "112039") for g in groups(sr)[:2])
    first.TextValue, second.TextValue = second.TextValue, first.TextValue


def index_wrong(seg: Dataset, sr: Dataset) -> None:
    """A number that no mask has."""
    measured = item(groups(sr)[4], "103372001").MeasuredValueSequence[0]
    measured.NumericValue, measured.FloatingPointValue = "-12.34", -12.34


def index_unit_wrong(seg: Dataset, sr: Dataset) -> None:
    measured = item(groups(sr)[4], "103372001").MeasuredValueSequence[0]
    measured.MeasurementUnitsCodeSequence[0].CodeValue = "1"


def index_missing(seg: Dataset, sr: Dataset) -> None:
    del item(sr, "126010").ContentSequence[4]


def index_invented(seg: Dataset, sr: Dataset) -> None:
    number = item(groups(sr)[4], "103372001")
    item(number, "112039").TextValue = "Another index"


MOVED: dict[Break, str] = {
    mask_mirrored: r"^seg\.dcm: frame 1 differs in \d+ pixels from segment 1 of the findings .* so do 6 more frames$",
    mask_upside_down: r"^seg\.dcm: frame \d differs in \d+ pixels from segment \d of the findings",
    mask_one_pixel_off: r"^seg\.dcm: frame 1 differs in 20 pixels from segment 1 of the findings",
    mask_one_slice_off: r"^seg\.dcm: segment 1 of the findings on the image 2\.25\.\d+ lacks its frame; so do 1 more",
    frame_left_out: r"^seg\.dcm: frame 2 differs in 150 pixels from segment 1 of the findings on the image",
    sides_exchanged: r"^seg\.dcm: the label of segment 1 is Right hippocampus, that of the findings Left hippocampus$",
    index_wrong: r"^sr\.dcm: Asymmetry index is -12\.34 %, that of the findings 12\.34 %$",
    index_unit_wrong: r"^sr\.dcm: Asymmetry index is 12\.34 1, that of the findings 12\.34 %$",
    index_missing: r"^sr\.dcm: the measurement Asymmetry index of the findings is missing$",
    index_invented: r"^sr\.dcm: the findings have no measurement Another index$",
}
