"""Hippocampus volumetry in T1-weighted MR: find both in the head, segment each, measure on the source grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dicom_node.algorithm import AlgorithmFunction, Bundle, Findings, NotAnalysed, Volume

from . import find, fitness, networks, report, segment
from .crop import crop_findings
from .resample import LPS_TO_RAS, Grid, Image


def load(bundle: Bundle) -> AlgorithmFunction:
    """Load all networks once; the returned function keeps them warm."""
    finders = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("find")]
    segmenters = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("segment")]

    def analyse(volume: Volume) -> Findings:
        with torch.inference_mode():
            return hippocampus(volume, finders, segmenters, torch.device(bundle.device))

    return analyse


def _network(bundle: Bundle, name: str) -> torch.nn.Module:
    empty = networks.find_network() if name.startswith("find") else networks.segment_network()
    return networks.load_weights(empty, bundle.weights[name], bundle.device)


def hippocampus(
    volume: Volume,
    finders: list[torch.nn.Module],
    segmenters: list[torch.nn.Module],
    device: torch.device,
) -> Findings:
    """Findings of one series.

    Raises:
        NotAnalysed: why the series is not fit.
    """
    grid = Grid(LPS_TO_RAS @ volume.affine, volume.array.shape)
    fitness.check_geometry(volume, grid)
    image = Image(torch.from_numpy(np.ascontiguousarray(volume.array)).to(device), grid)
    if fitness.is_crop(grid):
        return crop_findings(volume, image, segmenters)
    head = find.find(image, finders)
    fitness.check_head(head)
    left, right = find.left_and_right(head)
    fitness.check_places(left, right)
    fitness.check_contrast(head)
    near = (head.probability[find.HIPPOCAMPUS], head.grid)
    label_map = np.zeros(volume.array.shape, np.uint8)
    details: dict[str, Any] = {"tissue_levels": fitness.tissue_levels(head), "device": str(device)}
    for name, where in (("left", left), ("right", right)):
        if where is None:
            raise NotAnalysed(f"the {name} hippocampus was not found in the images")
        found = segment.segment(image, where.centre, name == "right", segmenters, near)
        side = fitness.check_side(name, found)
        segment.paint(label_map, grid, side, *report.PARTS[name])
        details[name] = {"centre_ras_mm": [round(float(c), 1) for c in side.centre], "certainty": side.certainty}
    both = ("left", "right")
    measurements = report.volumes(label_map, volume.voxel_volume, both)
    value = {m.name: m.value for m in measurements}
    sizes = value["Left hippocampus volume"], value["Right hippocampus volume"]
    measurements = (*measurements, report.asymmetry(*sizes))
    notes = [report.PROTOCOL]
    if fitness.brain_is_cut(head, grid, device):
        notes.append("The head is not fully in the field of view: no intracranial volume, no relative volumes.")
    else:
        measurements = (*measurements, *report.relative(*sizes, head.intracranial))
    if max(grid.spacing) > 1.6:
        notes.append(f"Voxels of up to {max(grid.spacing):.1f} mm: volumes are less exact than from 1 mm.")
    return Findings(label_map, report.segments(both), measurements, tuple(notes), details)
