"""From decoded samples of an ultrasound frame to grey values, and what its colours say of how it was made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut
from scipy import ndimage

from dicom_node.errors import NotAnalysed
from dicom_node.run.images import number, photometric
from dicom_node.run.tissue import FLATTEST, deviation

Samples = npt.NDArray[np.uint8]
"""(rows, columns) grey, or (rows, columns, 3) RGB."""
Mask = npt.NDArray[np.bool_]

COLOURED = 40
"""Between the largest and the smallest of red, green and blue; lossy compression makes less of a grey picture."""
FLOW_SHARE = 0.002
"""Of the tissue: patches of colour this large are flow, less is a marker."""
FLOW_PIXELS = 400
"""Pixels: makers' coloured logos in the picture are smaller."""
FLOW_EDGE = 5
"""Pixels: lines of coloured text and calipers are thinner."""
ONE_COLOUR = 0.3
"""Of all coloured pixels: this many of one colour were drawn."""
SAME_HUE = 25.0
"""Degrees by which the hues of a tinted picture differ at most."""
NEUTRAL = 10
"""By how much a chroma sample of a grey picture differs from 128."""

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
KNOWN = (*GREY, *COLOUR, "PALETTE COLOR")


def check_interpretation(header: Dataset) -> None:
    """Refuse a Photometric Interpretation (PS3.3 C.7.6.3.1.2) that is unknown, or that the pixels cannot have.

    Raises:
        NotAnalysed: says what the header says.
    """
    said, samples = photometric(header), int(number(header, "SamplesPerPixel", 1))
    if said not in KNOWN:
        raise NotAnalysed(f"the header names the photometric interpretation {said or '(none)'!r}, which cannot be read")
    if samples != (3 if said in COLOUR else 1):
        plural = "sample" if samples == 1 else "samples"
        raise NotAnalysed(f"the header is wrong: {said} pixels do not have {samples} {plural}")


def eight_bits(values: npt.NDArray[np.generic], header: Dataset) -> Samples:
    """Decoded values as grey or RGB of 8 bits; palettes applied, MONOCHROME1 turned.

    Args:
        values: (rows, columns) or (rows, columns, 3), YBR already converted to RGB.

    Raises:
        NotAnalysed: the palette is missing or damaged.
    """
    said = photometric(header)
    if said == "PALETTE COLOR":
        try:
            coloured = apply_color_lut(values, header)
        except (ValueError, KeyError, AttributeError, IndexError, NotImplementedError, TypeError) as e:
            raise NotAnalysed("the colour palette of the image is missing or damaged") from e
        # 16-bit entries hold the colour in their high byte (PS3.3 C.7.6.3.1.6)
        return coloured.astype(np.uint8) if coloured.dtype == np.uint8 else (coloured >> 8).astype(np.uint8)
    bits = int(number(header, "BitsStored", 8))
    top = 2**bits - 1
    wide = values.astype(np.int64)
    if int(number(header, "PixelRepresentation")):
        wide += 2 ** (bits - 1)
    if bits != 8:
        wide = wide * 255 // top
    wide = np.clip(wide, 0, 255)
    return (255 - wide if said == "MONOCHROME1" else wide).astype(np.uint8)


def wrongly_named(rgb: Samples) -> str | None:
    """Which colour space the pixels of a B-mode picture really have, when the header names another; None: it is right.

    Most of a B-mode picture is grey. YBR samples that were taken for RGB have green and blue of 128 there; RGB
    samples that were converted as if they were YBR have a green near 128, whatever their brightness.
    """
    red, green, blue = (np.abs(rgb[..., k].astype(np.int16) - 128) <= NEUTRAL for k in range(3))
    if red.mean() > 0.5 or green.mean() < 0.8:
        return None
    return "YBR_FULL" if blue.mean() > 0.8 else "RGB"


def grey(samples: Samples) -> Samples:
    """Grey values; of colours their luminance (ITU-R BT.601)."""
    if samples.ndim == 2:
        return samples
    weighted = samples.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    result: Samples = ((weighted + 500) // 1000).astype(np.uint8)
    return result


def coloured(samples: Samples) -> Mask:
    """Pixels that have a colour."""
    if samples.ndim == 2:
        return np.zeros(samples.shape, bool)
    result: Mask = samples.max(2).astype(np.int16) - samples.min(2) > COLOURED
    return result


def shows_flow(samples: Samples) -> bool:
    """Whether the tissue region (rows, columns[, 3]) shows patches of colour: Doppler, elastography and the like.

    A picture that is tinted as a whole is none of these.
    """
    mask = coloured(samples)
    if not mask.any():
        return False
    patches = ndimage.binary_opening(mask & ~_drawn(samples, mask), np.ones((FLOW_EDGE, FLOW_EDGE), bool))
    if patches.sum() <= max(FLOW_PIXELS, FLOW_SHARE * mask.size):
        return False
    visible = samples.max(2) > 2 * COLOURED
    return not (mask[visible].mean() > 0.7 and _one_hue(samples[mask]))


def _drawn(samples: Samples, mask: Mask) -> Mask:
    """Bars and buttons of a screen: flat, or of exactly one colour; flow has many."""
    packed = samples.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, counts = np.unique(packed[mask], return_counts=True)
    result: Mask = np.isin(packed, colours[counts > ONE_COLOUR * mask.sum()])
    return result | (deviation(grey(samples)) <= FLATTEST)


def _one_hue(pixels: npt.NDArray[np.uint8]) -> bool:
    red, green, blue = (pixels[:, k].astype(np.float64) for k in range(3))
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    middle = np.angle(np.exp(1j * hue).mean())
    apart = np.abs(np.angle(np.exp(1j * (hue - middle))))
    return bool(np.percentile(np.degrees(apart), 95) < SAME_HUE)
