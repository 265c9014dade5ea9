"""Which slices of a stack hold the ventricle, at each phase: the end slices decide the volume.

The networks were trained on slices that hold it, and also outline the atrium or the outflow tract above the base. Those
have no muscle around them: by the guideline of the Society for Cardiovascular Magnetic Resonance a basal slice counts
when muscle surrounds at least half of the blood (Schulz-Menger et al, J Cardiovasc Magn Reson 2020;22:19). The networks
see muscle all around where an expert drew a contour, so their limit is that of the experts' own end slices
(``evaluate.py ends``). The base moves towards the apex in systole: a slice that is above it at end diastole is above it
throughout the beat.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .segment import CAVITY, MYOCARDIUM

LEAST_WALL = 0.75
"""Share of the cavity's edge where the networks see muscle."""
LEAST_DARK = 0.5
"""Share of the cavity's edge, above the base, that looks like the muscle of the middle slices: the atrium lies in fat.

Not asked for at the apex, where fat is in the same thick slice as the thin muscle.
"""
LEAST_SHARE = 0.55
"""Area of the cavity in a slice above the base, against the next slice's: an outflow tract is smaller."""
OUTSIDE = 2.0
"""mm from the cavity's edge at which muscle is looked for."""
SETTLED = 5
"""Phases of which most decide whether a slice counts: a valve does not flicker."""

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def holds_ventricle(
    images: npt.NDArray[np.float32],
    maps: npt.NDArray[np.uint8],
    muscle: npt.NDArray[np.float32],
    spacing: tuple[float, float],
) -> Mask:
    """Which slices count at each phase: a run without gaps around the middle, shape (phases, slices).

    Args:
        images: (phases, slices, rows, columns), slices from base to apex.
        maps: the same shape, label maps.
        muscle: the same shape, probability of myocardium.
        spacing: mm between (rows, columns).
    """
    areas = (maps == CAVITY).sum((2, 3)).astype(np.float64)
    walls, dark = surrounded(images, maps, muscle, spacing)
    sound = (areas > 0) & (_over_time(walls) >= LEAST_WALL)
    smooth = _over_time(areas)
    enclosed = _over_time(dark) >= LEAST_DARK
    middle = int(np.argmax((smooth * (sound & enclosed)).sum(0)))
    sound[:, :middle] &= enclosed[:, :middle]
    always = _run(sound.all(0), middle)
    diastole = int(np.argmax(smooth[:, always].sum(1))) if always.any() else int(np.argmax(smooth[:, middle]))
    found = np.stack([_of_phase(sound[p], smooth[p], maps[p], middle) for p in range(len(areas))])
    found &= found[diastole]
    settled = ndimage.median_filter(found.astype(np.uint8), size=(SETTLED, 1), mode="wrap").astype(bool)
    settled[diastole] = found[diastole]
    return np.stack([_run(slices, middle) for slices in settled & (areas > 0)])


def surrounded(
    images: npt.NDArray[np.float32],
    maps: npt.NDArray[np.uint8],
    muscle: npt.NDArray[np.float32],
    spacing: tuple[float, float],
) -> tuple[Array, Array]:
    """How much of the cavity's edge is muscle to the networks, and how much looks like it: 0..1, (phases, slices)."""
    walls, dark = np.zeros(maps.shape[:2]), np.zeros(maps.shape[:2])
    slices = maps.shape[1]
    inner = max(1, round(OUTSIDE / float(np.mean(spacing))))
    for phase in range(len(maps)):
        middle = slice(slices // 3, max(slices // 3 + 1, 2 * slices // 3))
        tissue = [images[phase, middle][maps[phase, middle] == value] for value in (CAVITY, MYOCARDIUM)]
        if not all(t.size for t in tissue):
            continue
        limit = (float(np.median(tissue[0])) + float(np.median(tissue[1]))) / 2
        for k in range(slices):
            cavity = maps[phase, k] == CAVITY
            near = ndimage.binary_dilation(cavity, iterations=inner)
            ring = ndimage.binary_dilation(near) & ~near
            if ring.any():
                walls[phase, k] = float((muscle[phase, k][ring] > 0.5).mean())
                dark[phase, k] = float((images[phase, k][ring] < limit).mean())
    return walls, dark


def _of_phase(sound: Mask, areas: Array, maps: npt.NDArray[np.uint8], middle: int) -> Mask:
    """The run of slices at one phase."""
    linked = sound.copy()
    for k in range(middle - 1, -1, -1):
        linked[k] &= bool(areas[k] >= LEAST_SHARE * areas[k + 1]) and _overlap(maps[k], maps[k + 1])
    for k in range(middle + 1, len(areas)):
        linked[k] &= _overlap(maps[k], maps[k - 1])
    return _run(linked, middle)


def _run(slices: Mask, middle: int) -> Mask:
    """Those of the slices that are joined to the middle one without a gap."""
    parts, _ = ndimage.label(slices)
    return (parts == parts[middle]) & slices


def _overlap(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> bool:
    """Whether the smaller of two cavities lies mostly over the other."""
    a, b = one == CAVITY, other == CAVITY
    return bool(2 * (a & b).sum() >= min(a.sum(), b.sum()))


def _over_time(values: Array) -> Array:
    """Each phase with its neighbours, 1-2-1; the beat comes round."""
    averaged: Array = (np.roll(values, 1, 0) + 2 * values + np.roll(values, -1, 0)) / 4
    return averaged
