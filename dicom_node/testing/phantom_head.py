"""A T1-weighted head as DICOM, made from the MNI template that the nilearn package carries.

The template (ICBM152 2009a, symmetric, 1 mm) is a real average brain without its skull; cerebrospinal fluid,
skull, scalp, face and neck are drawn around it. Patient coordinates are the template's own (MNI) coordinates
turned from RAS to LPS, so a point known in the template is known in every series written here. The template is
symmetric; an oil capsule on the right of the forehead, at LPS (-44, -76, 20), tells right from left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy import ndimage

from dicom_node.testing.series import PLANES, file_meta, phantom_uid, plane_affine, save, slice_datasets

Kind = Literal["head", "fruit"]
Contrast = Literal["t1", "t2"]

_TEMPLATE = ("nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
_SCALE = 6.0
"""Stored values per template grey value: white matter comes to about 1300 of 4095."""
_CENTRE = np.array([0.0, 17.0, -5.0])
"""Middle of the field of view (LPS, mm)."""
_EXTENT = np.array([170.0, 220.0, 200.0])
"""Field of view across the slices, when they are stacked along x, y or z (mm)."""
_FIELD_OF_VIEW = 256.0
_HIPPOCAMPUS = (27.0, -22.0, -14.0)
"""Middle of the right hippocampus in the template (RAS, mm); the left one mirrors it."""
_HIPPOCAMPUS_REACH = (13.0, 26.0, 14.0)
"""Half axes of an ellipsoid around it, in mm."""

_CONTRAST_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "t1": {
        "SeriesDescription": "T1 MPRAGE",
        "ProtocolName": "T1 MPRAGE",
        "ScanningSequence": ["GR", "IR"],
        "SequenceVariant": ["SP", "MP"],
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "RepetitionTime": "2300",
        "EchoTime": "2.98",
        "InversionTime": "900",
        "FlipAngle": "9",
        "EchoTrainLength": 1,
    },
    "t2": {
        "SeriesDescription": "T2 TSE",
        "ProtocolName": "T2 TSE",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "5200",
        "EchoTime": "98",
        "FlipAngle": "150",
        "EchoTrainLength": 15,
    },
}


def write_head(
    out: Path,
    *,
    orientation: str | Sequence[float] = "sagittal",
    angle: float = 0.0,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: tuple[int, int, int] | None = None,
    reverse: bool = False,
    kind: Kind = "head",
    contrast: Contrast = "t1",
    hippocampi: float = 1.0,
    seed: int = 0,
    noise: float = 0.015,
    rescale: tuple[float, float] | None = None,
    missing: Sequence[int] = (),
    duplicates: Sequence[int] = (),
    uneven: float = 0.0,
    scouts: bool = False,
    patient_id: str = "PHANTOM-1",
    study: str = "1",
    series_number: int = 3,
    header: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write one series as a scanner would, and return the files in Instance Number order.

    The same arguments give the same bytes and UIDs; ``patient_id`` and ``study`` choose the study.

    Args:
        orientation: ``axial``, ``sagittal``, ``coronal``, ``oblique`` (axial, turned 20 degrees unless ``angle``
            says otherwise), or six direction cosines as in Image Orientation (Patient).
        angle: degrees by which the plane is turned about the direction of its rows.
        spacing: mm between (slices, rows, columns).
        shape: (slices, rows, columns); None covers the head.
        reverse: stack the slices against the plane's normal.
        kind: ``fruit``: a pomelo under the same headers.
        contrast: ``t2``: bright fluid, and the headers of a T2 series.
        hippocampi: their volume as a part of the template's, about: what surrounds them is stretched, as in atrophy.
        seed: of the noise and the bias field.
        noise: standard deviation of the Rician noise as a part of the brightest tissue.
        rescale: (slope, intercept) to store the values with; None writes neither.
        missing: indices of slices to leave out.
        duplicates: indices of slices that come twice, the second time with another UID and other noise.
        uneven: mm by which the upper half of the slices is shifted along the stack.
        scouts: add three orthogonal localizer images to the series.
        header: further attributes of every image, by keyword.

    Raises:
        ModuleNotFoundError: nilearn or nibabel is not installed.
    """
    cosines = _cosines(orientation, angle)
    affine, shape = _grid(cosines, spacing, shape, reverse)
    rng = np.random.default_rng(seed)
    clean = _sample(_model(kind, contrast, hippocampi), affine, shape)
    _add_bias(clean, rng)
    key = f"{patient_id}/{study}/{series_number}/{seed}/{kind}/{contrast}/{affine.tolist()}/{shape}"
    if hippocampi != 1:
        key += f"/{hippocampi}"
    attributes = _header(contrast, patient_id, study, series_number, seed) | dict(header or {})
    if rescale is not None:
        attributes |= {"RescaleSlope": str(rescale[0]), "RescaleIntercept": str(rescale[1]), "RescaleType": "US"}
    datasets = slice_datasets(_stored(clean, rng, noise, rescale), affine, key=key, header=attributes)
    if uneven:
        _shift(datasets[len(datasets) // 2 :], affine, uneven)
    chosen = [ds for index, ds in enumerate(datasets) if index not in set(missing)]
    for index in duplicates:
        again = _stored(clean[index : index + 1], rng, noise, rescale)
        (ds,) = slice_datasets(again, affine, key=f"{key}/again/{index}", header=attributes)
        ds.SeriesInstanceUID = datasets[index].SeriesInstanceUID
        ds.ImagePositionPatient = datasets[index].ImagePositionPatient
        ds.InstanceNumber = len(datasets) + 1 + index
        chosen.append(ds)
    if scouts:
        chosen += _scouts(kind, contrast, key, {**attributes, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
        for number, ds in enumerate(chosen[-3:], start=len(datasets) + 1):
            ds.SeriesInstanceUID = datasets[0].SeriesInstanceUID
            ds.InstanceNumber = number
    return save(out, chosen)


def write_localizer(
    out: Path,
    *,
    seed: int = 0,
    patient_id: str = "PHANTOM-1",
    study: str = "1",
    series_number: int = 1,
) -> list[Path]:
    """Write the localizer that goes before every scan: three orthogonal slices in one series."""
    attributes = _header("t1", patient_id, study, series_number, seed) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "SeriesDescription": "localizer",
        "ProtocolName": "localizer",
        "MRAcquisitionType": "2D",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "RepetitionTime": "7.1",
        "EchoTime": "3.4",
        "FlipAngle": "20",
    }
    del attributes["InversionTime"]
    return save(out, _scouts("head", "t1", f"{patient_id}/{study}/{series_number}/{seed}/localizer", attributes))


def write_two_patients(
    out: Path, *, seed: int = 0, spacing: tuple[float, float, float] = (4.0, 4.0, 4.0)
) -> list[Path]:
    """Write what must never be analysed: one Study Instance UID, two series, two patients."""
    first = write_head(out / "first", spacing=spacing, seed=seed, patient_id="PHANTOM-1", series_number=3)
    second = write_head(
        out / "second",
        spacing=spacing,
        seed=seed,
        patient_id="PHANTOM-2",
        series_number=4,
        header={"StudyInstanceUID": phantom_uid("PHANTOM-1", "1", "study"), "PatientName": "Phantom^Other"},
    )
    return first + second


def _cosines(orientation: str | Sequence[float], angle: float) -> npt.NDArray[np.float64]:
    if orientation == "oblique":
        orientation, angle = "axial", angle or 20.0
    if isinstance(orientation, str):
        if orientation not in PLANES:
            raise ValueError(f"orientation must be one of {', '.join(PLANES)}, oblique or six cosines")
        orientation = PLANES[orientation]
    row, column = np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3))
    turn = np.radians(angle)
    column = column * np.cos(turn) + np.cross(row, column) * np.sin(turn)
    return np.concatenate([row, column])


def _grid(
    cosines: npt.NDArray[np.float64],
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int] | None,
    reverse: bool,
) -> tuple[npt.NDArray[np.float64], tuple[int, int, int]]:
    normal = np.cross(cosines[:3], cosines[3:])
    if shape is None:
        across = float(np.sqrt(((normal * _EXTENT) ** 2).sum()))
        lengths = (across, _FIELD_OF_VIEW, _FIELD_OF_VIEW)
        slices, rows, columns = (max(1, round(mm / step)) for mm, step in zip(lengths, spacing, strict=True))
        shape = (slices, rows, columns)
    affine = plane_affine(cosines.tolist(), (-spacing[0] if reverse else spacing[0], *spacing[1:]), (0, 0, 0))
    affine[:3, 3] = _CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def _sample(
    model: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]],
    affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
) -> npt.NDArray[np.float32]:
    """The model's grey values on the grid of ``affine``, float32, 0..255."""
    values, model_affine = model
    to_index = np.linalg.inv(model_affine) @ affine
    sampled: npt.NDArray[np.float32] = ndimage.affine_transform(
        values, to_index[:3, :3], to_index[:3, 3], output_shape=shape, output=np.float32, order=1
    )
    return sampled


