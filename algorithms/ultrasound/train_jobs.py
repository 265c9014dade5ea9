"""How the networks of an ultrasound algorithm are trained; ``algorithms/<id>/train.py`` says on what.

Each fold of each stage is a job; jobs run side by side (``--lanes``), each in one process with one thread, which on
few cores is faster than one job with two. A job that was interrupted goes on from its last checkpoint. In the end the
weights (exponential moving averages, float16) are copied to ``models/``, and the manifest is written.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from . import batches, losses, networks
from .batches import Lesion

FOLDS = (1, 2, 3, 4, 5)
SAVE_EVERY = 100
START_STEPS = 150
"""Steps over which the learning rate rises."""


@dataclass(frozen=True)
class Plan:
    """One stage's training.

    Attributes:
        steps, batch, rate: of the optimiser.
        balanced: as many lesions of each class in a batch.
    """

    steps: int
    batch: int
    rate: float = 2e-3
    balanced: bool = False


@dataclass(frozen=True)
class Training:
    """An algorithm's training.

    Attributes:
        folder: of the algorithm.
        read: its lesions, from the data folder.
        grades: how many grades the readers gave.
        plans: by stage: ``find``, ``grade``; ``grade_ace`` and ``grade_plain``, with and without contrast enhancement,
            are the ablation, and are not released.
        start: folder with another organ's weights to start from.
    """

    folder: Path
    read: Callable[[Path], list[Lesion]]
    grades: int
    plans: Mapping[str, Plan]
    start: Path | None = None

    @property
    def outputs(self) -> int:
        """Of the grading network: the class, and one a threshold between grades."""
        return self.grades

    def released(self) -> list[str]:
        """Every job whose weights the algorithm uses, the longest stage first."""
        return [f"{stage}-{fold}" for stage in ("grade", "find") for fold in FOLDS]


def network_of(stage: str, outputs: int) -> networks.LesionNetwork:
    """An untrained network."""
    return networks.find_network() if stage == "find" else networks.grade_network(outputs)


def released_stage(stage: str) -> str:
    """The stage whose weights are released: an ablation's start where its stage's do."""
    return stage.partition("_")[0]


def rate(plan: Plan, step: int) -> float:
    """Learning rate: up over the first steps, then half a cosine down."""
    return plan.rate * min(1, (step + 1) / START_STEPS) * 0.5 * (1 + math.cos(math.pi * step / plan.steps))


def batch_of(stage: str, lesions: list[Lesion], plan: Plan, generator: torch.Generator) -> batches.Batch:
    """The next batch of a stage."""
    some = batches.chosen(lesions, plan.batch, plan.balanced, generator)
    if stage == "find":
        return batches.find_batch(some, generator)
    return batches.grade_batch(some, generator, ace=stage == "grade_ace")


def run_job(training: Training, name: str, data: Path, work: Path) -> None:
    """Train one job to its end, from its last checkpoint if there is one, and write its weights to ``work``."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    stage, _, fold = name.partition("-")
    plan = training.plans[stage]
    lesions = [x for x in training.read(data) if x.fold != int(fold)]
    if stage == "find":
        lesions = batches.one_of_each_image(lesions)
    network = network_of(stage, training.outputs)
    if training.start is not None:
        networks.start_from(network, training.start / f"{released_stage(stage)}-{fold}.safetensors")
    # an exponential moving average over about the last twentieth
    weight = 100 / plan.steps
    average = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda old, new, n: old + (new - old) * max(weight, 1 / (1 + float(n)))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=0.02)
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
    while step < plan.steps:
        generator = torch.Generator().manual_seed(step * 1000 + int(fold))
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        optimizer.zero_grad(set_to_none=True)
        batch = batch_of(stage, lesions, plan, generator)
        answer = network(batch.image.contiguous(memory_format=torch.channels_last))
        value = losses.total_loss(answer, batch.share, batch.label, batch.grade)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % 5 == 0:
            average.update_parameters(network)
        step += 1
        total, summed = total + float(value.detach()), summed + 1
        if step % SAVE_EVERY == 0 or step == plan.steps:
            print(f"{name} step {step} loss {total / summed:.4f} {time.monotonic() - begun:.0f} s", flush=True)
            total, summed = 0.0, 0
            state = {"network": network.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step}, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            networks.save_weights(average.module, work / f"{name}.safetensors")


