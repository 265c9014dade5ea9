"""Names in other scripts survive the way from the images to every result, in whatever character set they came."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.check.results import check_results
from dicom_node.encode.glyphs import UNDRAWN, drawable, shows_all
from dicom_node.encode.montage import _wrap
from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.unit.result_samples import SHAPE, SPACING, context, findings


@dataclass(frozen=True)
class Patient:
    """A name as a modality sends it.

    Attributes:
        terms: Specific Character Set.
        name: Patient's Name: alphabetic, ideographic and phonetic component groups.
        physician: Referring Physician's Name.
        study: Study Description.
    """

    terms: str | list[str]
    name: str
    physician: str
    study: str


GB = "\x1b$)A"
"""Designates GB 2312 (PS3.3 C.12.1.1.2), again after each delimiter (PS3.5 section 6.1.2.5.3)."""

PATIENTS = {
    "greek": Patient("ISO_IR 126", "Παπαδόπουλος^Γιώργος", "Ιωάννου^Ελένη", "Εγκέφαλος"),
    "greek with code extensions": Patient(["", "ISO 2022 IR 126"], "Διονυσιος^Αθηνά", "Doe^John", "MR Εγκέφαλος"),
    "arabic": Patient("ISO_IR 127", "قباني^لنزار", "حداد^ليلى", "دماغ"),
    "japanese, one byte and two": Patient(
        ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "Suzuki^Ichirou=鈴木^一郎", "頭部"
    ),
    "japanese, half-width katakana": Patient(
        ["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ｽｽﾞｷ^ｲﾁﾛｳ", "頭部MR"
    ),
    "japanese, supplementary kanji": Patient(
        ["", "ISO 2022 IR 87", "ISO 2022 IR 159"], "Sai^Shin=齋^愼=さい^しん", "Ito=伊藤", "侂傔"
    ),
    "korean": Patient(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "Kim=김", "뇌"),
    # pydicom leaves the escape sequences of this one in the text, and writes them again.
    "chinese, GB 2312": Patient(
        ["", "ISO 2022 IR 58"], f"Zhang^XiaoDong={GB}张^{GB}小东", f"Wang={GB}王^{GB}医生", f"{GB}头颅"
    ),
    "chinese, GB18030": Patient("GB18030", "Wang^XiaoDong=王^小东=", "Li=李^医生", "头颅平扫"),
    "chinese, GBK": Patient("GBK", "Wang^XiaoDong=王^小东", "Li=李", "头颅"),
    "chinese, UTF-8": Patient("ISO_IR 192", "Wang^XiaoDong=王^小東=", "陳^醫生", "頭顱"),
    "all at once, UTF-8": Patient("ISO_IR 192", "Παπα^Γ=王^小東=やまだ^たろう", "قباني^لنزار", "Größe, 뇌"),
    "latin 1": Patient("ISO_IR 100", "Buc^Jérôme", "Müller^Jürgen", "Schädel"),
    "cyrillic": Patient("ISO_IR 144", "Люкceмбypг", "Иванов^Иван", "Мозг"),
}
KEYWORDS = ("PatientName", "ReferringPhysicianName", "StudyDescription")
GREEK_NOTE = "Το δεξί άκρο είναι θολό – 海馬."


def written(folder: Path, patient: Patient) -> list[Dataset]:
    """The series on disk, in the bytes of its character set; read without pixels."""
    header = {
        "SpecificCharacterSet": patient.terms,
        "PatientName": patient.name,
        "ReferringPhysicianName": patient.physician,
        "StudyDescription": patient.study,
    }
    affine = plane_affine(PLANES["axial"], SPACING, (0, 0, 0))
    datasets = slice_datasets(np.zeros(SHAPE, np.uint16), affine, header=header)
    return [pydicom.dcmread(p, stop_before_pixels=True) for p in save(folder, datasets)]


def components(ds: Dataset) -> list[tuple[str, str, str]]:
    """Alphabetic, ideographic and phonetic group of both names."""
    names = (ds.PatientName, ds.ReferringPhysicianName)
    return [(plain(n.alphabetic), plain(n.ideographic), plain(n.phonetic)) for n in names]


def plain(text: object) -> str:
    """Without the escape sequences that pydicom leaves in a text."""
    return str(text).replace(GB, "")


@pytest.mark.parametrize("script", PATIENTS)
@pytest.mark.parametrize("notes", [(), (GREEK_NOTE,)], ids=["ascii", "texts of another script"])
def test_a_name_survives_the_way_to_every_result(tmp_path: Path, script: str, notes: tuple[str, ...]) -> None:
    source = written(tmp_path / "in", PATIENTS[script])
    found = replace(findings(), notes=notes)
    objects = encode_findings(
        found, source, context(), tmp_path / "out", ("contours", "sc"), encodings=("labelmap_rle",)
    )
    assert len(objects) == 6
    for o in objects:
        ds = pydicom.dcmread(o.path)
        assert [plain(ds[k].value) for k in KEYWORDS] == [plain(source[0][k].value) for k in KEYWORDS], o.role
        assert components(ds) == components(source[0]), o.role
        if notes and o.role in ("sr", "contours"):
            assert GREEK_NOTE in {str(e.value) for e in ds.iterall() if e.VR == "UT"}
    assert check_results([o.path for o in objects], source, findings=found) == []


@pytest.mark.parametrize("script", PATIENTS)
def test_a_name_stands_in_the_report_that_nothing_was_analysed(tmp_path: Path, script: str) -> None:
    source = written(tmp_path / "in", PATIENTS[script])
    (o,) = encode_not_analysed("the series has only 4 slices", source, context(), tmp_path / "out")
    assert str(pydicom.dcmread(o.path).PatientName) == PATIENTS[script].name.rstrip("=")
    assert check_results([o.path], source) == []


@pytest.mark.parametrize("script", ["japanese, one byte and two", "chinese, GB18030", "chinese, GB 2312", "greek"])
def test_the_bytes_of_a_name_are_those_of_the_images(tmp_path: Path, script: str) -> None:
    """What an old archive shows of the images it shows of the results too: nothing is recoded without need."""
    source = written(tmp_path / "in", PATIENTS[script])
    raw = pydicom.dcmread(tmp_path / "in" / "IM0001.dcm").get_item("PatientName").value
    if script == "chinese, GB 2312":
        assert raw == b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"
    for o in encode_findings(findings(notes=()), source, context(), tmp_path / "out"):
        ds = pydicom.dcmread(o.path)
        assert ds.get_item("PatientName").value == raw
        assert ds.SpecificCharacterSet == source[0].SpecificCharacterSet


def test_a_name_of_another_character_set_is_caught(tmp_path: Path) -> None:
    source = written(tmp_path / "in", PATIENTS["greek"])
    objects = encode_findings(findings(notes=()), source, context(), tmp_path / "out")
    data = objects[1].path.read_bytes()
    objects[1].path.write_bytes(data.replace(b"ISO_IR 126", b"ISO_IR 100"))
    problems = check_results([o.path for o in objects], source)
    assert "sr.dcm: PatientName is not that of the source images" in problems
    assert any("SpecificCharacterSet is ['ISO_IR 100']" in p for p in problems)


def test_what_the_picture_cannot_draw_is_marked_and_said(tmp_path: Path) -> None:
    assert drawable("Größe Ωμέγα 5 µm – Мозг …") == "Größe Ωμέγα 5 µm – Мозг …"
    assert drawable("海馬 L") == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} L"
    # Letters that are written from right to left would stand in the wrong order.
    assert set(drawable("دماغ")) == {"\N{REPLACEMENT CHARACTER}"}
    assert shows_all(findings())
    assert not shows_all(findings(notes=("海馬",)))
    assert UNDRAWN in " ".join(line.strip(" -") for line in _wrap(UNDRAWN))
    source = written(tmp_path / "in", PATIENTS["latin 1"])
    heights = []
    for name, notes in (("a", ("ab",)), ("b", ("海馬",))):
        many = (*notes, *(f"Note {k}." for k in range(40)))
        objects = encode_findings(findings(notes=many), source, context(), tmp_path / name, ("sc",))
        heights.append(int(pydicom.dcmread(objects[-1].path).Rows))
    assert heights[1] - heights[0] == 20 * len(_wrap(UNDRAWN))
