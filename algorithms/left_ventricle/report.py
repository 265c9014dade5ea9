"""Findings of the ventricle: names, codes, limits and what is said beside the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Cine, Code, Measurement, Segment

ANATOMY = Code("91723000", "SCT", "Anatomical structure")
VENTRICLE = Code("87878005", "SCT", "Left ventricle")
MYOCARDIUM = Code("49848007", "SCT", "Myocardium of left ventricle")
HEART = Code("80891009", "SCT", "Heart")
VOLUME = Code("118565006", "SCT", "Volume")
END_DIASTOLIC_VOLUME = Code("8821-1", "LN", "Left Ventricular ED Volume")
END_SYSTOLIC_VOLUME = Code("8823-7", "LN", "Left Ventricular ES Volume")
EJECTION_FRACTION = Code("8811-2", "LN", "Left ventricular ejection fraction by MR")
STROKE_VOLUME = Code("90096001", "SCT", "Stroke Volume")
CARDIAC_OUTPUT = Code("82799009", "SCT", "Cardiac Output")
CARDIAC_INDEX = Code("54993008", "SCT", "Cardiac Index")
HEART_RATE = Code("8867-4", "LN", "Heart rate")
MASS = Code("18087-7", "LN", "Left Ventricle Mass")
BODY_SURFACE = Code("8277-6", "LN", "Body Surface Area")
WALL_THICKNESS = Code("122445", "DCM", "Wall Thickness")
MEAN = Code("373098007", "SCT", "Mean")
MAXIMUM = Code("56851009", "SCT", "Maximum")

ED_CAVITY, ED_MYOCARDIUM, ES_CAVITY = 1, 2, 3
DENSITY = 1.05
"""g/mL of myocardium."""

SEGMENTS = (
    Segment(ED_CAVITY, "Left ventricular cavity, end diastole", ANATOMY, VENTRICLE, color=(230, 70, 70)),
    Segment(ED_MYOCARDIUM, "Left ventricular myocardium, end diastole", ANATOMY, MYOCARDIUM, color=(90, 200, 120)),
    Segment(ES_CAVITY, "Left ventricular cavity, end systole", ANATOMY, VENTRICLE, color=(80, 150, 250)),
)

PAPILLARY = (
    "Papillary muscles and trabeculae count as cavity, as in the reference contours (Sunnybrook 2009): volumes are "
    "larger and mass is smaller than where they count as muscle."
)
NO_RATE = "Cardiac output was not calculated, because the images do not tell the heart rate."
NO_BODY = "Nothing is indexed to body surface area, because height or weight is not in the header."
COARSE_PHASES = 12


def segment_labels(maps: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], systole: bool) -> npt.NDArray[np.uint8]:
    """The label map of one phase, (slices, rows, columns), out of the networks' (0, cavity, myocardium)."""
    kept = np.where(inside[:, None, None], maps, 0)
    if systole:
        return np.where(kept == 1, ES_CAVITY, 0).astype(np.uint8)
    return kept.astype(np.uint8)


