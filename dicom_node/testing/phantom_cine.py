"""A cine of a beating heart as DICOM, sent in every way that scanners send one.

The pixels, places and times of the short-axis stack depend on its size, its sequence and its seed alone: every way
of sending carries the same images. What is true of them is told by :class:`dicom_node.testing.heart.Ventricle`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.testing import heart
from dicom_node.testing.heart import AXIS, BASE, INFERIOR, TO_RIGHT_VENTRICLE, Ventricle
from dicom_node.testing.multi_frame import enhanced_mr
from dicom_node.testing.series import PLANES, phantom_uid, plane_affine, save, slice_datasets

Way = Literal["one_series", "series_per_slice", "series_per_phase", "interleaved", "shuffled", "multi_frame"]
WAYS: tuple[Way, ...] = (
    "one_series",
    "series_per_slice",
    "series_per_phase",
    "interleaved",
    "shuffled",
    "multi_frame",
)
"""One series with all images, slice after slice (GE); one series a slice (Siemens); one series a phase; one series
with the slices interleaved within each phase; one with random Instance Numbers; one enhanced multi-frame object."""

_SCALE = 5.0
"""Stored values per unit of the model's signal: blood comes to about 1,050 of 4,095."""
_INTERVAL = 857.0
"""ms from R wave to R wave: 70 beats a minute."""
_DATE, _TIME = "20260105", "0930"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CineSequence:
    """How the short-axis stack is imaged.

    Attributes:
        phases: images a heartbeat.
        slices: of which the first lies above the base, where the atrium is, and the rest from base to apex.
        step: mm from slice to slice.
        size: rows and columns.
        spacing: mm between pixels.
        noise: standard deviation of the Rician noise as a part of the signal of blood.
        seed: of the noise and of the heartbeats' lengths.
        ventricle: what beats.
    """

    phases: int = 20
    slices: int = 11
    step: float = 10.0
    size: int = 192
    spacing: float = 1.6
    noise: float = 0.02
    seed: int = 0
    ventricle: Ventricle = field(default_factory=Ventricle)

    @property
    def affine(self) -> Array:
        """(slice, row, column, 1) index to LPS mm, from base to apex; the view is that of a radiologist."""
        across = (self.size - 1) / 2 * self.spacing
        origin = BASE - 0.5 * self.step * AXIS + across * TO_RIGHT_VENTRICLE - across * INFERIOR
        # The plane's normal points from apex to base.
        spacing = (-self.step, self.spacing, self.spacing)
        return plane_affine([*(-TO_RIGHT_VENTRICLE), *INFERIOR], spacing, origin.tolist())

    @property
    def intervals(self) -> Array:
        """ms from R wave to R wave while each slice was imaged, shape (slices,)."""
        drawn = np.random.default_rng(self.seed).uniform(-25, 25, self.slices)
        return np.rint(_INTERVAL + drawn)

    @property
    def trigger_times(self) -> Array:
        """ms from the R wave, shape (phases, slices); each lies in the middle of its phase."""
        moments: Array = (np.arange(self.phases) + 0.5)[:, None] / self.phases * self.intervals[None]
        return moments


def stack_pixels(sequence: CineSequence) -> npt.NDArray[np.uint16]:
    """Stored values of the short-axis stack, shape (phases, slices, rows, columns), read-only."""
    return _stack_pixels(sequence)


@lru_cache(maxsize=2)
def _stack_pixels(sequence: CineSequence) -> npt.NDArray[np.uint16]:
    pixels = _imaged(sequence, sequence.affine, sequence.slices)
    pixels.setflags(write=False)
    return pixels


def stack_labels(sequence: CineSequence) -> npt.NDArray[np.uint8]:
    """What is true: 1 in the cavity, 2 in the myocardium; shape and grid of :func:`stack_pixels`."""
    labels = np.zeros((sequence.phases, sequence.slices, sequence.size, sequence.size), dtype=np.uint8)
    for k in range(sequence.slices):
        points = _points(sequence.affine, k, sequence.size)
        for phase in range(sequence.phases):
            labels[phase, k] = sequence.ventricle.labels(points, (phase + 0.5) / sequence.phases)
    return labels


