"""Series kind: from names of several vendors and languages, Image Type, counts, and sequence timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_node.model.body_part import infer_body_part
from dicom_node.route.series_kind import SERIES_KINDS, infer_series_kind
from dicom_node.testing.phantom_head import write_head, write_localizer
from dicom_node.testing.series import PLANES
from tests.conftest import data_dir
from tests.routing import T1, T2, series, series_of_files

NAMES = {
    "t1_volume": (
        "t1_mprage_sag_p2_iso_1.0", "ADNI_Sag3D MPRAGE", "Sag FSPGR BRAVO", "3D T1 TFE", "sT1W_3D_TFE", "AxT1",
        "MP-RAGE", "T1 FLAIR ax", "3DT1 FFE", "eT1W_TSE", "SAG 3D T1 +C", "t1_space", "MP2RAGE_UNI",
        "3D T1 矢状", "IR-FSPGR", "3D T1 FA 10", "t1 fl3d fa=15",
    ),
    "volume": ("mp2rage_INV1", "MP2RAGE sag INV 2"),
    "t2": ("t2_tse_tra", "Ax T2 FRFSE", "T2W_TSE", "T2 HASTE", "CISS 3d", "STIR cor", "3D T2 space"),
    "flair": ("t2_flair_tra", "T2W_FLAIR", "3D FLAIR", "t2_tirm_tra_dark-fluid_fs", "Ax T2 FLAIR PROPELLER"),
    "t2_star": ("T2*_GRE", "ax t2 star", "SWI_Images", "SWAN", "hemo_t2"),
    "pd": ("PD_tse", "PDW_SPAIR", "Proton density"),
    "dwi": ("ep2d_diff_b0_1000_trace", "DWI b1000", "DTI_64dir", "Ax Diffusion", "拡散"),
    "dynamic": ("ep2d_bold_rest", "Perfusion DSC", "pCASL", "fMRI motor"),
    "angiography": ("TOF_3D_multi-slab", "MRA head", "3D TOF"),
    "localizer": ("localizer", "Scout", "SURVEY", "3-plane loc", "AAHead_Scout_MPR", "3 Plane Localiser", "定位像",
                  "Lokalizer", "plan scan"),
    "derived": ("ADC (10^-6 mm²/s)", "TOF_MIP_COR", "rCBF cbf", "T1 map MOLLI", "T2map", "DTI FA",
                "mp2rage_T1_Images"),
}  # fmt: skip
BLANK = {**T1, "SeriesDescription": None, "StudyDescription": None}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in NAMES.items() for n in names])
def test_names(kind: str, name: str) -> None:
    tags = {**T1, "MRAcquisitionType": None, "ScanningSequence": None, "RepetitionTime": None}
    found = infer_series_kind(series(tags, SeriesDescription=name))
    assert found.value == kind, found
    assert found.source.startswith("SeriesDescription")


def test_the_name_of_the_series_counts_before_that_of_the_protocol() -> None:
    assert infer_series_kind(series(T1, SeriesDescription="T1 MPRAGE", ProtocolName="Survey+T1")).value == "t1_volume"
    assert infer_series_kind(series(T1, SeriesDescription=None, ProtocolName="Survey+T1")).value == "localizer"


TIMING: list[tuple[dict[str, Any], str]] = [
    ({}, "t1_volume"),
    ({"ScanningSequence": "GR", "RepetitionTime": 6.5, "EchoTime": 2.93, "InversionTime": None}, "t1_volume"),
    ({"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12, "InversionTime": None}, "t1_volume"),
    ({"ScanningSequence": "SE", "RepetitionTime": 4500, "EchoTime": 100, "InversionTime": None}, "t2"),
    ({"ScanningSequence": "SE", "RepetitionTime": 3000, "EchoTime": 20, "InversionTime": None}, "pd"),
    ({"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}, "flair"),
    ({"ScanningSequence": "GR", "RepetitionTime": 600, "EchoTime": 20, "InversionTime": None}, "t2_star"),
    ({"ScanningSequence": "GR", "RepetitionTime": 4, "EchoTime": 2, "FlipAngle": 60, "InversionTime": None}, "volume"),
    ({"RepetitionTime": None}, "volume"),
    ({"RepetitionTime": "2300", "EchoTime": "2.98"}, "t1_volume"),
    ({"RepetitionTime": "unclear"}, "volume"),
]


@pytest.mark.parametrize(("changed", "kind"), TIMING, ids=[str(i) for i in range(len(TIMING))])
def test_timing_tells_when_no_name_does(changed: dict[str, Any], kind: str) -> None:
    assert infer_series_kind(series(BLANK, **changed)).value == kind


def test_few_thick_t1_slices_are_no_volume() -> None:
    thick = series(T2, 24, SeriesDescription="t1_se_tra", SpacingBetweenSlices=5.5)
    assert infer_series_kind(thick).value == "t1_slices"
    assert infer_series_kind(series(T1, 57, SliceThickness=3)).value == "t1_volume"
    assert infer_series_kind(series(T1, 24, SliceThickness=None, MRAcquisitionType="2D")).value == "t1_slices"


@pytest.mark.parametrize(
    ("tags", "count", "changed", "kind"),
    [
        (T1, 3, {"ImageOrientationPatient": lambda i: list(PLANES.values())[i]}, "localizer"),
        (T1, 1, {}, "single_image"),
        (T1, 2, {}, "unknown"),
        (T1, 170, {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "derived"),
        (T1, 170, {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "t1_volume"),
        (T1, 170, {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "derived"),
        (T1, 30, {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "localizer"),
        (T1, 60, {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}, "dwi"),
        (BLANK, 60, {"DiffusionBValue": lambda i: 1000 * (i % 2), "ScanningSequence": "EP"}, "dwi"),
        (T1, 170, {"DiffusionBValue": 0}, "t1_volume"),
        (BLANK, 240, {"CardiacNumberOfImages": 20}, "cine"),
        (BLANK, 40, {"TriggerTime": lambda i: i % 20, "ImagePositionPatient": lambda i: [0, 0, i // 20]}, "cine"),
        (BLANK, 90, {"NumberOfTemporalPositions": 30, "ScanningSequence": "EP"}, "dynamic"),
        (BLANK, 90, {"AcquisitionContrast": "T2"}, "t2"),
        ({"Modality": "US", "Rows": 480, "NumberOfFrames": 60}, 1, {}, "cine"),
        ({"Modality": "US", "Rows": 480}, 1, {}, "single_image"),
        ({"Modality": "CT", "Rows": 512}, 100, {}, "volume"),
        ({"Modality": "SEG", "Rows": 512}, 1, {}, "result"),
        ({"Modality": "SR"}, 1, {}, "result"),
        ({"Modality": "PR"}, 1, {}, "no_pixels"),
        ({**T1, "Rows": None}, 5, {}, "no_pixels"),
        ({"Modality": "OT", "Rows": 512}, 4, {}, "derived"),
    ],
)  # fmt: skip
def test_counts_and_image_type(tags: dict[str, Any], count: int, changed: dict[str, Any], kind: str) -> None:
    found = infer_series_kind(series(tags, count, **changed))
    assert found.value == kind, found
    assert found.value in SERIES_KINDS


def test_a_scout_among_the_slices_does_not_hide_the_volume() -> None:
    mixed = series(T1, 173, ImageType=lambda i: ["ORIGINAL", "PRIMARY", "LOCALIZER" if i < 3 else "M"])
    assert infer_series_kind(mixed).value == "t1_volume"


def test_written_phantoms(tmp_path: Path) -> None:
    coarse = (2.5, 8.0, 8.0)
    head = series_of_files(write_head(tmp_path / "t1", spacing=coarse))
    assert infer_series_kind(head).value == "t1_volume"
    assert infer_body_part(head.tags).value == "brain"
    assert infer_series_kind(series_of_files(write_head(tmp_path / "t2", spacing=coarse, contrast="t2"))).value == "t2"
    assert infer_series_kind(series_of_files(write_localizer(tmp_path / "scout"))).value == "localizer"


def test_real_series() -> None:
    head = series_of_files(sorted(data_dir("brain_t1_philips_dicom").glob("*.dcm")))
    heart = series_of_files(sorted(data_dir("cardiac_cine_sunnybrook", "dicom").rglob("*.dcm"))[:60])
    assert infer_series_kind(head).value == "t1_volume"
    nameless = {k: v for k, v in head.tags.items() if k != "BodyPartExamined"}
    assert str(infer_body_part(nameless)) == "brain (SeriesDescription: mprage)"
    assert infer_series_kind(heart).value == "cine"
    assert infer_body_part(heart.tags).value == "unknown"
