"""The demo's picture of ultrasound: the outline lies on the lesion, and what is written beside tissue is not shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.outlined import draw_outlined
from dicom_node.run.frames import FrameSource
from tests.unit.ultrasound_samples import OTHER, SHOWN, findings, image, named, study

SIDE, TOP = 480, 34


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FrameSource:
    return study(tmp_path_factory.mktemp("study"), [image("clip", (named(), OTHER, named()))])


def drawn(source: FrameSource, out: Path, *, nothing: bool = False) -> np.ndarray:
    found = findings(source, (OTHER,), (1 if nothing else 2,))
    if nothing:
        empty = np.zeros_like(found.label_map)
        found = replace(found, label_map=empty, segments=(), measurements=(), key_planes=())
    draw_outlined(found, [Path(h.filename) for h in source.headers], out / "picture.png", "A title")
    with Image.open(out / "picture.png") as picture:
        return np.asarray(picture).astype(int)


def test_the_outline_lies_on_the_lesion_of_its_frame(source: FrameSource, tmp_path: Path) -> None:
    picture = drawn(source, tmp_path)[TOP : TOP + SIDE, :SIDE]
    red = np.argwhere((picture[..., 0] > 200) & (picture[..., 1] < 60))

    top, left, bottom, right = SHOWN.box
    scale = SIDE / max(bottom - top, right - left)
    rows, columns = np.nonzero(OTHER.lesion)
    middle = np.array([(top + bottom) / 2, (left + right) / 2])
    edges = np.array([[rows.min(), columns.min()], [rows.max() + 1, columns.max() + 1]])
    expected = (edges - middle) * scale + SIDE / 2
    assert np.abs(np.array([red.min(0), red.max(0)]) - expected).max() < 5


def test_nothing_beside_the_tissue_is_shown(source: FrameSource, tmp_path: Path) -> None:
    picture = drawn(source, tmp_path, nothing=True)[TOP + 40 : TOP + SIDE, :SIDE]

    top, left, bottom, right = SHOWN.box
    margin = round((1 - (right - left) / (bottom - top)) / 2 * SIDE)
    assert margin > 8
    assert picture[:, : margin - 2].max() == 0
    assert picture[:, margin + 5 : -margin - 5].max() > 200


def test_the_reading_stands_below_the_picture(source: FrameSource, tmp_path: Path) -> None:
    found = findings(source, (OTHER,), (2,))
    heights = []
    for notes in ((), ("Lesion 1: indeterminate (40%; indeterminate 23 to 98%).",), ("A long note. " * 30,)):
        out = tmp_path / "picture.png"
        draw_outlined(replace(found, notes=notes), [Path(h.filename) for h in source.headers], out, "A title")
        with Image.open(out) as picture:
            heights.append(picture.height)
            assert np.asarray(picture)[-30:-10, :, 0].max() > 100  # the last line is drawn, and whole
    assert heights[1] - heights[0] == 24
    assert heights[2] - heights[0] == 4 * 24
