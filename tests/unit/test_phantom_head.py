"""The phantom head: what lies where, plausible headers, the same bytes each time, and the defects on request."""

from __future__ import annotations

import builtins
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dicom_node.testing import phantom_head
from dicom_node.testing.phantom_head import write_head, write_localizer, write_two_patients
from dicom_node.testing.series import PLANES
from tests.conftest import need_program

COARSE = (4.0, 4.0, 4.0)
# LPS mm, and whether white matter (bright on T1) or fluid of the lateral ventricle (dark) lies there in MNI space.
LEFT_WHITE_MATTER = (26.0, 20.0, 28.0)
LEFT_VENTRICLE = (14.0, 20.0, 22.0)
RIGHT_CAPSULE = (-44.0, -76.0, 20.0)
LEFT_EYE = (32.0, -66.0, -36.0)


def read(paths: Sequence[Path]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for p in paths]


def value_at(datasets: Sequence[pydicom.Dataset], point: Sequence[float]) -> float:
    """Mean of the 3x3 pixels at a patient point, found from each image's own position and orientation."""
    row, column = np.reshape(np.array(datasets[0].ImageOrientationPatient, float), (2, 3))
    offsets = [np.asarray(point) - np.array(ds.ImagePositionPatient, float) for ds in datasets]
    nearest = int(np.argmin([abs(o @ np.cross(row, column)) for o in offsets]))
    ds, offset = datasets[nearest], offsets[nearest]
    r = round(offset @ column / float(ds.PixelSpacing[0]))
    c = round(offset @ row / float(ds.PixelSpacing[1]))
    return float(ds.pixel_array[r - 1 : r + 2, c - 1 : c + 2].mean())


@pytest.mark.parametrize(
    ("orientation", "angle", "reverse"),
    [
        ("sagittal", 0, False),
        ("axial", 0, False),
        ("coronal", 0, True),
        ("oblique", 0, False),
        ("sagittal", -15, True),
        ((-1, 0, 0, 0, -1, 0), 0, False),
    ],
)
def test_tissues_lie_where_the_template_has_them(
    tmp_path: Path, orientation: str | tuple[float, ...], angle: float, reverse: bool
) -> None:
    datasets = read(
        write_head(tmp_path, orientation=orientation, angle=angle, reverse=reverse, spacing=(3.0, 1.5, 1.5))
    )
    white, fluid = value_at(datasets, LEFT_WHITE_MATTER), value_at(datasets, LEFT_VENTRICLE)
    assert white > 1.4 * fluid
    assert value_at(datasets, RIGHT_CAPSULE) > 1200
    assert value_at(datasets, (44.0, -76.0, 20.0)) < 800
    assert value_at(datasets, LEFT_EYE) < 500
    assert value_at(datasets, (32.0, 66.0, -36.0)) > 800  # cerebellum, where the eye would be if head were turned


def test_the_eyes_tell_front_from_back_in_a_reversed_stack(tmp_path: Path) -> None:
    up = read(write_head(tmp_path / "up", orientation="axial", spacing=COARSE))
    down = read(write_head(tmp_path / "down", orientation="axial", spacing=COARSE, reverse=True))
    z = [[float(ds.ImagePositionPatient[2]) for ds in series] for series in (up, down)]
    assert z[0] == sorted(z[0])
    assert z[1] == sorted(z[1], reverse=True)
    assert [ds.InstanceNumber for ds in down] == list(range(1, len(down) + 1))


def test_t2_is_bright_where_t1_is_dark(tmp_path: Path) -> None:
    datasets = read(write_head(tmp_path, contrast="t2", spacing=(2.0, 1.5, 1.5)))
    assert value_at(datasets, LEFT_VENTRICLE) > 1.3 * value_at(datasets, LEFT_WHITE_MATTER)
    assert datasets[0].SeriesDescription == "T2 TSE"
    assert "InversionTime" not in datasets[0]


def test_fruit_keeps_the_headers_of_a_brain(tmp_path: Path) -> None:
    datasets = read(write_head(tmp_path, kind="fruit", spacing=COARSE))
    assert datasets[0].BodyPartExamined == "BRAIN"
    assert value_at(datasets, (0.0, 17.0, -5.0)) < 400  # hollow core
    assert value_at(datasets, (20.0, 50.0, -5.0)) > 500  # flesh


