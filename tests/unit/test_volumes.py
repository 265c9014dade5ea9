"""Series to volumes: every orientation lands in the right voxel, and what is no regular grid says why."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedSRStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import NotAnalysed
from dicom_node.run.volumes import Source, read_volume
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.series import PLANES, phantom_uid, plane_affine, save, slice_datasets
from tests.conftest import data_dir

SHAPE = (7, 10, 12)
SPACING = (2.5, 0.8, 1.1)
ORIGIN = (-31.5, 12.25, 40.0)


def pixels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Every voxel has its own value, so that a wrong order shows."""
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def turned(orientation: Sequence[float], degrees: Sequence[float]) -> tuple[float, ...]:
    """The plane turned about x, y and z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [a for a in range(3) if a != axis]
        one = np.eye(3)
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        rotation = one @ rotation
    return tuple((np.reshape(orientation, (2, 3)) @ rotation.T).ravel())


ORIENTATIONS = {
    "axial": PLANES["axial"],
    "sagittal": PLANES["sagittal"],
    "coronal": PLANES["coronal"],
    "prone": (-1, 0, 0, 0, -1, 0),
    "flipped rows": (1, 0, 0, 0, -1, 0),
    "flipped columns": (-1, 0, 0, 0, 1, 0),
    "sagittal from the left": (0, -1, 0, 0, 0, -1),
    "oblique": turned(PLANES["axial"], (20, 0, 0)),
    "double oblique": turned(PLANES["sagittal"], (12, -7, 31)),
}


def written(tmp_path: Path, spoil: Callable[[list[Dataset]], Any] = lambda _: None, **options: Any) -> list[Path]:
    """An axial series, spoilt by the test, its files in a random order."""
    affine = options.pop("affine", plane_affine(PLANES["axial"], SPACING, ORIGIN))
    datasets = slice_datasets(options.pop("array", pixels()), affine, **options)
    spoil(datasets)
    paths = save(tmp_path, datasets)
    random.Random(0).shuffle(paths)
    return paths


def same_voxels(source: Source, array: np.ndarray, affine: np.ndarray) -> None:
    """Each voxel of the writer's array is found where its patient point falls in the volume."""
    index = np.indices(array.shape).reshape(3, -1)
    points = affine @ np.vstack([index, np.ones(index.shape[1])])
    found = np.linalg.inv(source.volume.affine) @ points
    rounded = np.rint(found[:3]).astype(int)
    assert abs(found[:3] - rounded).max() < 1e-3
    assert np.array_equal(source.volume.array[tuple(rounded)], array[tuple(index)].astype(np.float32))


@pytest.mark.parametrize("reverse", [False, True], ids=["along", "against"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_patient_point_lands_in_its_voxel(tmp_path: Path, name: str, reverse: bool) -> None:
    spacing = (-SPACING[0] if reverse else SPACING[0], *SPACING[1:])
    affine = plane_affine(ORIENTATIONS[name], spacing, ORIGIN)
    source = read_volume(written(tmp_path, affine=affine))
    same_voxels(source, pixels(), affine)
    assert np.allclose(source.volume.spacing, SPACING, atol=1e-4)
    assert np.isclose(source.volume.voxel_volume, np.prod(SPACING), atol=1e-4)


def test_tilted_gantry_gives_a_sheared_grid(tmp_path: Path) -> None:
    affine = plane_affine(turned(PLANES["axial"], (18, 0, 0)), SPACING, ORIGIN)
    affine[:3, 0] = (0, 0, SPACING[0] / np.cos(np.radians(18)))
    source = read_volume(written(tmp_path, affine=affine, sop_class=CTImageStorage, header={"Modality": "CT"}))
    same_voxels(source, pixels(), affine)
    assert np.isclose(source.volume.voxel_volume, np.prod(SPACING), atol=1e-4)
    assert not np.isclose(np.prod(source.volume.spacing), np.prod(SPACING), atol=1e-2)


def test_single_images_with_left_over_frame_groups_are_single_images(tmp_path: Path) -> None:
    source = read_volume(written(tmp_path, put(-1, "PerFrameFunctionalGroupsSequence", [Dataset()])))
    assert source.volume.array.shape == pixels().shape


def test_headers_are_in_the_order_of_the_slices(tmp_path: Path) -> None:
    source = read_volume(written(tmp_path, affine=plane_affine(PLANES["sagittal"], (-2.5, 1, 1), ORIGIN)))
    for index, header in enumerate(source.headers):
        assert np.allclose(
            header.ImagePositionPatient, source.volume.affine[:3, 3] + index * source.volume.affine[:3, 0]
        )
        assert "PixelData" not in header
    assert [int(h.InstanceNumber) for h in source.headers] == [7, 6, 5, 4, 3, 2, 1]


def test_highdicom_puts_every_voxel_in_the_same_place(tmp_path: Path) -> None:
    affine = plane_affine(ORIENTATIONS["double oblique"], SPACING, ORIGIN)
    paths = written(tmp_path, affine=affine)
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in paths])
    same_voxels(read_volume(paths), theirs.array, theirs.affine)