def _add_bias(values: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Brighten and darken smoothly by up to 12%, in place, as a receive coil does."""
    strength = rng.uniform(-0.06, 0.06, size=(2, 3))
    for axis, size in enumerate(values.shape):
        t = np.linspace(-1, 1, size)
        field = 1 + strength[0, axis] * t + strength[1, axis] * (1.5 * t**2 - 0.5)
        values *= field.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])


def _stored(
    clean: npt.NDArray[np.float32], rng: np.random.Generator, noise: float, rescale: tuple[float, float] | None
) -> npt.NDArray[np.uint16]:
    """Stored values, 0..4095: magnitude images have Rician noise."""
    slope, intercept = rescale or (1.0, 0.0)
    stored = np.empty(clean.shape, dtype=np.uint16)
    sigma = np.float32(noise * 255 * _SCALE)
    for plane, target in zip(clean, stored, strict=True):
        real = plane * np.float32(_SCALE) + sigma * rng.standard_normal(plane.shape, dtype=np.float32)
        imaginary = sigma * rng.standard_normal(plane.shape, dtype=np.float32)
        magnitude = (np.hypot(real, imaginary) - intercept) / slope
        target[:] = np.clip(np.rint(magnitude), 0, 4095)
    return stored


def _shift(datasets: Sequence[Dataset], affine: npt.NDArray[np.float64], mm: float) -> None:
    step = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    for ds in datasets:
        moved = np.asarray(ds.ImagePositionPatient, dtype=np.float64) + mm * step
        ds.ImagePositionPatient = [f"{v:.6f}" for v in moved]


def _scouts(kind: Kind, contrast: Contrast, key: str, attributes: Mapping[str, Any]) -> list[Dataset]:
    found = []
    for number, orientation in enumerate(PLANES.values(), start=1):
        affine, shape = _grid(np.asarray(orientation, dtype=np.float64), (10.0, 2.0, 2.0), (1, 128, 128), False)
        plane = _sample(_model(kind, contrast), affine, shape)
        stored = _stored(plane, np.random.default_rng(number), 0.02, None)
        (ds,) = slice_datasets(stored, affine, key=f"{key}/scout/{number}", header=attributes)
        ds.SeriesInstanceUID = phantom_uid(key, "series")
        ds.InstanceNumber = number
        ds.file_meta = file_meta(ds)
        found.append(ds)
    return found


def _header(contrast: Contrast, patient_id: str, study: str, series_number: int, seed: int) -> dict[str, Any]:
    return {
        **_CONTRAST_HEADERS[contrast],
        "StudyInstanceUID": phantom_uid(patient_id, study, "study"),
        "FrameOfReferenceUID": phantom_uid(patient_id, study, seed, "frame of reference"),
        "PatientID": patient_id,
        "PatientBirthDate": "19600101",
        "PatientAge": "066Y",
        "PatientSex": "O",
        "PatientWeight": "70",
        "StudyID": study,
        "StudyDescription": "MR Brain",
        "SeriesNumber": series_number,
        "SeriesDate": "20260105",
        "SeriesTime": f"09{min(series_number, 59):02d}00",
        "AcquisitionNumber": 1,
        "BodyPartExamined": "BRAIN",
        "ManufacturerModelName": "Phantom 3T",
        "SoftwareVersions": "1.0",
        "DeviceSerialNumber": "1",
        "MagneticFieldStrength": "3",
        "ImagingFrequency": "123.2",
        "ImagedNucleus": "1H",
        "NumberOfAverages": "1",
        "PixelBandwidth": "240",
        "WindowCenter": "650",
        "WindowWidth": "1300",
    }


@lru_cache(maxsize=3)
def _model(
    kind: Kind, contrast: Contrast, hippocampi: float = 1.0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Grey values (uint8, axes x, y, z) and the affine of their index to LPS mm."""
    if kind == "fruit":
        return _fruit()
    brain, index_to_ras = _template()
    if hippocampi != 1:
        brain = _shrunk(brain, index_to_ras, hippocampi)
    values, origin = _surroundings(brain, index_to_ras[:3, 3])
    start = np.rint(index_to_ras[:3, 3] - origin).astype(int)
    inside = tuple(slice(s, s + n) for s, n in zip(start, brain.shape, strict=True))
    if contrast == "t2":
        np.copyto(values[inside], (300 - brain.astype(np.int16)).clip(0, 255).astype(np.uint8), where=brain > 0)
    else:
        np.copyto(values[inside], brain, where=brain > 0)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_lps[:3, 3] = origin * [-1, -1, 1]
    return values, to_lps


def _template() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The MNI brain: uint8 (x, y, z) at 1 mm, and its affine to RAS mm."""
    from importlib.resources import as_file, files

    package, name = _TEMPLATE
    try:
        import nibabel

        with as_file(files(package) / name) as path:
            image = nibabel.load(path)
            return np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            f"the phantom head needs {e.name}, which carries or reads its template: pip install dicom-node[demo]",
            name=e.name,
        ) from e


def _shrunk(brain: npt.NDArray[np.uint8], index_to_ras: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.uint8]:
    """The brain (x, y, z) with hippocampi of ``share`` of their volume, drawn together around their middles."""
    x, y, z = (
        (np.arange(n) + index_to_ras[a, 3]).reshape([-1 if a == b else 1 for b in range(3)])
        for a, n in enumerate(brain.shape)
    )
    index = np.indices(brain.shape, dtype=np.float32)
    for side in (-1, 1):
        off = (x - side * _HIPPOCAMPUS[0], y - _HIPPOCAMPUS[1], z - _HIPPOCAMPUS[2])
        # 1 on an ellipsoid around the hippocampus; what is further away than twice that stays where it is.
        far = np.sqrt(sum((o / r) ** 2 for o, r in zip(off, _HIPPOCAMPUS_REACH, strict=True)))
        stretch = (share ** (-1 / 3) - 1) * np.clip(2 - far, 0, 1)
        for axis, o in enumerate(off):
            index[axis] += stretch * o
    shrunk: npt.NDArray[np.uint8] = ndimage.map_coordinates(brain, index, order=1, mode="nearest")
    return shrunk


def _surroundings(
    brain: npt.NDArray[np.uint8], brain_origin: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Fluid, skull, scalp, face and neck at 1 mm (uint8; x, y, z) and the first voxel's RAS position.

    They are drawn at 2 mm, which is fine enough for shells of several mm, and interpolated.
    """
    low, high = np.array([-98.0, -134.0, -140.0]), np.array([98.0, 120.0, 118.0])
    x, y, z = np.ogrid[low[0] : high[0] + 1 : 2, low[1] : high[1] + 1 : 2, low[2] : high[2] + 1 : 2]
    is_brain = np.zeros((x.size, y.size, z.size), dtype=bool)
    coarse = brain[::2, ::2, ::2] > 0
    start = ((brain_origin - low) / 2).astype(int)
    stop = np.minimum(start + coarse.shape, is_brain.shape)
    target = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    is_brain[target] = coarse[tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))]
    from_brain = ndimage.distance_transform_edt(~ndimage.binary_closing(is_brain, iterations=4)) * 2

    face = (x / 62) ** 2 + ((y - 28) / 68) ** 2 + ((z + 62) / 68) ** 2 < 1
    neck = ((x / 56) ** 2 + ((y + 30) / 58) ** 2 < 1) & (z < -45)
    head = (from_brain < 13) | face | neck
    depth = ndimage.distance_transform_edt(head) * 2
    texture = 8 * np.sin(x / 5) * np.sin(y / 7 + 1) * np.sin(z / 6 + 2)

    values = np.where(head, 105 + texture, 4)
    values[(x / 18) ** 2 + ((y - 50) / 30) ** 2 + ((z + 55) / 22) ** 2 < 1] = 6  # nose and sinuses: air
    values[(x / 10) ** 2 + ((y - 2) / 9) ** 2 + np.where(z < -80, 0, 9) < 1] = 6  # windpipe: air
    values[head & (depth < 7)] = 235  # fat under the skin
    values[head & (depth < 2.5)] = 120  # skin
    for side in (-32, 32):
        values[(x - side) ** 2 + (y - 66) ** 2 + (z + 36) ** 2 < 12**2] = 50  # eyes: fluid
    # The template is symmetric: a capsule of oil on the right of the forehead tells right from left.
    values[(x - 44) ** 2 + (y - 76) ** 2 + (z - 20) ** 2 < 6**2] = 255
    values[(from_brain > 0) & (from_brain < 9)] = 22  # skull
    values[(from_brain > 4) & (from_brain < 6)] = 70  # its marrow
    values[(from_brain > 0) & (from_brain < 3)] = 60  # cerebrospinal fluid
    values[from_brain == 0] = 60
    return _doubled(values.astype(np.float32)), low


