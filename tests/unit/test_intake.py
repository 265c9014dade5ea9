from __future__ import annotations

import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom.dsutils import encode
from sqlalchemy.exc import OperationalError

from dicom_node.errors import InstanceConflict, InvalidInstance, OutOfResources
from dicom_node.receive import intake as intake_module
from dicom_node.receive.folder import instance_of, read_folder
from dicom_node.receive.intake import Intake
from dicom_node.store import tables
from dicom_node.store.files import FileStore
from dicom_node.store.index import Index, Known
from dicom_node.store.tables import open_engine
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.listening import wait_for


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return _intake(tmp_path)


def _intake(folder: Path) -> Intake:
    return Intake(FileStore(folder / "store"), Index(open_engine(f"sqlite:///{folder / 'node.sqlite'}")))


def _dataset(size: int = 8, **header: Any) -> Dataset:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    (ds,) = slice_datasets(np.arange(size * size, dtype=np.uint16).reshape(1, size, size), affine, header=header)
    return ds


def _bytes(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    uid = pydicom.uid.UID(syntax)
    data = encode(ds, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated)
    assert data is not None
    return data


def _take(
    intake: Intake, ds: Dataset, data: bytes | None = None, syntax: str = ExplicitVRLittleEndian, **more: Any
) -> Any:
    command = {"SOPClassUID": ds.SOPClassUID, "SOPInstanceUID": ds.SOPInstanceUID, **more}
    return intake.take(_bytes(ds, syntax) if data is None else data, TransferSyntaxUID=str(syntax), **command)


def test_an_instance_is_kept_as_it_came(intake: Intake, tmp_path: Path) -> None:
    ds = _dataset()
    data = _bytes(ds)
    i = _take(intake, ds, data, source="SCANNER", called="NODE")
    file = tmp_path / "store" / i.path
    assert file.read_bytes().endswith(data)
    assert file.stat().st_size == i.size
    back = pydicom.dcmread(file)
    assert back == ds
    assert back.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert back.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert back.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert back.file_meta.ReceivingApplicationEntityTitle == "NODE"
    assert (i.StudyInstanceUID, i.SeriesInstanceUID) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)
    assert (i.source, i.called, i.own) == ("SCANNER", "NODE", False)
    assert i.tags["Rows"] == 8
    assert i.tags["HasPixelData"] is True
    assert not {"PatientName", "PatientID", "PatientBirthDate"} & i.tags.keys()
    (series,) = intake._index.series(ds.StudyInstanceUID)
    assert series.instances == (i,)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
)
def test_transfer_syntaxes(intake: Intake, tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    ds = _dataset(64, ProtocolName="MPRAGE")
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    data = _bytes(ds, syntax)
    i = _take(intake, ds, data, syntax)
    assert (tmp_path / "store" / i.path).read_bytes().endswith(data)
    assert i.TransferSyntaxUID == syntax
    assert i.tags["ProtocolName"] == "MPRAGE"
    assert i.tags["PixelSpacing"] == [1.0, 1.0]
    assert i.tags["Rows"] == 64
    with pytest.raises(InvalidInstance):
        _take(intake, ds, data[:-10], syntax)


def test_an_explicit_dataset_under_an_implicit_context_is_read(intake: Intake) -> None:
    ds = _dataset()
    assert _take(intake, ds, _bytes(ds), ImplicitVRLittleEndian).tags["Modality"] == "MR"


def test_truncation_is_seen_wherever_it_is(intake: Intake) -> None:
    ds = _dataset(AnatomicRegionSequence=[_code("69536005")], RequestAttributesSequence=[Dataset()])
    for element in ("AnatomicRegionSequence", "RequestAttributesSequence"):
        ds[element].is_undefined_length = True
        ds[element].value[0].is_undefined_length_sequence_item = True
    ds.compress(RLELossless, generate_instance_uid=False)
    data = _bytes(ds, RLELossless)
    whole = {len(data)}
    at = 0
    for element in ds:  # cutting exactly between two elements of the header cannot be seen but by what is missing
        one = Dataset()
        one.add(element)
        at += len(_bytes(one, RLELossless))
        whole.add(at)
    for end in range(0, len(data)):
        if end not in whole:
            with pytest.raises(InvalidInstance):
                _take(intake, ds, data[:end], RLELossless)
    assert list(intake.files.walk()) == []
    _take(intake, ds, data, RLELossless)


def _code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "Head"
    return item


def test_a_refused_image_is_noted_on_its_study_once(intake: Intake) -> None:
    ds = _dataset()
    for _ in range(2):
        with pytest.raises(InvalidInstance, match="truncated"):
            _take(intake, ds, _bytes(ds)[:-10])
    (note,) = intake._index.notes(ds.StudyInstanceUID)
    assert note == f"SOP Instance UID {ds.SOPInstanceUID} was refused: the dataset is truncated in (7FE0,0010)"


@pytest.mark.parametrize(("name", "born", "same"), [("Doe^John", "19500101", True), ("Roe^Jane", "19800101", False)])
def test_without_an_id_patients_are_told_apart_by_name_and_birth(
    intake: Intake, name: str, born: str, same: bool
) -> None:
    first = _dataset(PatientID="", PatientName="Doe^John", PatientBirthDate="19500101")
    other = _dataset(PatientID="", PatientName=name, PatientBirthDate=born, SOPInstanceUID="1.2.3.99")
    assert (_take(intake, first).patient_key == _take(intake, other).patient_key) is same


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"GARBAGE!" * 100, b"\xff" * 300, zlib.compress(b"x")])
def test_what_is_not_dicom_is_refused(intake: Intake, data: bytes) -> None:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        with pytest.raises(InvalidInstance):
            _take(intake, _dataset(), data, syntax)


