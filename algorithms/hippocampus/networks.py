"""The two networks: one finds both hippocampi in a head, the other segments one of them."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import DynUNet, UNet
from safetensors.torch import load_file, save_file

FIND_CLASSES = ("outside the skull", "hippocampus", "inside the skull")
SEGMENT_CLASSES = ("background", "anterior", "posterior")
FIND_CHANNELS = (8, 16, 32, 64)
SEGMENT_CHANNELS = (8, 16, 32, 64, 128)
PLAIN_CHANNELS = (24, 48, 96, 192)


def u_net(classes: int, channels: tuple[int, ...]) -> torch.nn.Module:
    """MONAI's DynUNet, which is nnU-Net's: it works at full resolution in its first and last layers.

    One input channel; edges must be multiples of 2 to the power of the number of levels less one.
    """
    strides = (1, *[2] * (len(channels) - 1))
    network: torch.nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3] * len(channels),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=channels,
        norm_name="instance",
    )
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def find_network() -> torch.nn.Module:
    """Input (n, 1, x, y, z) at 4 mm, RAS; output logits of FIND_CLASSES."""
    return u_net(len(FIND_CLASSES), FIND_CHANNELS)


def segment_network() -> torch.nn.Module:
    """Input (n, 1, x, y, z) at 1 mm, RAS, a left hippocampus (a right one mirrored); output logits of the classes."""
    return u_net(len(SEGMENT_CLASSES), SEGMENT_CHANNELS)


def plain_network() -> torch.nn.Module:
    """A plain 3-D U-Net (MONAI's UNet, 1.1 M weights) for the segment stage: what the released one is compared with."""
    network = UNet(3, 1, len(SEGMENT_CLASSES), PLAIN_CHANNELS, (2, 2, 2), norm="instance")
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


NETWORKS = {"find": find_network, "segment": segment_network, "plain": plain_network}
"""By stage, as the jobs of training and the weights' files are named; ``plain`` is not released."""


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in float16: half the size, and no measurable difference in the masks."""
    # named_parameters names a weight once that two layers share; neither network has buffers
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


def predict(networks: list[torch.nn.Module], image: torch.Tensor) -> torch.Tensor:
    """Mean class probabilities of several networks.

    Args:
        image: (n, 1, x, y, z) float32 on the networks' device.

    Returns:
        (n, classes, x, y, z) float32.
    """
    image = image.contiguous(memory_format=torch.channels_last_3d)
    kind = image.device.type
    # On a CPU bfloat16 helps only where it is multiplied in hardware; elsewhere it is slower than float32.
    fast = kind != "cpu" or torch.cpu._is_amx_tile_supported()
    with torch.autocast(kind, torch.bfloat16, enabled=fast):
        logits = [network(image) for network in networks]
    return torch.stack([torch.softmax(one.float(), 1) for one in logits]).mean(0)
