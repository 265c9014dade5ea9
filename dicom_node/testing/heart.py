"""A chest with a beating heart as a formula: its signal at any point and moment, and the true volumes.

Lengths are mm in patient coordinates (LPS), signals those of a balanced gradient echo: bright blood, grey muscle.
The left ventricle's cavity is half an ellipsoid below a flat base, which stays where it is; only its radius beats,
and its muscle keeps its volume. So the volume of the cavity is known at each moment, and slices that share the
base as their edge add up to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

AXIS = np.array([1.0, -1.0, -0.7]) / math.sqrt(2.49)
"""From base to apex: to the left, the front and the feet."""
BASE = np.array([18.0, -6.0, 16.0])
"""Middle of the mitral valve's plane."""
TO_RIGHT_VENTRICLE = np.cross(AXIS, np.cross([-1.0, -0.35, 0.0], AXIS))
TO_RIGHT_VENTRICLE /= np.linalg.norm(TO_RIGHT_VENTRICLE)
INFERIOR = np.cross(AXIS, TO_RIGHT_VENTRICLE)

_EJECTION = 0.36
"""Part of the heartbeat at which the ventricle is smallest."""
_FILLED = 0.88
"""Part of the heartbeat from which on it is full again."""
_EDGE = 1.2
"""mm over which one tissue passes into another, as pixels blur it."""
_TRABECULAE = 5.5
"""mm inside the full cavity over which muscle bars pass into blood; like papillary muscles they are cavity."""
_BLOOD, _MUSCLE, _LUNG, _FAT, _LIVER, _BONE = 215.0, 72.0, 18.0, 165.0, 88.0, 60.0


@dataclass(frozen=True)
class Ventricle:
    """Size and motion of the left ventricle.

    Attributes:
        end_diastolic: largest volume of the cavity in mL.
        end_systolic: smallest volume of the cavity in mL.
        muscle: volume of the myocardium in mL, the same at every moment.
        length: mm from base to the cavity's apex.
        apex: mm of muscle beyond it.
    """

    end_diastolic: float = 132.0
    end_systolic: float = 56.0
    muscle: float = 122.0
    length: float = 80.0
    apex: float = 9.0

    def volume(self, moment: float) -> float:
        """mL of the cavity at a part (0..1) of the heartbeat from the R wave."""
        moment %= 1.0
        if moment < _EJECTION:
            share = (1 + math.cos(math.pi * moment / _EJECTION)) / 2
        elif moment < _FILLED:
            share = (1 - math.cos(math.pi * (moment - _EJECTION) / (_FILLED - _EJECTION))) / 2
        else:
            share = 1.0
        return self.end_systolic + share * (self.end_diastolic - self.end_systolic)

    def volumes(self, phases: int) -> Array:
        """mL of the cavity at each phase of a cine, shape (phases,); phases lie in the middle of their interval."""
        return np.array([self.volume((k + 0.5) / phases) for k in range(phases)])

    def radii(self, moment: float) -> tuple[float, float]:
        """mm at the base: of the cavity, and of the outer surface."""
        cavity = math.sqrt(self.volume(moment) * 1000 * 3 / (2 * math.pi * self.length))
        outside = (self.volume(moment) + self.muscle) * 1000 * 3 / (2 * math.pi * (self.length + self.apex))
        return cavity, math.sqrt(outside)

    def labels(self, points: Array, moment: float) -> npt.NDArray[np.uint8]:
        """1 in the cavity (papillary muscles count as cavity), 2 in the myocardium.

        Args:
            points: shape (..., 3), LPS mm.

        Returns:
            uint8, shape (...).
        """
        along, across, _, _ = _heart(points)
        inner, outer = self.radii(moment)
        found = np.zeros(along.shape, dtype=np.uint8)
        found[_ellipsoid(along, across, outer, self.length + self.apex) > 0] = 2
        found[_ellipsoid(along, across, inner, self.length) > 0] = 1
        return found


def grid_points(affine: Array, shape: tuple[int, int]) -> Array:
    """Points of one slice, shape (rows, columns, 3), LPS mm.

    Args:
        affine: (4, 4), (slice, row, column, 1) index to LPS mm; the slice is index 0.
    """
    rows, columns = np.arange(shape[0])[:, None, None], np.arange(shape[1])[None, :, None]
    points: Array = affine[:3, 3] + rows * affine[:3, 1] + columns * affine[:3, 2]
    return points


def signal(points: Array, moment: float, ventricle: Ventricle) -> Image:
    """What a balanced gradient echo shows of the chest, about 0..255.

    Args:
        points: shape (rows, columns, 3), LPS mm.
        moment: part of the heartbeat from the R wave, 0..1.

    Returns:
        float32, shape (rows, columns).
    """
    return beating(points, resting(points), moment, ventricle)