def test_padding_behind_the_dataset_is_taken(intake: Intake) -> None:
    ds = _dataset()
    _take(intake, ds, _bytes(ds) + b"\0" * 2)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_command_and_dataset_must_agree(intake: Intake, keyword: str) -> None:
    with pytest.raises(InvalidInstance, match=f"differ in {keyword}"):
        _take(intake, _dataset(), **{keyword: "1.2.3"})


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("bad", [b"../../etc", b"", b"1.2/../3", b"\xe9"])
def test_uids_that_are_none_in_the_dataset(intake: Intake, tmp_path: Path, keyword: str, bad: bytes) -> None:
    ds = _dataset()
    good = ds[keyword].value.encode()
    good += b"\0" * (len(good) % 2)
    data = _bytes(ds).replace(good, bad + b"\0" * (len(good) - len(bad)))
    with pytest.raises(InvalidInstance, match=keyword):
        _take(intake, ds, data)
    assert list(intake.files.walk()) == []
    assert [p.name for p in tmp_path.iterdir() if p.name == "etc"] == []


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_uids_that_are_none_in_the_command(intake: Intake, keyword: str) -> None:
    with pytest.raises(InvalidInstance, match=rf"{keyword} '\.\./\.\./etc' is not a valid UID"):
        _take(intake, _dataset(), **{keyword: "../../etc"})


def test_leading_zeros_of_old_scanners_are_taken(intake: Intake) -> None:
    ds = _dataset()
    series = ds.SeriesInstanceUID
    odd = ("2.16.124.113543.6006.99.0897" + "5" * 64)[: len(series)]
    i = _take(intake, ds, _bytes(ds).replace(series.encode(), odd.encode()))
    assert i.SeriesInstanceUID == odd


def test_the_same_again_changes_nothing(intake: Intake, tmp_path: Path) -> None:
    ds = _dataset()
    file = tmp_path / "store" / _take(intake, ds).path
    before = file.stat()
    study = intake._index.study(ds.StudyInstanceUID)
    _take(intake, ds)
    assert file.stat().st_ino == before.st_ino
    assert intake._index.study(ds.StudyInstanceUID) == study


def test_other_content_under_the_uid_is_a_conflict(intake: Intake, tmp_path: Path) -> None:
    ds = _dataset()
    file = tmp_path / "store" / _take(intake, ds).path
    before = file.read_bytes()
    for other in (_dataset(EchoTime=3), _dataset(StudyInstanceUID="1.2.3"), _dataset(SeriesInstanceUID="1.2.3")):
        with pytest.raises(InstanceConflict):
            _take(intake, other)
    assert file.read_bytes() == before
    assert len(list(intake.files.walk())) == 1
    assert "other content" in intake._index.notes(ds.StudyInstanceUID)[0]


