"""The way of a mask in twelve orientations: images on disk -> array -> the algorithm's grid -> label map -> SEG.

What was found must lie in the SEG at the same points of the patient as in the images, within half a voxel. The networks
are stood in for by the images themselves, in which two bodies of known shape are painted by their place in the patient;
reading, resampling there and back, encoding and the check are the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import torch
from scipy.spatial import KDTree

from algorithms.hippocampus import resample, segment
from algorithms.left_ventricle import networks as ventricle_networks
from algorithms.left_ventricle import segment as ventricle_segment
from dicom_node.algorithm import Findings, Measurement
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings
from dicom_node.run.cine import read_cine
from dicom_node.run.volumes import read_volume
from dicom_node.testing.heart import AXIS, INFERIOR, TO_RIGHT_VENTRICLE
from dicom_node.testing.series import phantom_uid, plane_affine, save, slice_datasets
from tests.unit.result_samples import HIPPOCAMPUS, VOLUME, context, findings

Array = npt.NDArray[np.float64]
CENTRE = np.array([12.0, -20.0, 35.0])
"""LPS mm, middle of the images."""
LEFT, RIGHT = 1, 2
BODIES: Mapping[int, tuple[tuple[tuple[float, float, float], float], ...]] = {
    # No mirroring and no turn maps them onto themselves, nor one onto the other.
    LEFT: (((14.0, -3.0, 2.0), 8.0), ((16.0, -12.0, 7.0), 5.0), ((12.0, 4.0, -6.0), 4.0)),
    RIGHT: (((-15.0, 2.0, -1.0), 6.0), ((-12.0, 9.0, -6.0), 4.5)),
}
"""By label: balls of (middle from CENTRE, radius), LPS mm."""


def depth(points: Array, label: int) -> Array:
    """mm inside the body's surface, negative outside; ``points`` are (..., 3) LPS mm."""
    found = [radius - np.linalg.norm(points - CENTRE - middle, axis=-1) for middle, radius in BODIES[label]]
    return np.max(found, axis=0)


@dataclass(frozen=True)
class Orientation:
    """How a series lies.

    Attributes:
        cosines: Image Orientation (Patient).
        reverse: stacked against the normal of the planes.
        tilt: mm that each slice is shifted along the columns, as a tilted gantry does.
        position: Patient Position.
    """

    cosines: tuple[float, ...]
    reverse: bool = False
    tilt: float = 0.0
    position: str = "HFS"


def turned(cosines: tuple[float, ...], degrees: float, axis: tuple[float, float, float]) -> tuple[float, ...]:
    """The plane turned about an axis of the patient."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return tuple((np.reshape(cosines, (2, 3)) @ matrix.T).ravel().tolist())


AXIAL, SAGITTAL, CORONAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
ORIENTATIONS: Mapping[str, Orientation] = {
    "axial": Orientation(AXIAL),
    "sagittal": Orientation(SAGITTAL),
    "coronal": Orientation(CORONAL),
    "oblique": Orientation(turned(AXIAL, 25, (1, 0, 0))),
    "double oblique": Orientation(turned(CORONAL, 38, (1, 2, 0.5))),
    "axial, reversed order": Orientation(AXIAL, reverse=True),
    "sagittal, reversed order": Orientation(SAGITTAL, reverse=True),
    "feet first": Orientation((-1, 0, 0, 0, 1, 0), position="FFS"),
    "prone": Orientation((-1, 0, 0, 0, -1, 0), position="HFP"),
    "feet first, prone": Orientation((1, 0, 0, 0, -1, 0), position="FFP"),
    "on the side": Orientation((0, -1, 0, 1, 0, 0), position="HFDL"),
    "tilted gantry": Orientation(AXIAL, tilt=0.35),
}


_SHORT = (*(-TO_RIGHT_VENTRICLE).tolist(), *INFERIOR.tolist())
_ALONG, _ROW, _COLUMN = (tuple(v.tolist()) for v in (AXIS, -TO_RIGHT_VENTRICLE, INFERIOR))
_FROM_APEX = (*TO_RIGHT_VENTRICLE.tolist(), *INFERIOR.tolist())
SHORT_AXES: Mapping[str, Orientation] = {
    # Short axes only, since no other stack is analysed: in all quarter turns, from both sides, in both orders.
    "as usual": Orientation(_SHORT),
    "reversed order": Orientation(_SHORT, reverse=True),
    "a quarter turn": Orientation(turned(_SHORT, 90, _ALONG)),
    "feet first, prone": Orientation(turned(_SHORT, 180, _ALONG), position="FFP"),
    "three quarter turns, reversed order": Orientation(turned(_SHORT, 270, _ALONG), reverse=True),
    "from the apex": Orientation(_FROM_APEX),
    "feet first, from the apex, reversed order": Orientation(_FROM_APEX, reverse=True, position="FFS"),
    "prone, from the apex, a half turn": Orientation(turned(_FROM_APEX, 180, _ALONG), position="HFP"),
    "oblique": Orientation(turned(_SHORT, 20, _ROW)),
    "oblique to the other side": Orientation(turned(_SHORT, -20, _COLUMN)),
    "turned by 33 degrees and oblique": Orientation(turned(turned(_SHORT, 33, _ALONG), 15, (1, 2, 0.5))),
    "tilted": Orientation(_SHORT, tilt=0.8),
}


def grid(orientation: Orientation, spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Array:
    """(slice, row, column, 1) index to LPS mm, the middle of the images at CENTRE."""
    step = -spacing[0] if orientation.reverse else spacing[0]
    affine = plane_affine(orientation.cosines, (step, *spacing[1:]), (0, 0, 0))
    affine[:3, 0] += orientation.tilt * affine[:3, 1] / spacing[1]
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def points_of(affine: Array, shape: tuple[int, ...]) -> Array:
    """Voxel centres in LPS mm, shape (slices, rows, columns, 3)."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3])


