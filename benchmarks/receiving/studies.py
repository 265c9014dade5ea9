"""What is sent: sets of images with headers as scanners write them, and random pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import UID, CTImageStorage, MRImageStorage, UltrasoundMultiFrameImageStorage
from pynetdicom.dsutils import encode

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


@dataclass(frozen=True)
class Encoded:
    """An instance as it goes over the network, in Explicit VR Little Endian."""

    sop_class: str
    sop_instance: str
    dataset: bytes


_NUMBER = "00000000"
_ROOT = "1.2.826.0.1.3680043.8.498.7001.1"
_HEAD_HEADER = {
    "Manufacturer": "BENCHMARK",
    "BodyPartExamined": "BRAIN",
    "MRAcquisitionType": "3D",
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SK", "SP", "MP"],
    "EchoTime": "2.98",
    "RepetitionTime": "2300",
    "InversionTime": "900",
    "FlipAngle": "9",
    "MagneticFieldStrength": "3",
    "PatientName": f"BACKLOG^{_NUMBER}",
    "PatientID": _NUMBER,
    "StudyDescription": "MR HEAD",
}


def head_study(number: int) -> list[Encoded]:
    """A study of eight images, 16 x 16: a T1 volume of six and a localizer of two."""
    old, new = f".1{_NUMBER}", f".1{number:08d}"
    return [
        Encoded(
            e.sop_class,
            e.sop_instance.replace(old, new),
            e.dataset.replace(old.encode(), new.encode()).replace(_NUMBER.encode(), f"{number:08d}".encode()),
        )
        for e in _head_study()
    ]


@lru_cache(maxsize=1)
def _head_study() -> Sequence[Encoded]:
    made = []
    affine = plane_affine(PLANES["sagittal"], (1.2, 1, 1), (-80, -120, 120))
    for series, (description, count) in enumerate((("t1_mprage_sag", 6), ("localizer", 2)), start=1):
        uids = {
            "StudyInstanceUID": f"{_ROOT}.1{_NUMBER}",
            "SeriesInstanceUID": f"{_ROOT}.1{_NUMBER}.{series}",
            "FrameOfReferenceUID": f"{_ROOT}.1{_NUMBER}.9",
        }
        header = {**_HEAD_HEADER, **uids, "SeriesDescription": description, "SeriesNumber": series}
        pixels = np.random.default_rng(series).integers(1, 4096, (count, 16, 16), np.uint16)
        for n, ds in enumerate(slice_datasets(pixels, affine, key="backlog", header=header), start=1):
            ds.SOPInstanceUID = UID(f"{_ROOT}.1{_NUMBER}.{series}.{n}")
            _add_private(ds)
            made.append(Encoded(str(MRImageStorage), ds.SOPInstanceUID, encode(ds, False, True) or b""))
    return made