def cine_datasets(
    way: Way = "one_series",
    sequence: CineSequence | None = None,
    *,
    missing: Iterable[tuple[int, int]] = (),
    aborted: Mapping[int, int] | None = None,
    derived: bool = False,
    other_field: Sequence[int] = (),
    patient_id: str = "PHANTOM-1",
    study: str = "1",
    header: Mapping[str, Any] | None = None,
) -> list[Dataset]:
    """The short-axis stack as a scanner would send it.

    The same arguments give the same bytes and UIDs.

    Args:
        missing: (phase, slice) indices of images that are lost; not of ``multi_frame``.
        aborted: by slice index, how many phases of it were acquired first, in a breath-hold that was then repeated
            with another heart rate; not of ``multi_frame``.
        derived: add smoothed copies of the middle slice's images, marked as derived.
        other_field: indices of slices imaged with a larger field of view; not of ``multi_frame``.
        header: further attributes of every image, by keyword.
    """
    sequence = sequence or CineSequence()
    key = f"{patient_id}/{study}/{way}/{sequence}"
    common = _header(patient_id, study) | dict(header or {})
    pixels, times, intervals = stack_pixels(sequence), sequence.trigger_times, sequence.intervals
    if way == "multi_frame":
        attributes = common | {"SeriesNumber": 10, "SeriesInstanceUID": phantom_uid(key, "series")}
        datasets = [enhanced_mr(pixels, sequence.affine, times, intervals, key=key, header=attributes)]
    else:
        lost = set(missing)
        every = [
            image
            for phase in range(sequence.phases)
            for image in _images(pixels[phase], sequence, phase, 0, key, common)
        ]
        images = [(place, ds) for place, ds in every if place not in lost]
        datasets = [ds for _, ds in images]
        if other_field:
            for (_, k), ds in images:
                if k in other_field:
                    _enlarge(ds)
        _send(images, way, key, sequence)
        datasets += _aborted(sequence, aborted or {}, way, key, common)
    if derived:
        datasets += _derived(sequence, key, common)
    return datasets


def other_views(
    sequence: CineSequence | None = None, *, patient_id: str = "PHANTOM-1", study: str = "1"
) -> list[Dataset]:
    """What is imaged beside the stack: two-, three- and four-chamber cines of one slice each, and a localizer."""
    sequence = sequence or CineSequence()
    common = _header(patient_id, study)
    datasets = []
    for number, (name, turn) in enumerate((("2 chamber", 95.0), ("3 chamber", 140.0), ("4 chamber", 20.0)), start=3):
        across = np.cos(np.radians(turn)) * -TO_RIGHT_VENTRICLE + np.sin(np.radians(turn)) * INFERIOR
        affine = _centred([*across, *AXIS], BASE + 40 * AXIS, sequence.size, sequence.spacing)
        pixels = _imaged(sequence, affine, 1)
        key = f"{patient_id}/{study}/{name}/{sequence}"
        for phase in range(sequence.phases):
            times = {"TriggerTime": _decimal(sequence.trigger_times[phase, 0]), "SeriesNumber": number}
            (ds,) = slice_datasets(
                pixels[phase], affine, key=f"{key}/{phase}", header=common | times | {"SeriesDescription": name}
            )
            ds.SeriesInstanceUID, ds.InstanceNumber = phantom_uid(key, "series"), phase + 1
            datasets.append(ds)
    for number, plane in enumerate(PLANES.values(), start=1):
        affine = _centred(plane, BASE, 128, 3.0)
        (ds,) = slice_datasets(
            _imaged(sequence, affine, 1, 128)[0],
            affine,
            key=f"{patient_id}/{study}/localizer/{number}",
            header=common | {"SeriesNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ScanOptions": ""},
        )
        ds.SeriesInstanceUID, ds.InstanceNumber = phantom_uid(patient_id, study, "localizer"), number
        datasets.append(ds)
    return datasets


