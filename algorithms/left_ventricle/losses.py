"""A loss for labels that do not say everything."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
EPSILON = 1e-5


def soft_dice(probability: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """One minus Dice for each sample: (n,) from (n, rows, columns), over the pixels where ``used`` is 1."""
    both = (probability * target * used).sum((1, 2))
    total = ((probability + target) * used).sum((1, 2))
    return 1 - (2 * both + 1) / (total + 1)


def find_loss(logits: Tensor, cavity: Tensor) -> Tensor:
    """Cross-entropy and Dice of the cavity, whose share of each pixel is (n, 1, rows, columns)."""
    probability = torch.softmax(logits, 1)[:, 1].clamp(EPSILON, 1 - EPSILON)
    share = cavity[:, 0]
    entropy = -(share * probability.log() + (1 - share) * (1 - probability).log()).mean()
    return 5 * entropy + soft_dice(probability, share, torch.ones_like(share)).mean()


def segment_loss(logits: Tensor, regions: Tensor) -> Tensor:
    """Cross-entropy of every pixel, and Dice of cavity and, where it is labelled, of myocardium.

    Args:
        regions: (n, 3, rows, columns) bool: cavity, myocardium, surely neither; a pixel in none of them is not
            cavity, and its share of myocardium and background is left open.
    """
    probability = torch.softmax(logits, 1)
    background, cavity, muscle = probability.unbind(1)
    known = [regions[:, 0], regions[:, 1], regions[:, 2], ~regions.any(1)]
    choices = [cavity, muscle, background, background + muscle]
    entropy = sum(
        -(choice.clamp(min=EPSILON).log() * where).mean() for choice, where in zip(choices, known, strict=True)
    )
    everywhere = torch.ones_like(cavity)
    loss = entropy + soft_dice(cavity, regions[:, 0].float(), everywhere).mean()
    labelled = regions[:, 1].flatten(1).any(1)
    if labelled.any():
        decided = regions.any(1).float()
        dice = soft_dice(muscle, regions[:, 1].float(), decided)
        loss = loss + dice[labelled].sum() / len(labelled)
    return loss
