"""Small synthetic DICOM series: arrays and an affine in, datasets as a scanner would write them out."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

IMPLEMENTATION_UID = UID("2.25.261412931180233187083254153062431826407")
_NAMESPACE = uuid.UUID("5f1f7c1e-2d4b-5d57-9d5e-0c8f0e7d6a11")

PLANES: Mapping[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
}
"""Image Orientation (Patient) as scanners send it for a patient on the back (PS3.3 C.7.6.2.1.1)."""


def phantom_uid(*parts: object) -> str:
    """A UID that the same parts always give (2.25 and a UUIDv5, PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def plane_affine(
    orientation: Sequence[float], spacing: Sequence[float], origin: Sequence[float]
) -> npt.NDArray[np.float64]:
    """The grid of parallel slices.

    Args:
        orientation: six direction cosines, as in Image Orientation (Patient).
        spacing: mm between (slices, rows, columns); a negative first one stacks against the normal.
        origin: patient coordinates (LPS, mm) of the first voxel's centre.

    Returns:
        float64 (4, 4): (slice, row, column, 1) index to LPS mm.
    """
    along_row, along_column = np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = np.cross(along_row, along_column) * spacing[0]
    affine[:3, 1] = along_column * spacing[1]
    affine[:3, 2] = along_row * spacing[2]
    affine[:3, 3] = origin
    return affine


def slice_datasets(
    pixels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    *,
    key: str = "series",
    header: Mapping[str, Any] | None = None,
    sop_class: str = MRImageStorage,
    bits: int = 12,
) -> list[Dataset]:
    """One dataset a slice, in the order of ``pixels``.

    Args:
        pixels: uint16 or int16, shape (slices, rows, columns).
        affine: (4, 4), (slice, row, column, 1) index to LPS mm; the slice axis may be sheared (gantry tilt).
        key: all UIDs derive from it, so the same key gives the same UIDs.
        header: further attributes of every slice, by keyword; they replace what is set here.
        bits: Bits Stored.

    Returns:
        Datasets with file meta information; a test may set and delete attributes of one without touching the others.
    """
    if pixels.dtype not in (np.uint16, np.int16):
        raise ValueError(f"pixels must be uint16 or int16, not {pixels.dtype}")
    common = _common(pixels, affine, key, header or {}, sop_class, bits)
    datasets = []
    for index, plane in enumerate(pixels):
        # Elements are copied one by one: a deep copy takes most of the time of writing a series.
        ds = Dataset({element.tag: copy.copy(element) for element in common})
        if "SOPInstanceUID" not in ds:
            ds.SOPInstanceUID = phantom_uid(key, "instance", index)
        ds.InstanceNumber = index + 1
        position = affine[:3, 3] + index * affine[:3, 0]
        ds.ImagePositionPatient = [_decimal(v) for v in position]
        ds.PixelData = np.ascontiguousarray(plane).astype(plane.dtype.newbyteorder("<")).tobytes()
        ds.file_meta = file_meta(ds)
        datasets.append(ds)
    return datasets


def file_meta(ds: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> FileMetaDataset:
    """The file meta information (PS3.10 section 7.1) of an uncompressed dataset."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    return meta


def save(folder: Path, datasets: Sequence[Dataset], prefix: str = "IM") -> list[Path]:
    """Write the datasets as ``IM0001.dcm``, ``IM0002.dcm`` ...; returns their paths in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets, start=1):
        path = folder / f"{prefix}{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _common(
    pixels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    key: str,
    header: Mapping[str, Any],
    sop_class: str,
    bits: int,
) -> Dataset:
    _, rows, columns = pixels.shape
    along_column, along_row = affine[:3, 1], affine[:3, 2]
    row_spacing, column_spacing = float(np.linalg.norm(along_column)), float(np.linalg.norm(along_row))
    cosines = [*(along_row / column_spacing), *(along_column / row_spacing)]
    normal = np.cross(cosines[:3], cosines[3:])
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.StudyInstanceUID = phantom_uid(key, "study")
    ds.SeriesInstanceUID = phantom_uid(key, "series")
    ds.FrameOfReferenceUID = phantom_uid(key, "frame of reference")
    ds.Modality = "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.PatientName = "Phantom^Head"
    ds.PatientID = "PHANTOM"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.StudyDate = "20260105"
    ds.StudyTime = "090000"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.Manufacturer = "Phantom"
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.SliceThickness = _decimal(abs(float(affine[:3, 0] @ normal)))
    ds.ImageOrientationPatient = [_decimal(v) for v in cosines]
    ds.PixelSpacing = [_decimal(row_spacing), _decimal(column_spacing)]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = rows
    ds.Columns = columns
    ds.BitsAllocated = 16
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = int(pixels.dtype == np.int16)
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    return ds


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 section 6.2)."""
    text = f"{value + 0.0:.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