def test_same_arguments_same_bytes_and_other_seed_other_series(tmp_path: Path) -> None:
    first = write_head(tmp_path / "1", spacing=COARSE)
    again = write_head(tmp_path / "2", spacing=COARSE)
    other = write_head(tmp_path / "3", spacing=COARSE, seed=1)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    a, b = pydicom.dcmread(first[0]), pydicom.dcmread(other[0])
    assert a.StudyInstanceUID == b.StudyInstanceUID
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    assert a.SOPInstanceUID.startswith("2.25.")
    assert a.PixelData != b.PixelData


def test_rescaled_series_has_the_same_values_after_the_slope(tmp_path: Path) -> None:
    plain = read(write_head(tmp_path / "1", spacing=COARSE))
    scaled = read(write_head(tmp_path / "2", spacing=COARSE, rescale=(2.0, 10.0)))
    assert "RescaleSlope" not in plain[0]
    middle = len(plain) // 2
    values = scaled[middle].pixel_array * 2.0 + 10.0
    assert abs(values - plain[middle].pixel_array)[plain[middle].pixel_array > 50].max() <= 2


def test_defects_on_request(tmp_path: Path) -> None:
    whole = read(write_head(tmp_path / "whole", spacing=COARSE))
    n = len(whole)
    assert len(write_head(tmp_path / "missing", spacing=COARSE, missing=(5, 6))) == n - 2
    double = read(write_head(tmp_path / "double", spacing=COARSE, duplicates=(5,)))
    assert len(double) == n + 1
    assert double[5].ImagePositionPatient == double[-1].ImagePositionPatient
    assert double[5].SOPInstanceUID != double[-1].SOPInstanceUID
    assert double[5].PixelData != double[-1].PixelData
    uneven = read(write_head(tmp_path / "uneven", spacing=COARSE, uneven=1.5))
    x = [float(ds.ImagePositionPatient[0]) for ds in uneven]
    assert sorted(np.round(np.abs(np.diff(x)), 3))[-2:] == [4.0, 5.5]
    mixed = read(write_head(tmp_path / "mixed", spacing=COARSE, scouts=True))
    assert len(mixed) == n + 3
    assert len({ds.SeriesInstanceUID for ds in mixed}) == 1
    assert [ds.ImageType[2] for ds in mixed[-3:]] == ["LOCALIZER"] * 3
    assert len({ds.SOPInstanceUID for ds in mixed}) == n + 3


def test_localizer_has_three_orthogonal_images(tmp_path: Path) -> None:
    datasets = read(write_localizer(tmp_path))
    assert [tuple(map(float, ds.ImageOrientationPatient)) for ds in datasets] == list(PLANES.values())
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 1


def test_two_patients_share_a_study(tmp_path: Path) -> None:
    datasets = read(write_two_patients(tmp_path))
    assert len({ds.StudyInstanceUID for ds in datasets}) == 1
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 2
    assert {ds.PatientID for ds in datasets} == {"PHANTOM-1", "PHANTOM-2"}


def test_unknown_orientation_names_the_accepted_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="axial, sagittal, coronal"):
        write_head(tmp_path, orientation="upside-down")


def test_without_nilearn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_head, "_TEMPLATE", ("nilearn_that_is_absent", phantom_head._TEMPLATE[1]))
    with pytest.raises(ModuleNotFoundError, match=r"pip install dicom-node\[demo\]"):
        phantom_head._template()
    real = builtins.__import__

    def without_nibabel(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "nibabel":
            raise ModuleNotFoundError("No module named 'nibabel'", name="nibabel")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nibabel)
    with pytest.raises(ModuleNotFoundError, match=r"nibabel.*pip install dicom-node\[demo\]"):
        phantom_head._template()


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    program = need_program("dciodvfy")
    paths = [*write_head(tmp_path / "head", spacing=(20.0, 4.0, 4.0))[:1], *write_localizer(tmp_path / "scout")[:1]]
    for path in paths:
        said = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=30).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
