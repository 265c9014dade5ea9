"""Whole stacks: ``python algorithms/left_ventricle/evaluate_stack.py``.

``ends``: of the slices at the ends of the experts' stacks, how many the rules of ``extent.py`` keep. ``patient``: the
patient whose images are there as DICOM, all slices and phases through the whole algorithm, with the networks that never
saw this patient and with the released ones, beside the experts' contours. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.left_ventricle import algorithm, extent, find, networks, segment, train_data  # noqa: E402
from dicom_node.run.cine import read_cine  # noqa: E402

PATIENT = "SC-HF-I-01"
"""Whose DICOM images are in ``dicom/``."""

Figures = dict[str, Any]
Networks = tuple[list[torch.nn.Module], list[torch.nn.Module]]


def of_folds(folder: Path, find_folds: list[int], segment_folds: list[int]) -> Networks:
    """The networks of these folds."""
    finders = [networks.load_weights(networks.find_network(), folder / f"find-{f}.safetensors") for f in find_folds]
    names = [folder / f"segment-{f}.safetensors" for f in segment_folds]
    return finders, [networks.load_weights(networks.segment_network(), name) for name in names]


def unseen(data: Path, folder: Path, subject: str) -> Networks:
    """The networks that never saw a patient."""
    manifest = train_data.rows(data)
    of_find = train_data.folds_of(manifest, train_data.FIND_FOLDS)[subject]
    return of_folds(folder, [of_find], [train_data.folds_of(manifest, train_data.SEGMENT_FOLDS)[subject]])


def ends(data: Path, folder: Path) -> Figures:
    """What the rules for end slices see of the experts' first and last slices, and how many they keep."""
    slices = train_data.read(data)
    seen: dict[str, list[tuple[float, float, float]]] = {"base": [], "apex": []}
    for subject in sorted(set(slices.subjects)):
        finders, segmenters = unseen(data, folder, subject)
        own = slices.only([k for k, s in enumerate(slices.subjects) if s == subject])
        spacing = (float(own.spacing[0, 0]), float(own.spacing[0, 1]))
        images = own.images.float()
        centre, _ = find.centre(images, spacing, finders)
        found = segment.probabilities(images, spacing, centre, segmenters).numpy()
        maps = segment.labels(found)
        for phase in ("ED", "ES"):
            order = sorted((k for k, p in enumerate(own.phases) if p == phase), key=lambda k: own.slices[k])
            walls, dark = extent.surrounded(
                images[order, 0].numpy()[None], maps[order][None], found[order, 1][None], spacing
            )
            areas = (maps[order] == segment.CAVITY).sum((1, 2))
            seen["base"].append((walls[0, 0], dark[0, 0], areas[0] / max(1, areas[1])))
            seen["apex"].append((walls[0, -1], dark[0, -1], 1.0))
    limits = np.array([extent.LEAST_WALL, extent.LEAST_DARK, extent.LEAST_SHARE])
    return {
        end: {
            "stacks": len(values),
            "lowest_twentieth": dict(
                zip(("wall", "dark", "share"), np.percentile(values, 5, axis=0).round(2).tolist(), strict=True)
            ),
            "kept_percent": round(100 * float((np.array(values) >= limits).all(1).mean()), 1),
        }
        for end, values in seen.items()
    }


def patient(data: Path, folder: Path) -> Figures:
    """Volumes and ejection fraction of the DICOM patient."""
    paths = [p for p in (data / train_data.FOLDER / "dicom").rglob("*") if p.is_file()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cine = read_cine(paths).cine
    labelled = {"ED": 0, "ES": 0}
    for row in train_data.rows(data):
        if row["subject"] == PATIENT:
            labelled[row["ed_es"]] += int(row["endo_px"])
    millilitres = {phase: pixels * cine.voxel_volume / 1000 for phase, pixels in labelled.items()}
    released = of_folds(folder, list(range(train_data.FIND_FOLDS)), list(range(train_data.SEGMENT_FOLDS)))
    return {
        "contours": _volumes(millilitres["ED"], millilitres["ES"]),
        "networks_that_never_saw_this_patient": _measured(cine, unseen(data, folder, PATIENT)),
        "released_networks": _measured(cine, released),
    }


def _measured(cine: Any, chosen: Networks) -> Figures:
    outlined = algorithm.outline(cine, *chosen, torch.device("cpu"))
    ed, es = outlined.phases
    volumes = _volumes(float(outlined.curve[ed]), float(outlined.curve[es]))
    return {**volumes, "phases": [ed + 1, es + 1], "slices": [int(outlined.inside[p].sum()) for p in (ed, es)]}


def _volumes(ed: float, es: float) -> Figures:
    return {"EDV_mL": round(ed, 1), "ESV_mL": round(es, 1), "EF_percent": round(100 * (ed - es) / ed, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("ends", "patient"))
    parser.add_argument("--data", help="the data folder; default: DICOM_NODE_DATA, else ../shared/data")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="fold networks")
    arguments = parser.parse_args()
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    evaluate = ends if arguments.what == "ends" else patient
    with torch.inference_mode():
        print(json.dumps(evaluate(train_data.data_folder(arguments.data), arguments.models), indent=1))


if __name__ == "__main__":
    main()
