"""An ultrasound phantom: speckle, a lesion of known outline, a linear or curved probe, and a screen around it.

What is drawn depends on the arguments alone. Speckle is the envelope of filtered complex noise (Rayleigh distributed),
whose grain gets wider with depth; brightness is compressed logarithmically, as scanners do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage
from scipy import ndimage

from dicom_node.testing.series import file_meta, phantom_uid, save

SCREEN = (480, 640)
"""(rows, columns)."""
RANGE_DB = 60.0
"""From black to white."""
_TOP, _LEFT = 40, 110
"""Where the picture begins on the screen, when it fills the width of a linear probe."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lesion:
    """A nodule.

    Attributes:
        depth, across: mm of its middle from the probe, and from the picture's middle (+ to the right).
        radii: mm (half its height, half its width).
        lobes: by what part of the radius its outline goes in and out; 0: an ellipse.
        echo: dB against its surroundings; a cyst is black.
        behind: dB below it: a shadow is negative, enhancement positive.
    """

    depth: float = 18.0
    across: float = 3.0
    radii: tuple[float, float] = (5.0, 8.0)
    lobes: float = 0.08
    echo: float = -16.0
    behind: float = -6.0


@dataclass(frozen=True)
class Probe:
    """How the picture is made.

    Attributes:
        shape: ``linear`` (a rectangle) or ``curved`` (a part of a ring).
        depth: mm.
        width: mm of a linear probe; a curved one sees 60 degrees.
        spacing: mm between pixels, the same down and across.
        seed: of the speckle.
        gain: dB; 0 is a bright picture, as of a breast.
    """

    shape: Literal["linear", "curved"] = "linear"
    depth: float = 40.0
    width: float = 38.0
    spacing: float = 0.1
    seed: int = 0
    gain: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """What the phantom shows.

    Attributes:
        screen: uint8, shape (rows, columns).
        lesion: bool, same shape: the true outline.
        box: (top, left, bottom, right) of the tissue, the last two exclusive.
        spacing: mm between pixels.
    """

    screen: npt.NDArray[np.uint8]
    lesion: npt.NDArray[np.bool_]
    box: tuple[int, int, int, int]
    spacing: float


def draw(
    probe: Probe = Probe(), lesion: Lesion | None = Lesion(), *, text: bool = True, calipers: bool = False
) -> Drawn:
    """One picture on its screen."""
    down, across, seen = _places(probe)
    inside = _inside(lesion, down, across) & seen if lesion else np.zeros(down.shape, bool)
    tissue = _tissue(probe, down, across)
    if lesion:
        tissue = _with_lesion(tissue, lesion, inside, down, across)
    level = tissue + _speckle(probe, down.shape) + probe.gain
    gray = np.clip((level + RANGE_DB) / RANGE_DB, 0, 1) * 255 * seen
    screen, truth = np.zeros(SCREEN, np.uint8), np.zeros(SCREEN, bool)
    rows, columns = gray.shape
    left = _LEFT if probe.shape == "linear" else (SCREEN[1] - columns) // 2
    place = (slice(_TOP, _TOP + rows), slice(left, left + columns))
    screen[place], truth[place] = gray.astype(np.uint8), inside
    box = (_TOP, left, _TOP + rows, left + columns)
    if text or calipers:
        screen = _written(screen, box, truth if calipers else None, text)
    return Drawn(screen, truth, box, probe.spacing)


def _places(probe: Probe) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """mm below the probe's surface and to the right of its middle, and where the probe sees."""
    rows = round(probe.depth / probe.spacing)
    width = probe.width if probe.shape == "linear" else 1.2 * (probe.depth + 20)
    columns = round(width / probe.spacing)
    if rows + _TOP > SCREEN[0] - 40 or columns > SCREEN[1]:
        raise ValueError(f"a picture of {rows} x {columns} pixels does not fit on the screen of {SCREEN}")
    down, across = np.meshgrid(
        (np.arange(rows) + 0.5) * probe.spacing, (np.arange(columns) + 0.5 - columns / 2) * probe.spacing, indexing="ij"
    )
    if probe.shape == "linear":
        return down, across, np.ones(down.shape, bool)
    radius, middle = 20.0, -20.0 * np.cos(np.radians(30))  # the ring's inner radius, and where its middle is
    distance, angle = np.hypot(down - middle, across), np.arctan2(across, down - middle)
    seen = (distance >= radius) & (distance < radius + probe.depth) & (np.abs(angle) < np.radians(30))
    return distance - radius, across, seen


def _inside(lesion: Lesion, down: Array, across: Array) -> npt.NDArray[np.bool_]:
    y, x = (down - lesion.depth) / lesion.radii[0], (across - lesion.across) / lesion.radii[1]
    result: npt.NDArray[np.bool_] = np.hypot(x, y) < 1 + lesion.lobes * np.sin(5 * np.arctan2(y, x))
    return result


def _tissue(probe: Probe, down: Array, across: Array) -> Array:
    """dB: skin, fat with its septa, gland, muscle, and what is lost with depth."""
    random = np.random.default_rng([probe.seed, 1])
    wave = sum(random.uniform(0.3, 1) * np.sin(across / random.uniform(3, 9) + random.uniform(0, 6)) for _ in range(4))
    layer = down + 0.6 * wave
    level = np.select([layer < 2, layer < 9, layer < 28], [-12.0, -26.0, -20.0], -27.0)
    level = level + 7.0 * (np.abs(np.sin(layer / 1.9)) < 0.12) * (layer > 2)
    result: Array = level - 0.15 * down
    return result


