"""Train the networks that tell breast, thyroid and neither apart: ``python algorithms/ultrasound/train_organ.py``.

One network a fold, by patient; each takes about a minute on one core, and reading the data some minutes, once.
``--job left-out`` trains one for each of the scanners of the breast images, which sees none of its images:
``evaluate_organ.py`` measures with them how much of the answer is the scanner. The weights are copied to both
algorithms' ``models/organ.safetensors``.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.breast_us import train_data as breast_data  # noqa: E402
from algorithms.thyroid_us import train_data as thyroid_data  # noqa: E402
from algorithms.ultrasound import augment, organ  # noqa: E402
from algorithms.ultrasound.batches import one_of_each_image  # noqa: E402
from algorithms.ultrasound.resample import Square, cut  # noqa: E402
from algorithms.ultrasound.train_jobs import data_folder, write_manifest  # noqa: E402
from dicom_node.run import frame_colour, tissue  # noqa: E402
from dicom_node.run.frames import decoded  # noqa: E402
from dicom_node.run.images import read_header  # noqa: E402

Tensor = torch.Tensor

STEPS = 400
EACH = 8
"""Images of each class in a batch."""
RATE = 2e-3
FOLDS = (1, 2, 3, 4, 5)
ALGORITHMS = ("breast_us", "thyroid_us")


@dataclass(frozen=True, eq=False)
class Example:
    """One tissue region (rows, columns), 0..1, with its class, whose it is, and the scanner where it is known."""

    image: Tensor
    label: int
    subject: str
    fold: int
    scanner: str = ""


LARGEST = 128
"""Pixels that are kept of a region's shorter side."""


def examples_of(data: Path, work: Path) -> list[Example]:
    """:func:`read`, or what it gave before."""
    file = work / "examples.pt"
    if file.exists():
        return [Example(*values) for values in torch.load(file, weights_only=True)]
    found = [replace(e, image=_smaller(e.image)) for e in read(data)]
    torch.save([(e.image, e.label, e.subject, e.fold, e.scanner) for e in found], file)
    return found


def _smaller(image: Tensor) -> Tensor:
    factor = LARGEST / min(image.shape)
    if factor >= 1:
        return image
    size = [round(n * factor) for n in image.shape]
    return functional.interpolate(image[None, None], size=size, mode="bilinear", antialias=True)[0, 0]


def read(data: Path) -> list[Example]:
    """Breasts, thyroids, and what is neither: heart MR slices and the public ultrasound samples (hearts, flow)."""
    with (data / breast_data.FOLDER / "manifest.csv").open(encoding="utf-8", newline="") as file:
        scanners = {row["id"]: row["device"].split("@")[0].strip() for row in csv.DictReader(file)}
    found = []
    # one image a patient: there are still three times as many as thyroids
    for lesion in {x.subject: x for x in breast_data.read(data)}.values():
        image = _without_marks(lesion.image.numpy())
        found.append(Example(image, 0, f"b{lesion.subject}", lesion.fold, scanners[lesion.image_id]))
    for lesion in one_of_each_image(thyroid_data.read(data)):
        found.append(Example(_without_marks(lesion.image.numpy()), 1, f"t{lesion.subject}", lesion.fold))
    return found + _neither(data)


def _without_marks(gray: tissue.Gray) -> Tensor:
    """The picture as the node hands it on: drawn in to the tissue, what is written over it filled."""
    box = tissue.tissue_box(gray)
    if box is not None:
        gray = gray[box[0] : box[2], box[1] : box[3]]
    return torch.from_numpy(tissue.without(gray, tissue.strokes(gray)).copy()).float() / 255


