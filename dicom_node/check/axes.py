"""Diameters of a mask, measured again from the SEG and the source's header alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.check.objects import items, numbers
from dicom_node.model.planes import is_flat

Mask = npt.NDArray[np.bool_]
Scale = tuple[float, float]
"""Length of a pixel along (rows, columns)."""

MILLIMETRES, PIXELS = "mm", "{pixels}"
TOLERANCE = 0.01
"""In mm or pixels."""
_ALIKE = 1e-6
"""Diameters that differ by less are equally long: which of them is called the longest is chance."""
_TWO_D, _TISSUE, _CENTIMETRES = 1.0, (1.0, 2.0), [3.0]
_CORNERS = ("MinY0", "MinX0", "MaxY1", "MaxX1")
_SLACK = 2
_FINEST, _COARSEST = 0.01, 2.0


def diameters(mask: Mask, scale: Scale) -> tuple[float, list[float]]:
    """The longest diameter from pixel edge to pixel edge, and the extents across each diameter that is as long.

    Args:
        mask: (rows, columns), not empty.
    """
    # Takes half a second to load, and few results have an axis.
    from scipy.spatial import ConvexHull

    rows = np.flatnonzero(mask.any(1))
    left, right = mask.argmax(1)[rows], mask.shape[1] - mask[:, ::-1].argmax(1)[rows]
    corners = [np.stack([rows + down, column], 1) for down in (0, 1) for column in (left, right)]
    points = np.concatenate(corners) * np.array(scale)
    outer = points[ConvexHull(points).vertices]
    apart = np.linalg.norm(outer[:, None] - outer[None], axis=2)
    longest = float(apart.max())
    across = []
    for first, second in np.argwhere(apart >= longest * (1 - _ALIKE)):
        along = (outer[second] - outer[first]) / apart[first, second]
        across.append(float(np.ptp(outer @ np.array([-along[1], along[0]]))))
    return longest, across


def axis_problem(value: float, unit: str, longest: bool, mask: Mask, header: Dataset) -> str:
    """What is wrong with a length that is said to be an axis of the mask; empty when nothing is.

    Args:
        longest: whether it is the longest diameter, or the extent across that.
        header: of the plane's image.
    """
    known = list(scales(mask, header))
    units = {unit for unit, _ in known}
    if unit not in units:
        return f"is in {unit}, the image's scale makes it {' or '.join(sorted(units))}"
    measured: list[float] = []
    for of_unit, scale in known:
        if of_unit == unit:
            length, across = diameters(mask, scale)
            measured += [length] if longest else across
    if any(abs(value - m) <= max(TOLERANCE, 1e-3 * m) for m in measured):
        return ""
    return f"is {value:.3f} {unit}, the mask's is {measured[0]:.3f}"


def scales(mask: Mask, header: Dataset) -> Iterator[tuple[str, Scale]]:
    """The units that lengths of this mask may be in, with the length of a pixel: of ultrasound those of the tissue
    regions that hold the mask (PS3.3 C.8.5.5), else Pixel Spacing; without either, pixels."""
    found = list(_of_regions(mask, header)) if is_flat(header) else []
    if found:
        yield from ((MILLIMETRES, scale) for scale in found)
        return
    spacing = numbers(header, "PixelSpacing")
    if len(spacing) == 2 and all(_FINEST <= s <= (_COARSEST if is_flat(header) else np.inf) for s in spacing):
        yield MILLIMETRES, (spacing[0], spacing[1])
        if not is_flat(header):
            return
    yield PIXELS, (1.0, 1.0)


def _of_regions(mask: Mask, header: Dataset) -> Iterator[Scale]:
    rows, columns = np.nonzero(mask)
    regions = []
    for item in items(header, "SequenceOfUltrasoundRegions"):
        of_tissue = any(kind in _TISSUE for kind in numbers(item, "RegionDataType"))
        if of_tissue and numbers(item, "RegionSpatialFormat") == [_TWO_D]:
            regions.append(item)
    boxes = [[(numbers(item, f"RegionLocation{k}") or [-1.0])[0] for k in _CORNERS] for item in regions]
    limits = (mask.shape[0] - 1 + _SLACK, mask.shape[1] - 1 + _SLACK)
    if any(top < 0 or left < 0 or bottom > limits[0] or right > limits[1] for top, left, bottom, right in boxes):
        return  # what does not fit the image is not believed
    for item, (top, left, bottom, right) in zip(regions, boxes, strict=True):
        holds = top <= rows.min() and rows.max() <= bottom and left <= columns.min() and columns.max() <= right
        in_cm = all(numbers(item, f"PhysicalUnits{axis}Direction") == _CENTIMETRES for axis in "XY")
        scale = [10 * abs((numbers(item, f"PhysicalDelta{axis}") or [0.0])[0]) for axis in "YX"]
        if holds and in_cm and all(_FINEST <= s <= _COARSEST for s in scale):
            yield scale[0], scale[1]
