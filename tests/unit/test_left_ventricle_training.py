"""What the ventricle's networks learn from and work on: losses, batches, folds, patches, weights. No data is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.left_ventricle import batches, find, losses, networks, resample, segment, train_data
from algorithms.left_ventricle.train_data import Slices
from tests.conftest import data_dir


def discs(phase: str, centre: tuple[float, float] = (60.0, 70.0)) -> Slices:
    """A bright cavity of 20 mm radius with a wall of 8 mm, 1.4 x 1.2 mm pixels."""
    spacing = (1.4, 1.2)
    row, column = np.ogrid[:128, :144]
    radius = np.hypot((row - centre[0]) * spacing[0], (column - centre[1]) * spacing[1])
    labels = np.where(radius < 20, 1, np.where(radius < 28, 2, 0)).astype(np.uint8)
    image = np.where(labels == 1, 220, np.where(labels == 2, 70, 110)).astype(np.uint8)
    if phase == "ES":
        labels[labels == 2] = 0
    regions = train_data.regions_of(labels, phase == "ED", spacing)
    return Slices(
        torch.from_numpy(image[None, None]),
        torch.from_numpy(regions[None]),
        torch.tensor([spacing]),
        torch.tensor([centre]),
        ("A",),
        (phase,),
        (3,),
        torch.tensor([10.0]),
    )


def test_end_systolic_muscle_is_unknown_and_not_absent() -> None:
    cavity, muscle, neither = discs("ES").regions[0]
    assert not muscle.any()
    assert not (cavity & neither).any()
    beside = discs("ED").regions[0, 1]
    assert not neither[beside].any()
    assert neither[0, 0]
    assert (discs("ED").regions.sum(1) == 1).all()


def test_the_loss_leaves_open_what_nobody_labelled() -> None:
    logits = torch.zeros(1, 3, 128, 144, requires_grad=True)
    regions = discs("ES").regions
    losses.segment_loss(logits, regions).backward()
    assert logits.grad is not None
    unknown = ~regions.any(1)[0]
    background, cavity, muscle = logits.grad[0]
    assert torch.allclose(background[unknown], muscle[unknown])
    assert (cavity[unknown] > 0).all()
    assert (background[regions[0, 2]] < 0).all()


def test_the_loss_is_least_at_the_label() -> None:
    regions = discs("ED").regions
    right = regions[:, [2, 0, 1]].float() * 12
    best = losses.segment_loss(right, regions)
    assert best < 0.05
    assert losses.segment_loss(right.roll(1, 1), regions) > best + 1
    assert losses.segment_loss(right.roll(12, 2), regions) > best + 0.1


def test_the_find_loss_is_least_at_the_share() -> None:
    share = torch.zeros(1, 1, 8, 8)
    share[..., 2:5, 2:5] = 1
    logits = torch.cat([1 - share, share], 1) * 12
    assert losses.find_loss(logits, share) < 0.05
    assert losses.find_loss(logits.roll(1, 1), share) > 1


@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_a_segment_batch_has_one_region_a_pixel_and_the_cavity_near_the_middle(phase: str) -> None:
    batch = batches.segment_batch(discs(phase), 24, torch.Generator().manual_seed(0))
    assert batch.image.shape == (24, 1, 112, 112)
    assert torch.isfinite(batch.image).all()
    assert (batch.regions.sum(1) <= 1).all()
    cavity = batch.regions[:, 0].flatten(1).any(1)
    assert cavity.sum() >= 20  # a few patches lie anywhere
    middles = torch.stack([torch.nonzero(b).float().mean(0) for b in batch.regions[cavity, 0]])
    assert ((middles - 55.5).abs() * resample.SEGMENT_STEP).amax(1).median() < 20
    assert batch.regions[:, 1].any() == (phase == "ED")
    inside, wall = batch.image[:, 0][batch.regions[:, 0]], batch.image[:, 0][batch.regions[:, 1]]
    if phase == "ED":
        assert inside.median() > wall.median() + 0.5


def test_a_find_batch_shows_the_cavity_somewhere() -> None:
    batch = batches.find_batch(discs("ED"), 16, torch.Generator().manual_seed(0))
    assert batch.image.shape == batch.regions.shape == (16, 1, 96, 96)
    areas = batch.regions.sum((1, 2, 3)) * resample.FIND_STEP**2
    assert areas.median() == pytest.approx(np.pi * 20**2, rel=0.4)
    assert batch.regions.amax() <= 1


def test_the_same_seed_gives_the_same_batch() -> None:
    one, two = (batches.segment_batch(discs("ED"), 4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.image, two.image)


def test_patches_go_back_to_where_they_came_from() -> None:
    slices = discs("ED", (75.3, 51.7))
    spacing = (1.4, 1.2)
    cavity = slices.regions[:, :1].float()
    patch = resample.patches(cavity, spacing, (70.0, 60.0), resample.SEGMENT_SIZE, resample.SEGMENT_STEP)
    assert float(patch.sum()) * resample.SEGMENT_STEP**2 == pytest.approx(np.pi * 20**2, rel=0.02)
    back = resample.restored(patch, spacing, (70.0, 60.0), (128, 144), resample.SEGMENT_STEP)
    assert back.shape == cavity.shape
    both = ((back > 0.5) & (cavity > 0.5)).sum()
    assert 2 * both / ((back > 0.5).sum() + cavity.sum()) > 0.985


class BrightIsCavity(torch.nn.Module):
    """A finder that takes what is brightest for the cavity."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), 20 * (image - 0.8 * image.amax())], 1).float()


