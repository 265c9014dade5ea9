"""Hippocampus volumetry in T1-weighted MR: find both in the head, segment each, measure on the source grid."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dicom_node.algorithm import AlgorithmFunction, Bundle, Findings, Measurement, Volume

from . import contrast, find, fitness, networks, report, segment
from .crop import crop_findings
from .envelope import brain_envelope
from .resample import LPS_TO_RAS, Grid, Image


def load(bundle: Bundle) -> AlgorithmFunction:
    """Load all networks once; the returned function keeps them warm."""
    finders = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("find")]
    segmenters = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("segment")]

    def analyse(volume: Volume) -> Findings:
        # Geometry and intensities need float32; networks.predict alone chooses bfloat16.
        device = torch.device(bundle.device)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return hippocampus(volume, finders, segmenters, device)

    return analyse


def _network(bundle: Bundle, name: str) -> torch.nn.Module:
    empty = networks.NETWORKS[name.partition("-")[0]]()
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
    left, right = fitness.check_places(left, right)
    near = (head.probability[find.HIPPOCAMPUS], head.grid)
    sides = {
        name: fitness.check_side(name, segment.segment(image, where.centre, name == "right", segmenters, near))
        for name, where in (("left", left), ("right", right))
    }
    levels = contrast.tissues(image, head, tuple(sides.values()))
    fitness.check_contrast(levels)
    label_map = np.zeros(volume.array.shape, np.uint8)
    details: dict[str, Any] = {"tissues": levels and asdict(levels), "device": str(device)}
    for name, side in sides.items():
        fitness.check_outline(name, side)
        segment.paint(label_map, grid, side, *report.PARTS[name])
        details[name] = {"centre_ras_mm": [round(float(c), 1) for c in side.centre], "certainty": side.certainty}
    both = ("left", "right")
    volumes = report.volumes(label_map, volume.voxel_volume, both)
    value = {m.name: m.value for m in volumes}
    asymmetry = report.asymmetry(value["Left hippocampus volume"], value["Right hippocampus volume"])
    notes = [report.PROTOCOL]
    envelope = brain_envelope(image, head)
    if envelope is None:
        relative: tuple[Measurement, ...] = ()
        notes.append(report.NO_HEAD_SIZE)
    else:
        relative = (report.head_size(envelope), *report.relative(volumes, envelope))
    if str(volume.tags.get("ContrastBolusAgent") or "none").strip().lower() not in ("none", "no"):
        notes.append(report.ENHANCED)
    if max(grid.spacing) > 1.6:
        notes.append(f"Voxels of up to {max(grid.spacing):.1f} mm: volumes are less exact than from 1 mm.")
    return Findings(label_map, report.segments(both), (*volumes, asymmetry, *relative), tuple(notes), details)
