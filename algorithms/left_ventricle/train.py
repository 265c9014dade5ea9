"""Train every network of this algorithm: ``python algorithms/left_ventricle/train.py``.

Each fold of each stage is a job; two jobs run at a time (``--lanes``), each in one process with one thread, which on
few cores is faster than one job with two. A job that was interrupted goes on from its last checkpoint. In the end the
weights (exponential moving averages, float16) are copied to ``models/``, and what the manifest says of them is printed.
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

from algorithms.left_ventricle import batches, losses, networks, train_data  # noqa: E402

STEPS = {"find": 600, "segment": 2400}
BATCH = {"find": 8, "segment": 8}
RATE = 2e-3
SAVE_EVERY = 100
JOBS = ("find-0", "find-1", "segment-0", "segment-1", "segment-2", "segment-3", "segment-4")

Loss = Callable[[torch.nn.Module, torch.Generator], torch.Tensor]


def job(stage: str, fold: int, data: Path) -> tuple[torch.nn.Module, Loss]:
    """The network of a stage, and the loss of its next batch; held out: the patients of ``fold``."""
    slices = train_data.read(data)
    folds = train_data.folds_of(
        train_data.rows(data), train_data.FIND_FOLDS if stage == "find" else train_data.SEGMENT_FOLDS
    )
    slices = slices.only(train_data.held_in(slices, folds, fold))
    fast = torch.cpu._is_amx_tile_supported()

    def loss(network: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        make = batches.find_batch if stage == "find" else batches.segment_batch
        batch = make(slices, BATCH[stage], generator)
        image = batch.image.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            logits = network(image)
        value = losses.find_loss if stage == "find" else losses.segment_loss
        return value(logits.float(), batch.regions)

    return networks.find_network() if stage == "find" else networks.segment_network(), loss


def rate(step: int, steps: int) -> float:
    """Learning rate: 100 steps up, then half a cosine down."""
    return RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def run_job(name: str, data: Path, work: Path) -> None:
    """Train one job to its end, from its last checkpoint if there is one, and write its weights to ``work``."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    stage, _, fold = name.partition("-")
    steps = STEPS[stage]
    network, loss = job(stage, int(fold), data)
    # an exponential moving average over about the last twentieth
    weight = 100 / steps
    average = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda old, new, n: old + (new - old) * max(weight, 1 / (1 + float(n)))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    file = work / f"{name}.pt"
    step = 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step = int(saved["step"])
    network.train()
    begun, total, summed = time.monotonic(), 0.0, 0
    while step < steps:
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
        total, summed = total + float(value.detach()), summed + 1
        if step % SAVE_EVERY == 0 or step == steps:
            print(f"{name} step {step} loss {total / summed:.4f} {time.monotonic() - begun:.0f} s", flush=True)
            total, summed = 0.0, 0
            state = {"network": network.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step}, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            networks.save_weights(average.module, work / f"{name}.safetensors")


def release(work: Path) -> None:
    """Copy the weights to ``models/`` and print what the manifest says of them."""
    (HERE / "models").mkdir(exist_ok=True)
    print("weights:")
    for name in JOBS:
        file = HERE / "models" / f"{name}.safetensors"
        shutil.copyfile(work / file.name, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        print(f"  {name}:\n    file: models/{file.name}\n    sha256: {digest}")


def run_all(lanes: int, data: Path, work: Path) -> None:
    """Run every job, ``lanes`` at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    waiting, running = list(JOBS), list[subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                command = [sys.executable, __file__, "--job", waiting.pop(0), "--data", str(data), "--work", str(work)]
                running.append(subprocess.Popen(command, env=environment))
            time.sleep(1)
            if failed := [p.args for p in running if p.poll()]:
                raise SystemExit(f"a job failed: {failed}")
            running = [p for p in running if p.poll() is None]
    finally:
        for process in running:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".work" / "left_ventricle", help="checkpoints")
    parser.add_argument("--lanes", type=int, default=2, help="jobs at a time")
    parser.add_argument("--job", help="only this one: find-0, say, or segment-3")
    parser.add_argument("--release", action="store_true", help="only copy the weights that are there")
    arguments = parser.parse_args()
    data = train_data.data_folder(arguments.data)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.job:
        run_job(arguments.job, data, arguments.work)
        return
    if not arguments.release:
        run_all(arguments.lanes, data, arguments.work)
    release(arguments.work)


if __name__ == "__main__":
    main()
