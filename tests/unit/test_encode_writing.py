"""Result files are, byte for byte, what pydicom writes of the same objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset

from dicom_node.encode import common
from dicom_node.encode.common import write
from dicom_node.encode.results import encode_findings
from dicom_node.encode.seg import build_seg
from dicom_node.encode.source import read_source
from dicom_node.encode.writing import save
from dicom_node.errors import EncodeError
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from dicom_node.testing.series import save as save_images
from tests.unit.result_samples import SHAPE, SPACING, context, findings, headers
from tests.unit.test_character_sets import PATIENTS, Patient


@pytest.mark.parametrize(
    "patient",
    [PATIENTS[k] for k in ("greek", "japanese, one byte and two", "chinese, GB 2312")],
    ids=("greek", "japanese", "chinese"),
)
def test_files_are_those_that_pydicom_writes(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = slice_datasets(np.zeros(SHAPE, np.uint16), plane_affine(PLANES["sagittal"], SPACING, (-60, -100, 80)))
    for image in images:
        image.SpecificCharacterSet = patient.terms
        image.PatientName = patient.name
        image.StudyDescription = patient.study
    read = [pydicom.dcmread(p, stop_before_pixels=True) for p in save_images(tmp_path / "in", images)]

    def save_twice(ds: Dataset, path: Path) -> None:
        ds.save_as(path.with_suffix(".pydicom"), enforce_file_format=True)
        save(ds, path)

    monkeypatch.setattr(common, "save", save_twice)
    encodings = ("labelmap", "labelmap_rle", "labelmap_jls")
    # The report says it in an item of a sequence.
    found = findings(notes=("Κίνηση",) if patient.terms == "ISO_IR 126" else ("It moved.",))
    made = encode_findings(found, read, context(), tmp_path, ("contours", "sc", "pdf"), encodings=encodings)
    assert len(made) == 11
    for result in made:
        assert result.path.read_bytes() == result.path.with_suffix(".pydicom").read_bytes(), result.role


def test_what_is_changed_between_two_files_is_in_the_second(tmp_path: Path) -> None:
    seg = build_seg(findings(), read_source(headers(), []), context())
    save(seg, tmp_path / "first.dcm")
    seg.PerFrameFunctionalGroupsSequence[3].FrameContentSequence[0].FrameComments = "changed"
    save(seg, tmp_path / "second.dcm")
    frames = pydicom.dcmread(tmp_path / "second.dcm").PerFrameFunctionalGroupsSequence
    assert [f.FrameContentSequence[0].get("FrameComments") for f in frames].count("changed") == 1
    assert frames[3].FrameContentSequence[0].FrameComments == "changed"


def test_an_element_of_an_item_that_has_no_certain_vr_is_an_error(tmp_path: Path) -> None:
    seg = build_seg(findings(), read_source(headers(), []), context())
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    frame.add(DataElement("SmallestImagePixelValue", "US or SS", 1))
    with pytest.raises(EncodeError, match="SEG could not be built: ValueError"):
        write(seg, "seg", tmp_path)
