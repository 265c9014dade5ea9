"""Every public ultrasound sample is read as DCMTK renders it, or refused with the reason.

DCMTK 3.6.7 has neither JPEG 2000 nor segmented palettes: those files are unpacked with GDCM first.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dicom_node.errors import NotAnalysed
from dicom_node.run.frames import decoded, open_clip
from dicom_node.run.images import read_header
from tests.conftest import data_dir, need_program

FLOW, READ = "shows flow", ""
FILES = {
    "US1_J2KI.dcm": FLOW,
    "US1_J2KR.dcm": FLOW,
    "US1_RLE.dcm": FLOW,
    "US1_UNCI.dcm": FLOW,
    "US1_UNCR.dcm": FLOW,
    "examples_palette.dcm": READ,
    "examples_rgb_color.dcm": FLOW,
    "examples_ybr_color.dcm": READ,
    "gdcm-US-ALOKA-16.dcm": READ,
    "gdcm-US-ALOKA-16_big.dcm": READ,
    "gdcm-US-RGB-8-epicard.dcm": FLOW,
    "gdcm-US-RGB-8-esopecho.dcm": FLOW,
}
NEEDS_GDCM = ("US1_J2KI.dcm", "US1_J2KR.dcm", "gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm")
LOSSY = {"examples_ybr_color.dcm": 3.0, "US1_J2KI.dcm": 1.0}
"""Mean difference that decoders of lossy streams may have, in grey values."""


def rendered(file: Path, frame: int, folder: Path) -> npt.NDArray[np.uint8]:
    """The frame (from 1) as DCMTK draws it."""
    if file.name in NEEDS_GDCM:
        unpacked = folder / "unpacked.dcm"
        subprocess.run([need_program("gdcmconv"), "--raw", file, unpacked], check=True, timeout=60)
        file = unpacked
    picture = folder / "rendered.ppm"
    command = [need_program("dcmj2pnm"), "--write-raw-pnm", "--frame", str(frame), "--no-windowing", file, picture]
    subprocess.run([need_program("dcmj2pnm"), *map(str, command[1:])], check=True, timeout=60, capture_output=True)
    return np.array(Image.open(picture).convert("RGB"))


def test_no_sample_is_forgotten() -> None:
    assert sorted(p.name for p in data_dir("us_dicom").glob("*.dcm")) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_dcmtk_renders(name: str, tmp_path: Path) -> None:
    file = data_dir("us_dicom") / name
    header = read_header(file)
    count = int(header.get("NumberOfFrames") or 1)

    for number in sorted({1, (count + 1) // 2, count}):
        ours = decoded(header, file, number - 1)
        theirs = rendered(file, number, tmp_path).astype(int)
        if ours.ndim == 2:
            ours = np.repeat(ours[..., None], 3, 2)
        difference = np.abs(ours - theirs)
        assert difference.mean() <= LOSSY.get(name, 0.0)


@pytest.mark.parametrize(("name", "reason"), FILES.items())
def test_it_is_read_or_refused(name: str, reason: str) -> None:
    file = data_dir("us_dicom") / name
    if reason:
        with pytest.raises(NotAnalysed, match=reason):
            open_clip(file)
        return
    clip = open_clip(file)
    pictures = list(clip.pictures())
    assert len(pictures) == len(clip)
    assert [p.frame.number for p in pictures] == list(range(1, len(clip) + 1))


def test_the_scale_and_both_halves_of_a_dual_image() -> None:
    clip = open_clip(data_dir("us_dicom") / "gdcm-US-ALOKA-16_big.dcm")

    assert [r.spacing for r in clip.regions] == [(pytest.approx(0.38265, abs=1e-4),) * 2] * 2
    assert clip.regions[0].box[3] <= clip.regions[1].box[1]


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_regions_of_a_resized_file_are_not_believed(name: str) -> None:
    clip = open_clip(data_dir("us_dicom") / name)

    assert [r.spacing for r in clip.regions] == [None]
    assert "do not fit" in clip.notes[0]