def painted(points: Array, edge: float, labels: Sequence[int] = (LEFT, RIGHT)) -> npt.NDArray[np.uint16]:
    """Signals: 1000 in the bodies, over ``edge`` mm from nothing to full."""
    signal = [1000 * np.clip(depth(points, label) / edge + 0.5, 0, 1) for label in labels]
    return np.rint(np.max([np.zeros(points.shape[:-1]), *signal], axis=0)).astype(np.uint16)


def in_the_patient(path: Path) -> dict[int, Array]:
    """The voxels of each segment of a SEG in LPS mm, shape (n, 3), by what the SEG itself says of its frames."""
    seg = pydicom.dcmread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    down, across = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[int, list[Array]] = {}
    for frame, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        origin = np.array([float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient])
        at = np.argwhere(plane)
        found.setdefault(number, []).append(origin + at[:, :1] * down * column + at[:, 1:] * across * row)
    return {number: np.concatenate(parts) for number, parts in found.items()}


def assert_same_place(path: Path, voxels: Array, tolerance: float) -> None:
    """The SEG's voxels are those of the images that lie in the bodies, give or take ``tolerance`` mm at the surface."""
    found = in_the_patient(path)
    assert found.keys() == BODIES.keys()
    for label, points in found.items():
        outermost = float(depth(points, label).min())
        assert outermost > -tolerance, f"a voxel lies {-outermost:.2f} mm outside"
        needed = voxels[depth(voxels, label) > tolerance]
        assert len(needed) > 50
        distance, _ = KDTree(points).query(needed)
        missing = needed[distance > 0.02]
        assert not len(missing), f"a voxel is missing {depth(missing, label).max():.2f} mm inside"


def measured(label_map: npt.NDArray[np.uint8], millilitres: float) -> Findings:
    """Two segments and their volumes."""
    sample = findings()
    values = tuple(
        Measurement(f"{s.label} volume", float((label_map == s.value).sum()) * millilitres, "mL", VOLUME, HIPPOCAMPUS,
                    s.laterality, (s.value,), True)
        for s in sample.segments
    )  # fmt: skip
    return replace(sample, label_map=label_map, measurements=values, notes=())


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_hippocampus(tmp_path: Path, name: str) -> None:
    """Read, to 1 mm along the patient's axes (mirrored for the right side), back onto the images' grid, encoded."""
    spacing, shape = (1.3, 0.9, 1.0), (48, 66, 60)
    affine = grid(ORIENTATIONS[name], spacing, shape)
    points = points_of(affine, shape)
    header = {"PatientPosition": ORIENTATIONS[name].position}
    files = save(tmp_path / "in", slice_datasets(painted(points, 1.0), affine, header=header))
    random.Random(1).shuffle(files)
    source = read_volume(files)
    volume = source.volume
    target = resample.Grid(resample.LPS_TO_RAS @ volume.affine, volume.array.shape)
    image = torch.from_numpy(volume.array)
    label_map = np.zeros(volume.array.shape, np.uint8)
    for label in BODIES:
        middle = (CENTRE + np.mean([m for m, _ in BODIES[label]], axis=0)) * (-1, -1, 1)
        straight = resample.grid_around(middle, segment.SHAPE, 1.0, mirror=label == RIGHT)
        seen = resample.resample(image[None], target, straight)[0] / 1000
        seen = torch.where(resample.inside_of(target, straight, image.device), seen.clamp(0, 1), 0)
        # Of the other body, where it reaches into this patch, nothing is kept.
        x = torch.from_numpy(straight.to_mm(np.argwhere(np.ones(segment.SHAPE)))[:, 0].reshape(segment.SHAPE))
        seen = torch.where((x < -CENTRE[0]) == (label == LEFT), seen, 0).float()
        both = torch.stack([seen, torch.zeros_like(seen)])
        side = segment.Hippocampus(both, straight, np.asarray(middle), 1.0, True, 1.0)
        segment.paint(label_map, target, side, label, label)
    found = measured(label_map, volume.voxel_volume / 1000)
    objects = encode_findings(found, source.headers, context(), tmp_path / "out", ("contours",))
    assert_same_place(objects[0].path, points.reshape(-1, 3), max(spacing) / 2)
    assert check_results([o.path for o in objects], source.headers, findings=found) == []


