"""Other people's validators and readers on everything that the node writes.

What they wrongly object to is listed here by name with the reason; anything else fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.model.result import SegEncoding
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.conftest import absent, need_program
from tests.unit.result_samples import SHAPE, SPACING, context, findings

PIXELMED = Path("/usr/share/java/pixelmed.jar")

DCIODVFY_KNOWN = {
    # In PS3.3 since 2021 (Contributing Equipment Sequence, C.12.1), which this dciodvfy of 2022 does not know.
    "Warning - Attribute is not present in standard DICOM IOD - (0x0018,0x1002) UI Device UID",
    # Said because of the former.
    "Warning - Dicom dataset contains attributes not present in standard DICOM IOD - "
    "this is a Standard Extended SOP Class",
}

IODS = ("Segmentation", "Comprehensive3DSR", "ComprehensiveSR", "SCImage", "EncapsulatedPDF")
"""As dciodvfy calls them."""

LABEL_MAPS: tuple[SegEncoding, ...] = ("labelmap", "labelmap_rle", "labelmap_jls")
LABEL_MAP_UNKNOWN = {
    # The class is of 2024, the dciodvfy of 2022: it knows neither the IOD nor that number 0 may be the background.
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one - "
    "have SegmentSequence item number 1 (from one) with SegmentNumber of 0",
}
LABEL_MAP_NO_SEGMENTATION = (
    # For the same reason: segments of a label map have numbers as those of a Segmentation have.
    "Error - Shall not be present for Referenced SOP Class that is not segmentation - "
    "attribute <ReferencedSegmentNumber>"
)
LABEL_MAP_UNRECOGNIZED = (
    re.compile(r"Warning - Unrecognized SOP Class - 1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.7 - .*"),
    re.compile(
        r"Warning - Different information entities for attribute - Element=<\w+> IE .*<Unknown>.*seg_labelmap.*"
    ),
)

ACCESSION_NUMBER = re.compile(
    "Warning - Different information entities for attribute - Element=<AccessionNumber> "
    "IE <(Study> versus <Series|Series> versus <Study)> .*"
)
"""Accession Number is of the General Study Module in every IOD (PS3.3 C.7.2.1)."""

NOT_IN_TEMPLATE = {
    # TID 1411 and 1501 row 1c, TID 300 row 1 and following, TID 4019 row 4: younger than the validator.
    "Finding category",
    "Algorithm Name",
    "Algorithm Version",
    "Algorithm Manufacturer",
    "Algorithm Parameters",
    "Tracking Identifier",
    "Tracking Unique Identifier",
    "Source of Measurement",
    # TID 1411 and 1501 are extensible: what a viewer shows that prints only texts.
    "Comment",
}

ONE_TEMPLATE_FOR_ALL = re.compile(
    r"Error: Template 1411 VolumetricROIMeasurements/.*\[Row (5|7|10)\] "
    r'(SCOORD \(111030,DCM,"Image Region"\)|IMAGE \(121191,DCM,"Referenced Segment"\)'
    r'|SCOORD3D \(121231,DCM,"Volume Surface"\)): within 1\.9\.(?P<group>\d+): .*: Missing conditional content item'
)
"""The validator chooses one template for all groups of a report: TID 1411 as soon as one group refers to a segment.
TID 1500 allows groups of TID 1411 and 1501 side by side; those by TID 1501 need no region."""

SOURCE_SERIES = re.compile(r'Warning: Template 1411 .*UIDREF \(121232,DCM,"Source series for segmentation"\): .*')
"""TID 1411 row 12 has it in place of source images; the validator's condition does not see the choice."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All kinds of objects: with findings and their views, without, not analysed."""
    folder = tmp_path_factory.mktemp("objects")
    source = list(images(folder))
    views = ("contours", "sc", "pdf")
    found = encode_findings(findings(), source, context(), folder / "found", views, encodings=LABEL_MAPS)
    nothing = replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=())
    none = encode_findings(nothing, source, context(), folder / "none", ("sc",))
    reason = "the series has only 4 slices"
    not_analysed, page = encode_not_analysed(reason, source, context(), folder / "not", ("pdf",))
    objects = {o.role: o.path for o in found}
    nothing_found = {"no finding": none[0].path, "picture of none": none[1].path}
    return objects | nothing_found | {"not analysed": not_analysed.path, "page of not analysed": page.path}