def run_all(script: Path, jobs: list[str], lanes: int, data: Path, work: Path) -> None:
    """Run every job, ``lanes`` at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    waiting, running = list(jobs), list[subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                command = [
                    sys.executable,
                    str(script),
                    "--job",
                    waiting.pop(0),
                    "--data",
                    str(data),
                    "--work",
                    str(work),
                ]
                running.append(subprocess.Popen(command, env=environment))
            time.sleep(1)
            if failed := [p.args for p in running if p.poll()]:
                raise SystemExit(f"a job failed: {failed}")
            running = [p for p in running if p.poll() is None]
    finally:
        for process in running:
            process.terminate()


def release(training: Training, work: Path) -> None:
    """Copy the weights to ``models/`` and write ``algorithm.yaml``, with which the node knows the algorithm.

    Weights of folds that are not trained are left out; without any network of a stage, or without what
    ``evaluate.py --write`` writes, there is no manifest yet.
    """
    folder = training.folder / "models"
    folder.mkdir(exist_ok=True)
    missing = []
    for name in (*(f"{x}.safetensors" for x in sorted(training.released())), "calibration.json", "looks.json"):
        if (work / name).exists():
            shutil.copyfile(work / name, folder / name)
        if not (folder / name).exists():
            missing.append(name)
    print("".join(f"{name} is still to be made\n" for name in missing), end="")
    if write_manifest(training.folder):
        print(f"{training.folder.name}/algorithm.yaml is written; its rule stands in config/routes.yaml")
    else:
        print("there is no manifest yet: it takes a network of each stage, calibration.json and looks.json")


def write_manifest(folder: Path) -> bool:
    """Write ``algorithm.yaml``: what ``algorithm.yaml.in`` says, and the files of ``models/`` with their SHA-256.

    Returns:
        whether the weights suffice to run.
    """
    files = sorted(p for p in (folder / "models").iterdir() if p.suffix in (".safetensors", ".json"))
    stages = {p.stem.partition("-")[0] for p in files}
    if not {"find", "grade", "calibration", "looks"} <= stages:
        return False
    lines = ["# Written by train.py; checked at load.", "weights:"]
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines += [f"  {file.stem}:", f"    file: models/{file.name}", f"    sha256: {digest}"]
    text = (folder / "algorithm.yaml.in").read_text(encoding="utf-8") + "\n".join(lines) + "\n"
    (folder / "algorithm.yaml").write_text(text, encoding="utf-8")
    return True


def data_folder(given: str | None, folder: Path) -> Path:
    """``--data``, else the environment's DICOM_NODE_DATA, else ``../shared/data`` beside the repository."""
    beside = folder.parents[2] / "shared" / "data"
    return Path(given or os.environ.get("DICOM_NODE_DATA") or beside)


def main(training: Training) -> None:
    """The command line of every ``train.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument(
        "--work", type=Path, default=training.folder.parents[1] / ".work" / training.folder.name, help="checkpoints"
    )
    parser.add_argument("--lanes", type=int, default=2, help="jobs at a time")
    parser.add_argument(
        "--job", help="only this one: grade-1, say, find-3; for the ablation grade_ace-1, grade_plain-1"
    )
    parser.add_argument(
        "--release", action="store_true", help="only copy the weights that are there, and write the manifest"
    )
    arguments = parser.parse_args()
    data = data_folder(arguments.data, training.folder)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.job:
        run_job(training, arguments.job, data, arguments.work)
        return
    if not arguments.release:
        run_all(training.folder / "train.py", training.released(), arguments.lanes, data, arguments.work)
    release(training, arguments.work)
