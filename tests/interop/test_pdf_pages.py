"""What stands on the pages of the Encapsulated PDF, as poppler reads and draws them."""

from __future__ import annotations

import itertools
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset

from dicom_node.algorithm import Curve, Findings, Measurement, Segment
from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.model.result import readable
from tests.conftest import need_program
from tests.unit.result_samples import ANATOMY, HIPPOCAMPUS, SHAPE, VOLUME, context, findings
from tests.unit.test_secondary_capture import VOLUME_CURVE, written

MM = 72 / 25.4
MARGIN = 15.5
"""In mm: one beyond which no letter may stand."""


@dataclass(frozen=True)
class Word:
    """A word on a page, its box in points from the top left."""

    page: int
    said: str
    left: float
    top: float
    right: float
    bottom: float


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return written(tmp_path_factory.mktemp("series"))


def pdf_of(path: Path) -> Path:
    ds = pydicom.dcmread(path)
    out = path.with_suffix(".pdf")
    out.write_bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
    return out


def made(found: Findings, series: Sequence[Dataset], folder: Path) -> Path:
    return pdf_of(encode_findings(found, series, context(), folder, ("pdf",))[-1].path)


def poppler(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [need_program(program), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def words(pdf: Path) -> list[Word]:
    tree = ET.fromstring(re.sub(r'xmlns="[^"]*"', "", poppler("pdftotext", "-bbox", pdf, "-")))
    return [
        Word(number, w.text or "", *(float(w.attrib[k]) for k in ("xMin", "yMin", "xMax", "yMax")))
        for number, page in enumerate(tree.iter("page"))
        for w in page.iter("word")
    ]


def told(pdf: Path, order: str = "-layout") -> str:
    """All that is written, in one line: along the lines of the page, or (-raw) as it was drawn."""
    return " ".join(poppler("pdftotext", order, pdf, "-").split())


def busy() -> Findings:
    """Long names, many values, notes in other scripts, what a formula would begin with."""
    many = tuple(
        Measurement(
            f"{'Thickness of the anterior wall of segment' if k % 2 else 'Volume'} {k}", 12345.678 / (k + 1), "mL/m2",
            VOLUME, HIPPOCAMPUS, "left", (1,), plausible=(0.25, 1200.5), method="computed from $x_1$ and {y}_2 " * 4,
        )
        for k in range(30)
    )  # fmt: skip
    segments = tuple(
        Segment(k + 1, f"Part {k + 1} of an organ with a long name, {'x' * 30}", ANATOMY, HIPPOCAMPUS, None, (9, 99, k))
        for k in range(30)
    )
    label_map = np.zeros(SHAPE, np.uint8)
    for k in range(30):
        label_map[k % 4, 2 + (k // 5) * 3 : 4 + (k // 5) * 3, 2 + (k % 5) * 4 : 5 + (k % 5) * 4] = k + 1
    notes = (*(f"Note {k}: {'the end of the stack is blurred, ' * 12}" for k in range(12)), "Größe µ 海馬", "w" * 400)
    curve = Curve("A name that is longer than the page is wide, " * 4, "mL", (0.0, 100.0), (1.0, 1.0), ((0, "ED"),))
    return Findings(label_map, segments, many, notes, curves=(VOLUME_CURVE, curve))


def assert_clean(pdf: Path) -> None:
    """No word lies on another, none leaves the page's margins."""
    found = words(pdf)
    assert found
    for w in found:
        assert MARGIN * MM <= w.left < w.right <= (210 - MARGIN) * MM, w
        assert (MARGIN - 4) * MM <= w.top < w.bottom <= (297 - 5) * MM, w
    for a, b in itertools.combinations(found, 2):
        wide, high = min(a.right, b.right) - max(a.left, b.left), min(a.bottom, b.bottom) - max(a.top, b.top)
        # The boxes of neighbouring lines, which hold all that a font may reach, touch; letters do not.
        assert a.page != b.page or wide < 0.5 or high < 0.3 * min(a.bottom - a.top, b.bottom - b.top), (a, b)


def test_the_pages_tell_what_the_record_tells(series: list[Dataset], tmp_path: Path) -> None:
    found = replace(findings(), curves=(VOLUME_CURVE,))
    pdf = made(found, series, tmp_path)
    assert_clean(pdf)
    said = told(pdf)
    for m in found.measurements:
        assert f"{m.name} {readable(m.value)} {m.unit}" in said
    for text in (*found.notes, *(m.flag for m in found.measurements if m.flag), "2 (L - R) / (L + R)"):
        assert text in said
    for text in ("Version 1.2.3", "MRI unspecified body", "12 images", "Hospital", "Left hippocampus", "Volume"):
        assert text in said
    pages = poppler("pdftotext", pdf, "-").split("\f")[:-1]
    assert len(pages) <= 2
    assert all("For research use only. Not for diagnosis." in page for page in pages)


def test_nothing_of_the_patient_is_written(tmp_path: Path) -> None:
    about = {"StudyDate": "20200229", "PatientBirthDate": "19710314", "AccessionNumber": "ACC-4711"}
    first, *others = written(tmp_path, about)
    pdf = made(findings(), [first, *others], tmp_path / "out")
    said = told(pdf) + poppler("pdfinfo", pdf)
    assert "Hippocampus" in said
    for value in (first.PatientID, str(first.PatientName), first.StudyInstanceUID, *about.values()):
        assert value
        assert value not in said
    assert not re.search("phantom|2020|1971|Feb", said, re.IGNORECASE)


def test_much_to_say_takes_more_pages_and_nothing_is_cut_off(series: list[Dataset], tmp_path: Path) -> None:
    found = busy()
    pdf = made(found, series, tmp_path)
    assert_clean(pdf)
    said = told(pdf, "-raw")
    for m in found.measurements:
        assert readable(m.value) in said
        assert m.name in said
    assert "computed from $x_1$ and {y}_2" in said  # as it is, no formula
    assert "Größe µ \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" in said
    assert "Characters that this document cannot show" in said
    assert sum(w.said.count("w") for w in words(pdf) if set(w.said) == {"w"}) == 400
    assert said.count("PLAUSIBLE RANGE") > 1  # the table's head on each of its pages
    number = len(poppler("pdftotext", pdf, "-").split("\f")) - 1
    assert f"Page {number} of {number}" in said


@pytest.mark.parametrize("reason", ["the series has only 4 slices", "every slice is blurred and " * 150])
def test_not_analysed_says_why(series: list[Dataset], tmp_path: Path, reason: str) -> None:
    pdf = pdf_of(encode_not_analysed(reason, series, context(), tmp_path, ("pdf",))[-1].path)
    assert_clean(pdf)
    assert told(pdf).count("Not analysed, because") == 1
    assert told(pdf).count("slice") == reason.count("slice")


def test_no_finding_says_so_on_the_image_that_was_looked_at(series: list[Dataset], tmp_path: Path) -> None:
    nothing = replace(findings(), label_map=np.zeros(SHAPE, np.uint8), measurements=())
    pdf = made(nothing, series, tmp_path)
    assert_clean(pdf)
    assert "No finding: the algorithm marked no voxel of this series." in told(pdf)
    assert "image 7" in told(pdf)


def test_outlines_are_drawn_around_what_they_are_of(series: list[Dataset], tmp_path: Path) -> None:
    """The bright square of the images is the first segment: its outline runs along the square's edge."""
    pdf = made(findings(), series, tmp_path)
    poppler("pdftoppm", "-r", 200, "-f", 1, "-l", 1, "-png", pdf, tmp_path / "page")
    (drawn,) = tmp_path.glob("page*.png")
    with Image.open(drawn) as opened:
        page = np.asarray(opened.convert("RGB")).astype(int)
    red = (page[..., 0] > 200) & (page[..., 1:] < 60).all(axis=-1)
    red[:, page.shape[1] // 2 :] = False  # the legend
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    # A pixel of the image is twenty wide here, and its edge is soft.
    assert page[top + 26 : bottom - 26, left + 26 : right - 26].min() > 200
    for outside in (
        page[top - 30 : top - 22, left:right],
        page[bottom + 22 : bottom + 30, left:right],
        page[top:bottom, left - 30 : left - 22],
        page[top:bottom, right + 22 : right + 30],
    ):
        assert outside.max() < 80
    # In millimetres, whatever the size of a pixel.
    assert (right - left) / (bottom - top) == pytest.approx(15 * 0.95 / (10 * 0.9), rel=0.03)