def images(folder: Path) -> Iterator[Dataset]:
    """The source series as files, read without pixels."""
    affine = plane_affine(PLANES["sagittal"], SPACING, (-60, -100, 80))
    for k, ds in enumerate(slice_datasets(np.zeros(SHAPE, np.uint16), affine, header={"BodyPartExamined": "BRAIN"})):
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)
        yield pydicom.dcmread(folder / f"{k}.dcm", stop_before_pixels=True)


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)


def test_dciodvfy_objects_to_nothing_else(files: dict[str, Path]) -> None:
    for name, file in files.items():
        done = run(need_program("dciodvfy"), file)
        if name.startswith("seg_labelmap"):
            said = {line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()}
            assert said <= LABEL_MAP_UNKNOWN, name
            continue
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        kinds = [line for line in lines if not line.startswith(("Warning", "Error"))]
        assert kinds in [[iod] for iod in IODS], name
        known = DCIODVFY_KNOWN | ({LABEL_MAP_NO_SEGMENTATION} if name.startswith("sr_labelmap") else set())
        assert {line for line in lines if line not in kinds} <= known, name


def test_dciodvfy_would_say_it(files: dict[str, Path], tmp_path: Path) -> None:
    ds = pydicom.dcmread(files["contours"])
    del ds.CompletionFlag
    ds.save_as(tmp_path / "broken.dcm")
    done = run(need_program("dciodvfy"), tmp_path / "broken.dcm")
    assert "Error" in done.stdout + done.stderr


OTHER_RUNS = {"no finding", "picture of none", "not analysed", "page of not analysed"}
"""Files that repeat the UIDs of the others' series."""


def test_dcentvfy_finds_them_of_one_patient_and_study(files: dict[str, Path]) -> None:
    done = run(need_program("dcentvfy"), *(files[k] for k in sorted(files.keys() - OTHER_RUNS)))
    lines = (done.stdout + done.stderr).splitlines()
    known = (ACCESSION_NUMBER, *LABEL_MAP_UNRECOGNIZED)
    said = [line.strip() for line in lines if line.strip()]
    assert [line for line in said if not any(k.fullmatch(line) for k in known)] == []


def test_dsrdump_reads_every_report(files: dict[str, Path]) -> None:
    for name in ("sr", "contours", "no finding", "not analysed"):
        done = run(need_program("dsrdump"), files[name])
        assert done.returncode == 0, done.stderr
        # its check of texts knows no UTF-8
        said = [line for line in done.stderr.splitlines() if "VR checker does not support" not in line]
        assert said == [], name
        assert "Imaging Measurement Report" in done.stdout


def test_dsrdump_does_not_know_label_maps_yet(files: dict[str, Path]) -> None:
    """A limit of DCMTK 3.6.7, told in docs/results.md: it reads no report that refers to a class it does not know."""
    done = run(need_program("dsrdump"), files["sr_labelmap"])
    assert done.returncode != 0
    assert "Invalid or unknown image SOP class referenced from IMAGE content item" in done.stderr