def test_a_lost_file_is_healed_by_the_same_again(intake: Intake, tmp_path: Path) -> None:
    file = tmp_path / "store" / _take(intake, _dataset()).path
    file.unlink()
    _take(intake, _dataset())
    assert file.exists()


def test_many_threads_and_two_contents_of_one_uid(intake: Intake, tmp_path: Path) -> None:
    contents = [_bytes(_dataset(EchoTime=n)) for n in (1, 2)]
    ds = _dataset()
    answers: list[str] = []
    start = threading.Barrier(8)

    def take(n: int) -> None:
        start.wait(10)
        try:
            _take(intake, ds, contents[n % 2])
            answers.append(f"taken {n % 2}")
        except InstanceConflict:
            answers.append(f"conflict {n % 2}")

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    kept = 0 if "taken 0" in answers else 1
    assert sorted(answers) == sorted([f"taken {kept}"] * 4 + [f"conflict {1 - kept}"] * 4)
    (path,) = intake.files.walk()
    assert (tmp_path / "store" / path).read_bytes().endswith(contents[kept])


@pytest.mark.parametrize(
    ("header", "own"),
    [
        ({"Modality": "SEG", "Manufacturer": "dicom_node"}, True),
        ({"Modality": "SR", "Manufacturer": "dicom_node"}, True),
        ({"Modality": "SR", "Manufacturer": "Other"}, False),
        ({"Modality": "MR", "Manufacturer": "dicom_node"}, False),
    ],
)
def test_own_results_are_known_by_their_header(intake: Intake, header: dict[str, str], own: bool) -> None:
    assert _take(intake, _dataset(**header)).own is own
    assert (intake._index.study(_dataset().StudyInstanceUID) is None) is own


def test_own_results_are_known_by_contributing_equipment(intake: Intake) -> None:
    item = Dataset()
    item.Manufacturer = "dicom_node"
    header = {"Modality": "SEG", "Manufacturer": "Coerced", "ContributingEquipmentSequence": [item]}
    assert _take(intake, _dataset(**header)).own


def test_own_results_are_known_by_their_uid(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake._index, "known", lambda uid: Known(None, uid == _dataset().SOPInstanceUID))
    assert _take(intake, _dataset()).own


def test_two_patients_have_two_keys(intake: Intake) -> None:
    keys = {_take(intake, _dataset(PatientID=p, SOPInstanceUID=f"1.2.{n}")).patient_key for n, p in enumerate("AAB")}
    assert len(keys) == 2


def test_no_pixel_data_is_stored_and_said(intake: Intake) -> None:
    ds = _dataset()
    del ds.PixelData
    assert _take(intake, ds).tags["HasPixelData"] is False