def test_real_head_is_read_as_highdicom_reads_it() -> None:
    paths = sorted(data_dir("brain_t1_philips_dicom").glob("*.dcm"))
    pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
    try:
        source = read_volume(paths)
        theirs = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in paths])
    finally:
        pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    assert source.volume.array.shape == (170, 256, 256)
    point = theirs.affine @ [40, 100, 150, 1]
    index = np.rint(np.linalg.inv(source.volume.affine) @ point)[:3].astype(int)
    slope, intercept = (float(source.headers[0].get(k, d)) for k, d in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    assert np.isclose(source.volume.array[tuple(index)], theirs.array[40, 100, 150], rtol=1e-5), (slope, intercept)
    assert source.notes == ()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_compressed_pixels_are_decoded(tmp_path: Path, syntax: str, dtype: type) -> None:
    # Noise, so that each image is larger compressed than what is read with the header.
    array = np.random.default_rng(0).integers(0, 4096, (3, 64, 66)).astype(dtype)
    if dtype is np.int16:
        array -= 1000

    def compress(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.compress(syntax, generate_instance_uid=False)

    source = read_volume(written(tmp_path, compress, array=array, bits=16))
    assert np.array_equal(source.volume.array, array.astype(np.float32))


def test_rescale_is_applied_per_image(tmp_path: Path) -> None:
    def rescale(datasets: list[Dataset]) -> None:
        for index, ds in enumerate(datasets):
            ds.RescaleSlope, ds.RescaleIntercept = str(index + 1), "-3.5"

    source = read_volume(written(tmp_path, rescale))
    factors = np.arange(1, SHAPE[0] + 1, dtype=np.float32)[:, None, None]
    assert np.array_equal(source.volume.array, pixels() * factors - np.float32(3.5))
    assert source.volume.array.dtype == np.float32


def test_monochrome1_is_turned_for_mr_and_left_for_hounsfield_units(tmp_path: Path) -> None:
    header = {"PhotometricInterpretation": "MONOCHROME1"}
    mr = read_volume(written(tmp_path / "mr", header=header))
    assert np.array_equal(mr.volume.array, 4095.0 - pixels())
    ct = read_volume(written(tmp_path / "ct", header={**header, "Modality": "CT"}, sop_class=CTImageStorage))
    assert np.array_equal(ct.volume.array, pixels())


def test_overlay_bits_above_the_stored_ones_are_ignored(tmp_path: Path) -> None:
    unsigned = read_volume(written(tmp_path / "u", array=pixels() | np.uint16(0x8000)))
    assert np.array_equal(unsigned.volume.array, pixels())
    signed = (pixels().astype(np.int16) - 400) & np.int16(0x0FFF)
    assert np.array_equal(read_volume(written(tmp_path / "s", array=signed)).volume.array, pixels() - 400.0)


def test_tags_are_plain_and_name_nobody(tmp_path: Path) -> None:
    header = {"EchoTime": "2.5", "SeriesDescription": "T1", "InversionTime": None}
    tags = read_volume(written(tmp_path, header=header)).volume.tags
    assert tags["EchoTime"] == 2.5
    assert type(tags["EchoTime"]) is float
    assert tags["ImageType"] == ["ORIGINAL", "PRIMARY", "OTHER"]
    assert "InversionTime" not in tags
    assert not [k for k in tags if k.startswith("Patient") and k != "PatientPosition"]


def test_copies_scouts_and_objects_without_pixels_are_left_out_and_noted(tmp_path: Path) -> None:
    def spoil(datasets: list[Dataset]) -> None:
        (copy,) = slice_datasets(pixels()[3:4], plane_affine(PLANES["axial"], SPACING, ORIGIN), key="copy")
        copy.ImagePositionPatient = datasets[3].ImagePositionPatient
        (scout,) = slice_datasets(pixels()[:1], plane_affine(PLANES["coronal"], SPACING, ORIGIN), key="scout")
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        (report,) = slice_datasets(
            pixels()[:1], plane_affine(PLANES["axial"], SPACING, ORIGIN), key="report", sop_class=EnhancedSRStorage
        )
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(report, keyword)
        for ds in (copy, scout, report):
            for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
                setattr(ds, keyword, datasets[0][keyword].value)
            datasets.append(ds)

    source = read_volume(written(tmp_path, spoil))
    assert np.array_equal(source.volume.array, pixels())
    assert len(source.headers) == SHAPE[0]
    assert source.notes == (
        "1 instance left out of the series: no pixels (a report or presentation state)",
        "1 instance left out of the series: marked as localizer",
        "1 instance left out of the series: same position and pixels as another image",
    )


def drop(*indices: int) -> Callable[[list[Dataset]], None]:
    def spoil(datasets: list[Dataset]) -> None:
        datasets[:] = [ds for i, ds in enumerate(datasets) if i not in indices]

    return spoil


def put(index: int, keyword: str, value: Any) -> Callable[[list[Dataset]], None]:
    def spoil(datasets: list[Dataset]) -> None:
        chosen = datasets if index == -1 else datasets[index : index + 1]
        for ds in chosen:
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return spoil


def two_echoes(datasets: list[Dataset]) -> None:
    affine = plane_affine(PLANES["axial"], SPACING, ORIGIN)
    second = slice_datasets(pixels() + np.uint16(1), affine, header={"EchoTime": "80"})
    for index, ds in enumerate(second):
        ds.SOPInstanceUID = phantom_uid("second", index)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    for ds in datasets:
        ds.EchoTime = "10"
    datasets += second


def one_twice(datasets: list[Dataset]) -> None:
    (other,) = slice_datasets(pixels()[:1], plane_affine(PLANES["axial"], SPACING, ORIGIN))
    other.SOPInstanceUID = phantom_uid("other")
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.ImagePositionPatient = datasets[4].ImagePositionPatient
    datasets.append(other)


def curved(datasets: list[Dataset]) -> None:
    for index, ds in enumerate(datasets):
        ds.ImagePositionPatient = [index**2, 0, index * 2.5]


def slanted(datasets: list[Dataset]) -> None:
    for index, ds in enumerate(datasets):
        ds.ImagePositionPatient = [index * 6, 0, index * 2.5]


def other_size(datasets: list[Dataset]) -> None:
    datasets[2].Rows, datasets[2].Columns = 12, 10


REFUSED: list[tuple[Callable[[list[Dataset]], Any], str]] = [
    (drop(3), r"1 image of the stack is missing \(between images 3 and 4 of the stack\)"),
    (drop(1, 3, 4), r"3 images of the stack are missing \(between images 1 and 2; 2 and 3"),
    (drop(0, 1, 2, 3, 4), "2 images, too few"),
    (put(3, "ImagePositionPatient", [*ORIGIN[:2], ORIGIN[2] + 8.3]), "unevenly spaced: 1.70 to 3.30 mm"),
    (one_twice, r"two or more different images at the same position \(1 of 7 positions\)$"),
    (two_echoes, "7 of 7 positions.*mixes several echo times"),
    (curved, "even steps on one straight line"),
    (slanted, "slanted by 67 degrees"),
    (other_size, r"differ in size \(6 of 10 x 12, 1 of 12 x 10 pixels\)"),
    (put(2, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), "not parallel: 1 of 7 are turned"),
    (put(-1, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "not one of an image plane"),
    (put(2, "PixelSpacing", ["0.9", "1.1"]), "differ in pixel spacing"),
    (put(2, "ImagePositionPatient", None), "1 of 7 images say nothing of their position"),
    (put(-1, "PixelSpacing", None), "7 of 7 images say nothing of their pixel spacing"),
    (put(-1, "FrameOfReferenceUID", None), "no Frame of Reference UID"),
    (put(1, "FrameOfReferenceUID", "2.25.7"), "do not share one frame of reference"),
    (put(1, "PatientID", "OTHER"), "belong to 2 patients"),
    (put(1, "StudyInstanceUID", "2.25.7"), "belong to 2 studies"),
    (put(1, "SeriesInstanceUID", "2.25.7"), "belong to 2 series"),
    (put(1, "NumberOfFrames", "2"), "multi-frame"),
    (put(-1, "ImageType", ["DERIVED", "PRIMARY", "MOSAIC"]), "mosaics"),
    (put(-1, "SamplesPerPixel", 3), "colour"),
    (put(4, "PixelData", None), "no pixel data"),
    (put(4, "PixelData", b"\0" * 20), "damaged, incomplete"),
    (put(-1, "RescaleSlope", "1e39"), "not numbers"),
]


@pytest.mark.parametrize(("spoil", "reason"), REFUSED, ids=[r[:30] for _, r in REFUSED])
def test_what_is_no_regular_grid_says_why(tmp_path: Path, spoil: Callable[[list[Dataset]], Any], reason: str) -> None:
    with pytest.raises(NotAnalysed, match=reason):
        read_volume(written(tmp_path, spoil))


@pytest.mark.parametrize("shape", [SHAPE, (4, 64, 66)], ids=["small", "large"])
def test_a_truncated_file_says_why(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    paths = written(tmp_path, array=np.ones(shape, dtype=np.uint16))
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:-50])
    with pytest.raises(NotAnalysed, match=r"damaged, incomplete|cannot be read"):
        read_volume(paths)
    paths[2].write_bytes(whole[:500])
    with pytest.raises(NotAnalysed, match="is incomplete"):
        read_volume(paths)
    paths[2].write_bytes(b"not DICOM")
    with pytest.raises(NotAnalysed, match="cannot be read"):
        read_volume(paths)


def test_a_number_that_is_none_says_which(tmp_path: Path) -> None:
    paths = written(tmp_path, header={"SliceThickness": "2.5", "EchoTime": "12.75"})
    paths[0].write_bytes(paths[0].read_bytes().replace(b"12.75 ", b"12.x5 "))
    with pytest.raises(NotAnalysed, match="invalid Echo Time"):
        read_volume(paths)


@pytest.mark.filterwarnings("ignore")
def test_any_damage_to_a_header_reads_or_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)
    paths = written(tmp_path, array=pixels((3, 10, 12)), header={"EchoTime": "2.5", "SeriesDescription": "T1"})
    whole = paths[0].read_bytes()
    header = len(whole) - 240
    chance = random.Random(0)
    damaged = [whole[:cut] for cut in range(130, header, 20)]
    for _ in range(250):
        changed = bytearray(whole)
        changed[chance.randrange(132, header)] = chance.randrange(256)
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        paths[0].write_bytes(data)
        try:
            read_volume(paths)
        except NotAnalysed:
            refused += 1
    assert refused > len(damaged) / 3


def test_no_files_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(NotAnalysed, match="no images"):
        read_volume([])


def test_positions_rounded_by_the_scanner_pass(tmp_path: Path) -> None:
    def rounded(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.ImagePositionPatient = [f"{float(v):.1f}" for v in ds.ImagePositionPatient]

    affine = plane_affine(ORIENTATIONS["oblique"], (0.9375, 1, 1), (0.123, 0.456, 0.789))
    assert read_volume(written(tmp_path, rounded, affine=affine)).volume.array.shape == SHAPE


def test_the_phantom_is_symmetric_but_for_its_capsule_on_the_right(tmp_path: Path) -> None:
    source = read_volume(write_head(tmp_path, orientation="oblique", spacing=(4.0, 2.0, 2.0), reverse=True))
    to_index = np.linalg.inv(source.volume.affine)
    right, left = ((to_index @ [x, -76, 20, 1])[:3].round().astype(int) for x in (-44, 44))
    assert source.volume.array[tuple(right)] > 1.3 * source.volume.array[tuple(left)]