def write_cine(out: Path, way: Way = "one_series", *, views: bool = False, **options: Any) -> list[Path]:
    """Write :func:`cine_datasets` (whose arguments it takes), with :func:`other_views` if asked.

    Returns:
        The files in the order in which they were made, which is not that of the stack.
    """
    datasets = cine_datasets(way, **options)
    if views:
        chosen = {k: v for k, v in options.items() if k in ("sequence", "patient_id", "study")}
        datasets += other_views(**chosen)
    return save(out, datasets)


def _points(affine: Array, index: int, size: int) -> Array:
    moved = affine.copy()
    moved[:3, 3] += index * affine[:3, 0]
    return heart.grid_points(moved, (size, size))


def _imaged(sequence: CineSequence, affine: Array, slices: int, size: int | None = None) -> npt.NDArray[np.uint16]:
    """Stored values, 0..4095, shape (phases, slices, rows, columns): magnitude images have Rician noise."""
    size = size or sequence.size
    phases = sequence.phases if size == sequence.size else 1
    rng = np.random.default_rng(sequence.seed)
    sigma = np.float32(sequence.noise * 215 * _SCALE)
    stored = np.empty((phases, slices, size, size), dtype=np.uint16)
    for k in range(slices):
        points = _points(affine, k, size)
        chest = heart.resting(points)
        for phase in range(phases):
            moment = (phase + 0.5) / phases
            clean = heart.beating(points, chest, moment, sequence.ventricle) * np.float32(_SCALE)
            noise = sigma * rng.standard_normal((2, size, size), dtype=np.float32)
            stored[phase, k] = np.clip(np.rint(np.hypot(clean + noise[0], noise[1])), 0, 4095)
    return stored


def _images(
    pixels: npt.NDArray[np.uint16],
    sequence: CineSequence,
    phase: int,
    first: int,
    key: str,
    common: Mapping[str, Any],
    longer: float = 1.0,
) -> list[tuple[tuple[int, int], Dataset]]:
    """Images of neighbouring slices at one phase, with their (phase, slice).

    Args:
        pixels: shape (slices, rows, columns).
        first: index of the first of these slices.
        longer: how much longer the heartbeats were than those of the sequence.
    """
    affine = sequence.affine
    affine[:3, 3] += first * affine[:3, 0]
    attributes = {**common, "CardiacNumberOfImages": sequence.phases, "AcquisitionDate": _DATE}
    images = []
    for k, ds in enumerate(slice_datasets(pixels, affine, key=f"{key}/{phase}", header=attributes), start=first):
        interval = float(sequence.intervals[k]) * longer
        ds.TriggerTime = _decimal((phase + 0.5) / sequence.phases * interval)
        ds.NominalInterval, ds.HeartRate = round(interval), round(60000 / interval)
        ds.AcquisitionTime = f"{_TIME}{20 + 2 * k:02d}"
        images.append(((phase, k), ds))
    return images


def _send(images: Sequence[tuple[tuple[int, int], Dataset]], way: Way, key: str, sequence: CineSequence) -> None:
    """Give the images their series and numbers."""
    numbers = list(range(1, sequence.phases * sequence.slices + 1))
    if way == "shuffled":
        random.Random(0).shuffle(numbers)
    for (phase, k), ds in images:
        series, instance = 0, numbers[k * sequence.phases + phase]
        if way == "series_per_slice":
            series, instance = k, phase + 1
        elif way == "series_per_phase":
            series, instance = phase, k + 1
        elif way == "interleaved":
            instance = phase * sequence.slices + k + 1
        ds.SeriesInstanceUID, ds.SeriesNumber = phantom_uid(key, "series", series), 10 + series
        ds.InstanceNumber = instance


