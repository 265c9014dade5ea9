"""What the networks are trained to: outline and grades; a grade that nobody gave costs nothing."""

from __future__ import annotations

import torch
from torch.nn import functional

from .networks import Answer

Tensor = torch.Tensor

GRADES = 0.5
"""Weight of the reader's grades beside the class: they teach what an expert looked at."""
SMOOTHING = 0.05


def outline_loss(logits: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy and Dice; ``share`` (n, 1, rows, columns) of each pixel is lesion."""
    entropy = functional.binary_cross_entropy_with_logits(logits, share)
    probability = torch.sigmoid(logits)
    both, total = (probability * share).sum((1, 2, 3)), (probability + share).sum((1, 2, 3))
    return entropy + (1 - (2 * both + 1) / (total + 1)).mean()


def grade_loss(logits: Tensor, label: Tensor, grade: Tensor) -> Tensor:
    """Cross-entropy of the class, and of "the grade is above k" for each k.

    Args:
        logits: (n, 1 + thresholds), see :class:`~.networks.Answer`.
        label: (n,) 0 or 1; nan where it is not known.
        grade: (n,) from 0; -1 where it is not known.
    """
    thresholds = torch.arange(logits.shape[1] - 1)
    targets = torch.cat([label[:, None], (grade[:, None] > thresholds).float()], 1)
    known = torch.cat([~label.isnan()[:, None], (grade >= 0)[:, None].expand(-1, len(thresholds))], 1).float()
    softened = targets.nan_to_num() * (1 - SMOOTHING) + SMOOTHING / 2
    entropy = functional.binary_cross_entropy_with_logits(logits, softened, reduction="none") * known / len(logits)
    value = entropy[:, 0].sum()
    return value + GRADES * entropy[:, 1:].sum() / len(thresholds) if len(thresholds) else value


def total_loss(answer: Answer, share: Tensor, label: Tensor, grade: Tensor) -> Tensor:
    """Of a batch; ``share`` is on the grid of the input."""
    value = outline_loss(answer.outline, functional.avg_pool2d(share, 2))
    return value + grade_loss(answer.grades, label, grade) if answer.grades.shape[1] else value
