"""Losses for labels that do not say everything."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
EPSILON = 1e-5


def soft_dice(probability: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """One minus Dice for each sample and class: (n, c) from (n, c, x, y, z), over the voxels where ``used`` is 1."""
    axes = (2, 3, 4)
    both = (probability * target * used).sum(axes)
    total = ((probability + target) * used).sum(axes)
    return 1 - (2 * both + 1) / (total + 1)


def squared_dice(share: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """As :func:`soft_dice`, but least where ``share`` is ``target``, also when that is a share of a voxel (V-Net)."""
    axes = (2, 3, 4)
    both = (share * target * used).sum(axes)
    total = ((share**2 + target**2) * used).sum(axes)
    return 1 - (2 * both + 1) / (total + 1)


def find_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross-entropy and Dice of the hippocampi, and of the skull's inside where that is known.

    Args:
        soft: (n, 3, x, y, z), see ``train_data.Heads``.
    """
    probability = torch.softmax(logits, 1).clamp(EPSILON, 1 - EPSILON)
    found, outside = probability[:, 1], probability[:, 0]
    wanted, is_inside, is_outside = soft[:, 0], soft[:, 1], soft[:, 2]
    # weighted as a whole: more weight inside than outside would blow the hippocampi up
    hippocampus = -10 * (wanted * found.log() + (1 - wanted) * (1 - found).log()).mean()
    skull = -(is_inside * (1 - outside).log() + is_outside * outside.log()).mean()
    used = torch.stack([torch.ones_like(wanted), is_inside + is_outside], 1)
    dice = squared_dice(torch.stack([found, 1 - outside], 1), soft[:, :2], used)
    return hippocampus + skull + dice.mean(0).sum()


def segment_loss(logits: Tensor, regions: Tensor, expert: Tensor) -> Tensor:
    """Cross-entropy over every voxel whose region is known, and Dice of both parts and the whole on expert labels."""
    probability = torch.softmax(logits, 1)
    whole = probability[:, 1:].sum(1, keepdim=True)
    choices = torch.cat([probability[:, 1:], whole, probability[:, :1]], 1).clamp(min=EPSILON)
    known = regions.any(1, keepdim=True).float()
    entropy = -(choices.log() * regions).sum() / known.sum().clamp(min=1)
    if not expert.any():
        return entropy
    parts = torch.cat([probability[expert, 1:], whole[expert]], 1)
    anterior, posterior = regions[expert, 0:1].float(), regions[expert, 1:2].float()
    target = torch.cat([anterior, posterior, anterior + posterior], 1)
    return entropy + soft_dice(parts, target, known[expert]).mean()
