"""Endless augmented batches for the two networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from . import augment, synth, train_data
from .augment import Geometry, uniform
from .intensity import normalise_head, normalise_patch

Tensor = torch.Tensor

FIND_PATCH = (40, 56, 48)  # 4 mm
FIND_GEOMETRY = Geometry(rotation=30, zoom=0.15, shift=5, bend=1.0, bend_cells=5)
SEGMENT_PATCH = (32, 48, 32)  # 1 mm
SEGMENT_GEOMETRY = Geometry(rotation=12, zoom=0.11, shift=4, bend=0.8, bend_cells=6)


@dataclass(frozen=True)
class FindBatch:
    """``image`` (n, 1, x, y, z); ``soft`` (n, 3, x, y, z), see ``train_data.Heads``."""

    image: Tensor
    soft: Tensor


def pick(count: int, generator: torch.Generator) -> int:
    """A random index below ``count``."""
    return int(torch.randint(count, (1,), generator=generator))


def find_sample(heads: train_data.Heads, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One head at 4 mm: image (1, 1, x, y, z), shares (1, 3, x, y, z)."""
    k = pick(len(heads.images), generator)
    centre = torch.tensor([[(s - 1) / 2 for s in train_data.FIND_SHAPE]])
    points = augment.random_points(centre, FIND_PATCH, 2.0, FIND_GEOMETRY, generator)
    image = augment.sample(heads.images[k : k + 1].float(), points)
    soft = augment.sample(heads.soft[k : k + 1].float() / 255, points)
    if augment.some(1, 0.5, generator):
        image, soft = image.flip(2), soft.flip(2)
    return image, soft


def find_batch(real: train_data.Heads, painted: train_data.Heads, count: int, generator: torch.Generator) -> FindBatch:
    """A mix of real heads, painted heads (some without their skull) and things that are no heads."""
    images, softs = [], []
    for _ in range(count):
        kind = float(torch.rand(1, generator=generator))
        if kind < 0.06:
            image = synth.lump(FIND_PATCH, generator)[None, None]
            soft = torch.zeros(1, 3, *FIND_PATCH)
            soft[:, 2] = 1
        else:
            image, soft = find_sample(real if kind < 0.6 else painted, generator)
        if kind > 0.85:
            image = image * (functional.max_pool3d(soft[:, 1:2], 3, 1, 1) > 0.5)
        images.append(image)
        softs.append(soft)
    image, soft = torch.cat(images), torch.cat(softs)
    image = augment.gamma(image, 0.3, generator)
    image = augment.bias_field(image, 0.3, generator)
    image = augment.thick_slices(image, 1.8, 0.2, generator)
    image = augment.smooth(image, 0.3, generator)
    image = augment.noise(image, 0.08, 0.5, generator).clamp(min=0)
    mask = augment.cut_field_of_view(image, 0.3, 0.3, generator)
    soft = torch.cat([soft[:, :2] * mask, torch.where(mask > 0, soft[:, 2:], torch.ones(()))], 1)
    image = normalise_head(image * mask) * uniform(count, 0.85, 1.15, generator).view(-1, 1, 1, 1, 1)
    return FindBatch(image, soft)


@dataclass(frozen=True)
class SegmentBatch:
    """``image`` (n, 1, x, y, z); ``regions`` (n, 4, x, y, z) bool; ``expert`` (n,) bool.

    The regions are the anterior part, the posterior part, surely hippocampus of unknown part, surely background;
    a voxel in none of them is left out of the loss.
    """

    image: Tensor
    regions: Tensor
    expert: Tensor


def squeeze(points: Tensor, middles: Tensor, generator: torch.Generator) -> Tensor:
    """Shrink what lies at ``middles`` in an eighth of the samples and widen what is around it: atrophy."""
    amount = torch.rand(len(points), 3, generator=generator) * torch.tensor([0.45, 0.15, 0.45])
    amount = amount * augment.some(len(points), 0.12, generator)[:, None]
    offset = points - middles[:, None, None, None, :]
    near = torch.exp(-((offset / torch.tensor([10.0, 22.0, 10.0])) ** 2).sum(-1, keepdim=True) / 2)
    return points + amount[:, None, None, None, :] * offset * near


