"""Ultrasound files to B-mode pictures: regions, scale, what is written over them, what is refused and why."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from scipy import ndimage

from dicom_node.errors import NotAnalysed
from dicom_node.run.frames import Clip, Picture, open_clip, read_frames
from dicom_node.testing.phantom_ultrasound import SCREEN, Lesion, Probe, dataset, draw
from dicom_node.testing.series import phantom_uid, save

DRAWN = draw(Probe(), Lesion())
PLAIN = draw(Probe(), Lesion(), text=False)
Screen = npt.NDArray[np.uint8]


def opened(folder: Path, ds: Dataset) -> Clip:
    return open_clip(save(folder, [ds])[0])


def one(screen: Screen = DRAWN.screen, **header: Any) -> Dataset:
    return dataset([screen], regions=[(DRAWN.box, DRAWN.spacing)], header=header)


def in_colour(screen: Screen) -> Screen:
    return np.repeat(screen[..., None], 3, 2)


def with_flow(screen: Screen) -> Screen:
    result = in_colour(screen)
    strength = np.random.default_rng(0).uniform(0.5, 1, (40, 50, 1))
    result[200:240, 250:300] = strength * (250, 30, 20)
    return result


def jpeg(ds: Dataset, screens: Sequence[Screen], quality: int = 90) -> Dataset:
    """The dataset with its frames as JPEG baseline; colour as YBR, as Pillow writes it (JFIF)."""
    frames = []
    for screen in screens:
        stream = io.BytesIO()
        Image.fromarray(screen).save(stream, "JPEG", quality=quality, subsampling=1)
        frames.append(stream.getvalue())
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if screens[0].ndim == 3:
        ds.PhotometricInterpretation = "YBR_FULL_422"
    return ds


def same(picture: Picture, screen: Screen) -> bool:
    """Whether grey values are the screen's, but for what was filled."""
    left = ~ndimage.binary_dilation(picture.written)
    return left.mean() > 0.99 and np.array_equal(picture.gray[left], screen[left])


def test_a_picture_with_its_scale(tmp_path: Path) -> None:
    clip = opened(tmp_path, one())

    (region,) = clip.regions
    assert region.spacing == pytest.approx((0.1, 0.1))
    assert np.abs(np.subtract(region.box, DRAWN.box)).max() <= 4
    picture = clip.picture(0)
    assert picture.frame.SOPInstanceUID == clip.SOPInstanceUID
    assert picture.frame.number == 1
    assert (len(clip), clip.shape, clip.notes) == (1, SCREEN, ())
    top, left, bottom, right = region.box
    assert (picture.gray[top:bottom, left:right] == DRAWN.screen[top:bottom, left:right]).mean() > 0.99


def test_without_regions_the_pixels_tell_where_the_tissue_is(tmp_path: Path) -> None:
    clip = opened(tmp_path, dataset([DRAWN.screen]))

    (region,) = clip.regions
    assert region.spacing is None
    assert np.abs(np.subtract(region.box, DRAWN.box)).max() <= 6


def test_without_regions_pixel_spacing_is_the_scale(tmp_path: Path) -> None:
    clip = opened(tmp_path, dataset([DRAWN.screen], header={"PixelSpacing": ["0.2", "0.25"]}))

    assert clip.regions[0].spacing == (0.2, 0.25)


@pytest.mark.parametrize(("unit", "delta"), [(4, 0.01), (3, 0.0), (3, 99.0), (0, 0.01)])
def test_a_scale_that_is_none_is_not_used(tmp_path: Path, unit: int, delta: float) -> None:
    ds = one()
    item = ds.SequenceOfUltrasoundRegions[0]
    item.PhysicalUnitsXDirection, item.PhysicalDeltaX = unit, delta

    assert opened(tmp_path, ds).regions[0].spacing is None


def test_a_region_that_does_not_fit_the_image_is_not_believed(tmp_path: Path) -> None:
    ds = one()
    ds.SequenceOfUltrasoundRegions[0].RegionLocationMaxX1 = 900

    clip = opened(tmp_path, ds)

    assert clip.regions[0].spacing is None
    assert "do not fit" in clip.notes[0]
    assert np.abs(np.subtract(clip.regions[0].box, DRAWN.box)).max() <= 6