def test_a_failing_index_is_out_of_resources(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> bool:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as m:
        m.setattr(intake._index, "add_many", fail)
        with pytest.raises(OutOfResources):
            _take(intake, _dataset())
        with pytest.raises(OutOfResources):
            _take(intake, _dataset(SOPInstanceUID="1.2.3.99"))
    # What was on disk already gets its row as soon as the database takes it, without the sender.
    assert wait_for(lambda: intake._index.count(_dataset().StudyInstanceUID) == 1)

    def taken() -> bool:
        try:
            _take(intake, _dataset(SOPInstanceUID="1.2.3.99"))
        except OutOfResources:  # the row is there a moment before the writer says that it can write again
            return False
        return True

    assert wait_for(taken)


def test_reconcile_indexes_what_was_killed_between_file_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = _intake(tmp_path)

    def kill(_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(killed.rows, "add", kill)
    with pytest.raises(KeyboardInterrupt):
        _take(killed, _dataset(), source="SCANNER", called="NODE")
    (instance,) = (tmp_path / "store" / "instances").rglob("*.dcm")
    for folder in (tmp_path / "store" / "incoming", instance.parent):
        (folder / "half.part").write_bytes(b"half")
    intake = _intake(tmp_path)
    assert intake.reconcile() == []
    assert list((tmp_path / "store").rglob("*.part")) == []
    (series,) = intake._index.series(_dataset().StudyInstanceUID)
    healed = series.instances[0]
    assert (healed.source, healed.called) == ("SCANNER", "NODE")
    assert healed == _take(intake, _dataset(), source="SCANNER", called="NODE")


def test_reconcile_reports_a_row_without_a_file_once(intake: Intake, tmp_path: Path) -> None:
    i = _take(intake, _dataset())
    (tmp_path / "store" / i.path).unlink()
    for _ in range(2):
        (problem,) = intake.reconcile()
        assert i.path in problem
    assert intake._index.notes(i.StudyInstanceUID) == [problem]


def test_reconcile_reports_a_file_that_cannot_be_indexed(intake: Intake, tmp_path: Path) -> None:
    i = _take(intake, _dataset())
    odd = (tmp_path / "store" / i.path).with_name("1.2.3.dcm")
    odd.write_bytes(b"not DICOM")
    copy = odd.with_name("1.2.4.dcm")
    copy.write_bytes((tmp_path / "store" / i.path).read_bytes())
    problems = intake.reconcile()
    assert ["1.2.3.dcm" in p or "1.2.4.dcm" in p for p in problems] == [True, True]
    assert odd.exists()


def test_reconcile_goes_through_files_and_rows_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(intake_module, "_INDEXED_AT_ONCE", 3)
    intake = _intake(tmp_path)
    # As folders 1.2 comes before 1.2.3, as text 1.2.3/... before 1.2/...
    kept = [
        _take(intake, _dataset(StudyInstanceUID=study, SOPInstanceUID=f"{study}.9.{n}"))
        for study in ("1.2", "1.2.3", "1.20", "1.3")
        for n in range(4)
    ]
    paths = [i.path for i in kept]
    assert list(intake.files.walk()) == list(intake._index.paths()) == sorted(paths)
    lost, unknown = sorted(paths)[::3], sorted(paths)[1::3]
    for path in lost:
        intake.files.path(path).unlink()
    with intake._index.engine.begin() as c:
        c.execute(sa.delete(tables.instances).where(tables.instances.c.path.in_(unknown)))
    assert intake.reconcile() == [f"{path} is in the index but not on disk" for path in lost]
    assert list(intake._index.paths()) == sorted(paths)
    assert sorted(intake._index.instances([i.SOPInstanceUID for i in kept]), key=lambda i: i.path) == sorted(
        kept, key=lambda i: i.path
    )


def test_reconcile_keeps_the_first_of_one_uid_in_two_studies(intake: Intake, tmp_path: Path) -> None:
    first = _take(intake, _dataset())
    other = _intake(tmp_path / "other")
    second = _take(other, _dataset(StudyInstanceUID="1.2.99"))
    target = intake.files.path(second.path)
    target.parent.mkdir(parents=True)
    target.write_bytes(other.files.path(second.path).read_bytes())
    (problem,) = intake.reconcile()
    assert problem.startswith(second.path)
    assert "other content" in problem
    assert list(intake._index.paths()) == [first.path]


def test_a_large_file_is_indexed_without_being_read_whole(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    i = _take(intake, _dataset())
    with intake._index.engine.begin() as c:
        c.execute(sa.delete(tables.instances))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read whole"))
    assert intake.reconcile() == []
    assert intake._index.instances([i.SOPInstanceUID]) == [i]


def test_a_folder_is_read_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = _dataset()
    (path,) = save(tmp_path / "a", [ds])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(path.read_bytes())
    assert list(read_folder(tmp_path)) == [path]
    assert list(read_folder(path)) == [path]
    assert "notes.txt" in capsys.readouterr().out
    i = instance_of(path)
    assert (i.SOPInstanceUID, i.path, i.size) == (ds.SOPInstanceUID, str(path), path.stat().st_size)


def test_instance_of_says_which_file_is_bad(tmp_path: Path) -> None:
    (path,) = save(tmp_path, [_dataset()])
    whole = path.read_bytes()
    for content in (b"no DICOM", whole[:140], whole[:-3], whole[:300]):
        path.write_bytes(content)
        with pytest.raises(InvalidInstance, match="IM0001"):
            instance_of(path)
    with pytest.raises(InvalidInstance, match="cannot be read"):
        instance_of(tmp_path / "absent.dcm")


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_file_is_healed_by_the_same_again_and_by_nothing_else(
    intake: Intake, tmp_path: Path, damage: str
) -> None:
    ds = _dataset()
    file = tmp_path / "store" / _take(intake, ds).path
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[:-1], "changed": whole[:-1] + b"x", "emptied": b""}[damage])
    with pytest.raises(InstanceConflict):
        _take(intake, _dataset(EchoTime=3))
    _take(intake, ds)
    assert file.read_bytes() == whole