def _doubled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Interpolate linearly to half the spacing: n samples become 2 n - 1 along each axis."""
    for axis in range(3):
        ahead = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(ahead) - 1, *ahead.shape[1:]), dtype=np.float32)
        finer[::2] = ahead
        finer[1::2] = (ahead[1:] + ahead[:-1]) / 2
        values = np.moveaxis(finer, 0, axis)
    return values.astype(np.uint8)


def _fruit() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """A pomelo of 150 mm: rind, pith, twelve segments with skins between them, and a hollow core."""
    axis = np.arange(-90.0, 91.0, 1.5)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    radius = np.sqrt(x**2 + y**2 + z**2)
    across = np.hypot(x, y)
    to_skin = np.abs((np.arctan2(y, x) * 12 / (2 * np.pi)) % 1 - 0.5)
    vesicles = 30 * np.sin(x / 2.5) * np.sin(y / 3) * np.sin(z / 8)
    values = np.where(radius < 75, 150 + vesicles, 3)
    values[(radius < 75) & (0.5 - to_skin < 6 / np.maximum(across, 6) * 0.35)] = 60
    values[(radius >= 62) & (radius < 72)] = 35
    values[(radius >= 72) & (radius < 75)] = 190
    values[(across < 8) & (radius < 62)] = 20
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = _CENTRE - 90
    return values.clip(0, 255).astype(np.uint8), affine