def test_dual_images_have_two_regions(tmp_path: Path) -> None:
    top, left, bottom, right = DRAWN.box
    middle = (left + right) // 2
    halves = [((top, left, bottom, middle), 0.1), ((top, middle, bottom, right), 0.2), (DRAWN.box, 0.1)]

    clip = opened(tmp_path, dataset([DRAWN.screen], regions=halves[:2]))

    assert [r.spacing and round(r.spacing[0], 3) for r in clip.regions] == [0.1, 0.2]
    assert len(opened(tmp_path / "all", dataset([DRAWN.screen], regions=halves)).regions) == 1


def test_what_is_written_over_the_tissue_is_filled(tmp_path: Path) -> None:
    marked = draw(Probe(), Lesion(), text=False, calipers=True)
    written = (marked.screen != PLAIN.screen) & (marked.screen == 255)

    picture = opened(tmp_path, one(marked.screen)).picture(0)

    assert picture.written[written].mean() > 0.9
    assert picture.gray[written].max() < 230
    assert picture.written[~written].mean() < 0.01


def test_coloured_text_is_filled_and_no_flow(tmp_path: Path) -> None:
    screen = in_colour(PLAIN.screen)
    screen[100, 200:240] = screen[100:130, 220] = (255, 255, 0)

    picture = opened(tmp_path, one(screen)).picture(0)

    assert picture.written[100, 200:240].all()
    assert picture.gray[100, 200:240].max() < 200


@pytest.mark.parametrize("said", ["MONOCHROME1", "MONOCHROME2", "RGB"])
def test_grey_values_are_the_same_however_they_are_sent(tmp_path: Path, said: str) -> None:
    screen = PLAIN.screen
    sent = {"MONOCHROME1": 255 - screen, "MONOCHROME2": screen, "RGB": in_colour(screen)}[said]

    assert same(opened(tmp_path, one(sent, PhotometricInterpretation=said)).picture(0), screen)


