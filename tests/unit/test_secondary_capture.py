"""The picture of the findings: what is drawn on it, and what must not be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.algorithm import Curve, Findings
from dicom_node.encode.curve import draw_curve
from dicom_node.encode.panels import pick_planes
from dicom_node.encode.secondary_capture import build_secondary_capture
from dicom_node.encode.source import read_source
from dicom_node.errors import EncodeError
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.unit.result_samples import SHAPE, SPACING, context, findings

VOLUME_CURVE = Curve("Volume", "mL", (0.0, 100.0, 200.0, 300.0), (120.0, 80.0, 50.0, 110.0), ((0, "ED"), (2, "ES")))


@pytest.fixture
def series(tmp_path: Path) -> list[Dataset]:
    return written(tmp_path)


def written(folder: Path, header: dict[str, Any] | None = None) -> list[Dataset]:
    """A series of files with a bright square, read without pixels."""
    pixels = np.full(SHAPE, 100, np.uint16)
    pixels[:, 5:15, 5:20] = 900
    read = []
    for index, ds in enumerate(
        slice_datasets(pixels, plane_affine(PLANES["axial"], SPACING, (0, 0, 0)), header=header)
    ):
        ds.save_as(folder / f"{index}.dcm", enforce_file_format=True)
        read.append(pydicom.dcmread(folder / f"{index}.dcm", stop_before_pixels=True))
    return read


def capture(series: list[Dataset], found: Findings | None = None) -> Dataset:
    return build_secondary_capture(found or findings(), read_source(series, []), series, context())


def drawn(ds: Dataset, colour: tuple[int, int, int], planes: int = 2) -> int:
    """Pixels of exactly that colour in the part of so many planes side by side."""
    pixels: npt.NDArray[np.uint8] = ds.pixel_array[44:, : 8 + planes * 428]
    return int((pixels == colour).all(axis=-1).sum())


def test_it_reads_back_and_shows_the_outlines(series: list[Dataset], tmp_path: Path) -> None:
    capture(series).save_as(tmp_path / "sc.dcm", enforce_file_format=True)
    ds = pydicom.dcmread(tmp_path / "sc.dcm")
    assert (ds.Modality, ds.ConversionType, ds.PhotometricInterpretation) == ("OT", "SYN", "RGB")
    assert ds.BurnedInAnnotation == "NO"
    assert drawn(ds, (255, 0, 0)) > 200
    assert drawn(ds, (0, 255, 0)) > 200
    assert "research use only" in ds.ImageComments.lower()
    assert [str(r.ReferencedSOPInstanceUID) for r in ds.SourceImageSequence] == [
        series[k].SOPInstanceUID for k in pick_planes(findings())
    ]


def test_the_same_arguments_give_the_same_bytes(series: list[Dataset], tmp_path: Path) -> None:
    found = replace(findings(), curves=(VOLUME_CURVE,))
    for name in ("a", "b"):
        capture(series, found).save_as(tmp_path / name, enforce_file_format=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_of_the_patient_is_drawn(tmp_path: Path) -> None:
    pages = []
    for patient in ({"PatientName": "Doe^Jane", "PatientID": "1", "StudyDate": "20200101"}, {"PatientName": "Roe^R"}):
        folder = tmp_path / patient["PatientName"]
        folder.mkdir()
        pages.append(capture(written(folder, patient)).PixelData)
    assert pages[0] == pages[1]


def test_key_planes_are_drawn_or_else_the_largest() -> None:
    found = findings()
    assert pick_planes(found) == [2, 7]
    assert pick_planes(replace(found, key_planes=(9, 3))) == [9, 3]
    assert pick_planes(replace(found, key_planes=tuple(range(10)))) == [0, 1, 2, 3]


def test_only_the_drawn_planes_are_read(series: list[Dataset]) -> None:
    for k, header in enumerate(series):
        if k not in (2, 7):
            Path(str(header.filename)).unlink()
    capture(series)
    Path(str(series[7].filename)).unlink()
    with pytest.raises(EncodeError, match="pixels of a source image cannot be read"):
        capture(series)


def test_where_nothing_was_found_the_middle_plane_is_drawn(series: list[Dataset]) -> None:
    ds = capture(series, replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=()))
    assert [r.ReferencedSOPInstanceUID for r in ds.SourceImageSequence] == [series[6].SOPInstanceUID]
    assert drawn(ds, (255, 0, 0), planes=1) == 0


def test_a_curve_makes_the_page_longer_and_is_drawn(series: list[Dataset]) -> None:
    many = replace(findings(), curves=(VOLUME_CURVE,) * 3)
    assert capture(series, many).Rows > capture(series).Rows
    page = draw_curve(VOLUME_CURVE, 600, 250)
    assert page.shape == (250, 600, 3)
    assert page.dtype == np.uint8
    blue = (page[..., 2].astype(int) - page[..., 0] > 60).sum()
    assert blue > 300


def test_grouped_details_are_one_line(series: list[Dataset]) -> None:
    one = findings().measurements[-1]
    many = tuple(replace(one, name=f"Thickness {k}", group="Wall thickness") for k in range(20))
    plain = findings()
    longer = replace(plain, measurements=(*plain.measurements, *many), notes=("A note.",) * 15)
    shorter = replace(plain, notes=("A note.",) * 15)
    assert capture(series, longer).Rows - capture(series, shorter).Rows == 23
