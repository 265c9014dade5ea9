"""Figures of the model card: ``python algorithms/hippocampus/evaluate.py msd|ixi|philips|handedness``.

Cross-validated figures are of single fold networks on patients that these never saw; the released algorithm is the
mean of all folds. Prints one JSON object, and writes it to ``--out`` if given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.hippocampus import crop, find, networks, segment, train_data  # noqa: E402
from algorithms.hippocampus.envelope import brain_envelope  # noqa: E402
from algorithms.hippocampus.resample import Grid, Image  # noqa: E402

Array = npt.NDArray[Any]
Figures = dict[str, Any]


def interval(values: list[float], statistic: Callable[[Array], float] = np.mean) -> Figures:
    """A statistic with its 95% bootstrap interval; one value a patient."""
    array = np.array(values, float)
    draws = np.random.default_rng(0).integers(0, len(array), (2000, len(array)))
    low, high = np.percentile([statistic(array[d]) for d in draws], [2.5, 97.5])
    return {"value": round(float(statistic(array)), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


def fold_network(stage: str, fold: int, folder: Path) -> torch.nn.Module:
    """The network of one fold."""
    return networks.load_weights(networks.NETWORKS[stage](), folder / f"{stage}-{fold}.safetensors")


def dice(a: Array, b: Array) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def surface_distances(a: Array, b: Array) -> tuple[float, float]:
    """Mean and 95th percentile of the symmetric surface distance in voxels (1 mm)."""
    edges = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    if not all(e.any() for e in edges):
        return float("nan"), float("nan")
    to = [ndimage.distance_transform_edt(~e) for e in edges]
    both = np.concatenate([to[1][edges[0]], to[0][edges[1]]])
    return float(both.mean()), float(np.percentile(both, 95))


def crop_image(array: Array) -> Image:
    """An MSD crop as an Image; its header's position means nothing, its axes and 1 mm do."""
    grid = Grid(np.eye(4), (array.shape[0], array.shape[1], array.shape[2]))
    return Image(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), grid)


def painted(image: Image, side: segment.Hippocampus | None) -> Array:
    """Label map on the image's grid: 0, 1 anterior, 2 posterior."""
    labels = np.zeros(image.grid.shape, np.uint8)
    if side is not None:
        segment.paint(labels, image.grid, side, 1, 2)
    return labels


def segment_crop(array: Array, network: torch.nn.Module) -> Array:
    """Label map of an MSD crop, by the same code as a head's patch."""
    image = crop_image(array)
    centre = image.grid.to_mm((np.array(array.shape) - 1) / 2)
    return painted(image, segment.segment(image, centre, False, [network]))


def msd(data: Path, folds: list[int], folder: Path, stage: str) -> Figures:
    """Dice and surface distance on the held-out crops of each fold."""
    rows: dict[str, list[float]] = {k: [] for k in ("whole", "anterior", "posterior", "distance", "hd95", "volume")}
    sides: dict[str | None, int] = {"left": 0, "right": 0, None: 0}
    by_fold = {}
    for fold in folds:
        network = fold_network(stage, fold, folder)
        held_out = [
            c for c in train_data.msd_cases(data) if train_data.fold_of(c.name, train_data.SEGMENT_FOLDS) == fold
        ]
        begin = len(rows["whole"])
        for case in held_out:
            labels = train_data.read_ras(case.labels)[0]
            image = crop_image(train_data.read_ras(case.image)[0])
            ways = crop.both_ways(image, [network])
            sides[crop.likelier(ways)] += 1
            found = painted(image, ways["left"])
            mean, hd95 = surface_distances(found > 0, labels > 0)
            rows["whole"].append(dice(found > 0, labels > 0))
            rows["anterior"].append(dice(found == 1, labels == 1))
            rows["posterior"].append(dice(found == 2, labels == 2))
            rows["distance"].append(mean)
            rows["hd95"].append(hd95)
            rows["volume"].append(100 * (float((found > 0).sum()) / float((labels > 0).sum()) - 1))
        by_fold[fold] = [round(float(np.mean(rows[k][begin:])), 4) for k in ("whole", "anterior", "posterior")]
    return {
        "patients": len(rows["whole"]),
        "dice_whole": interval(rows["whole"]),
        "dice_anterior": interval(rows["anterior"]),
        "dice_posterior": interval(rows["posterior"]),
        "mean_surface_distance_mm": interval(rows["distance"], np.nanmean),
        "hd95_mm": interval(rows["hd95"], np.nanmean),
        "volume_error_percent": interval(rows["volume"]),
        "volume_error_percent_absolute": interval([abs(v) for v in rows["volume"]]),
        "lowest_dice_whole": round(min(rows["whole"]), 4),
        "dice_by_fold": by_fold,
        "side_right_wrong_unsure": [sides["left"], sides["right"], sides[None]],
    }


def head_image(path: Path) -> tuple[Image, Array]:
    """A NIfTI head as an Image in RAS mm, and its affine."""
    array, affine = train_data.read_ras(path)
    grid = Grid(affine, (array.shape[0], array.shape[1], array.shape[2]))
    return Image(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), grid), affine


