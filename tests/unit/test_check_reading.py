"""The check's own reader: it reads what pydicom reads, in each way that a file may be encoded, and nothing cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.check.reading import CutOffError, Item, read_file
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings
from dicom_node.testing.series import save
from tests.unit.result_samples import context, findings, headers, write_results

ENCODINGS = ("labelmap", "labelmap_rle", "labelmap_jls")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("made")
    results = encode_findings(findings(), headers(), context(), out, ("contours",), encodings=ENCODINGS)
    return {r.role: r.path for r in results}


def plain(ds: Dataset) -> dict[int, Any]:
    """A dataset as the reader gives it."""
    found: dict[int, Any] = {}
    for element in ds:
        value = [plain(item) for item in element.value] if element.VR == "SQ" else element.value
        found[int(element.tag)] = None if element.VR != "SQ" and value in ("", b"", None) else value
    return found


def each_item(ds: Dataset, change: Callable[[Dataset], None]) -> None:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                change(item)
                each_item(item, change)


@pytest.mark.parametrize("role", ["seg", "sr", "contours", *(f"seg_{e}" for e in ENCODINGS)])
def test_it_reads_what_pydicom_reads(made: dict[str, Path], role: str) -> None:
    meta, ds = read_file(made[role])
    read = pydicom.dcmread(made[role])
    assert ds == plain(read)
    assert meta.items() <= plain(read.file_meta).items()
    assert all(type(item) is Item for item in ds[0x0018A001])


@pytest.mark.parametrize("role", ["seg", "sr", "contours"])
def test_it_reads_implicit_vr(made: dict[str, Path], tmp_path: Path, role: str) -> None:
    ds = pydicom.dcmread(made[role])
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(tmp_path / "implicit.dcm", implicit_vr=True)
    assert read_file(tmp_path / "implicit.dcm")[1] == read_file(made[role])[1]


@pytest.mark.parametrize(
    ("role", "implicit"), [("seg", False), ("seg", True), ("sr", False), ("sr", True), ("seg_labelmap_rle", False)]
)
def test_it_reads_sequences_and_items_without_a_length(
    made: dict[str, Path], tmp_path: Path, role: str, implicit: bool
) -> None:
    ds = pydicom.dcmread(made[role])

    def without_length(item: Dataset) -> None:
        item.is_undefined_length_sequence_item = True
        for element in item:
            element.is_undefined_length = element.VR == "SQ"

    each_item(ds, without_length)
    for element in ds:
        element.is_undefined_length = element.VR == "SQ" or element.is_undefined_length
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(tmp_path / "open.dcm", implicit_vr=True if implicit else None)
    assert read_file(tmp_path / "open.dcm")[1] == read_file(made[role])[1]
    data = (tmp_path / "open.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: data.rindex(b"\xfe\xff\xdd\xe0")])
    with pytest.raises(CutOffError):
        read_file(tmp_path / "cut.dcm")


def test_an_item_may_have_a_character_set_of_its_own(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_results(tmp_path)[1])
    ds.SpecificCharacterSet = "ISO_IR 100"
    names = ["Müller", "Müller", "Äé", "Δι"]  # the last two are the same bytes
    items = []
    for name, terms in zip(names, (None, "ISO_IR 192", None, "ISO_IR 126"), strict=True):
        item = Dataset()
        if terms:
            item.SpecificCharacterSet = terms
        item.InstitutionName = name
        items.append(item)
    ds.ReferencedRequestSequence = items
    ds.save_as(tmp_path / "sets.dcm")
    assert [i[0x00080080] for i in read_file(tmp_path / "sets.dcm")[1][0x0040A370]] == names


def test_equal_bytes_of_different_tags_are_not_one_value(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_results(tmp_path)[1])
    ds.SeriesNumber, ds.InstanceNumber, ds.SeriesDescription = 12, 12, "12"
    ds.save_as(tmp_path / "twelve.dcm")
    read = read_file(tmp_path / "twelve.dcm")[1]
    assert (read[0x00200011], read[0x00200013], read[0x0008103E]) == (12, 12, "12")


@pytest.mark.parametrize("role", ["sr", "seg"])
def test_no_part_of_a_file_passes_for_the_whole(made: dict[str, Path], tmp_path: Path, role: str) -> None:
    data = made[role].read_bytes()
    whole = read_file(made[role])[1]
    for size in range(0, len(data), 41):
        (tmp_path / "part.dcm").write_bytes(data[:size])
        try:
            read = read_file(tmp_path / "part.dcm")[1]
        except (CutOffError, InvalidDicomError):
            continue
        # It ends between two elements: nobody could tell, but for what is missing.
        assert read.items() < whole.items()


def test_an_item_that_is_shorter_than_its_elements_is_cut_off(made: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(made["sr"].read_bytes())
    place = data.index(b"\xfe\xff\x00\xe0") + 4
    length = int.from_bytes(data[place : place + 4], "little")
    for changed in (length - 2, length + 2, length + 4096):
        data[place : place + 4] = changed.to_bytes(4, "little")
        (tmp_path / "sr.dcm").write_bytes(data)
        problems = check_results([tmp_path / "sr.dcm"], headers())
        assert any(p.startswith(("sr.dcm is cut off", "sr.dcm cannot be read")) for p in problems), changed


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_what_results_are_never_encoded_in_is_refused(made: dict[str, Path], tmp_path: Path, syntax: str) -> None:
    ds = pydicom.dcmread(made["sr"])
    ds.remove_private_tags()  # converts every value, so that it can be written in another byte order
    ds.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(tmp_path / "sr.dcm", ds)
    said = f"sr.dcm cannot be read: its transfer syntax {syntax} is deflated or big endian"
    assert said in check_results([tmp_path / "sr.dcm"], headers())


def test_a_file_that_is_no_dicom_or_nests_without_end_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(b"no DICOM" * 100)
    assert "x.dcm cannot be read: InvalidDicomError" in check_results([path], headers())
    image = next(iter(save(tmp_path / "in", headers()[:1]))).read_bytes()
    nest = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(image + nest * 5000)
    assert "x.dcm cannot be read: RecursionError" in check_results([path], headers())