def dark_rim(image: Tensor, inside: Tensor, generator: torch.Generator) -> Tensor:
    """Give some hippocampi a rim as dark as CSF: what widens around a shrunken one."""
    strength = uniform(len(image), 0.2, 0.9, generator) * augment.some(len(image), 0.06, generator)
    if not strength.any():
        return image
    rim = functional.avg_pool3d(inside, 3, 1, 1) * (1 - inside) * strength.view(-1, 1, 1, 1, 1)
    dark = torch.quantile(image.flatten(1)[:, ::17], 0.03, dim=1).view(-1, 1, 1, 1, 1)
    return torch.lerp(image, dark.expand_as(image), rim)


def segment_batch(
    expert: train_data.Patches,
    others: tuple[train_data.Patches, train_data.Patches],
    count: int,
    generator: torch.Generator,
) -> SegmentBatch:
    """Expert crops, and one fifth of other patches (``others``: IXI, synth) that show real surroundings."""
    chosen, middles, is_expert = [], [], []
    for _ in range(count):
        kind = float(torch.rand(1, generator=generator))
        source = expert if kind < 0.8 else others[0] if kind < 0.93 else others[1]
        k = pick(len(source.channels), generator)
        channels = source.channels[k].float()
        if source.painted:
            channels[0] = synth.paint(channels[0].long(), "t1", generator)
        chosen.append(channels)
        middles.append(source.middles[k])
        is_expert.append(source.expert)
    middle, experts = torch.stack(middles), torch.tensor(is_expert)
    points = augment.random_points(middle, SEGMENT_PATCH, 1.0, SEGMENT_GEOMETRY, generator)
    moved = augment.sample(torch.stack(chosen), squeeze(points, middle, generator))
    image, inside, third = moved[:, :1], moved[:, 1:2] > 0.5, moved[:, 2:3]
    front = third > moved[:, 1:2] / 2
    by_expert = experts.view(-1, 1, 1, 1, 1)
    region = torch.cat(
        [
            inside & front & by_expert,
            inside & ~front & by_expert,
            inside & ~by_expert,
            torch.where(by_expert, ~inside, third > 0.5),
        ],
        1,
    )
    mask = (moved[:, 3:] > 0.99).float() * like_a_crop(region, experts, generator)
    image = augment.gamma(image, 0.25, generator)
    image = augment.bias_field(image, 0.15, generator)
    image = dark_rim(image, region[:, :3].any(1, keepdim=True).float(), generator)
    image = augment.thick_slices(image, 3.0, 0.08, generator)
    image = augment.smooth(image, 0.15, generator)
    image = augment.noise(image, 0.05, 0.2, generator)
    image = normalise_patch(image, mask)
    gain = uniform(count, 0.8, 1.25, generator).view(-1, 1, 1, 1, 1)
    offset = uniform(count, -0.3, 0.3, generator).view(-1, 1, 1, 1, 1)
    image = (image * gain + offset) * mask
    return SegmentBatch(image, region & (mask > 0), experts)


def like_a_crop(region: Tensor, expert: Tensor, generator: torch.Generator) -> Tensor:
    """End half of the other patches a few mm around the hippocampus, as the expert crops do: no edge tells them apart.

    Returns:
        float32, (n, 1, x, y, z): 1 inside.
    """
    mask = torch.ones(len(region), 1, *region.shape[2:])
    for k in range(len(region)):
        if expert[k] or not augment.some(1, 0.5, generator):
            continue
        found = torch.nonzero(region[k, :3].any(0))
        if len(found) == 0:
            continue
        margin = uniform(6, 4, 12, generator).round().long()
        low = (found.min(0).values - margin[:3]).clamp(min=0).tolist()
        high = (found.max(0).values + margin[3:] + 1).tolist()
        box = torch.zeros_like(mask[k, 0])
        box[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
        mask[k, 0] = box
    return mask
