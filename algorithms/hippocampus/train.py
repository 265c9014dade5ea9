"""Train every network of this algorithm: ``python algorithms/hippocampus/train.py``.

Each fold of each stage is a job; two jobs run at a time, each in one process with one thread, which on few cores is
faster than one job with two. A job that was interrupted goes on from its last checkpoint. In the end
the weights (exponential moving averages, float16) are copied to ``models/`` and their hashes to ``algorithm.yaml``.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.hippocampus import batches, losses, networks, train_data  # noqa: E402

FIND_CYCLES, FIND_STEPS, FIND_BATCH = 2, 1000, 2
SEGMENT_CYCLES, SEGMENT_STEPS, SEGMENT_BATCH = 2, 4000, 2
RATE = 3e-3
SAVE_EVERY = 200
JOBS = ("find-0", "find-1", "segment-0", "segment-1", "segment-2", "segment-3", "segment-4")

Loss = Callable[[torch.nn.Module, torch.Generator], torch.Tensor]


def find_job(fold: int, data: Path, work: Path) -> Loss:
    """The loss of a find network's next batch; held out: the IXI heads of ``fold``."""
    cases = train_data.ixi_cases(data)
    real = train_data.kept(work / "ixi_heads.pt", lambda: train_data.ixi_heads(cases))
    real = real.only(train_data.held_in(cases, fold, train_data.FIND_FOLDS))
    painted = train_data.kept(work / "synth_heads.pt", lambda: train_data.synth_heads(data))

    def loss(network: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        batch = batches.find_batch(real, painted, FIND_BATCH, generator)
        image = batch.image.contiguous(memory_format=torch.channels_last_3d)
        return losses.find_loss(network(image), batch.soft)

    return loss


def segment_job(fold: int, data: Path, work: Path) -> Loss:
    """The loss of a segment network's next batch; held out: MSD crops and IXI heads of ``fold``."""
    crops, heads = train_data.msd_cases(data), train_data.ixi_cases(data)
    expert = train_data.kept(work / "msd_patches.pt", lambda: train_data.msd_patches(crops))
    expert = expert.only(train_data.held_in(crops, fold, train_data.SEGMENT_FOLDS))
    real = train_data.kept(work / "ixi_patches.pt", lambda: train_data.ixi_patches(heads))
    both = [side for k in train_data.held_in(heads, fold, train_data.SEGMENT_FOLDS) for side in (2 * k, 2 * k + 1)]
    painted = train_data.kept(work / "synth_patches.pt", lambda: train_data.synth_patches(data))
    others = real.only(both), painted

    def loss(network: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        batch = batches.segment_batch(expert, others, SEGMENT_BATCH, generator)
        image = batch.image.contiguous(memory_format=torch.channels_last_3d)
        return losses.segment_loss(network(image), batch.regions, batch.expert)

    return loss


def rate(step: int, steps: int) -> float:
    """Learning rate: in each cycle of ``steps`` 100 steps up, then half a cosine down (SGDR, arXiv:1608.03983)."""
    step %= steps
    return RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def run_job(name: str, data: Path, work: Path) -> None:
    """Train one job to its end, from its last checkpoint if there is one, and write its weights to ``work``."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    stage, _, fold = name.partition("-")
    cycles, steps = (FIND_CYCLES, FIND_STEPS) if stage == "find" else (SEGMENT_CYCLES, SEGMENT_STEPS)
    loss = (find_job if stage == "find" else segment_job)(int(fold), data, work)
    network = networks.NETWORKS[stage]()
    # an exponential moving average over about the last tenth of a cycle
    weight = 50 / steps
    average = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda old, new, n: old + (new - old) * max(weight, 1 / (1 + float(n)))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    file = work / f"{name}.pt"
    step = 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step = int(saved["step"])
    network.train()
    begun, total = time.monotonic(), 0.0
    while step < cycles * steps:
        generator = torch.Generator().manual_seed(step * 1000 + int(fold))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        value = loss(network, generator)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % 5 == 0:
            average.update_parameters(network)
        step += 1
        total += float(value.detach())
        if step % SAVE_EVERY == 0 or step == cycles * steps:
            print(f"{name} step {step} loss {total / SAVE_EVERY:.4f} {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
            state = {"network": network.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step}, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            networks.save_weights(average.module, work / f"{name}.safetensors")


def release(work: Path) -> None:
    """Copy the weights to ``models/`` and name each with its SHA-256 in the manifest, whose last key is ``weights``."""
    for name in JOBS:
        shutil.copyfile(work / f"{name}.safetensors", HERE / "models" / f"{name}.safetensors")
    manifest = HERE / "algorithm.yaml"
    kept = manifest.read_text(encoding="utf-8").partition("\nweights:")[0]
    lines = [f"{kept}\nweights:"]
    for file in sorted((HERE / "models").glob("*.safetensors")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"  {file.stem}:\n    file: models/{file.name}\n    sha256: {digest}")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_all(arguments: argparse.Namespace, data: Path, work: Path) -> None:
    """Run every job, two at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    waiting, running = list(JOBS), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < 2:
            command = [sys.executable, __file__, "--job", waiting.pop(0), "--data", str(data), "--work", str(work)]
            running.append(subprocess.Popen(command, env=environment))
        time.sleep(1)
        if failed := [p.args for p in running if p.poll()]:
            raise SystemExit(f"a job failed: {failed}")
        running = [p for p in running if p.poll() is None]
    release(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".work" / "train", help="checkpoints")
    parser.add_argument("--job", help="only this one: find-0, segment-3; or plain-0, a plain U-Net to compare with")
    arguments = parser.parse_args()
    data = train_data.data_folder(arguments.data)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.job:
        run_job(arguments.job, data, arguments.work)
    else:
        run_all(arguments, data, arguments.work)


if __name__ == "__main__":
    main()
