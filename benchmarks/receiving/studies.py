"""What is sent: sets of images with headers as scanners write them, and random pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import CTImageStorage, MRImageStorage, UltrasoundMultiFrameImageStorage

from dicom_node.testing.series import PLANES, file_meta, phantom_uid, plane_affine, slice_datasets

SETS: Final = 5
"""One for a single sender, four for four senders at once: a receiver sees each instance once."""

_PRIVATE_BLOCKS = (0x0019, 0x0021, 0x0029)
_PRIVATE_ELEMENTS = 30


def write(folder: Path, modality: str, number: int) -> None:
    """Write one set: 200 MR images of 256 x 256, 200 CT images of 512 x 512, or 4 US clips of 60 MB."""
    folder.mkdir(parents=True)
    key = f"benchmark {modality} {number}"
    if modality == "us":
        for clip in range(4):
            _save(_clip(key, clip), folder / f"{clip}.dcm")
        return
    size, sop_class = (256, MRImageStorage) if modality == "mr" else (512, CTImageStorage)
    pixels = np.random.default_rng(number).integers(0, 4096, (200, size, size), np.uint16)
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    for n, ds in enumerate(slice_datasets(pixels, affine, key=key, sop_class=sop_class)):
        _add_private(ds)
        _save(ds, folder / f"{n:03d}.dcm")


def _clip(key: str, number: int) -> Dataset:
    frames, rows, columns = 65, 480, 640
    plane = np.zeros((1, 8, 8), np.uint16)
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    (ds,) = slice_datasets(plane, affine, key=key, sop_class=UltrasoundMultiFrameImageStorage)
    ds.SOPInstanceUID = phantom_uid(key, "clip", number)
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 0, "RGB"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = np.random.default_rng(number).bytes(frames * rows * columns * 3)
    ds["PixelData"].VR = "OB"
    ds.file_meta = file_meta(ds)
    return ds


def _add_private(ds: Dataset) -> None:
    """Scanners write about a hundred private elements."""
    for group in _PRIVATE_BLOCKS:
        ds.add(DataElement((group, 0x0010), "LO", f"BENCHMARK {group:04X}"))
        for n in range(_PRIVATE_ELEMENTS):
            value = (f"{n}.5", f"VALUE {n}")[n % 2]
            ds.add(DataElement((group, 0x1000 + n), ("DS", "LO")[n % 2], value))


def _save(ds: Dataset, path: Path) -> None:
    ds.save_as(path, enforce_file_format=True)
