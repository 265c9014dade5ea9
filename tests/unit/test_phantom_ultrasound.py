"""The ultrasound phantom: it is what it says, and the same arguments give the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_node.testing.phantom_ultrasound import Lesion, Probe, dataset, draw, ultrasound_study


def test_the_lesion_has_the_size_it_was_given() -> None:
    drawn = draw(Probe(), Lesion(depth=20, across=-4, radii=(4, 7), lobes=0))

    area = drawn.lesion.sum() * drawn.spacing**2
    down, across = (np.mean(x) * drawn.spacing for x in np.nonzero(drawn.lesion))
    assert area == pytest.approx(np.pi * 4 * 7, rel=0.01)
    assert down - drawn.box[0] * drawn.spacing == pytest.approx(20, abs=0.1)
    assert across - (drawn.box[1] + drawn.box[3]) / 2 * drawn.spacing == pytest.approx(-4, abs=0.1)


@pytest.mark.parametrize("shape", ["linear", "curved"])
def test_the_lesion_is_darker_than_what_is_around_it(shape: str) -> None:
    drawn = draw(Probe(shape, spacing=0.12), Lesion(echo=-16))  # type: ignore[arg-type]

    rows = np.flatnonzero(drawn.lesion.any(1))
    beside = drawn.screen[rows[0] : rows[-1], drawn.box[1] : drawn.box[3]][
        ~drawn.lesion[rows[0] : rows[-1], drawn.box[1] : drawn.box[3]]
    ]
    assert drawn.screen[drawn.lesion].mean() < 0.6 * beside[beside > 0].mean()


def test_a_shadow_is_dark_and_enhancement_bright() -> None:
    dark, bright = (draw(Probe(), Lesion(behind=db)) for db in (-12.0, 8.0))

    bottom = np.flatnonzero(dark.lesion.any(1))[-1]
    columns = np.flatnonzero(dark.lesion.any(0))
    below = (slice(bottom + 10, bottom + 60), slice(columns[0] + 40, columns[-1] - 40))
    assert dark.screen[below].mean() < 0.7 * bright.screen[below].mean()


def test_speckle_is_rayleigh() -> None:
    drawn = draw(Probe(), None, text=False)

    top, left, _, right = drawn.box
    level = drawn.screen[top + 120 : top + 260, left:right].astype(float) / 255 * 60  # dB, but for a constant
    rows = 10 ** (level / 20)
    ratio = np.median(rows.mean(1) / rows.std(1))  # row by row: septa run across
    assert ratio == pytest.approx(1.91, abs=0.25)


def test_the_same_arguments_give_the_same_pixels_and_another_seed_other_ones() -> None:
    first, again, other = draw(Probe()), draw(Probe()), draw(Probe(seed=1))

    assert np.array_equal(first.screen, again.screen)
    assert not np.array_equal(first.screen, other.screen)


def test_text_and_calipers_leave_the_truth_alone() -> None:
    plain, written = draw(text=False), draw(text=True, calipers=True)

    assert (plain.screen != written.screen).any()
    assert np.array_equal(plain.lesion, written.lesion)


def test_a_picture_larger_than_the_screen_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw(Probe(depth=80, spacing=0.1))


def test_it_is_written_as_dicom(tmp_path: Path) -> None:
    (single,) = ultrasound_study(tmp_path / "single")
    (clip,) = ultrasound_study(tmp_path / "clip", frames=3)

    one, three = pydicom.dcmread(single), pydicom.dcmread(clip)
    assert one.pixel_array.shape == (480, 640)
    assert three.pixel_array.shape == (3, 480, 640)
    assert one.SequenceOfUltrasoundRegions[0].PhysicalDeltaX == pytest.approx(0.01)
    assert one.SOPInstanceUID != three.SOPInstanceUID


def test_an_odd_number_of_pixels_is_padded() -> None:
    assert len(dataset([np.zeros((3, 3), np.uint8)]).PixelData) == 10