def _with_lesion(tissue: Array, lesion: Lesion, inside: npt.NDArray[np.bool_], down: Array, across: Array) -> Array:
    near = (np.abs(across - lesion.across) < 0.8 * lesion.radii[1]) & (down > lesion.depth) & ~inside
    behind = ndimage.gaussian_filter(near.astype(float), 4) * lesion.behind
    around = float(np.median(tissue[ndimage.binary_dilation(inside, iterations=20) & ~inside]))
    flat = np.where(inside, around + lesion.echo, tissue)
    return np.asarray(ndimage.gaussian_filter(flat, 1.0) + behind)


def _speckle(probe: Probe, shape: tuple[int, ...]) -> Array:
    """dB of a Rayleigh distributed envelope; the deeper half has the wider grain."""
    random = np.random.default_rng([probe.seed, 2])
    noise = random.normal(size=(2, *shape))
    grain = 0.12 / probe.spacing
    fine, wide = (
        np.hypot(*(ndimage.gaussian_filter(part, (grain, grain * times)) for part in noise)) for times in (1.5, 3.0)
    )
    share = np.linspace(0, 1, shape[0])[:, None]
    envelope = (1 - share) * fine / fine.mean() + share * wide / wide.mean()
    return np.asarray(20 * np.log10(np.maximum(envelope, 0.03)))


def _written(
    screen: npt.NDArray[np.uint8],
    box: tuple[int, int, int, int],
    measured: npt.NDArray[np.bool_] | None,
    text: bool,
) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(screen)
    draw_on = ImageDraw.Draw(picture)
    if text:
        draw_on.text((8, 6), "PHANTOM  DICOM NODE     MI 0.9  TIS 0.3", fill=255)
        for k, line in enumerate(("L12-5", "28 Hz", "2D", "Gn 60", "C 61", "3/3/4")):
            draw_on.text((8, 60 + 14 * k), line, fill=255)
        draw_on.text((box[1], SCREEN[0] - 20), "RESEARCH PHANTOM", fill=255)
        for row in range(box[0], box[2], 50):
            draw_on.line((box[3] + 12, row, box[3] + 16, row), fill=255)
        for k in range(120):  # the grey bar
            draw_on.line((8, 200 + k, 17, 200 + k), fill=255 - 2 * k)
    if measured is not None and measured.any():
        down, across = np.nonzero(measured)
        for column in (int(across.min()), int(across.max())):
            row = int(np.median(down))
            draw_on.line((column - 4, row, column + 4, row), fill=255)
            draw_on.line((column, row - 4, column, row + 4), fill=255)
    return np.array(picture)


def dataset(
    screens: Sequence[npt.NDArray[np.uint8]],
    *,
    regions: Sequence[tuple[tuple[int, int, int, int], float]] = (),
    key: str = "ultrasound",
    header: Mapping[str, Any] | None = None,
) -> Dataset:
    """An Ultrasound (Multi-frame) Image of grey screens (rows, columns) or RGB ones (rows, columns, 3), uncompressed.

    Args:
        regions: boxes of tissue with mm per pixel, as Sequence of Ultrasound Regions (PS3.3 C.8.5.5).
        key: its UIDs derive from it.
        header: further attributes, by keyword; they replace what is set here.
    """
    first = screens[0]
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = UltrasoundImageStorage if len(screens) == 1 else UltrasoundMultiFrameImageStorage
    ds.SOPInstanceUID = phantom_uid(key, "instance")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = phantom_uid(key, "study"), phantom_uid(key, "series")
    ds.Modality, ds.Manufacturer = "US", "Phantom"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Ultrasound", "PHANTOM", "", "O"
    ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = "20260105", "090000", "20260105", "090000"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "1"
    ds.SeriesNumber, ds.InstanceNumber, ds.PatientOrientation = 1, 1, ""
    ds.LossyImageCompression = "00"
    ds.Rows, ds.Columns = first.shape[:2]
    ds.SamplesPerPixel = 3 if first.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if first.ndim == 3 else "MONOCHROME2"
    if first.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    if len(screens) > 1:
        ds.NumberOfFrames, ds.FrameTime = len(screens), "40"
        ds.FrameIncrementPointer = 0x00181063
    if regions:
        ds.SequenceOfUltrasoundRegions = [_region(box, spacing) for box, spacing in regions]
    for keyword, value in (header or {}).items():
        setattr(ds, keyword, value)
    pixels = b"".join(np.ascontiguousarray(screen).tobytes() for screen in screens)
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = "OB"
    ds.file_meta = file_meta(ds)
    return ds


def _region(box: tuple[int, int, int, int], spacing: float) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 2
    item.RegionLocationMinY0, item.RegionLocationMinX0 = box[:2]
    item.RegionLocationMaxY1, item.RegionLocationMaxX1 = box[2] - 1, box[3] - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = spacing / 10
    return item


@lru_cache(maxsize=4)
def _cached(probe: Probe, lesion: Lesion | None) -> Drawn:
    return draw(probe, lesion)


def ultrasound_study(
    folder: Path, *, frames: int = 1, gain: float = 0.0, header: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write a study of one picture, or of a clip in which the speckle goes by; returns its file."""
    drawn = [_cached(Probe(seed=k, gain=gain), Lesion()) for k in range(frames)]
    ds = dataset(
        [d.screen for d in drawn], regions=[(drawn[0].box, drawn[0].spacing)], key=f"study of {frames}", header=header
    )
    return save(folder, [ds])
