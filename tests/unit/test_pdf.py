"""The Encapsulated PDF: the object around the document; ``tests/interop/test_pdf_pages.py`` reads the pages."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
import pytest
from pydicom import Dataset

from dicom_node.check.pdf import wrong_with_pdf
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings, encode_not_analysed
from tests.unit.result_samples import SHAPE, context, findings
from tests.unit.test_secondary_capture import VOLUME_CURVE, written
from tests.unit.ultrasound_samples import SHOWN, image, study
from tests.unit.ultrasound_samples import findings as lesions


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    yield
    pydicom.config.settings.reading_validation_mode = before


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return written(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def ds(series: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = replace(findings(), curves=(VOLUME_CURVE,))
    return pydicom.dcmread(encode_findings(found, series, context(), tmp_path_factory.mktemp("out"), ("pdf",))[-1].path)


def document(ds: Dataset) -> bytes:
    return bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])


def test_the_object_says_what_it_is_and_of_which_images(ds: Dataset, series: list[Dataset]) -> None:
    assert ds.SOPClassUID == pydicom.uid.EncapsulatedPDFStorage
    assert (ds.Modality, ds.MIMETypeOfEncapsulatedDocument, ds.VerificationFlag) == (
        "DOC", "application/pdf", "UNVERIFIED",
    )  # fmt: skip
    assert (ds.SeriesNumber, ds.SeriesDescription) == (9004, "Hippocampus PDF (research use only)")
    assert ds.DocumentTitle == "Hippocampus 1.2.3 (research use only)"
    assert ds.BurnedInAnnotation == "NO"
    assert [i.ReferencedSOPInstanceUID for i in ds.SourceInstanceSequence] == [h.SOPInstanceUID for h in series]
    assert (ds.PatientID, ds.StudyInstanceUID) == (series[0].PatientID, series[0].StudyInstanceUID)
    assert (ds.ContentDate, ds.SeriesDate, ds.InstitutionName) == ("20260105", "20260105", "Hospital")
    (equipment,) = ds.ContributingEquipmentSequence
    assert (equipment.ManufacturerModelName, equipment.DeviceUID) == ("Hippocampus", "2.25.123456789")


def test_the_document_is_whole_and_has_its_fonts_in_it(ds: Dataset) -> None:
    pdf = document(ds)
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert wrong_with_pdf(pdf) == ""
    assert b"/CreationDate (D:20260105103015" in pdf
    assert b"/Subtype /Type3" not in pdf
    described = re.findall(rb"/Type /FontDescriptor.*?>>", pdf, re.DOTALL)
    assert described
    assert all(b"/FontFile2 " in d for d in described)
    assert b"/ca 0" not in pdf  # nothing is transparent


ANOTHER_PROCESS = """
    import sys
    from pathlib import Path
    import matplotlib
    import pydicom
    from dataclasses import replace
    from dicom_node.encode.results import encode_findings
    from tests.unit.result_samples import context, findings
    from tests.unit.test_secondary_capture import VOLUME_CURVE

    matplotlib.rcParams["pdf.fonttype"] = 3  # as a matplotlibrc may say
    images = [pydicom.dcmread(p, stop_before_pixels=True) for p in sys.argv[2:]]
    encode_findings(replace(findings(), curves=(VOLUME_CURVE,)), images, context(), Path(sys.argv[1]), ("pdf",))
"""


def test_another_process_writes_the_same_bytes(ds: Dataset, series: list[Dataset], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "SOURCE_DATE_EPOCH": "0"}
    files = [str(h.filename) for h in series]
    command = [sys.executable, "-c", textwrap.dedent(ANOTHER_PROCESS), str(tmp_path), *files]
    subprocess.run(command, check=True, env=environment, timeout=300)
    first, second = (hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in (ds.filename, tmp_path / "pdf.dcm"))
    assert first == second


def test_a_study_that_is_not_analysed_has_a_document_that_says_so(series: list[Dataset], tmp_path: Path) -> None:
    objects = encode_not_analysed("it has only 4 slices", series, context(), tmp_path, ("contours", "sc", "pdf"))
    assert [o.role for o in objects] == ["sr", "pdf"]
    assert check_results([o.path for o in objects], series) == []
    other = encode_not_analysed("it is a head", series, context(), tmp_path / "other", ("pdf",))
    assert other[1].SOPInstanceUID != objects[1].SOPInstanceUID


def test_nothing_found_is_a_document_too(series: list[Dataset], tmp_path: Path) -> None:
    nothing = replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=())
    objects = encode_findings(nothing, series, context(), tmp_path, ("contours", "pdf"))
    assert [o.role for o in objects] == ["sr", "pdf"]
    assert check_results([o.path for o in objects], series, findings=nothing) == []


def test_one_that_cannot_be_made_is_told_and_the_record_is_written(series: list[Dataset], tmp_path: Path) -> None:
    elsewhere = [pydicom.dcmread(h.filename, stop_before_pixels=True) for h in series]
    for header in elsewhere:
        header.filename = str(tmp_path / "gone.dcm")
    missing: dict[str, str] = {}
    objects = encode_findings(findings(), elsewhere, context(), tmp_path, ("pdf",), missing=missing)
    assert [o.role for o in objects] == ["seg", "sr"]
    assert missing == {"pdf": "the pixels of a source image cannot be read: FileNotFoundError"}


@pytest.mark.parametrize("burned_in", ["YES", "NO"])
def test_ultrasound_images_with_burned_in_names_are_told(tmp_path: Path, burned_in: str) -> None:
    source = study(tmp_path / "in", [image("named", BurnedInAnnotation=burned_in)])
    found = lesions(source, (SHOWN,), (1,))
    objects = encode_findings(found, source.headers, context(), tmp_path / "out", ("pdf",))
    assert pydicom.dcmread(objects[-1].path).BurnedInAnnotation == burned_in
    assert check_results([o.path for o in objects], source.headers, findings=found) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pdf: b"", "does not begin"),
        (lambda pdf: pdf + b"more", "not end with %%EOF"),
        (lambda pdf: pdf.replace(b"startxref\n", b"startxref\n1"), "no cross-reference table"),
        (lambda pdf: pdf.replace(b"\nxref\n0 ", b"\nxref\n0 9"), "is cut off at object"),
        (lambda pdf: b"%PDF-1.4\n\n" + pdf[9:], "no cross-reference table"),
        (lambda pdf: pdf.replace(b"/Root", b"/Boot"), "no page"),
    ],
)
def test_what_is_no_whole_pdf_is_told(ds: Dataset, spoil: Any, said: str) -> None:
    assert said in wrong_with_pdf(spoil(document(ds)))
