"""The released hippocampus weights on the MNI template: sides, orientations, refusals, determinism."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from algorithms.hippocampus import evaluate_reslice, report
from dicom_node.algorithm import Findings, NotAnalysed, Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Analyse = Callable[[Volume], Findings]


@pytest.fixture(scope="module")
def analyse() -> Analyse:
    return evaluate_reslice.load_released()


@pytest.fixture(scope="module")
def head() -> Volume:
    """The MNI template, a skull-stripped average T1 brain at 1 mm."""
    file = resources.files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = nibabel.load(str(file))
    return Volume(np.asarray(image.dataobj).astype(np.float32), LPS @ image.affine)


@pytest.fixture(scope="module")
def findings(analyse: Analyse, head: Volume) -> Findings:
    return analyse(head)


def values(findings: Findings) -> dict[str, float]:
    return {m.name: m.value for m in findings.measurements}


def flipped(volume: Volume, axes: tuple[int, ...]) -> Volume:
    """The same head with some axes of the array reversed, and its affine with them."""
    affine = volume.affine.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (volume.array.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(np.flip(volume.array, axes)), affine)


def centre_of(label_map: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], numbers: tuple[int, ...]) -> float:
    """Mean LPS x in mm of the voxels with these numbers."""
    voxels = np.array(np.nonzero(np.isin(label_map, numbers))).mean(1)
    return float((affine[:3, :3] @ voxels + affine[:3, 3])[0])


def test_both_sides_are_found_where_they_are(findings: Findings, head: Volume) -> None:
    found = values(findings)
    assert 2.0 < found["Left hippocampus volume"] < 5.5
    assert 2.0 < found["Right hippocampus volume"] < 5.5
    assert abs(found["Hippocampus asymmetry index"]) < 15
    share = 100 * found["Left hippocampus volume"] / found["Brain envelope volume"]
    assert found["Left hippocampus volume relative to head size"] == pytest.approx(share)
    assert 15 < centre_of(findings.label_map, head.affine, (1, 2)) < 40
    assert -40 < centre_of(findings.label_map, head.affine, (3, 4)) < -15


def test_head_size_is_what_the_template_was_cut_to_less_the_fluid_around(findings: Findings, head: Volume) -> None:
    stripped = float((head.array > 0).sum()) * head.voxel_volume / 1000
    assert 0.8 * stripped < values(findings)["Brain envelope volume"] < 0.95 * stripped


def test_a_contrast_medium_in_the_header_is_said_in_the_report(
    analyse: Analyse, head: Volume, findings: Findings
) -> None:
    assert report.ENHANCED not in findings.notes
    after = analyse(Volume(head.array, head.affine, {"ContrastBolusAgent": "Gadovist"}))
    assert report.ENHANCED in after.notes


def test_the_volumes_are_those_of_the_mask(findings: Findings, head: Volume) -> None:
    for measurement in findings.measurements:
        if measurement.from_mask:
            counted = np.isin(findings.label_map, measurement.segments).sum() * head.voxel_volume / 1000
            assert measurement.value == pytest.approx(counted)


def test_the_same_input_gives_the_same_mask(analyse: Analyse, head: Volume, findings: Findings) -> None:
    assert np.array_equal(analyse(head).label_map, findings.label_map)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1, 2)])
def test_reversed_axes_change_nothing(
    analyse: Analyse, head: Volume, findings: Findings, axes: tuple[int, ...]
) -> None:
    back = np.flip(analyse(flipped(head, axes)).label_map, axes)
    assert (back != findings.label_map).sum() < 0.01 * (findings.label_map > 0).sum()


def test_a_mirrored_patient_has_his_sides_swapped(analyse: Analyse, head: Volume) -> None:
    mirrored = Volume(np.ascontiguousarray(head.array[::-1]), head.affine)
    label_map = analyse(mirrored).label_map
    assert centre_of(label_map, head.affine, (1, 2)) > 15
    assert centre_of(label_map, head.affine, (3, 4)) < -15


@pytest.mark.parametrize("plane", ["axial 1 mm", "coronal oblique 20 degrees", "axial 1x1x3 mm"])
def test_slicing_changes_little(analyse: Analyse, head: Volume, findings: Findings, plane: str) -> None:
    directions, spacing = evaluate_reslice.RESLICES[plane]
    before, after = values(findings), values(analyse(evaluate_reslice.resliced(head, directions, spacing)))
    for side in ("Left", "Right"):
        name = f"{side} hippocampus volume"
        assert after[name] == pytest.approx(before[name], rel=0.08)


def ball() -> npt.NDArray[np.float32]:
    """A phantom sphere of 160 mm with a little noise."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 96)] * 3, indexing="ij"))
    noise = np.random.default_rng(0).normal(0, 20, (96, 96, 96))
    sphere: npt.NDArray[np.float32] = (1000 * ((grid**2).sum(0) < 0.7) + noise).astype(np.float32)
    return sphere


@pytest.mark.parametrize(
    "array",
    [ball(), np.random.default_rng(0).normal(500, 100, (96, 96, 96)).astype(np.float32)],
    ids=["sphere", "noise"],
)
def test_what_is_no_head_is_refused(analyse: Analyse, array: npt.NDArray[np.float32]) -> None:
    with pytest.raises(NotAnalysed):
        analyse(Volume(array, np.diag([2.0, 2, 2, 1])))


def test_another_contrast_is_refused(analyse: Analyse, head: Volume) -> None:
    brain = head.array > 20
    inverted = np.where(brain, 255 - head.array, 0).astype(np.float32)
    with pytest.raises(NotAnalysed):
        analyse(Volume(inverted, head.affine))


def test_half_a_head_is_refused(analyse: Analyse, head: Volume) -> None:
    half = Volume(np.ascontiguousarray(head.array[: head.array.shape[0] // 2]), head.affine)
    with pytest.raises(NotAnalysed):
        analyse(half)