@pytest.mark.parametrize("spacing", [(1.9, 2.2), (2.5, 2.5), (2.0, 1.6)])
def test_the_middle_is_found_whatever_the_pixels(spacing: tuple[float, float]) -> None:
    slices = discs("ED", (75.0, 51.0))
    (row, column), sure = find.centre(slices.images.float(), spacing, [BrightIsCavity()])
    assert (row, column) == pytest.approx((75.0, 51.0), abs=1.0)
    assert sure > 0.9


def test_outlines_are_one_cavity_without_holes_and_the_wall_around_it() -> None:
    found = np.zeros((2, 2, 40, 40), np.float32)
    found[0, 0, 10:20, 10:20] = 0.9
    found[0, 0, 14:16, 14:16] = 0.1  # a papillary muscle
    found[0, 1, 7:23, 7:23] = 1 - found[0, 0, 7:23, 7:23]
    found[0, 0, 30:33, 30:33] = 0.9  # another chamber
    found[0, 1, 34:38, 34:38] = 0.9  # a wall of nothing
    labels = segment.labels(found)
    assert (labels[0] == segment.CAVITY).sum() == 100
    assert (labels[0] == segment.MYOCARDIUM).sum() == 16 * 16 - 100
    assert not labels[1].any()


def test_a_slice_does_not_depend_on_what_else_is_in_the_batch() -> None:
    torch.manual_seed(0)
    network = networks.find_network()  # not in its evaluation mode: neither when it learns
    images = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(network(images)[:1], network(images[:1]), atol=1e-5)
        assert networks.predict([network], images, batch=2).sum(1) == pytest.approx(1.0, abs=1e-3)


def test_weights_come_back_from_disk_and_not_as_another_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.segment_network().eval()
    networks.save_weights(network, tmp_path / "w.safetensors")
    again = networks.load_weights(networks.segment_network(), tmp_path / "w.safetensors")
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(network(image), again(image), atol=0.02)
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 2e6
    with pytest.raises(ValueError, match="another network"):
        networks.load_weights(networks.find_network(), tmp_path / "w.safetensors")


def test_each_fold_holds_out_its_share_of_every_group() -> None:
    manifest = train_data.rows(data_dir())
    groups = {row["subject"]: row["group"] for row in manifest}
    folds = train_data.folds_of(manifest, train_data.SEGMENT_FOLDS)
    assert set(folds) == set(groups)
    for group in set(groups.values()):
        counts = [sum(folds[s] == f for s in folds if groups[s] == group) for f in range(train_data.SEGMENT_FOLDS)]
        assert max(counts) - min(counts) <= 1
    slices = train_data.read(data_dir())
    seen = [set(np.array(slices.subjects)[train_data.held_out(slices, folds, f)]) for f in range(5)]
    assert sum(len(s) for s in seen) == len(set.union(*seen)) == 30
    for fold in range(5):
        trained_on = {slices.subjects[k] for k in train_data.held_in(slices, folds, fold)}
        assert not trained_on & seen[fold]
