"""The two networks: one finds both hippocampi in a head, the other segments one of them."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import UNet
from safetensors.torch import load_file, save_file

FIND_CLASSES = ("outside the skull", "hippocampus", "inside the skull")
SEGMENT_CLASSES = ("background", "anterior", "posterior")
FIND_CHANNELS, FIND_STRIDES = (16, 32, 64, 128), (2, 2, 2)
SEGMENT_CHANNELS, SEGMENT_STRIDES = (16, 32, 64, 128), (2, 2, 2)


def residual_unet(classes: int, channels: tuple[int, ...], strides: tuple[int, ...], units: int = 2) -> torch.nn.Module:
    """MONAI's 3-D U-Net: one input channel; ``units`` 0 makes it the plain one without residuals."""
    network: torch.nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=channels,
        strides=strides,
        num_res_units=units,
        norm="INSTANCE",
    )
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def find_network() -> torch.nn.Module:
    """Input (n, 1, x, y, z) at 4 mm, RAS; output logits of FIND_CLASSES."""
    return residual_unet(len(FIND_CLASSES), FIND_CHANNELS, FIND_STRIDES)


def segment_network(units: int = 2) -> torch.nn.Module:
    """Input (n, 1, x, y, z) at 1 mm, RAS, a left hippocampus (a right one mirrored); output logits of the classes."""
    return residual_unet(len(SEGMENT_CLASSES), SEGMENT_CHANNELS, SEGMENT_STRIDES, units)


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in float16: half the size, and no measurable difference in the masks."""
    save_file({k: v.detach().half().contiguous() for k, v in network.state_dict().items()}, path)


def load_weights(network: torch.nn.Module, path: Path, device: str = "cpu") -> torch.nn.Module:
    """Read weights that :func:`save_weights` wrote, for inference in float32."""
    network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
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
    # On a GPU the node's worker has switched bfloat16 autocast on. On a CPU it helps only where the CPU multiplies
    # bfloat16 in hardware; elsewhere it is slower than float32.
    cpu_matrices = image.device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    total: torch.Tensor | None = None
    for network in networks:
        if cpu_matrices:
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(image)
        else:
            logits = network(image)
        probability = torch.softmax(logits.float(), 1)
        total = probability if total is None else total + probability
    if total is None:
        raise ValueError("no network was given")
    return total / len(networks)
