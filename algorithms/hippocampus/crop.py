"""A series that is already a small box around one hippocampus."""

from __future__ import annotations

import numpy as np
import torch

from dicom_node.algorithm import Findings, NotAnalysed, Volume

from . import fitness, report, segment
from .resample import Image

MARGIN = 0.008
"""How much surer of one side than of its mirror image the networks must be. Measured by ``evaluate.py msd``."""


def side_in_tags(volume: Volume) -> str | None:
    """The side that the header names, or None."""
    for keyword in ("ImageLaterality", "Laterality"):
        value = str(volume.tags.get(keyword) or "").strip().upper()
        if value in ("L", "R"):
            return "left" if value == "L" else "right"
    text = str(volume.tags.get("SeriesDescription") or "").lower()
    named = [side for side in ("left", "right") if side in text]
    return named[0] if len(named) == 1 else None


Sides = dict[str, segment.Hippocampus | None]


def certainty(side: segment.Hippocampus | None) -> float:
    """How sure the networks are of a side; 0 if they see none."""
    return 0.0 if side is None else side.certainty


def both_ways(image: Image, segmenters: list[torch.nn.Module]) -> Sides:
    """The crop taken for a left hippocampus, and for a right one."""
    centre = image.grid.to_mm((np.array(image.grid.shape) - 1) / 2)
    return {name: segment.segment(image, centre, name == "right", segmenters) for name in ("left", "right")}


def likelier(sides: Sides) -> str | None:
    """The side that the anatomy speaks for, None if it could be either."""
    difference = certainty(sides["left"]) - certainty(sides["right"])
    if abs(difference) < MARGIN:
        return None
    return "left" if difference > 0 else "right"


def crop_findings(volume: Volume, image: Image, segmenters: list[torch.nn.Module]) -> Findings:
    """Findings of the one hippocampus that is there.

    Raises:
        NotAnalysed: if there is none, or it could as well be the other side.
    """
    sides = both_ways(image, segmenters)
    if max(certainty(s) for s in sides.values()) < fitness.LEAST_CERTAIN:
        raise NotAnalysed("a small field of view, and no hippocampus was recognised in it")
    tagged, seen = side_in_tags(volume), likelier(sides)
    if tagged and seen and tagged != seen:
        raise NotAnalysed(f"the header says {tagged}, but the images look like the {seen} hippocampus")
    chosen = tagged or seen
    if chosen is None:
        raise NotAnalysed("a small field of view, and it is not certain which hippocampus, left or right, it shows")
    side = sides[chosen]
    if side is None or side.volume < fitness.SMALLEST:
        raise NotAnalysed("a small field of view, and no hippocampus was recognised in it")
    label_map = np.zeros(volume.array.shape, np.uint8)
    segment.paint(label_map, image.grid, side, 1, 2)
    other = "right" if chosen == "left" else "left"
    notes = [
        report.PROTOCOL,
        f"The series shows the {chosen} hippocampus only; the {other} one is not in the field of view, nor is "
        "the head, so no volume is given relative to its size. "
        + ("The side is that of the header." if tagged else "The side was recognised from the anatomy."),
    ]
    if not side.complete:
        notes.append(f"The {chosen} hippocampus reaches the edge of the field of view: it may be larger than measured.")
    measurements = report.volumes(label_map, volume.voxel_volume, (chosen,))
    return Findings(label_map, report.segments((chosen,)), measurements, tuple(notes), {"side": chosen})
