"""The hippocampus algorithm's names, limits, refusals and weights. No training data is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks import nets

from algorithms.hippocampus import contrast, crop, find, fitness, networks, report
from algorithms.hippocampus.envelope import brain_envelope
from algorithms.hippocampus.resample import Grid, Image, grid_around
from algorithms.hippocampus.segment import Hippocampus
from dicom_node.algorithm import NotAnalysed, Volume

FOLDER = Path(networks.__file__).parent


def manifest() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load((FOLDER / "algorithm.yaml").read_text(encoding="utf-8"))
    return loaded


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1), value: float = 0) -> Volume:
    array = np.full(shape, value, np.float32)
    array[0, 0, 0] += 1
    return Volume(array, np.diag([*spacing, 1.0]))


def grid_of(volume: Volume) -> Grid:
    return Grid(volume.affine, volume.array.shape)


def test_the_manifest_names_every_weights_file_by_its_hash() -> None:
    entries = manifest()["weights"].values()
    assert {e["file"] for e in entries} == {f"models/{f.name}" for f in (FOLDER / "models").glob("*.safetensors")}
    for entry in entries:
        assert hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_the_folder_stays_under_25_mb() -> None:
    files = [f for f in FOLDER.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 25e6


def test_the_bundle_configuration_describes_the_networks() -> None:
    described = json.loads((FOLDER / "configs" / "inference.json").read_text(encoding="utf-8"))
    for key, network, stage in (
        ("find_network", networks.find_network(), "find"),
        ("segment_network", networks.segment_network(), "segment"),
    ):
        options = {name: value for name, value in described[key].items() if name != "_target_"}
        same = getattr(nets, described[key]["_target_"])(**options).state_dict()
        assert {k: v.shape for k, v in same.items()} == {k: v.shape for k, v in network.state_dict().items()}
        for name in (n for n in manifest()["weights"] if n.startswith(stage)):
            networks.load_weights(network, FOLDER / manifest()["weights"][name]["file"])


def test_the_names_that_the_report_promises() -> None:
    label_map = np.zeros((4, 4, 4), np.uint8)
    label_map.flat[:10] = [1, 2, 3, 4, 1, 2, 3, 4, 1, 1]
    both = ("left", "right")
    measurements = report.volumes(label_map, 1000.0, both)
    left, right = measurements[0].value, measurements[3].value
    relative = report.relative(measurements, 2000.0)
    everything = (*measurements, report.asymmetry(left, right), report.head_size(2000.0), *relative)
    assert {m.name: (round(m.value, 3), m.unit) for m in everything} == {
        "Left hippocampus volume": (6.0, "mL"),
        "Left hippocampus anterior volume": (4.0, "mL"),
        "Left hippocampus posterior volume": (2.0, "mL"),
        "Right hippocampus volume": (4.0, "mL"),
        "Right hippocampus anterior volume": (2.0, "mL"),
        "Right hippocampus posterior volume": (2.0, "mL"),
        "Total hippocampus volume": (10.0, "mL"),
        "Hippocampus asymmetry index": (40.0, "%"),
        "Brain envelope volume": (2000.0, "mL"),
        "Left hippocampus volume relative to head size": (0.3, "%"),
        "Left hippocampus anterior volume relative to head size": (0.2, "%"),
        "Left hippocampus posterior volume relative to head size": (0.1, "%"),
        "Right hippocampus volume relative to head size": (0.2, "%"),
        "Right hippocampus anterior volume relative to head size": (0.1, "%"),
        "Right hippocampus posterior volume relative to head size": (0.1, "%"),
        "Total hippocampus volume relative to head size": (0.5, "%"),
    }
    assert [s.laterality for s in report.segments(both)] == ["left", "left", "right", "right"]


def test_a_small_hippocampus_is_flagged_and_still_reported() -> None:
    label_map = np.zeros((10, 10, 10), np.uint8)
    label_map[0] = 1
    small = report.volumes(label_map, 10.0, ("left",))[0]
    assert small.value == pytest.approx(1.0)
    assert small.flag is not None
    assert "below" in small.flag


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (Volume(np.zeros((64, 64, 64), np.float32), np.eye(4)), "same value"),
        (volume_of((60, 64, 64), (4, 1, 1)), "4.0 mm are too large"),
        (volume_of((5, 64, 64)), "covers only 5 mm"),
        (volume_of((64, 64, 64), value=float("nan")), "no numbers"),
    ],
)
def test_what_cannot_be_a_head_is_refused_with_its_reason(volume: Volume, reason: str) -> None:
    with pytest.raises(NotAnalysed, match=reason):
        fitness.check_geometry(volume, grid_of(volume))


def head_with(white: float = 0.9, grey: float = 0.6, fluid: float = 0.2) -> find.Head:
    """A ball of 1.6 litres: white inside, CSF around it, two grey hippocampi 52 mm apart; 4 mm voxels."""
    grid = np.stack(np.meshgrid(*[np.arange(48.0)] * 3, indexing="ij"), -1) - 24
    radius = np.sqrt((grid**2).sum(-1))
    probability = torch.zeros(3, 48, 48, 48)
    probability[2] = torch.from_numpy(radius < 18).float()
    probability[0] = 1 - probability[2]
    image = torch.from_numpy(np.where(radius < 16, white, np.where(radius < 18, fluid, 0))).float()
    head = find.Head(probability, image, Grid(np.diag([4.0, 4, 4, 1]), (48, 48, 48)))
    for x in (18, 31):
        put(head, (x, 24, 24))
        image[x - 1 : x + 2, 23:26, 23:26] = grey
    return head


def outlined(head: find.Head, voxel: tuple[int, int, int]) -> Hippocampus:
    """A box of 8 mm around a voxel of ``head``, as the segment stage would give it."""
    centre = head.grid.to_mm(voxel)
    return Hippocampus(torch.full((2, 8, 8, 8), 0.45), grid_around(centre, (8, 8, 8), 1.0), centre, 0.5, True, 0.9)


def tissues_with(white: float = 0.9, grey: float = 0.6, fluid: float = 0.2) -> contrast.Tissues | None:
    head = head_with(white, grey, fluid)
    sides = (outlined(head, (18, 24, 24)), outlined(head, (31, 24, 24)))
    return contrast.tissues(Image(head.image, head.grid), head, sides)


def test_contrast_is_told_from_the_tissues() -> None:
    levels = tissues_with()
    assert levels is not None
    # the skull's edge is half air, so fluid comes out a little darker
    assert [levels.white, levels.grey, levels.fluid] == pytest.approx([0.9, 0.6, 0.2], abs=0.06)
    fitness.check_contrast(levels)
    with pytest.raises(NotAnalysed, match="white matter is not brighter"):
        fitness.check_contrast(tissues_with(white=0.4))
    with pytest.raises(NotAnalysed, match="fluid is not darker"):
        fitness.check_contrast(tissues_with(fluid=0.95, white=0.96))
    with pytest.raises(NotAnalysed, match="too little of the brain"):
        fitness.check_contrast(None)


def shells(shape: tuple[int, int, int] = (48, 48, 48)) -> tuple[Image, find.Head]:
    """A brain of 64 mm radius with a ventricle of 12 mm, dark skull up to 74 mm, bright scalp; the coarse stage is
    sure of the brain and takes half of the skull for inside."""
    grid = np.stack(np.meshgrid(*[np.arange(s) * 4.0 for s in shape], indexing="ij"), -1) - 94
    radius = np.sqrt((grid**2).sum(-1))
    fine = np.stack(np.meshgrid(*[np.arange(2 * s) * 2.0 for s in shape], indexing="ij"), -1) - 95
    r = np.sqrt((fine**2).sum(-1))
    array = np.select([r < 12, r < 64, r < 74, r < 80], [0.2, 0.8, 0.05, 1.0], 0.0)
    probability = torch.zeros(3, *shape)
    probability[2] = torch.from_numpy(np.select([radius < 62, radius < 72], [0.95, 0.6], 0.0)).float()
    probability[0] = 1 - probability[2]
    coarse = Grid(np.diag([4.0, 4, 4, 1]), shape)
    origin = np.diag([2.0, 2, 2, 1])
    origin[:3, 3] = -1
    image = Image(torch.from_numpy(array).float(), Grid(origin, (2 * shape[0], 2 * shape[1], 2 * shape[2])))
    return image, find.Head(probability, torch.zeros(shape), coarse)


def test_the_envelope_is_the_brain_with_its_ventricles_and_without_skull() -> None:
    assert brain_envelope(*shells()) == pytest.approx(4 / 3 * np.pi * 64**3 / 1000, rel=0.04)


def test_a_brain_that_is_cut_off_has_no_envelope() -> None:
    assert brain_envelope(*shells((48, 48, 32))) is None


def test_what_holds_no_brain_is_refused() -> None:
    head = head_with()
    empty = torch.zeros_like(head.probability)
    empty[find.OUTSIDE] = 1
    with pytest.raises(NotAnalysed, match="no brain"):
        fitness.check_head(find.Head(empty, head.image, head.grid))


def put(head: find.Head, voxel: tuple[int, int, int], value: int = find.HIPPOCAMPUS) -> None:
    x, y, z = (slice(v - 1, v + 2) for v in voxel)
    head.probability[:, x, y, z] = 0
    head.probability[value, x, y, z] = 1


def test_left_is_left_of_right_in_patient_coordinates() -> None:
    left, right = find.left_and_right(head_with())
    assert left is not None
    assert right is not None
    assert (left.centre[0], right.centre[0]) == (72, 124)


def test_one_side_alone_has_its_side_and_the_other_is_named() -> None:
    head = head_with()
    put(head, (31, 24, 24), value=2)
    left, right = find.left_and_right(head)
    assert left is not None
    assert right is None
    with pytest.raises(NotAnalysed, match="the right hippocampus was not found"):
        fitness.check_places(left, right)


def side_of(complete: bool = True, certainty: float = 0.9, volume: float = 3.0) -> Hippocampus:
    return Hippocampus(torch.zeros(2, 1, 1, 1), Grid(np.eye(4), (1, 1, 1)), np.zeros(3), volume, complete, certainty)


def test_a_side_that_is_cut_or_unsure_is_refused() -> None:
    assert fitness.check_side("left", side_of()).complete
    fitness.check_outline("left", side_of())
    for none in (None, side_of(volume=0.1)):
        with pytest.raises(NotAnalysed, match="right hippocampus cannot be delineated"):
            fitness.check_side("right", none)
    with pytest.raises(NotAnalysed, match="right hippocampus cannot be delineated"):
        fitness.check_outline("right", side_of(certainty=0.7))
    with pytest.raises(NotAnalysed, match="left hippocampus is not fully in the field of view"):
        fitness.check_outline("left", side_of(complete=False))


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({"ImageLaterality": "L"}, "left"),
        ({"Laterality": "R"}, "right"),
        ({"SeriesDescription": "T1 hippocampus LEFT"}, "left"),
        ({"SeriesDescription": "left and right"}, None),
        ({}, None),
    ],
)
def test_the_side_of_a_crop_in_its_header(tags: Mapping[str, str], side: str | None) -> None:
    assert crop.side_in_tags(Volume(np.zeros((2, 2, 2), np.float32), np.eye(4), tags)) == side


def test_a_small_field_of_view_is_a_crop_and_a_head_is_not() -> None:
    assert fitness.is_crop(grid_of(volume_of((36, 50, 40))))
    assert not fitness.is_crop(grid_of(volume_of((36, 200, 200))))