def bodies_seen(_: object, patches: torch.Tensor) -> torch.Tensor:
    """In place of the networks: cavity where there is a signal."""
    seen = patches[:, 0].clamp(0, 1)
    return torch.stack([1 - seen, seen, torch.zeros_like(seen)], 1)


@pytest.mark.parametrize("name", SHORT_AXES)
def test_left_ventricle(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cine of eight phases: read, to the network's patches, back onto the frames of two phases, encoded.

    The second phase shows the left body, the third the right one.
    """
    spacing, shape, phases = (5.0, 1.2, 1.3), (11, 64, 60), 8
    affine = grid(SHORT_AXES[name], spacing, shape)
    points = points_of(affine, shape)
    shown = {1: (LEFT,), 2: (RIGHT,)}
    datasets = []
    for phase in range(phases):
        header: dict[str, Any] = {
            "PatientPosition": SHORT_AXES[name].position,
            "CardiacNumberOfImages": phases,
            "TriggerTime": str(50 + 100 * phase),
            "NominalInterval": 800,
            "StudyInstanceUID": phantom_uid("study"),
            "SeriesInstanceUID": phantom_uid("series"),
            "FrameOfReferenceUID": phantom_uid("frame of reference"),
        }
        pixels = painted(points, 1.2, shown.get(phase, ()))
        datasets += slice_datasets(pixels, affine, key=f"phase {phase}", header=header)
    files = save(tmp_path / "in", datasets)
    random.Random(1).shuffle(files)
    source = read_cine(files)
    cine = source.cine
    monkeypatch.setattr(ventricle_networks, "predict", bodies_seen)
    monkeypatch.setattr("algorithms.left_ventricle.resample.normalise", lambda patches: patches / 1000)
    middle = ((shape[1] - 1) / 2, (shape[2] - 1) / 2)
    stack = torch.from_numpy(np.ascontiguousarray(cine.array[1:3]).reshape(-1, 1, *shape[1:]))
    probability = ventricle_segment.probabilities(stack, cine.spacing[1:], middle, []).numpy()
    labels = np.repeat(np.array([LEFT, RIGHT], np.uint8), shape[0])[:, None, None]
    label_map = np.where(probability[:, 0] > 0.5, labels, 0).astype(np.uint8)
    found = replace(
        measured(label_map, cine.voxel_volume / 1000), frames=(*cine.frames[1], *cine.frames[2]), key_planes=()
    )
    headers = list({str(h.SOPInstanceUID): h for row in source.headers for h in row}.values())
    objects = encode_findings(found, headers, context(), tmp_path / "out", ("contours",))
    assert_same_place(objects[0].path, points.reshape(-1, 3), max(spacing[1:]) / 2)
    assert check_results([o.path for o in objects], headers, findings=found) == []


MISTAKES: Mapping[str, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    "mirrored": lambda m: m[:, :, ::-1],
    "upside down": lambda m: m[:, ::-1],
    "stack reversed": lambda m: m[::-1],
    "one slice off": lambda m: np.roll(m, 1, axis=0),
    "rows and columns exchanged": lambda m: m.transpose(0, 2, 1),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mask_that_lies_elsewhere_would_be_seen(tmp_path: Path, mistake: str) -> None:
    spacing, shape = (1.3, 1.0, 1.0), (48, 60, 60)
    affine = grid(ORIENTATIONS["double oblique"], spacing, shape)
    points = points_of(affine, shape)
    label_map = np.zeros(shape, np.uint8)
    for label in BODIES:
        label_map[depth(points, label) > 0] = label
    headers = slice_datasets(np.zeros(shape, np.uint16), affine)
    for name, mask in (("right", label_map), ("wrong", np.ascontiguousarray(MISTAKES[mistake](label_map)))):
        (seg, _) = encode_findings(measured(mask, 0.0013), headers, context(), tmp_path / name)
        if name == "right":
            assert_same_place(seg.path, points.reshape(-1, 3), 0.01)
            continue
        with pytest.raises(AssertionError, match="a voxel"):
            assert_same_place(seg.path, points.reshape(-1, 3), max(spacing) / 2)
