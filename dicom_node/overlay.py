"""A picture of a SEG on its source images, made from the DICOM objects themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

_PANEL = 420  # pixels; the side of one plane
_ZOOM_MM = 110.0  # field of view of the close-up
_LEFT, _POSTERIOR, _HEAD = 0, 1, 2


def draw_overlay(seg_file: Path, sources: Sequence[Path], out: Path, title: str) -> None:
    """Write a PNG: axial, coronal and sagittal planes through the mask, whole and close up, with a legend.

    Planes are shown as radiologists see them: the patient's left is on the right of axial and coronal planes,
    and the front on the left of sagittal ones.

    Args:
        seg_file: a BINARY SEG whose frames refer to ``sources``.
        sources: the source series' files, in any order.
        title: the line at the top; no patient data.
    """
    seg = pydicom.dcmread(seg_file)
    image, mask, affine = _stack(seg, sources)
    canonical, labels, spacing = _to_lps(image, mask, affine)
    where = ndimage.center_of_mass(labels > 0)
    window = (float(np.percentile(canonical, 1)), float(np.percentile(canonical, 99.5)))
    colours = _colours(seg)
    half = _ZOOM_MM / 2 / spacing
    close = tuple(slice(max(0, int(c - h)), int(c + h) + 1) for c, h in zip(where, half, strict=True))
    whole = tuple(slice(0, n) for n in canonical.shape)
    rows = []
    for box in (whole, close):
        panels = []
        for axis in (_HEAD, _POSTERIOR, _LEFT):
            best = _busiest(labels, axis)
            index: list[slice | int] = list(box)
            index[axis] = best
            plane, marks = canonical[tuple(index)], labels[tuple(index)]
            kept = [a for a in (0, 1, 2) if a != axis]
            if axis != _HEAD:  # the head is up
                plane, marks = plane[:, ::-1], marks[:, ::-1]
            panels.append(_panel(plane, marks, spacing[kept], window, colours))
        rows.append(np.concatenate(panels, axis=1))
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    _annotate(picture, seg, colours, title).save(out)


def _stack(
    seg: Dataset, sources: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Source pixels, label map and affine ((slice, row, column) to LPS mm), in the order along the normal."""
    wanted = {i.ReferencedSOPInstanceUID for s in seg.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence}
    # by UID: the same image sent twice is one slice
    known = {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(p) for p in sources)}
    datasets = [ds for uid, ds in known.items() if uid in wanted]
    cosines = np.array([float(v) for v in datasets[0].ImageOrientationPatient])
    normal = np.cross(cosines[:3], cosines[3:])
    datasets.sort(key=lambda ds: float(np.dot(normal, [float(v) for v in ds.ImagePositionPatient])))
    position = {ds.SOPInstanceUID: index for index, ds in enumerate(datasets)}
    image = np.stack([pixel_array(ds) for ds in datasets]).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    planes = pixel_array(seg).reshape(-1, seg.Rows, seg.Columns)
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        # A SEG of one segment may name it once for all frames.
        identified = group if "SegmentIdentificationSequence" in group else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        mask[position[source]][plane > 0] = number
    first, last = (np.array([float(v) for v in datasets[i].ImagePositionPatient]) for i in (0, -1))
    spacing = [float(v) for v in datasets[0].PixelSpacing]
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / max(1, len(datasets) - 1)
    affine[:3, 1] = cosines[3:] * spacing[0]
    affine[:3, 2] = cosines[:3] * spacing[1]
    affine[:3, 3] = first
    return image, mask, affine


def _to_lps(
    image: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Turn and flip the axes so that they run to the left, to the back and to the head, as nearly as they do."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = [int(np.argmax(np.abs(directions[axis]))) for axis in (_LEFT, _POSTERIOR, _HEAD)]
    flips = tuple(axis for axis in (_LEFT, _POSTERIOR, _HEAD) if directions[axis, order[axis]] < 0)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    return np.flip(image.transpose(order), flips), np.flip(mask.transpose(order), flips), spacing


def _busiest(labels: npt.NDArray[np.uint8], axis: int) -> int:
    others = tuple(a for a in (0, 1, 2) if a != axis)
    return int(np.argmax((labels > 0).sum(axis=others)))


def _panel(
    plane: npt.NDArray[np.float32],
    marks: npt.NDArray[np.uint8],
    spacing: npt.NDArray[np.float64],
    window: tuple[float, float],
    colours: dict[int, tuple[int, int, int]],
) -> npt.NDArray[np.uint8]:
    """One square RGB panel.

    Args:
        plane, marks: axes (across, down) the picture.
        spacing: mm, in the same order.
    """
    plane, marks, spacing = plane.T, marks.T, spacing[::-1]
    scale = _PANEL / max(plane.shape[0] * spacing[0], plane.shape[1] * spacing[1])
    size = (max(1, round(plane.shape[1] * spacing[1] * scale)), max(1, round(plane.shape[0] * spacing[0] * scale)))
    grey = np.clip((plane - window[0]) / max(window[1] - window[0], 1e-6), 0, 1)
    base = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    label = np.asarray(Image.fromarray(marks).resize(size, Image.Resampling.NEAREST))
    pixels = np.asarray(base).astype(np.float32)
    for value, colour in colours.items():
        inside = label == value
        edge = inside & ~ndimage.binary_erosion(inside)
        pixels[inside] = 0.65 * pixels[inside] + 0.35 * np.array(colour)
        pixels[edge] = colour
    panel = np.zeros((_PANEL, _PANEL, 3), np.uint8)
    top, left = (_PANEL - size[1]) // 2, (_PANEL - size[0]) // 2
    panel[top : top + size[1], left : left + size[0]] = pixels.astype(np.uint8)
    return panel


def _colours(seg: Dataset) -> dict[int, tuple[int, int, int]]:
    palette = [(255, 80, 80), (255, 200, 60), (80, 160, 255), (90, 230, 160), (220, 120, 255), (255, 150, 40)]
    return {int(s.SegmentNumber): palette[i % len(palette)] for i, s in enumerate(seg.SegmentSequence)}


def _annotate(picture: Image.Image, seg: Dataset, colours: dict[int, tuple[int, int, int]], title: str) -> Image.Image:
    """Add the title above and the legend below."""
    font = ImageFont.load_default(16)
    whole = Image.new("RGB", (picture.width, picture.height + 34 + 30), (0, 0, 0))
    whole.paste(picture, (0, 34))
    draw = ImageDraw.Draw(whole)
    draw.text((10, 7), title, fill=(255, 255, 255), font=font)
    draw.text((whole.width - 195, 7), "For research use only", fill=(255, 210, 90), font=font)
    x = 10
    for s in seg.SegmentSequence:
        draw.rectangle((x, whole.height - 23, x + 14, whole.height - 9), fill=colours[int(s.SegmentNumber)])
        draw.text((x + 20, whole.height - 26), str(s.SegmentLabel), fill=(255, 255, 255), font=font)
        x += 40 + int(draw.textlength(str(s.SegmentLabel), font=font))
    for index, name in enumerate(("axial", "coronal", "sagittal")):
        draw.text((index * _PANEL + 8, 40), name, fill=(200, 200, 200), font=font)
    for index in (0, 1):
        draw.text((index * _PANEL + 8, 34 + _PANEL // 2), "R", fill=(200, 200, 200), font=font)
        draw.text(((index + 1) * _PANEL - 18, 34 + _PANEL // 2), "L", fill=(200, 200, 200), font=font)
    return whole
