"""What the hippocampus networks learn from: losses, batches, folds, and the weights' way to disk. No data is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.hippocampus import batches, losses, networks, train_data
from algorithms.hippocampus.train_data import Patches


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    return probability.clamp(min=1e-6).log()


def test_squared_dice_is_least_where_the_share_is_the_target() -> None:
    target = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    used = torch.ones_like(target)
    exact = losses.squared_dice(target, target, used)
    for other in (target * 0.8, (target * 1.2).clamp(max=1), (target > 0.4).float()):
        assert losses.squared_dice(other, target, used) > exact
    assert exact == pytest.approx(0, abs=1e-6)


def test_the_segment_loss_leaves_out_what_nobody_labelled() -> None:
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    regions = torch.zeros(1, 4, 4, 4, 4, dtype=torch.bool)
    regions[:, 2, :2] = True  # surely hippocampus, part unknown
    regions[:, 3, 3:] = True  # surely background; x = 2 is in no region
    losses.segment_loss(logits, regions, torch.tensor([False])).backward()
    assert logits.grad is not None
    slope = logits.grad.abs().sum((0, 1, 3, 4))
    assert slope[2] == 0
    assert (slope[[0, 1, 3]] > 0).all()
    # where the part is unknown, anterior and posterior are pulled alike
    assert torch.allclose(logits.grad[:, 1, :2], logits.grad[:, 2, :2])


def test_the_segment_loss_is_least_at_the_label() -> None:
    labels = torch.randint(3, (1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    regions = torch.stack([labels == 1, labels == 2, torch.zeros_like(labels, dtype=torch.bool), labels == 0], 1)
    right = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    expert = torch.tensor([True])
    best = losses.segment_loss(logits_of(right), regions, expert)
    assert losses.segment_loss(logits_of(right.roll(1, dims=1)), regions, expert) > best + 1


def test_the_find_loss_leaves_out_a_skull_that_nobody_labelled() -> None:
    soft = torch.zeros(1, 3, 4, 4, 4)
    soft[:, 2, :, :, 3] = 1  # outside is known at the top only
    inside = torch.full((1, 3, 4, 4, 4), 1e-4)
    inside[:, 2] = 1
    outside = inside.roll(1, dims=1)
    mixed = torch.where(soft[:, 2:] > 0, outside, inside)
    assert losses.find_loss(logits_of(mixed), soft) == pytest.approx(
        float(losses.find_loss(logits_of(outside), soft)), abs=0.01
    )
    assert losses.find_loss(logits_of(inside), soft) > losses.find_loss(logits_of(mixed), soft) + 1


def box_patches(expert: bool) -> Patches:
    """A bright box in a dark volume, whose front half is anterior."""
    shape = train_data.SEGMENT_SHAPE
    inside = torch.zeros(shape)
    inside[18:30, 20:44, 18:30] = 1
    if expert:
        third = torch.zeros(shape)
        third[18:30, 32:44, 18:30] = 1
    else:  # sure background
        third = torch.ones(shape)
        third[15:33, 17:47, 15:33] = 0
    channels = torch.stack([0.2 + 0.6 * inside, inside, third, torch.ones(shape)])
    return Patches(channels[None].half(), torch.tensor([[24.0, 32.0, 24.0]]), expert)


def test_a_segment_batch_has_one_region_a_voxel_and_nothing_outside_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        batch = batches.segment_batch(box_patches(True), (box_patches(False), box_patches(False)), 2, generator)
        assert batch.image.shape == (2, 1, *batches.SEGMENT_PATCH)
        assert torch.isfinite(batch.image).all()
        assert (batch.regions.sum(1) <= 1).all()
        for sample, regions, expert in zip(batch.image, batch.regions, batch.expert, strict=True):
            assert bool(regions[:2].any()) is bool(expert)
            assert bool(regions[2].any()) is not bool(expert)
            inside, outside = sample[0][regions[:3].any(0)], sample[0][regions[3]]
            assert inside.mean() > outside.mean()  # the labels moved with the image


def test_the_same_generator_makes_the_same_batch() -> None:
    expert, other = box_patches(True), box_patches(False)
    first, second = (
        batches.segment_batch(expert, (other, other), 2, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.regions, second.regions)


def test_every_patient_is_held_out_once_whatever_else_is_there() -> None:
    cases = [train_data.Case(f"patient_{k}", Path(), Path()) for k in range(60)]
    held_in = [train_data.held_in(cases, fold, train_data.SEGMENT_FOLDS) for fold in range(train_data.SEGMENT_FOLDS)]
    counts = np.bincount(np.concatenate(held_in), minlength=len(cases))
    assert (counts == train_data.SEGMENT_FOLDS - 1).all()
    assert min(len(cases) - len(indices) for indices in held_in) > 0


def test_weights_come_back_as_they_were_and_never_into_another_network(tmp_path: Path) -> None:
    file = tmp_path / "find-0.safetensors"
    network = networks.find_network().eval()
    networks.save_weights(network, file)
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = networks.load_weights(networks.find_network(), file)(image)
        assert torch.allclose(same, network(image), atol=0.05)
    with pytest.raises(ValueError, match=r"find-0\.safetensors holds the weights of another network"):
        networks.load_weights(networks.segment_network(), file)
