"""The left ventricle's outlining network beside a plain MONAI U-Net, on the slices of one study, in one run.

    python benchmarks/heart_network.py [--slices 240] [--rounds 3] [--json]

``gnni`` is the algorithm's network; ``unet`` is MONAI's ``UNet`` as its tutorials build it (residual units, learned
strided and transposed convolutions, instance normalisation) with the same channels; ``basic`` is
MONAI's ``BasicUNet`` as it comes. Weights are random: the time is the same. Each runs in a process of its own, in
turn; shown are the fastest round's seconds for all slices (the batches are those of the algorithm), the memory that the
process, or the GPU, needed beyond what it had before the network was made, and the number of weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from receiving.processes import forget_peak, peak_mb, rss_mb  # noqa: E402

NETWORKS: Final = ("gnni", "unet", "basic")


def make(name: str) -> Any:
    """One network, with random weights, in the memory layout that suits it."""
    import torch
    from monai.networks.nets import BasicUNet, UNet

    from algorithms.left_ventricle import networks

    if name == "gnni":
        return networks.segment_network()
    classes = len(networks.CLASSES)
    if name == "unet":
        plain = UNet(2, 1, classes, channels=networks.SEGMENT_FEATURES, strides=(2, 2, 2, 2), num_res_units=2)
    else:
        plain = BasicUNet(spatial_dims=2, in_channels=1, out_channels=classes)
    return plain.to(memory_format=torch.channels_last)


def measure(name: str, slices: int, rounds: int) -> dict[str, Any]:
    """Seconds, memory and weights of one network; for a process that has done nothing before."""
    import torch

    from algorithms.left_ventricle import networks, resample

    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = torch.randn(slices, 1, resample.SEGMENT_SIZE, resample.SEGMENT_SIZE, device=device)
    before = rss_mb(os.getpid())
    forget_peak(os.getpid())
    network = make(name).eval().to(device)
    seconds = []
    with torch.inference_mode():
        networks.predict([network], image[:32])
        for _ in range(rounds):
            began = time.perf_counter()
            networks.predict([network], image).cpu()
            seconds.append(time.perf_counter() - began)
    gpu = device == "cuda"
    memory = torch.cuda.max_memory_allocated() / 1e6 if gpu else peak_mb(os.getpid()) - before
    weights = sum(p.numel() for p in network.parameters())
    return {"seconds": min(seconds), "memory_mb": memory, "weights": weights, "device": device}


def main() -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only, chosen.slices, chosen.rounds)))
        return 0
    figures = {}
    for name in NETWORKS:
        command = [sys.executable, __file__, "--only", name]
        command += ["--slices", str(chosen.slices), "--rounds", str(chosen.rounds)]
        figures[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return 0
    first = figures[NETWORKS[0]]
    print(f"{chosen.slices} slices on {first['device']}; in brackets as parts of {NETWORKS[0]}")
    print("| network | seconds | memory, MB | weights, millions |\n|---|---|---|---|")
    for name, f in figures.items():
        parts = (f["seconds"] / first["seconds"], f["memory_mb"] / first["memory_mb"])
        print(f"| {name} | {f['seconds']:.1f} ({parts[0]:.2f}) | {f['memory_mb']:.0f} ({parts[1]:.2f})", end="")
        print(f" | {f['weights'] / 1e6:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
