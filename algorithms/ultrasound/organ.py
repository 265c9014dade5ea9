"""Whether a tissue region shows a breast, a thyroid or neither, for images whose headers do not say.

The two data sets differ in scanners, sizes and file formats, so what tells those apart must not reach the network:
it sees squares of one size without their surroundings, no sharper than ``SHARPEST`` pixels across, and brightness only
as ranks, which no grey map changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from .resample import Square, cut

Tensor = torch.Tensor

CLASSES = ("breast", "thyroid", "neither")
SIZE = 80
"""Edge in pixels of what the network sees."""
SHARPEST = 64
"""Squares are first made this small: speckle's grain is the scanner's, layers and outlines are the patient's."""
LIKELY = 0.3
"""Probability of the wanted organ that an image must reach. Chosen on the cross-validated probabilities, of which
``evaluate_organ.py`` says what share then is turned away and taken in."""
FEATURES = (16, 24, 40, 64)


class OrganNetwork(nn.Module):
    """Squares (n, 1, SIZE, SIZE) of ranks, mean 0, to logits (n, 3) of ``CLASSES``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        above = 4
        for k, below in enumerate(FEATURES):
            layers += _conv(above, below, 1 if k == 0 else 2)
            layers += _conv(below, below, 1)
            above = below
        self.layers = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        # Breast and neck are layered: a mean for each third of the depth
        self.last = nn.Linear(3 * above, len(CLASSES))

    def forward(self, squares: Tensor) -> Tensor:
        seen = self.layers(functional.pixel_unshuffle(squares, 2))
        thirds = functional.adaptive_avg_pool2d(seen, (3, 1)).flatten(1)
        logits: Tensor = self.last(self.drop(thirds))
        return logits


def _conv(above: int, below: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(above, below, 3, stride, 1, bias=False), nn.GroupNorm(8, below), nn.LeakyReLU(0.1, inplace=True)]


@dataclass(frozen=True)
class Classifier:
    """The mean of several networks."""

    networks: Sequence[OrganNetwork]

    def probabilities(self, regions: Sequence[Tensor]) -> Tensor:
        """Of each tissue region (rows, columns), 0..1: (n, 3) float32 probabilities of ``CLASSES``, on the CPU."""
        seen = torch.cat([squares(region) for region in regions])
        both = torch.cat([seen, seen.flip(3)])
        votes = torch.stack([torch.softmax(network(both).float(), 1) for network in self.networks]).mean(0)
        first, second = votes.chunk(2)
        return ((first + second) / 2).unflatten(0, (len(regions), -1)).mean(1).cpu()


def squares(region: Tensor) -> Tensor:
    """Three squares along the longer side of a region (rows, columns), as the network sees them: (3, 1, SIZE, SIZE)."""
    rows, columns = region.shape
    edge = min(rows, columns)
    down, across = rows - edge, columns - edge
    found = [
        cut(region[None], Square(edge / 2 + share * down, edge / 2 + share * across, float(edge)), SHARPEST)[:1]
        for share in (0.0, 0.5, 1.0)
    ]
    return as_seen(torch.stack(found))


def as_seen(images: Tensor) -> Tensor:
    """Squares (n, 1, edge, edge) of any brightness, as ranks of -1..1 at ``SIZE``; equal pixels have equal ranks."""
    flat = images.flatten(1).contiguous()
    ordered = flat.sort(1).values
    below = torch.searchsorted(ordered, flat, right=False)
    upto = torch.searchsorted(ordered, flat, right=True)
    ranks = ((below + upto).float() / flat.shape[1] - 1).view_as(images)
    return functional.interpolate(ranks, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def unlike(wanted: str, probabilities: Sequence[float]) -> str | None:
    """Why images of these probabilities of ``CLASSES`` are not ``wanted``, or None where they may be."""
    if probabilities[CLASSES.index(wanted)] >= LIKELY:
        return None
    # Of three classes one has a third or more: it is another.
    share, best = max((p, k) for k, p in enumerate(probabilities))
    other = "neither breast nor thyroid" if CLASSES[best] == "neither" else CLASSES[best]
    return f"looks like {other} ({share:.2f})" + (f", not {wanted}" if CLASSES[best] != "neither" else "")


def save(networks: Sequence[nn.Module], path: Path) -> None:
    """Write the weights of several networks in float16 to one file."""
    named = {f"{k}.{name}": p for k, network in enumerate(networks) for name, p in network.named_parameters()}
    save_file({name: p.detach().half().contiguous() for name, p in named.items()}, path)


def load(path: Path, device: str = "cpu") -> Classifier:
    """Read what :func:`save` wrote.

    Raises:
        ValueError: the weights are another network's.
    """
    weights = load_file(path)
    networks = []
    for k in sorted({name.partition(".")[0] for name in weights}):
        network = OrganNetwork()
        wanted = dict(network.named_parameters())
        mine = {name.removeprefix(f"{k}."): v for name, v in weights.items() if name.startswith(f"{k}.")}
        if {n: v.shape for n, v in mine.items()} != {n: v.shape for n, v in wanted.items()}:
            raise ValueError(f"{path.name} holds the weights of another network")
        with torch.no_grad():
            for name, value in mine.items():
                wanted[name].copy_(value)
        networks.append(network.eval().requires_grad_(False).to(device))
    return Classifier(networks)
