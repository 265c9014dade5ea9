"""Left ventricle: which slices count, wall thickness, numbers and reasons, on masks whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from algorithms.left_ventricle import extent, fitness, report, wall
from dicom_node.algorithm import Cine, Frame, NotAnalysed

SPACING = (1.5, 1.5)
PHASES, SLICES, SIZE = 10, 8, 64
MUSCLE, BLOOD, FAT = 70.0, 215.0, 165.0
Array = npt.NDArray[Any]


def ring(radius: float, thickness: float, share: float = 1.0) -> tuple[Array, Array]:
    """A round cavity and the muscle around ``share`` of it, as masks."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    distance, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    around = (distance >= radius) & (distance < radius + thickness) & (angle < -np.pi + 2 * np.pi * share)
    return distance < radius, around


def beating(**changes: Any) -> tuple[Array, Array, Array]:
    """Images, label maps and probability of muscle of a stack: slice 0 lies above the base, slice 7 below the apex.

    ``share``, ``radius``, ``outside`` by slice: muscle around the cavity, its radius at end diastole, and what lies
    where there is no muscle though the networks see some.
    """
    share = {0: 0.5, **changes.get("share", {})}
    radii = {k: 14.0 - k for k in range(SLICES)} | changes.get("radius", {})
    images = np.full((PHASES, SLICES, SIZE, SIZE), FAT, np.float32)
    maps = np.zeros(images.shape, np.uint8)
    muscle = np.zeros(images.shape, np.float32)
    for phase in range(PHASES):
        squeeze = 0.8 + 0.2 * math.cos(2 * math.pi * phase / PHASES)
        for k in range(SLICES - 1):
            cavity, around = ring(radii[k] * squeeze, 6, share.get(k, 1.0))
            maps[phase, k][around], maps[phase, k][cavity] = 2, 1
            images[phase, k][around], images[phase, k][cavity] = changes.get("outside", {}).get(k, MUSCLE), BLOOD
            muscle[phase, k] = around
    return images, maps, muscle


def held(**changes: Any) -> list[list[int]]:
    images, maps, muscle = beating(**changes)
    found = extent.holds_ventricle(images, maps, muscle, SPACING)
    return [np.flatnonzero(row).tolist() for row in found]


def test_a_slice_whose_blood_muscle_does_not_surround_is_above_the_base() -> None:
    assert held() == [[1, 2, 3, 4, 5, 6]] * PHASES
    assert held(share={0: 1.0}) == [[0, 1, 2, 3, 4, 5, 6]] * PHASES


def test_muscle_that_only_the_networks_see_does_not_count() -> None:
    assert held(share={0: 1.0}, outside={0: FAT}) == [[1, 2, 3, 4, 5, 6]] * PHASES


def test_an_outflow_tract_is_too_small() -> None:
    assert held(share={0: 1.0}, radius={0: 8.0}) == [[1, 2, 3, 4, 5, 6]] * PHASES


def test_a_slice_beyond_a_gap_does_not_count() -> None:
    assert held(share={5: 0.4}) == [[1, 2, 3, 4]] * PHASES


def test_a_slice_that_is_lost_for_a_moment_counts_and_one_above_the_base_never_does() -> None:
    images, maps, muscle = beating(share={0: 1.0})
    muscle[4, 1] = 0  # one phase of the slice below
    muscle[[9, 0, 1], 0] = 0  # around end diastole
    found = extent.holds_ventricle(images, maps, muscle, SPACING)
    assert [np.flatnonzero(row).tolist() for row in found] == [[1, 2, 3, 4, 5, 6]] * PHASES


def test_wall_thickness_of_a_ring_is_its_own() -> None:
    cavity, around = ring(12.2, 6.0)
    smooth = [m.astype(np.float32) for m in (cavity, around)]
    found = wall.thickness(smooth[0], smooth[1], SPACING)
    assert found.shape == (wall.RAYS,)
    assert float(found.mean()) == pytest.approx(9.0, abs=0.2)
    assert float(found.max()) < 10.5


def test_an_open_wall_has_no_thickness() -> None:
    cavity, around = ring(12.0, 6.0, share=0.5)
    found = wall.thickness(cavity.astype(np.float32), around.astype(np.float32), SPACING)
    assert 0.4 < float(np.isnan(found).mean()) < 0.65
    nothing = np.zeros((SIZE, SIZE), np.float32)
    assert np.isnan(wall.thickness(nothing, nothing, SPACING)).all()


