"""What the header of an ultrasound image says of its regions (PS3.3 C.8.5.5) and of how it was made (C.8.5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pydicom
from pydicom import Dataset

from dicom_node.algorithm import Region
from dicom_node.errors import NotAnalysed
from dicom_node.model.planes import ULTRASOUND
from dicom_node.run.images import HEADER_ERRORS, image_type, number, numbers
from dicom_node.run.tissue import Box

_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"

TWO_D, M_MODE, SPECTRAL = 1, 2, 3
"""Region Spatial Format."""
TISSUE, COLOUR_FLOW = 1, 2
"""Region Data Type."""
CENTIMETRES = 3
"""Physical Units X/Y Direction."""
MODES = {
    0x0002: "M-mode",
    0x0004: "continuous wave Doppler",
    0x0008: "pulsed wave Doppler",
    0x0010: "colour Doppler",
    0x0020: "colour M-mode",
    0x0040: "a 3-D rendering",
    0x0100: "power Doppler",
}
"""Bits of the fourth value of Image Type."""
ONE_DIMENSIONAL = 0x0002 | 0x0004 | 0x0008 | 0x0020 | 0x0040
"""Modes whose display is no picture of tissue, or only beside one."""
IN_COLOUR = 0x0010 | 0x0100

SLACK = 2
"""Pixels by which a region may stick out of its image."""
FINEST, COARSEST = 0.01, 2.0
"""mm per pixel that an ultrasound picture can have."""


@dataclass(frozen=True)
class Described:
    """What the header says.

    Attributes:
        regions: of tissue; empty: the pixels must tell.
        notes: what is wrong with it.
        in_colour: it says that flow is shown in colour.
    """

    regions: tuple[Region, ...]
    notes: tuple[str, ...]
    in_colour: bool


def check_class(header: Dataset) -> None:
    """Refuse what is no ultrasound picture by its SOP class.

    Raises:
        NotAnalysed: says what it is.
    """
    uid = str(header.get("SOPClassUID") or "")
    if uid in ULTRASOUND:
        return
    name = pydicom.uid.UID(uid).name
    if "Secondary Capture" in name:
        raise NotAnalysed("a secondary capture: a picture of a screen or page, not of a probe")
    if uid == _VOLUME:
        raise NotAnalysed("an ultrasound volume, not a picture")
    raise NotAnalysed("not an ultrasound image")


def describe(header: Dataset) -> Described:
    """Tissue regions with their scale.

    Raises:
        NotAnalysed: the header says that there is no tissue in two dimensions.
    """
    modes = _modes(header)
    try:
        items = [_item(x) for x in header.get("SequenceOfUltrasoundRegions") or ()]
    except HEADER_ERRORS:
        items, damaged = [], True
    else:
        damaged = False
    shape = (int(number(header, "Rows")), int(number(header, "Columns")))
    pictures = [x for x in items if x.format == TWO_D and x.kind in (TISSUE, COLOUR_FLOW)]
    in_colour = bool(modes & IN_COLOUR) or any(x.kind == COLOUR_FLOW for x in pictures)
    if not pictures:
        _check_modes(modes, items)
    if damaged or any(not x.lies_in(shape) for x in pictures):
        note = "The ultrasound regions of the header do not fit the image: sizes are in pixels."
        return Described((), (note,), in_colour)
    if pictures:
        return Described(tuple(_once(pictures, shape)), (), in_colour)
    return Described((), (), in_colour)


def pixel_spacing(header: Dataset) -> tuple[float, float] | None:
    """Pixel Spacing in mm of an image without regions, where it can be true."""
    spacing = numbers(header, "PixelSpacing", 2)
    if spacing is None or not all(FINEST <= s <= COARSEST for s in spacing):
        return None
    return spacing[0], spacing[1]


@dataclass(frozen=True)
class _Item:
    format: int
    kind: int
    box: Box
    spacing: tuple[float, float] | None

    def lies_in(self, shape: tuple[int, int]) -> bool:
        top, left, bottom, right = self.box
        inside = min(top, left) >= 0 and bottom <= shape[0] + SLACK and right <= shape[1] + SLACK
        return inside and bottom > top and right > left


def _item(item: Dataset) -> _Item:
    box = (
        int(number(item, "RegionLocationMinY0", -1)),
        int(number(item, "RegionLocationMinX0", -1)),
        int(number(item, "RegionLocationMaxY1", -1)) + 1,
        int(number(item, "RegionLocationMaxX1", -1)) + 1,
    )
    return _Item(int(number(item, "RegionSpatialFormat")), int(number(item, "RegionDataType")), box, _scale(item))


def _scale(item: Dataset) -> tuple[float, float] | None:
    """mm between (rows, columns)."""
    if any(int(number(item, k)) != CENTIMETRES for k in ("PhysicalUnitsXDirection", "PhysicalUnitsYDirection")):
        return None
    # the sign tells the direction in which the physical axis runs
    down, across = (10 * abs(number(item, k)) for k in ("PhysicalDeltaY", "PhysicalDeltaX"))
    return (down, across) if all(FINEST <= mm <= COARSEST for mm in (down, across)) else None


def _once(items: Sequence[_Item], shape: tuple[int, int]) -> list[Region]:
    """The regions, from left to right; one that lies in another is not counted again."""
    kept: list[_Item] = []
    for item in sorted(items, key=lambda x: -_area(x.box)):
        if not any(_area(_common(item.box, other.box)) > 0.5 * _area(item.box) for other in kept):
            kept.append(item)
    limits = (0, 0, *shape)
    return [Region(_common(x.box, limits), x.spacing) for x in sorted(kept, key=lambda x: (x.box[1], x.box[0]))]


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _common(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _modes(header: Dataset) -> int:
    values = image_type(header)
    try:
        return int(values[3], 16) if len(values) > 3 else 0
    except ValueError:
        return 0


def _check_modes(modes: int, items: Sequence[_Item]) -> None:
    if any(x.format == M_MODE for x in items):
        raise NotAnalysed("M-mode, not a picture of tissue in two dimensions")
    if any(x.format == SPECTRAL for x in items):
        raise NotAnalysed("spectral Doppler, not a picture of tissue in two dimensions")
    named = [name for bit, name in MODES.items() if modes & bit & ONE_DIMENSIONAL]
    if named:
        raise NotAnalysed(f"Image Type names {' and '.join(named)}, and no region tells where the tissue is")