def resting(points: Array) -> Image:
    """The chest without the heart; the same at every moment. Shapes as in :func:`signal`."""
    x, y, z = np.moveaxis(points, -1, 0)
    texture = np.sin(x / 9) * np.sin(y / 11 + 1) * np.sin(z / 10 + 2)
    depth = 1 - np.sqrt((x / 175) ** 2 + ((y - 15) / 118) ** 2)  # 0 at the skin, 1 on the body's axis
    values = np.full(x.shape, 3.0)
    _paint(values, depth * 118, _FAT + 12 * texture)
    _paint(values, depth * 118 - 14, _MUSCLE + 10 * texture)
    for side in (-1, 1):
        lung = 1 - np.sqrt(((x - side * 78) / 66) ** 2 + ((y - 18) / 82) ** 2 + ((z - 30) / 120) ** 2)
        _paint(values, lung * 66, _LUNG + 5 * texture)
    dome = -60 - 0.002 * ((x + 40) ** 2 + (y - 10) ** 2) - z
    _paint(values, np.minimum(dome, depth * 118 - 16), _LIVER + 8 * texture)
    _paint(values, 24 - np.hypot(x, y - 78), _BONE + 0 * x)
    _paint(values, 12 - np.hypot(x - 22, y - 52), _BLOOD - 10 + 0 * x)
    return values.astype(np.float32)


def beating(points: Array, chest: Image, moment: float, ventricle: Ventricle) -> Image:
    """The chest of :func:`resting` with the heart in it; shapes as in :func:`signal`."""
    along, across, right, inferior = _heart(points)
    near = (abs(along) < 130) & (across < 110)
    values = chest.astype(np.float64)
    if not near.any():
        return chest.copy()
    a, r, s, i = along[near], across[near], right[near], inferior[near]
    inside = values[near]
    inner, outer = ventricle.radii(moment)
    length = ventricle.length
    full = ventricle.radii(0.0)[1]
    # a sac of fat, which does not beat, so that nothing behind the heart shows when it contracts
    _paint(inside, _ellipsoid(a, np.hypot(s - 18, i) * 0.72, full + 5, length + 22, two_sided=True), _FAT)
    swing = inner / ventricle.radii(0.0)[0]
    right_ventricle = _ellipsoid(a, np.hypot((s - 30) / 1.15, i) / (0.75 + 0.25 * swing), 36, length - 6)
    _paint(inside, right_ventricle + 3.5, _MUSCLE)
    _paint(inside, right_ventricle, _BLOOD - 8)
    atrium = 28 - np.sqrt(r**2 + (a + 18) ** 2)
    _paint(inside, np.minimum(atrium + 2.5, -a), _MUSCLE)
    _paint(inside, np.minimum(atrium, -a - 2), _BLOOD - 5)
    _paint(inside, _ellipsoid(a, r, outer, length + ventricle.apex), _MUSCLE)
    cavity = _ellipsoid(a, r, inner, length)
    # Trabeculae keep their volume: the layer grows thicker as the cavity shrinks around it.
    tapering = np.sqrt(np.clip(1 - (a / length) ** 2, 0, None))
    widest, surface = tapering * ventricle.radii(0.0)[0], tapering * inner
    bars = widest**2 - np.clip(widest - _TRABECULAE, 0, None) ** 2
    core = np.sqrt(np.clip(surface**2 - bars, 0, None))
    trabecular = np.clip((surface - r) / np.maximum(surface - core, 1e-6), 0, 1)
    blood = _BLOOD - 14 * (a / length) ** 2
    _paint(inside, cavity, _MUSCLE + trabecular * (blood - _MUSCLE))
    for turn in (-0.9, 0.9):
        centre = 0.62 * inner * np.sqrt(np.clip(1 - (a / length) ** 2, 0, None))
        papillary = 3.6 - np.hypot(s + centre * math.cos(turn), i - centre * math.sin(turn))
        _paint(inside, np.minimum(papillary, 16 - abs(a - 42)), _MUSCLE + 8)
    values[near] = inside
    return values.astype(np.float32)


def _heart(points: Array) -> tuple[Array, Array, Array, Array]:
    """mm from the base along the axis, from the axis, towards the right ventricle, and towards the inferior wall."""
    offset = points - BASE
    right, inferior = offset @ TO_RIGHT_VENTRICLE, offset @ INFERIOR
    return offset @ AXIS, np.hypot(right, inferior), right, inferior


def _ellipsoid(along: Array, across: Array, radius: float, length: float, two_sided: bool = False) -> Array:
    """About the distance in mm to the surface of half an ellipsoid below the base, positive inside."""
    profile = radius * np.sqrt(np.clip(1 - (along / length) ** 2, 0, None)) - across
    inside = np.where(abs(along) < length, profile, -np.hypot(across, abs(along) - length))
    return inside if two_sided else np.minimum(inside, along)


def _paint(values: Array, depth: Array, tissue: Array | float) -> None:
    """Blend a tissue in where ``depth`` (mm inside its surface) is positive."""
    share = np.clip(depth / _EDGE + 0.5, 0, 1)
    values += share * (tissue - values)