@pytest.fixture(scope="module")
def pixelmed(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    need_program("java")
    if not PIXELMED.exists():
        absent("PixelMed is not installed (Debian package: libpixelmed-java)")
    broken = tmp_path_factory.mktemp("broken") / "broken.dcm"
    ds = pydicom.dcmread(files["not analysed"])
    ds.ContentSequence = [i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue != "121049"]
    ds.ContentSequence[0].ConceptCodeSequence[0].CodeValue = "121006"
    ds.save_as(broken)
    given = {k: files[k] for k in ("sr", "sr_labelmap", "contours", "no finding", "not analysed")} | {"broken": broken}
    script = Path(__file__).with_name("pixelmed.py")
    done = run(sys.executable, script, PIXELMED, *given.values())
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    return {name: said[str(path)] for name, path in given.items()}


@pytest.mark.parametrize("name", ["sr", "sr_labelmap", "contours", "no finding", "not analysed"])
def test_pixelmed_finds_no_error(pixelmed: dict[str, list[str]], files: dict[str, Path], name: str) -> None:
    unexplained = []
    templates = group_templates(pydicom.dcmread(files[name]))
    for line in pixelmed[name]:
        if not line.startswith(("Error", "Warning")):
            continue
        item = re.search(r'"([^"]*)"\): Content Item not in template$', line)
        wrong_template = ONE_TEMPLATE_FOR_ALL.fullmatch(line)
        if wrong_template and templates[int(wrong_template["group"]) - 1] == "1501":
            continue
        if (item and item[1] in NOT_IN_TEMPLATE) or SOURCE_SERIES.fullmatch(line):
            continue
        unexplained.append(line)
    assert unexplained == []
    assert "IOD validation complete" in pixelmed[name]


def test_pixelmed_would_say_it(pixelmed: dict[str, list[str]]) -> None:
    assert any(line.startswith("Error") for line in pixelmed["broken"])


def group_templates(report: Dataset) -> list[str]:
    """The template of each measurement group, as the report names it."""
    groups = [
        group
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "126010"
        for group in item.ContentSequence
    ]
    return [str(group.ContentTemplateSequence[0].TemplateIdentifier) for group in groups]


def test_dcmqi_reads_the_voxels_where_they_are(files: dict[str, Path], tmp_path: Path) -> None:
    program = need_program("segimage2itkimage", str(Path(sys.executable).parent / "segimage2itkimage"))
    done = run(program, "--inputDICOM", files["seg"], "--outputDirectory", tmp_path, "--outputType", "nii")
    assert done.returncode == 0, done.stdout + done.stderr
    affine = plane_affine(PLANES["sagittal"], SPACING, (-60, -100, 80))
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI counts to the right and to the front
    for value in (1, 2):
        image = nibabel.load(tmp_path / f"{value}.nii.gz")
        read = np.argwhere(np.asarray(image.dataobj) > 0)
        wanted = np.argwhere(findings().label_map == value)
        assert len(read) == len(wanted)
        placed = (to_lps @ image.affine @ np.c_[read, np.ones(len(read))].T)[:3].T
        expected = (affine @ np.c_[wanted, np.ones(len(wanted))].T)[:3].T
        order_a, order_b = np.lexsort(placed.round(2).T), np.lexsort(expected.round(2).T)
        np.testing.assert_allclose(placed[order_a], expected[order_b], atol=1e-2)


@pytest.mark.parametrize("encoding", ["labelmap_rle", "labelmap_jls"])
def test_dcmtk_decodes_the_pixels_of_a_label_map(files: dict[str, Path], tmp_path: Path, encoding: str) -> None:
    """Another decoder than the one they were written with gives the findings' values."""
    program = need_program("dcmdrle" if encoding == "labelmap_rle" else "dcmdjpls")
    done = run(program, files[f"seg_{encoding}"], tmp_path / "native.dcm")
    assert done.returncode == 0, done.stderr
    native, known = pydicom.dcmread(tmp_path / "native.dcm"), pydicom.dcmread(files["seg_labelmap"])
    assert not native.file_meta.TransferSyntaxUID.is_compressed
    assert native.PixelData == known.PixelData


def test_dcmqi_reads_the_volumes(files: dict[str, Path], tmp_path: Path) -> None:
    program = need_program("tid1500reader", str(Path(sys.executable).parent / "tid1500reader"))
    done = run(program, "--inputDICOM", files["sr"], "--outputMetadata", tmp_path / "read.json")
    assert done.returncode == 0, done.stdout + done.stderr
    read = json.loads((tmp_path / "read.json").read_text())["Measurements"]
    volumes = {
        group["TrackingIdentifier"]: [float(i["value"]) for i in group["measurementItems"]]
        for group in read
        if "ReferencedSegment" in group
    }
    voxel = float(np.prod(SPACING)) / 1000
    counted = [float((findings().label_map == v).sum()) * voxel for v in (1, 2)]
    assert volumes == {
        "Left hippocampus": [pytest.approx(counted[0], rel=1e-5)],
        "Right hippocampus": [pytest.approx(counted[1], rel=1e-5)],
    }