def _enlarge(ds: Dataset) -> None:
    """The same image as if its pixels were larger, its middle in the same place."""
    old = np.array([float(v) for v in ds.PixelSpacing])
    new = old * 1.2
    shift = (np.array([ds.Rows, ds.Columns]) - 1) / 2 * (old - new)
    row, column = np.reshape([float(v) for v in ds.ImageOrientationPatient], (2, 3))
    moved = np.array([float(v) for v in ds.ImagePositionPatient]) + shift[0] * column + shift[1] * row
    ds.PixelSpacing = [_decimal(v) for v in new]
    ds.ImagePositionPatient = [_decimal(v) for v in moved]


def _aborted(
    sequence: CineSequence, aborted: Mapping[int, int], way: Way, key: str, common: Mapping[str, Any]
) -> list[Dataset]:
    datasets = []
    first = sequence.phases * sequence.slices + 1
    for k, phases in aborted.items():
        pixels = stack_pixels(sequence)[:, k : k + 1]
        for phase in range(phases):
            # moved by a few pixels: the breath was held elsewhere
            moved = np.roll(pixels[phase], 4, axis=1)
            ((_, ds),) = _images(moved, sequence, phase, k, f"{key}/aborted/{k}", common, longer=1.06)
            ds.AcquisitionTime = f"{_TIME}{19 + 2 * k:02d}"
            series = {"series_per_slice": k, "series_per_phase": phase}.get(way, 0)
            separate = "aborted" if way == "series_per_slice" else ""
            ds.SeriesInstanceUID = phantom_uid(key, "series", *([separate] if separate else []), series)
            ds.SeriesNumber = 10 + series + (50 if separate else 0)
            ds.InstanceNumber, first = first, first + 1
            datasets.append(ds)
    return datasets


def _derived(sequence: CineSequence, key: str, common: Mapping[str, Any]) -> list[Dataset]:
    datasets = []
    k = sequence.slices // 2
    for phase in range(sequence.phases):
        pixels = stack_pixels(sequence)[phase, k]
        smooth = ((pixels + np.roll(pixels, 1, axis=0).astype(np.uint32)) // 2).astype(np.uint16)
        ((_, ds),) = _images(smooth[None], sequence, phase, k, f"{key}/derived", common)
        ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        ds.SeriesInstanceUID, ds.SeriesNumber = phantom_uid(key, "derived"), 90
        ds.InstanceNumber = phase + 1
        datasets.append(ds)
    return datasets


def _centred(cosines: Sequence[float], centre: Array, size: int, spacing: float) -> Array:
    affine = plane_affine(cosines, (8.0, spacing, spacing), (0.0, 0.0, 0.0))
    affine[:3, 3] = centre - (size - 1) / 2 * (affine[:3, 1] + affine[:3, 2])
    return affine


def _header(patient_id: str, study: str) -> dict[str, Any]:
    return {
        "StudyInstanceUID": phantom_uid(patient_id, study, "cardiac study"),
        "FrameOfReferenceUID": phantom_uid(patient_id, study, "cardiac frame of reference"),
        "PatientName": "Phantom^Heart",
        "PatientID": patient_id,
        "PatientBirthDate": "19600101",
        "PatientAge": "066Y",
        "PatientSex": "O",
        "PatientSize": "1.75",
        "PatientWeight": "70",
        "StudyID": study,
        "StudyDescription": "MR Heart",
        "BodyPartExamined": "HEART",
        "SeriesDate": _DATE,
        "SeriesTime": f"{_TIME}00",
        "ScanningSequence": "GR",
        "SequenceVariant": "SS",
        "ScanOptions": "CG",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "3.3",
        "EchoTime": "1.5",
        "EchoTrainLength": 1,
        "FlipAngle": "45",
        "MagneticFieldStrength": "1.5",
        "ManufacturerModelName": "Phantom 1.5T",
        "SoftwareVersions": "1.0",
        "DeviceSerialNumber": "1",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "AcquisitionNumber": 1,
        "WindowCenter": "600",
        "WindowWidth": "1200",
    }


def _decimal(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