def cine(**changes: Any) -> Cine:
    shape = (PHASES, SLICES, 16, 16)
    values: dict[str, Any] = {
        "array": np.random.default_rng(0).random(shape, np.float32),
        "affine": np.diag([8.0, 1.5, 1.5, 1.0]),
        "trigger_times": np.arange(PHASES)[:, None] * 80.0 + np.zeros(SLICES),
        "intervals": np.full(SLICES, 800.0),
        "frames": tuple(tuple(Frame(f"1.{p}.{k}") for k in range(SLICES)) for p in range(PHASES)),
        "tags": {"PatientSize": 1.8, "PatientWeight": 80.0},
    }
    return Cine(**{**values, **changes})


def label_map() -> Array:
    found = np.zeros((2 * SLICES, 16, 16), np.uint8)
    found[1:6, 2:12, 2:12], found[1:6, 2:12, 13:15] = 1, 2
    found[SLICES + 1 : SLICES + 6, 4:10, 4:10] = 3
    return found


def test_the_numbers_follow_from_the_masks() -> None:
    curve = [float(v) for v in range(PHASES)]
    found = {m.name: m for m in report.measurements(label_map(), cine(), curve, {2: (8.0, 11.0)})}
    voxel = 8 * 1.5 * 1.5 / 1000
    ed, es, muscle = 500 * voxel, 180 * voxel, 100 * voxel
    area = math.sqrt(180 * 80 / 3600)
    expected = {
        "LV end-diastolic volume": ed,
        "LV end-systolic volume": es,
        "LV stroke volume": ed - es,
        "LV ejection fraction": 64.0,
        "LV myocardial mass, end diastole": 1.05 * muscle,
        "Heart rate": 75.0,
        "LV cardiac output": (ed - es) * 75 / 1000,
        "Body surface area": area,
        "LV end-diastolic volume index": ed / area,
        "LV myocardial mass index": 1.05 * muscle / area,
        "Cardiac index": (ed - es) * 75 / 1000 / area,
        "Greatest wall thickness, slice 2 from the base": 11.0,
        "LV volume, phase 3 of 10, 160 ms after the R wave": 2.0,
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    assert found["LV end-diastolic volume"].from_mask
    assert found["LV end-diastolic volume"].flag is not None  # 9 mL is no heart
    assert found["LV ejection fraction"].flag is None


def test_what_the_header_lacks_is_left_out_and_said() -> None:
    silent = cine(tags={"PatientSize": 0.0}, intervals=np.full(SLICES, np.nan))
    names = [m.name for m in report.measurements(label_map(), silent, [1.0] * PHASES, {})]
    inside = np.zeros((PHASES, SLICES), bool)
    inside[:, 1:] = True
    notes = report.notes(silent, 0, 4, inside)

    assert not {"Heart rate", "LV cardiac output", "Body surface area"} & set(names)
    assert {report.NO_RATE, report.NO_BODY, report.PAPILLARY} <= set(notes)
    assert any("its apex may be cut off" in n for n in notes)
    assert not any("its base may be cut off" in n for n in notes)


@pytest.mark.parametrize(
    "tags",
    [{}, {"PatientSize": 180, "PatientWeight": 80}, {"PatientSize": 1.8, "PatientWeight": 0}, {"PatientSize": "tall"}],
)
def test_an_incredible_body_is_no_body(tags: dict[str, Any]) -> None:
    assert report.body_surface(tags) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"array": np.full((PHASES, SLICES, 16, 16), np.nan, np.float32)}, "no numbers"),
        ({"array": np.ones((PHASES, SLICES, 16, 16), np.float32)}, "the same value"),
        ({"affine": np.diag([8.0, 5.0, 5.0, 1.0])}, "pixels of 5.0 mm are too coarse"),
        ({"affine": np.diag([20.0, 1.5, 1.5, 1.0])}, "the slices are 20 mm apart"),
        ({}, "the field of view is only 24 mm wide"),
    ],
)
def test_a_stack_that_is_not_fit_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotAnalysed, match=reason):
        fitness.check_geometry(cine(**changes))


@pytest.mark.parametrize(
    ("curve", "slices", "reason"),
    [
        ([100.0, 60.0], 2, "found in 2 slices only"),
        ([100.0, 0.0], 5, "not found at every heart phase"),
        ([100.0, 99.0], 5, "does not beat"),
    ],
)
def test_what_is_no_beating_ventricle_is_not_reported(curve: list[float], slices: int, reason: str) -> None:
    inside = np.zeros((2, SLICES), bool)
    inside[:, :slices] = True
    with pytest.raises(NotAnalysed, match=reason):
        fitness.check_volumes(np.array(curve), inside)
    with pytest.raises(NotAnalysed, match="no left ventricle was found"):
        fitness.check_place(0.2)
