"""The beating phantom: its volumes are what it says, its headers plausible, its bytes the same each time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_node.testing.heart import AXIS, BASE, Ventricle
from dicom_node.testing.phantom_cine import (
    WAYS,
    CineSequence,
    cine_datasets,
    other_views,
    stack_labels,
    stack_pixels,
    write_cine,
)
from tests.conftest import need_program

SMALL = CineSequence(phases=8, slices=6, size=32, spacing=8.0)


@pytest.mark.parametrize("ventricle", [Ventricle(), Ventricle(200.0, 150.0, 160.0, length=90.0)])
def test_the_slices_add_up_to_the_volumes(ventricle: Ventricle) -> None:
    sequence = CineSequence(phases=9, slices=12, size=120, spacing=1.25, ventricle=ventricle)
    labels = stack_labels(sequence)
    millilitres = sequence.step * sequence.spacing**2 / 1000
    cavity = (labels == 1).sum(axis=(1, 2, 3)) * millilitres
    muscle = (labels == 2).sum(axis=(1, 2, 3)) * millilitres
    assert np.allclose(cavity, ventricle.volumes(9), rtol=0.01)
    assert np.allclose(muscle, ventricle.muscle, rtol=0.02)


def test_the_curve_falls_to_its_least_and_rises_again() -> None:
    curve = np.array([Ventricle().volume(t) for t in np.linspace(0, 1, 101)])
    assert curve[0] == curve[-1] == 132.0
    assert curve.argmin() == 36
    assert curve[36] == 56.0
    assert (np.diff(curve[:37]) < 0).all()
    assert (np.diff(curve[36:]) >= 0).all()


def test_blood_is_bright_and_muscle_dark_where_the_labels_say() -> None:
    sequence = CineSequence(phases=2, slices=9, size=100, spacing=2.0)
    pixels, labels = stack_pixels(sequence), stack_labels(sequence)
    assert np.median(pixels[labels == 1]) > 2.3 * np.median(pixels[labels == 2])
    assert np.median(pixels[:, :, 0, 0]) < 100  # air outside
    first = sequence.affine[:3, 3] + (sequence.size - 1) / 2 * (sequence.affine[:3, 1:3].sum(axis=1))
    assert np.allclose(first, BASE - 5 * AXIS)
    assert not labels[:, 0].any()
    assert labels[:, 1].any()


@pytest.mark.parametrize("way", WAYS)
def test_same_arguments_same_bytes(tmp_path: Path, way: str) -> None:
    first, again = (write_cine(tmp_path / str(k), way, sequence=SMALL, views=True) for k in (1, 2))  # type: ignore[arg-type]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    uids = [pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in first]
    assert len(set(uids)) == len(uids) == (1 if way == "multi_frame" else 48) + 27


def test_each_way_groups_the_images_as_it_says() -> None:
    def series(way: str) -> list[int]:
        datasets = cine_datasets(way, SMALL)  # type: ignore[arg-type]
        found = [ds.SeriesInstanceUID for ds in datasets]
        return sorted(found.count(s) for s in set(found))

    assert series("one_series") == series("interleaved") == series("shuffled") == [48]
    assert series("series_per_slice") == [8] * 6
    assert series("series_per_phase") == [6] * 8
    numbers = [int(ds.InstanceNumber) for ds in cine_datasets("shuffled", SMALL)]
    assert sorted(numbers) == list(range(1, 49))
    assert numbers != sorted(numbers)


def test_the_long_axis_lies_in_the_planes_of_the_other_views() -> None:
    views = other_views(SMALL)
    for ds in views[:: SMALL.phases][:3]:
        row, column = np.reshape([float(v) for v in ds.ImageOrientationPatient], (2, 3))
        assert abs(float(np.cross(row, column) @ AXIS)) < 1e-6
    assert [ds.ImageType[2] for ds in views[-3:]] == ["LOCALIZER"] * 3


@pytest.mark.parametrize("way", ["one_series", "multi_frame"])
def test_dciodvfy_finds_no_error(tmp_path: Path, way: str) -> None:
    program = need_program("dciodvfy")
    paths = write_cine(tmp_path, way, sequence=SMALL, views=True, derived=True)  # type: ignore[arg-type]
    for path in (paths[0], paths[-1], paths[-20], paths[-30]):
        said = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=30).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