def _neither(data: Path) -> list[Example]:
    found = []
    slices = np.load(data / "cardiac_cine_sunnybrook" / "slices.npz")
    with (data / "cardiac_cine_sunnybrook" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        patients = [row["subject"] for row in csv.DictReader(file)]
    images = slices["images"]
    numbers = {patient: k for k, patient in enumerate(sorted(set(patients)))}
    for image, patient in zip(images[::2], patients[::2], strict=True):
        fold = numbers[patient] % len(FOLDS) + 1
        found.append(Example(torch.from_numpy(image).float() / 255, 2, f"h{patient}", fold))
    for number, path in enumerate(sorted((data / "us_dicom").glob("*.dcm"))):
        header = read_header(path)
        count = int(header.get("NumberOfFrames") or 1)
        for index in range(0, count, max(1, count // 5)):
            gray = frame_colour.grey(decoded(header, path, index))
            # the names tell which files are copies of one image
            copies = path.stem.split("_")[0] if path.stem.startswith("US1") else str(number)
            fold = sum(map(ord, copies)) % len(FOLDS) + 1
            found.append(Example(_without_marks(gray), 2, f"u{copies}", fold))
    return found


def square_of(image: Tensor, generator: torch.Generator) -> Tensor:
    """A square somewhere in a region, (1, 1, SHARPEST, SHARPEST)."""
    shares = torch.rand(3, generator=generator)
    edge = float(min(image.shape)) * float(0.6 + 0.4 * shares[0])
    row = edge / 2 + float(shares[1]) * (image.shape[0] - edge)
    column = edge / 2 + float(shares[2]) * (image.shape[1] - edge)
    return cut(image[None], Square(row, column, edge), organ.SHARPEST)[None, :1]


def spoilt(square: Tensor, generator: torch.Generator) -> Tensor:
    """The same texture without its anatomy, which is neither organ: upside down, lying, or its tiles mixed."""
    kind = int(torch.randint(3, (1,), generator=generator))
    if kind == 0:
        return square.flip(2)
    if kind == 1:
        return square.transpose(2, 3)
    return shuffled(square, generator)


def shuffled(square: Tensor, generator: torch.Generator) -> Tensor:
    """The 16 tiles of a square (1, 1, edge, edge) in another order."""
    tile = square.shape[2] // 4
    tiles = square.unfold(2, tile, tile).unfold(3, tile, tile).reshape(16, tile, tile)
    tiles = tiles[torch.randperm(16, generator=generator)].view(4, 4, tile, tile)
    return tiles.permute(0, 2, 1, 3).reshape(1, 1, 4 * tile, 4 * tile)


def batch(examples: Sequence[Example], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many of each class; half of what is neither are spoilt breasts and thyroids."""
    groups = [[e for e in examples if e.label == label] for label in range(3)]
    found, labels = [], []
    for k in range(3 * EACH):
        label = k % 3
        spoil = label == 2 and k % 2 == 0
        group = groups[int(torch.randint(2, (1,), generator=generator)) if spoil else label]
        example = group[int(torch.randint(len(group), (1,), generator=generator))]
        square = square_of(example.image, generator)
        square = spoilt(square, generator) if spoil else square
        # each is made as unsharp as it may be in the other data set
        edge = int(torch.randint(32, organ.SHARPEST + 1, (1,), generator=generator))
        square = functional.interpolate(square, size=(edge, edge), mode="bilinear", antialias=True)
        square = functional.interpolate(square, size=(organ.SHARPEST,) * 2, mode="bilinear", align_corners=False)
        found.append(square.flip(3) if torch.rand(1, generator=generator) < 0.5 else square)
        labels.append(label)
    images = augment.as_other_scanners(torch.cat(found), generator)
    return organ.as_seen(images), torch.tensor(labels)


def train(examples: Sequence[Example], seed: int, steps: int = STEPS) -> organ.OrganNetwork:
    """One network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = organ.OrganNetwork().train()
    average = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda old, new, n: old + (new - old) * max(0.02, 1 / (1 + float(n)))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    begun, total = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        images, labels = batch(examples, generator)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(images), labels, label_smoothing=0.05)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(network)
        total += float(loss.detach())
        if step % 100 == 99:
            print(f"step {step + 1} loss {total / 100:.3f} {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
    found: organ.OrganNetwork = average.module.eval()
    return found


def scanners(examples: Sequence[Example]) -> list[str]:
    """The breast images' scanners."""
    return sorted({e.scanner for e in examples if e.scanner})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".work" / "organ", help="what is trained")
    parser.add_argument("--job", choices=("folds", "left-out"), default="folds")
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen.work.mkdir(parents=True, exist_ok=True)
    examples = examples_of(data_folder(chosen.data, HERE), chosen.work)
    if chosen.job == "left-out":
        for name in scanners(examples):
            known = [e for e in examples if e.scanner != name]
            print(f"without {name}: {len(known)} images", flush=True)
            organ.save([train(known, 9, chosen.steps)], chosen.work / f"without {name}.safetensors")
        return
    networks = []
    for fold in FOLDS:
        known = [e for e in examples if e.fold != fold]
        print(f"fold {fold}: {len(known)} images", flush=True)
        networks.append(train(known, fold, chosen.steps))
        organ.save(networks, chosen.work / "organ.safetensors")
    for name in ALGORITHMS:
        folder = HERE.parent / name
        (folder / "models").mkdir(exist_ok=True)
        shutil.copyfile(chosen.work / "organ.safetensors", folder / "models" / "organ.safetensors")
        written = write_manifest(folder)
        print(f"{name}: {'algorithm.yaml names the weights' if written else 'its other weights are still to be made'}")


if __name__ == "__main__":
    main()
