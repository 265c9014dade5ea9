"""Left-ventricular volumes, ejection fraction and mass from a short-axis cine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicom_node.algorithm import AlgorithmFunction, Bundle, Cine, Curve, Findings

from . import extent, find, fitness, networks, report, resample, segment, wall

FIND_PHASES = 5
"""So many phases of all slices are looked at to find the ventricle."""
MARGIN = 6.0
"""mm of the images kept around what the segment network sees."""


def load(bundle: Bundle) -> AlgorithmFunction:
    """Load all networks once; the returned function keeps them warm."""
    finders = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("find")]
    segmenters = [_network(bundle, name) for name in sorted(bundle.weights) if name.startswith("segment")]

    def analyse(cine: Cine) -> Findings:
        # networks.predict alone chooses bfloat16.
        device = torch.device(bundle.device)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return left_ventricle(cine, finders, segmenters, device)

    return analyse


def _network(bundle: Bundle, name: str) -> torch.nn.Module:
    empty = networks.find_network() if name.startswith("find") else networks.segment_network()
    return networks.load_weights(empty, bundle.weights[name], bundle.device)


@dataclass(frozen=True)
class Outlined:
    """A stack outlined at every phase.

    Attributes:
        box: the rows and columns of the images that the arrays here cover.
        probability: (phases, slices, 2, rows, columns) float32, of cavity and myocardium.
        maps: (phases, slices, rows, columns) uint8: 0, cavity, myocardium.
        inside: (phases, slices), which slices hold the ventricle.
        curve: (phases,) mL.
        certainty: how sure the place is, 0..1.
    """

    box: tuple[slice, slice]
    probability: npt.NDArray[np.float32]
    maps: npt.NDArray[np.uint8]
    inside: npt.NDArray[np.bool_]
    curve: npt.NDArray[np.float64]
    certainty: float

    @property
    def phases(self) -> tuple[int, int]:
        """End diastole and end systole: where the curve, smoothed over three phases, is largest and smallest."""
        smooth = (np.roll(self.curve, 1) + 2 * self.curve + np.roll(self.curve, -1)) / 4
        return int(np.argmax(smooth)), int(np.argmin(smooth))


def outline(
    cine: Cine, finders: list[torch.nn.Module], segmenters: list[torch.nn.Module], device: torch.device
) -> Outlined:
    """Find and outline the ventricle in every slice at every phase.

    Raises:
        NotAnalysed: nothing looks like one.
    """
    phases, slices, *shape = cine.array.shape
    spacing = cine.spacing[1:]
    few = np.linspace(0, phases, FIND_PHASES, endpoint=False).astype(int)
    looked_at = torch.from_numpy(cine.array[few].reshape(-1, 1, *shape)).to(device)
    centre, certainty = find.centre(looked_at, spacing, finders)
    fitness.check_place(certainty)
    reach = resample.SEGMENT_SIZE * resample.SEGMENT_STEP / 2 + MARGIN
    box = tuple(
        slice(max(0, int(c - reach / mm)), min(n, int(c + reach / mm) + 2))
        for c, mm, n in zip(centre, spacing, shape, strict=True)
    )
    inner = np.ascontiguousarray(cine.array[:, :, box[0], box[1]])
    images = torch.from_numpy(inner.reshape(-1, 1, *inner.shape[2:])).to(device)
    middle = (centre[0] - box[0].start, centre[1] - box[1].start)
    found = segment.probabilities(images, spacing, middle, segmenters).cpu().numpy()
    maps = segment.labels(found).reshape(phases, slices, *inner.shape[2:])
    probability = found.reshape(phases, slices, 2, *inner.shape[2:])
    inside = extent.holds_ventricle(inner, maps, probability[:, :, 1], spacing)
    areas = (maps == segment.CAVITY).sum((2, 3)) * inside
    curve = areas.sum(1) * (cine.voxel_volume / 1000)
    return Outlined((box[0], box[1]), probability, maps, inside, curve, certainty)


def left_ventricle(
    cine: Cine, finders: list[torch.nn.Module], segmenters: list[torch.nn.Module], device: torch.device
) -> Findings:
    """Findings of one study.

    Raises:
        NotAnalysed: why the stack is not fit.
    """
    fitness.check_geometry(cine)
    found = outline(cine, finders, segmenters, device)
    fitness.check_volumes(found.curve, found.inside)
    ed, es = found.phases
    slices = cine.array.shape[1]
    label_map = np.zeros((2 * slices, *cine.array.shape[2:]), np.uint8)
    for start, phase in ((0, ed), (slices, es)):
        labels = report.segment_labels(found.maps[phase], found.inside[phase], systole=start > 0)
        label_map[start : start + slices, found.box[0], found.box[1]] = labels
    counted = np.flatnonzero(found.inside[ed])
    walls = {int(k) + 1: measured for k in counted if (measured := _wall(found.probability[ed, k], cine)) is not None}
    middle = int(counted[len(counted) // 2])
    details: dict[str, Any] = {
        "certainty": round(found.certainty, 3),
        "end_diastole_phase": ed + 1,
        "end_systole_phase": es + 1,
        "slices_by_phase": found.inside.sum(1).tolist(),
        "device": str(device),
    }
    return Findings(
        label_map=label_map,
        segments=report.SEGMENTS,
        measurements=report.measurements(label_map, cine, found.curve.tolist(), walls),
        notes=report.notes(cine, ed, es, found.inside),
        details=details,
        frames=(*cine.frames[ed], *cine.frames[es]),
        curves=_curves(cine, found.curve, ed, es),
        key_planes=(middle, slices + middle),
    )


def _wall(probability: npt.NDArray[np.float32], cine: Cine) -> tuple[float, float] | None:
    """Mean and greatest thickness in mm; None where the wall is open in more than a quarter of the directions."""
    found = wall.thickness(probability[0], probability[1], cine.spacing[1:])
    known = found[np.isfinite(found)]
    if len(known) < 0.75 * len(found):
        return None
    return float(known.mean()), float(known.max())


def _curves(cine: Cine, curve: npt.NDArray[np.float64], ed: int, es: int) -> tuple[Curve, ...]:
    if not np.isfinite(cine.trigger_times).all():
        return ()
    times = np.median(cine.trigger_times, 1)
    marks = ((ed, "ED"), (es, "ES"))
    return (Curve("Left ventricular volume", "mL", tuple(times.tolist()), tuple(curve.tolist()), marks),)
