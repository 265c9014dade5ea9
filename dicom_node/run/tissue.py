"""Where the tissue is in an ultrasound picture, and what is written over it, found from the pixels alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Gray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""(top, left, bottom, right), the last two exclusive."""

DARKEST_TISSUE = 8
"""Grey value that speckle passes, and compressed black does not."""
EMPTY = 0.15
"""Share of bright pixels below which a region shows no tissue; an abdominal sector's corners alone are 40% black."""
FLATTEST = 1.0
"""Standard deviation that speckle has, and the filled bars of a screen have not."""
SMALLEST = 64
"""Edge in pixels of the smallest region in which a lesion could be told from its surroundings."""
PART = 0.25
"""A piece of this share of the largest one is tissue too: dual images stand side by side."""
STROKE = 7
"""Pixels: strokes of text and calipers are thinner than this."""
WHITE = 90
"""By how many grey values a stroke is brighter than what is around it."""


def tissue_box(gray: Gray) -> Box | None:
    """The box around the largest bright area without text, scales and grey bars.

    Args:
        gray: (rows, columns).

    Returns:
        None where there is no such area of at least ``SMALLEST`` pixels in each direction: text only, an empty sector.
    """
    if min(gray.shape) < SMALLEST:
        return None
    # half the resolution tells as much, in a quarter of the time
    step = 2 if min(gray.shape) >= 4 * SMALLEST else 1
    small = gray[::step, ::step]
    bright = (ndimage.median_filter(small, 3) > DARKEST_TISSUE) & (deviation(small) > FLATTEST)
    wide = 9 // step
    filled = ndimage.binary_closing(np.pad(bright, wide), np.ones((wide, wide), bool))[wide:-wide, wide:-wide]
    # a line of text is less high than this, a grey bar less wide
    size = max(15, round(0.05 * min(gray.shape))) // step
    opened = ndimage.binary_opening(np.pad(filled, size, mode="edge"), np.ones((size, size), bool))
    parts, count = ndimage.label(opened[size:-size, size:-size])
    if not count:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = np.isin(parts, np.flatnonzero(sizes >= PART * sizes.max()))
    down, across = np.flatnonzero(kept.any(1)) * step, np.flatnonzero(kept.any(0)) * step
    box = (int(down[0]), int(across[0]), min(int(down[-1]) + step, len(gray)), int(across[-1]) + step)
    box = (*box[:3], min(box[3], gray.shape[1]))
    if box[2] - box[0] < SMALLEST or box[3] - box[1] < SMALLEST:
        return None
    return box


def is_empty(gray: Gray) -> bool:
    """Whether a tissue region shows next to nothing: a probe in air has a few bright lines at its surface."""
    return bool((ndimage.median_filter(gray[::2, ::2], 3) > DARKEST_TISSUE).mean() < EMPTY)


def not_black(gray: Gray) -> Box:
    """The box around what is brighter than black; the whole where nothing is."""
    bright = ndimage.median_filter(gray[::2, ::2], 3) > DARKEST_TISSUE
    down, across = np.flatnonzero(bright.any(1)) * 2, np.flatnonzero(bright.any(0)) * 2
    if not len(down):
        return 0, 0, gray.shape[0], gray.shape[1]
    bottom, right = min(int(down[-1]) + 2, gray.shape[0]), min(int(across[-1]) + 2, gray.shape[1])
    return int(down[0]), int(across[0]), bottom, right


def deviation(gray: Gray) -> npt.NDArray[np.float32]:
    """Standard deviation of the 5 x 5 pixels around each."""
    values = gray.astype(np.float32)
    mean = ndimage.uniform_filter(values, 5)
    square = ndimage.uniform_filter(values * values, 5)
    result: npt.NDArray[np.float32] = np.sqrt(np.maximum(square - mean * mean, 0))
    return result


def strokes(gray: Gray) -> Mask:
    """Pixels of thin lines much brighter than their surroundings: text, calipers, scales.

    Bright speckle is passed over: a stroke is nearly the brightest there is, and all of one brightness.
    """
    top = int(gray.max(initial=0))
    thin = gray.astype(np.int16) - ndimage.grey_opening(gray, (STROKE, STROKE)) > WHITE
    flat = ndimage.maximum_filter(gray, 3).astype(np.int16) - gray < 12
    seeds = thin & flat & (gray >= 0.9 * top)
    grown: Mask = ndimage.binary_dilation(seeds, np.ones((3, 3), bool)) & (thin | (gray >= 0.6 * top))
    return grown


def without(gray: Gray, written: Mask) -> Gray:
    """The picture with marked pixels filled from what is around them."""
    if not written.any():
        return gray
    rows, columns = ndimage.distance_transform_edt(
        ndimage.binary_dilation(written), return_distances=False, return_indices=True
    )
    filled = gray[rows, columns]
    smooth = ndimage.uniform_filter(filled, 3)
    result: Gray = np.where(ndimage.binary_dilation(written), smooth, gray)
    return result
