"""The two networks: one finds the left ventricle in whole images, the other outlines it in a patch around it.

Both are U-Nets with group normalisation and nearest-neighbour upsampling (GNNI U-Net: Cai, Gao, Zhao,
Ann Transl Med 2020), from MONAI's blocks. Group normalisation makes a slice's result independent of what else is
in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from safetensors.torch import load_file, save_file

CLASSES = ("background", "cavity", "myocardium")
FIND_FEATURES = (16, 16, 32, 64, 64)
SEGMENT_FEATURES = (16, 32, 64, 128, 256)
GROUPS = 8

Tensor = torch.Tensor


class GNNIUNet(torch.nn.Module):
    """Input (n, 1, rows, columns), output logits (n, classes, rows, columns); edges are multiples of 16."""

    def __init__(self, classes: int, features: Sequence[int]) -> None:
        super().__init__()
        blocks = {
            "act": ("leakyrelu", {"negative_slope": 0.1, "inplace": True}),
            "norm": ("group", {"num_groups": GROUPS}),
            "bias": False,
            "dropout": 0.0,
        }
        self.first = TwoConv(2, 1, features[0], **blocks)
        self.down = torch.nn.ModuleList(Down(2, above, below, **blocks) for above, below in pairwise(features))
        upwards = features[::-1]
        self.up = torch.nn.ModuleList(
            UpCat(2, below, above, above, **blocks, upsample="nontrainable", interp_mode="nearest", align_corners=None)
            for below, above in pairwise(upwards)
        )
        self.last = torch.nn.Conv2d(features[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        levels = [self.first(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        found = levels.pop()
        for up in self.up:
            found = up(found, levels.pop())
        logits: Tensor = self.last(found)
        return logits


def find_network() -> torch.nn.Module:
    """Input at 4 mm; output logits of background and the ventricle's cavity."""
    return GNNIUNet(2, FIND_FEATURES).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def segment_network() -> torch.nn.Module:
    """Input at 1.4 mm, the ventricle near the middle; output logits of CLASSES."""
    network = GNNIUNet(len(CLASSES), SEGMENT_FEATURES)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in float16: half the size, and no measurable difference in the masks."""
    save_file({name: p.detach().half().contiguous() for name, p in network.named_parameters()}, path)


def load_weights(network: torch.nn.Module, path: Path, device: str = "cpu") -> torch.nn.Module:
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


def predict(networks: Sequence[torch.nn.Module], image: Tensor, batch: int = 32) -> Tensor:
    """Mean class probabilities of several networks.

    Args:
        image: (n, 1, rows, columns) float32 on the networks' device.
        batch: how many images at a time.

    Returns:
        (n, classes, rows, columns) float32.
    """
    kind = image.device.type
    # On a CPU bfloat16 helps only where it is multiplied in hardware; elsewhere it is slower than float32.
    fast = kind != "cpu" or torch.cpu._is_amx_tile_supported()
    parts = []
    for part in torch.split(image, batch):
        part = part.contiguous(memory_format=torch.channels_last)
        with torch.autocast(kind, torch.bfloat16, enabled=fast):
            logits = [network(part) for network in networks]
        parts.append(torch.stack([torch.softmax(one.float(), 1) for one in logits]).mean(0))
    return torch.cat(parts)