def test_a_palette_is_applied(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16)[::-1] * 257
    ds = one(255 - PLAIN.screen, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", ramp.astype("<u2").tobytes())

    assert same(opened(tmp_path, ds).picture(0), PLAIN.screen)


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    ds = one()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 10, 9
    ds.PixelData = (PLAIN.screen.astype(np.int64) * 1023 // 255).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"

    picture = opened(tmp_path, ds).picture(0)
    left = ~ndimage.binary_dilation(picture.written)
    assert np.abs(picture.gray.astype(int) - PLAIN.screen)[left].max() <= 2


@pytest.mark.parametrize("syntax", ["rle", "jpeg"])
def test_compressed_clips(tmp_path: Path, syntax: str) -> None:
    screens = [draw(Probe(seed=k), Lesion()).screen for k in range(3)]
    ds = dataset(screens, regions=[(DRAWN.box, DRAWN.spacing)])
    if syntax == "rle":
        ds.compress(RLELossless)
    else:
        ds = jpeg(ds, screens)

    pictures = list(opened(tmp_path, ds).pictures())

    assert [p.frame.number for p in pictures] == [1, 2, 3]
    for picture, screen in zip(pictures, screens, strict=True):
        assert np.abs(picture.gray.astype(int) - screen).mean() < (0.5 if syntax == "rle" else 6)


@pytest.mark.parametrize("wrong", ["RGB for YBR", "YBR for RGB"])
def test_a_wrong_photometric_interpretation_is_seen(tmp_path: Path, wrong: str) -> None:
    grey = in_colour(PLAIN.screen)
    if wrong == "RGB for YBR":
        grey[..., 1:] = 128
        ds = one(grey)
    else:
        ds = one(grey, PhotometricInterpretation="YBR_FULL")

    clip = opened(tmp_path, ds)

    assert same(clip.picture(0), PLAIN.screen)
    assert "read as these" in clip.notes[0]


def test_a_coloured_bar_is_no_flow(tmp_path: Path) -> None:
    screen = in_colour(DRAWN.screen)
    top = DRAWN.box[0]
    screen[top : top + 20] = (37, 62, 94)
    screen[top + 5 : top + 15 : 2, 200:300:2] = 255  # text on it

    assert len(list(opened(tmp_path, dataset([screen])).pictures())) == 1


def test_a_tinted_picture_is_no_flow(tmp_path: Path) -> None:
    tinted = (in_colour(PLAIN.screen) * np.array([1.0, 0.75, 0.4])).astype(np.uint8)

    assert len(list(opened(tmp_path, one(tinted)).pictures())) == 1


def _refused(folder: Path, ds: Dataset) -> str:
    with pytest.raises(NotAnalysed) as e:
        opened(folder, ds)
    return str(e.value)


def test_doppler_is_refused(tmp_path: Path) -> None:
    assert "flow" in _refused(tmp_path, one(with_flow(DRAWN.screen)))


def test_grey_doppler_is_refused_by_its_header(tmp_path: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0011"]

    assert "Doppler" in _refused(tmp_path, one(ImageType=kind))
    assert opened(tmp_path, one(in_colour(DRAWN.screen), ImageType=kind)).count == 1  # the box was empty


@pytest.mark.parametrize(("form", "reason"), [(2, "M-mode"), (3, "spectral Doppler")])
def test_one_dimension_is_refused(tmp_path: Path, form: int, reason: str) -> None:
    ds = one()
    ds.SequenceOfUltrasoundRegions[0].RegionSpatialFormat = form

    assert reason in _refused(tmp_path, ds)


def test_m_mode_is_refused_by_image_type(tmp_path: Path) -> None:
    ds = dataset([DRAWN.screen], header={"ImageType": ["ORIGINAL", "PRIMARY", "", "0002"]})

    assert "M-mode" in _refused(tmp_path, ds)


def test_a_secondary_capture_is_refused(tmp_path: Path) -> None:
    assert "secondary capture" in _refused(tmp_path, one(SOPClassUID=SecondaryCaptureImageStorage))
    assert "not an ultrasound image" in _refused(tmp_path, one(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"))


def test_text_only_is_refused(tmp_path: Path) -> None:
    top, left, bottom, right = DRAWN.box
    screen = DRAWN.screen.copy()
    screen[top:bottom, left:right] = 0

    assert "no tissue" in _refused(tmp_path, dataset([screen]))


def test_an_empty_sector_is_refused(tmp_path: Path) -> None:
    top, left, bottom, right = DRAWN.box
    screen = DRAWN.screen.copy()
    screen[top + 30 : bottom, left:right] = 2  # a probe in air: bright lines at its surface, nothing below

    assert "no tissue" in _refused(tmp_path, one(screen))


def test_a_one_pixel_image_is_refused(tmp_path: Path) -> None:
    assert "too small" in _refused(tmp_path, dataset([np.full((1, 1), 200, np.uint8)]))


@pytest.mark.parametrize(("said", "samples"), [("RGB", 1), ("MONOCHROME2", 3), ("YBR_PARTIAL_420", 3), ("", 1)])
def test_pixels_that_cannot_be_what_the_header_says_are_refused(tmp_path: Path, said: str, samples: int) -> None:
    screen = DRAWN.screen if samples == 1 else in_colour(DRAWN.screen)
    reason = _refused(tmp_path, one(screen, PhotometricInterpretation=said))

    assert said in reason
    assert "header" in reason


def test_a_palette_without_its_table_is_refused(tmp_path: Path) -> None:
    assert "palette" in _refused(tmp_path, one(PhotometricInterpretation="PALETTE COLOR"))


def test_missing_pixels_are_refused(tmp_path: Path) -> None:
    ds = one()
    del ds.PixelData

    assert "pixel data" in _refused(tmp_path, ds)


def test_truncated_pixels_are_refused(tmp_path: Path) -> None:
    ds = one()
    ds.PixelData = ds.PixelData[:1000]

    assert "pixel data" in _refused(tmp_path, ds)


def test_a_broken_jpeg_in_frame_17_of_30_costs_that_frame_alone(tmp_path: Path) -> None:
    ds, left_out = jpeg(dataset([DRAWN.screen] * 30), [DRAWN.screen] * 30), list[str]()
    (path,) = save(tmp_path, [ds])
    content = path.read_bytes()
    starts = [found.start() for found in re.finditer(rb"\xff\xd8\xff\xe0", content)]
    path.write_bytes(content[: starts[16]] + b"\x11" * 4000 + content[starts[16] + 4000 :])

    clip = open_clip(path)
    numbers = [p.frame.number for p in clip.pictures(left_out)]

    assert numbers == [*range(1, 17), *range(18, 31)]
    assert len(left_out) == 1
    assert left_out[0].startswith("frame 17 of 30")


def test_a_clip_with_many_broken_frames_is_refused(tmp_path: Path) -> None:
    screens = [DRAWN.screen, *[np.zeros((8, 8), np.uint8)] * 3]
    ds = jpeg(dataset([DRAWN.screen] * 4), screens)

    with pytest.raises(NotAnalysed, match="3 of 4 frames cannot be used"):
        list(opened(tmp_path, ds).pictures())


def test_a_clip_whose_first_frame_is_broken_is_read(tmp_path: Path) -> None:
    screens = [np.zeros((8, 8), np.uint8), *[DRAWN.screen] * 7]

    clip = opened(tmp_path, jpeg(dataset([DRAWN.screen] * 8), screens))

    assert [p.frame.number for p in clip.pictures()] == [2, 3, 4, 5, 6, 7, 8]


def test_frames_in_which_doppler_was_on_are_left_out(tmp_path: Path) -> None:
    screens = [in_colour(DRAWN.screen)] * 9 + [with_flow(DRAWN.screen)]
    left_out: list[str] = []

    numbers = [p.frame.number for p in opened(tmp_path, dataset(screens)).pictures(left_out)]

    assert numbers == list(range(1, 10))
    assert "frame 10 of 10 shows flow" in left_out[0]


def test_a_long_clip_is_never_in_memory_whole(tmp_path: Path) -> None:
    ds = dataset([DRAWN.screen] * 150, regions=[(DRAWN.box, DRAWN.spacing)])
    (path,) = save(tmp_path, [ds])
    del ds
    clip = open_clip(path)

    tracemalloc.start()
    clip.picture(0)
    clip.picture(149)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert path.stat().st_size > 46e6
    assert peak < 20e6


def test_there_is_no_frame_beyond_the_last(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="1 frames"):
        opened(tmp_path, one()).picture(1)


def test_a_study_s_clips_in_order_and_what_was_left_out(tmp_path: Path) -> None:
    def numbered(number: int, screen: Screen, **header: Any) -> Dataset:
        return one(screen, InstanceNumber=number, SOPInstanceUID=phantom_uid("study", number), **header)

    datasets = [
        numbered(3, DRAWN.screen),
        numbered(1, DRAWN.screen),
        numbered(1, DRAWN.screen),
        numbered(2, with_flow(DRAWN.screen)),
        numbered(4, DRAWN.screen, SOPClassUID=SecondaryCaptureImageStorage),
    ]

    source = read_frames(save(tmp_path, datasets))

    assert [c.SOPInstanceUID for c in source.clips] == [phantom_uid("study", 1), phantom_uid("study", 3)]
    assert [int(h.InstanceNumber) for h in source.headers] == [1, 3]
    assert len(source.notes) == 2
    assert all("PixelData" not in h for h in source.headers)
    assert len(list(source.clips[0].pictures())) == 1


def test_a_study_of_doppler_alone_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(NotAnalysed, match="shows flow"):
        read_frames(save(tmp_path, [one(with_flow(DRAWN.screen))]))


def test_two_patients_are_refused(tmp_path: Path) -> None:
    datasets = [one(), one(PatientID="OTHER", SOPClassUID=UltrasoundImageStorage)]

    with pytest.raises(NotAnalysed, match="2 patients"):
        read_frames(save(tmp_path, datasets))