def centre_of(labels: Array, affine: Array) -> Array:
    """Centroid of a mask in mm."""
    centre: Array = affine[:3, :3] @ np.array(ndimage.center_of_mass(labels)) + affine[:3, 3]
    return centre


def held_out_head(
    image: Image, name: str, folder: Path
) -> tuple[find.Head, tuple[find.Place | None, ...], tuple[segment.Hippocampus | None, ...]]:
    """An IXI head as the find stage sees it, both sides as it places them and as the segment stage outlines them.

    Both networks are of folds that never saw this head.
    """
    finder = fold_network("find", train_data.fold_of(name, train_data.FIND_FOLDS), folder)
    segmenter = fold_network("segment", train_data.fold_of(name, train_data.SEGMENT_FOLDS), folder)
    head = find.find(image, [finder])
    found = find.left_and_right(head)
    near = (head.probability[find.HIPPOCAMPUS], head.grid)
    outlined = tuple(
        None if place is None else segment.segment(image, place.centre, right, [segmenter], near)
        for place, right in zip(found, (False, True), strict=True)
    )
    return head, found, outlined


def ixi(data: Path, folds: list[int], folder: Path) -> Figures:
    """Both found, centre errors and swapped sides in held-out heads.

    The reference centres are those of automatic labels (DLMUSE) of another protocol than the segment stage's.
    """
    rows: dict[str, list[float]] = {"place": [], "outline": [], "found": []}
    envelopes: list[float | None] = []
    swapped = 0
    for case in train_data.ixi_cases(data):
        if train_data.fold_of(case.name, train_data.FIND_FOLDS) not in folds:
            continue
        image, affine = head_image(case.image)
        labels, _ = train_data.read_ras(case.labels)
        centres = [centre_of(labels == k, affine) for k in (1, 2)]
        head, found, outlined = held_out_head(image, case.name, folder)
        envelopes.append(brain_envelope(image, head))
        complete = all(side is not None for side in outlined)
        rows["found"].append(float(complete))
        for name, sides in (("place", found), ("outline", outlined)):
            distance = [[float(np.linalg.norm(s.centre - c)) for c in centres] for s in sides if s is not None]
            if len(distance) == 2:
                rows[name].append(max(distance[0][0], distance[1][1]))
                swapped += distance[0][0] > distance[0][1] or distance[1][1] > distance[1][0]
    figures: Figures = {"heads": len(rows["found"]), "both_found": interval(rows["found"]), "sides_swapped": swapped}
    for name in ("place", "outline"):
        figures[f"{name}_worse_side_centre_error_mm"] = interval(rows[name])
        figures[f"{name}_centre_error_largest_mm"] = round(max(rows[name]), 2)
        figures[f"{name}_centres_within_3_mm"] = interval([float(e <= 3) for e in rows[name]])
    measured = np.array([e for e in envelopes if e is not None])
    figures["brain_envelope_mL"] = {
        "measured": len(measured),
        "mean": round(float(measured.mean())),
        "standard_deviation": round(float(measured.std())),
        "range": [round(float(measured.min())), round(float(measured.max()))],
    }
    return figures


def handedness(data: Path, fold: int, folder: Path) -> Figures:
    """Dice with IXI's labels of held-out heads when crops are taken for left hippocampi, and for right ones."""
    network = fold_network("segment", fold, folder)
    score: dict[str, list[float]] = {"crops_are_left": [], "crops_are_right": []}
    for case in train_data.ixi_cases(data):
        if train_data.fold_of(case.name, train_data.SEGMENT_FOLDS) != fold:
            continue
        image, affine = head_image(case.image)
        labels, _ = train_data.read_ras(case.labels)
        for name, turned in (("crops_are_left", False), ("crops_are_right", True)):
            both = []
            for value in (1, 2):
                mask = labels == value
                side = segment.segment(image, centre_of(mask, affine), (value == 2) != turned, [network])
                both.append(dice(painted(image, side) > 0, mask))
            score[name].append(float(np.mean(both)))
    return {"heads": len(score["crops_are_left"]), **{k: interval(v) for k, v in score.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["msd", "ixi", "philips", "handedness"])
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--folds", type=int, nargs="+", help="only these folds")
    parser.add_argument("--network", choices=["segment", "plain"], default="segment", help="for msd: which to measure")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="fold networks")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    data = train_data.data_folder(arguments.data)
    with torch.inference_mode():
        if arguments.what == "msd":
            folds = arguments.folds or list(range(train_data.SEGMENT_FOLDS))
            figures = msd(data, folds, arguments.models, arguments.network)
        elif arguments.what == "ixi":
            figures = ixi(data, arguments.folds or list(range(train_data.FIND_FOLDS)), arguments.models)
        elif arguments.what == "handedness":
            figures = handedness(data, (arguments.folds or [0])[0], arguments.models)
        else:
            from algorithms.hippocampus import evaluate_reslice

            figures = evaluate_reslice.philips(data)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