def measurements(
    label_map: npt.NDArray[np.uint8], cine: Cine, curve: Sequence[float], walls: Mapping[int, tuple[float, float]]
) -> tuple[Measurement, ...]:
    """All numbers of the report.

    Args:
        label_map: of end diastole and end systole.
        curve: mL at each phase.
        walls: by slice number, from 1 at the base: mean and greatest thickness in mm at end diastole.
    """
    millilitres = {s.value: float((label_map == s.value).sum()) * cine.voxel_volume / 1000 for s in SEGMENTS}
    end_diastolic, end_systolic = millilitres[ED_CAVITY], millilitres[ES_CAVITY]
    muscle = millilitres[ED_MYOCARDIUM]
    stroke = end_diastolic - end_systolic
    fraction = 100 * stroke / end_diastolic
    mass = DENSITY * muscle
    found = [
        Measurement("LV end-diastolic volume", end_diastolic, "mL", END_DIASTOLIC_VOLUME, VENTRICLE,
                    segments=(ED_CAVITY,), from_mask=True, plausible=(50, 350), compare="difference"),
        Measurement("LV end-systolic volume", end_systolic, "mL", END_SYSTOLIC_VOLUME, VENTRICLE,
                    segments=(ES_CAVITY,), from_mask=True, plausible=(10, 280), compare="difference"),
        Measurement("LV stroke volume", stroke, "mL", STROKE_VOLUME, VENTRICLE, plausible=(25, 170)),
        Measurement("LV ejection fraction", fraction, "%", EJECTION_FRACTION, VENTRICLE, plausible=(10, 80),
                    method="100 x stroke volume / end-diastolic volume", compare="difference"),
        Measurement("LV myocardial volume, end diastole", muscle, "mL", VOLUME, MYOCARDIUM,
                    segments=(ED_MYOCARDIUM,), from_mask=True, plausible=(40, 300)),
        Measurement("LV myocardial mass, end diastole", mass, "g", MASS, MYOCARDIUM, segments=(ED_MYOCARDIUM,),
                    plausible=(42, 315), method=f"{DENSITY} g/mL"),
    ]  # fmt: skip
    rate = cine.heart_rate
    output = None if rate is None else stroke * rate / 1000
    if rate is not None and output is not None:
        found += [
            Measurement("Heart rate", rate, "{H.B.}/min", HEART_RATE, HEART, plausible=(35, 140),
                        method="from the images' intervals between R waves"),
            Measurement("LV cardiac output", output, "L/min", CARDIAC_OUTPUT, VENTRICLE, plausible=(1.5, 12)),
        ]  # fmt: skip
    area = body_surface(cine.tags)
    if area is not None:
        by = "divided by the body surface area"
        found += [
            Measurement("Body surface area", area, "m2", BODY_SURFACE, HEART, plausible=(1.0, 2.9),
                        method="Mosteller, from height and weight in the header"),
            Measurement("LV end-diastolic volume index", end_diastolic / area, "mL/m2", END_DIASTOLIC_VOLUME,
                        VENTRICLE, method=by),
            Measurement("LV end-systolic volume index", end_systolic / area, "mL/m2", END_SYSTOLIC_VOLUME,
                        VENTRICLE, method=by),
            Measurement("LV stroke volume index", stroke / area, "mL/m2", STROKE_VOLUME, VENTRICLE, method=by),
            Measurement("LV myocardial mass index", mass / area, "g/m2", MASS, MYOCARDIUM, method=by),
        ]  # fmt: skip
        if output is not None:
            found.append(Measurement("Cardiac index", output / area, "L/min/m2", CARDIAC_INDEX, VENTRICLE, method=by))
    for number, (mean, greatest) in walls.items():
        where = f"slice {number} from the base"
        for what, value, derivation in (("Mean", mean, MEAN), ("Greatest", greatest, MAXIMUM)):
            found.append(
                Measurement(f"{what} wall thickness, {where}", value, "mm", WALL_THICKNESS, MYOCARDIUM,
                            plausible=(2.5, 25), derivation=derivation, group="Wall thickness at end diastole")
            )  # fmt: skip
    times = np.nanmedian(cine.trigger_times, 1) if np.isfinite(cine.trigger_times).any() else None
    for phase, value in enumerate(curve):
        when = "" if times is None or not np.isfinite(times[phase]) else f", {times[phase]:.0f} ms after the R wave"
        found.append(
            Measurement(f"LV volume, phase {phase + 1} of {len(curve)}{when}", value, "mL", VOLUME, VENTRICLE,
                        group="LV volume through the heartbeat")
        )  # fmt: skip
    return tuple(found)


def notes(cine: Cine, ed: int, es: int, inside: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Sentences for the radiologist. ``inside``: (phases, slices), which slices count."""
    phases, slices = inside.shape

    def listed(phase: int) -> str:
        counted = np.flatnonzero(inside[phase]) + 1
        return f"phase {phase + 1} of {phases}, slices {counted[0]} to {counted[-1]} of {slices}"

    found = [
        f"End diastole: {listed(ed)}, counted from the base. End systole: {listed(es)}. Please check the end slices: "
        "one slice more or less changes a volume by up to a tenth.",
        PAPILLARY,
    ]
    if phases < COARSE_PHASES:
        found.append(f"Only {phases} heart phases: the smallest volume may lie between two of them.")
    for phase, name in ((ed, "diastole"), (es, "systole")):
        if inside[phase, -1]:
            found.append(f"At end {name} the last slice still shows the ventricle: its apex may be cut off.")
        if inside[phase, 0]:
            found.append(f"At end {name} the first slice already shows the ventricle: its base may be cut off.")
    if cine.heart_rate is None:
        found.append(NO_RATE)
    if body_surface(cine.tags) is None:
        found.append(NO_BODY)
    return tuple(found)


def body_surface(tags: Mapping[str, Any]) -> float | None:
    """m2 by Mosteller (N Engl J Med 1987;317:1098); None without a credible height (m) and weight (kg)."""
    try:
        height, weight = float(tags.get("PatientSize") or 0), float(tags.get("PatientWeight") or 0)
    except (TypeError, ValueError):
        return None
    if not (0.4 < height < 2.6 and 2 < weight < 350):
        return None
    return math.sqrt(height * 100 * weight / 3600)
