"""The networks of the ultrasound algorithms: one finds lesions in a whole image, the other outlines and grades one.

Both are the same encoder with a light decoder; the second has a head that looks at the lesion it has just outlined,
at its margin, and at what lies below it (shadow or enhancement). Group normalisation makes an image's result
independent of what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

FIND_FEATURES = (16, 32, 64, 96)
GRADE_FEATURES = (32, 64, 128, 160)
GROUPS = 8
FOUND = 64
"""Channels of the decoder."""
HIDDEN = 64

Tensor = torch.Tensor


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch.

    Attributes:
        outline: (n, 1, rows / 2, columns / 2) logits: lesion or not.
        grades: (n, outputs) logits: the first is the class, the others are "the reader's grade is above k".
    """

    outline: Tensor
    grades: Tensor


def _conv(above: int, below: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(above, below, 3, stride, 1, bias=False), nn.GroupNorm(GROUPS, below), nn.LeakyReLU(0.1, inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.GroupNorm(GROUPS, channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x + self.second(self.first(x)), 0.1)


class LesionNetwork(nn.Module):
    """Input (n, 2, rows, columns): the image, and where there is one; edges are multiples of 16.

    Args:
        features: channels of the four levels, the first at half the input's resolution.
        outputs: how many grades the head gives; 0: no head.
    """

    def __init__(self, features: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.stem = _conv(8, features[0])
        self.levels = nn.ModuleList()
        above = features[0]
        for k, below in enumerate(features):
            # the first level has most pixels: one convolution, the stem, is all it gets
            self.levels.append(nn.Sequential(_conv(above, below, 2), _Residual(below)) if k else nn.Identity())
            above = below
        widths = [FOUND if k else features[0] for k in range(len(features))]
        self.across = nn.ModuleList(nn.Conv2d(f, w, 1, bias=False) for f, w in zip(features, widths, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(FOUND, w, 1, bias=False) for w in widths[:-1])
        self.merge = nn.ModuleList(_conv(w, w) for w in widths[:-1])
        self.outline = nn.Conv2d(features[0], 1, 1)
        self.head = _Head(features[2], features[3], outputs) if outputs else None

    def forward(self, image: Tensor) -> Answer:
        x = self.stem(functional.pixel_unshuffle(image, 2))
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        found = self.across[-1](levels[-1])
        merged = {}
        for k in range(len(levels) - 2, -1, -1):
            below = functional.interpolate(self.up[k](found), scale_factor=2.0, mode="nearest")
            found = self.merge[k](below + self.across[k](levels[k]))
            merged[k] = found
        outline = self.outline(found)
        if self.head is None:
            return Answer(outline, image.new_zeros(len(image), 0))
        return Answer(outline, self.head(merged[1], levels[2], levels[3], outline))


class _Head(nn.Module):
    """Grades from features averaged over the lesion, its margin and what lies below it."""

    def __init__(self, coarse: int, deepest: int, outputs: int) -> None:
        super().__init__()
        width = 3 * (FOUND + coarse) + deepest
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, HIDDEN)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(HIDDEN, outputs)

    def forward(self, fine: Tensor, coarse: Tensor, deepest: Tensor, outline: Tensor) -> Tensor:
        # the outline learns from its own loss alone
        lesion = functional.avg_pool2d(torch.sigmoid(outline.detach()), 2)
        parts = torch.cat(places(lesion), 1)
        smaller = functional.avg_pool2d(parts, 2)
        seen = [_mean(fine, parts).flatten(1), _mean(coarse, smaller).flatten(1), deepest.mean((2, 3))]
        grades: Tensor = self.last(self.drop(functional.leaky_relu(self.hidden(self.norm(torch.cat(seen, 1))), 0.1)))
        return grades


def places(lesion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the head looks: inside of the lesion, at its margin, and below it.

    Args:
        lesion: (n, 1, rows, columns) probability; transducer at the top.

    Returns:
        three of that shape. The margin reaches two pixels to either side of the outline; below: the lesion's columns
        from its lower edge down.
    """
    grown = functional.max_pool2d(lesion, 5, 1, 2)
    shrunk = -functional.max_pool2d(-lesion, 5, 1, 2)
    above = lesion.cummax(2).values  # a column has had its lesion once it was met from the top
    return lesion, grown - shrunk, (above - lesion).clamp(min=0)


def _mean(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted means: (n, c, rows, columns) and (n, k, rows, columns) give (n, k, c)."""
    total = torch.einsum("nchw,nkhw->nkc", features, weights)
    return total / (weights.sum((2, 3)) + 1.0)[:, :, None]


def find_network() -> LesionNetwork:
    """Sees whole images, outlines what may be a lesion."""
    return LesionNetwork(FIND_FEATURES, 0).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def grade_network(outputs: int) -> LesionNetwork:
    """Sees one lesion in its surroundings, outlines it and grades it."""
    return LesionNetwork(GRADE_FEATURES, outputs).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the weights in float16."""
    save_file({name: p.detach().half().contiguous() for name, p in network.named_parameters()}, path)


def load_weights(network: LesionNetwork, path: Path, device: str = "cpu") -> LesionNetwork:
    """Read weights that :func:`save_weights` wrote, for inference in float32.

    Raises:
        ValueError: they are another network's.
    """
    weights, wanted = load_file(path), dict(network.named_parameters())
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in wanted.items()}:
        raise ValueError(f"{path.name} holds the weights of another network")
    with torch.no_grad():
        for name, value in weights.items():
            wanted[name].copy_(value)
    network.eval().requires_grad_(False)
    return network.to(device)


def start_from(network: LesionNetwork, path: Path) -> None:
    """Take over the weights of another organ's network wherever their shapes agree (all but the last layer)."""
    wanted = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in load_file(path).items():
            if name in wanted and wanted[name].shape == value.shape and not name.startswith("head.last"):
                wanted[name].copy_(value)


def predict(
    networks: Sequence[LesionNetwork], image: Tensor, batch: int = 16, *, mirrored: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean of several networks, each seeing the image and, if ``mirrored``, its mirror image.

    Args:
        image: (n, 2, rows, columns) float32 on the networks' device.
        batch: how many images at a time.

    Returns:
        Probability of lesion (n, 1, rows, columns), and grades as logits (n, outputs), both float32.
    """
    kind = image.device.type
    outlines, grades = [], []
    for part in torch.split(image, batch):
        seen = torch.cat([part, part.flip(3)]) if mirrored else part
        seen = seen.contiguous(memory_format=torch.channels_last)
        # On a CPU bfloat16 helps only where it is multiplied in hardware; elsewhere it is slower than float32.
        fast = kind != "cpu" or torch.cpu._is_amx_tile_supported()
        with torch.autocast(kind, torch.bfloat16, enabled=fast):
            answers = [network(seen) for network in networks]
        views = (2 if mirrored else 1, -1)
        outline = torch.stack(
            [_unmirrored(torch.sigmoid(a.outline.float()).unflatten(0, views)) for a in answers]
        ).mean(0)
        outlines.append(functional.interpolate(outline, scale_factor=2.0, mode="bilinear", align_corners=False))
        grades.append(torch.stack([a.grades.float().unflatten(0, views).mean(0) for a in answers]).mean(0))
    return torch.cat(outlines), torch.cat(grades)


def _unmirrored(views: Tensor) -> Tensor:
    """The mean of views (1 or 2, n, channels, rows, columns), of which the second is mirrored."""
    return torch.cat([views[:1], views[1:].flip(-1)]).mean(0)
