"""The DICOM Conformance Statement says what the code offers, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pynetdicom.sop_class
import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.sop_class import _STORAGE_CLASSES, StudyRootQueryRetrieveInformationModelFind

from dicom_node.check.objects import LABEL_MAP, MODALITIES
from dicom_node.deliver.dimse import _contexts
from dicom_node.deliver.files import StoredFile
from dicom_node.encode.results import encode_findings
from dicom_node.errors import InstanceConflict, InvalidInstance, OutOfResources
from dicom_node.model.result import SegEncoding
from dicom_node.peer import find
from dicom_node.receive import fetch_dimse, refusal
from dicom_node.receive.header import _IMPLEMENTATION_CLASS_UID, _IMPLEMENTATION_VERSION_NAME
from dicom_node.receive.negotiation import TRANSFER_SYNTAXES
from dicom_node.receive.store_scp import SUCCESS
from dicom_node.settings import Destination, Settings
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.listening import listening
from tests.unit.result_samples import SHAPE, SPACING, context, findings

STATEMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
SECTIONS = ("0 Overview", "1 Introduction", "2 Implementation model", "3 AE specification: Storage AE",
            "4 AE specification: Results AE", "5 Network interfaces and configuration", "6 Character sets",
            "7 Security", "8 Annexes")  # fmt: skip
"""The parts that PS3.2 asks for."""


ENCODINGS: tuple[SegEncoding, ...] = ("binary", "labelmap", "labelmap_rle", "labelmap_jls")


def section(heading: str) -> str:
    """The text under a heading, up to the next one of the same or a higher level."""
    text = STATEMENT.read_text(encoding="utf-8")
    (level,) = re.findall(rf"(?m)^(#+) {re.escape(heading)}$", text)
    return re.split(rf"(?m)^#{{1,{len(level)}}} ", text.split(f"{level} {heading}\n")[1])[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables of a section, without code marks and headings."""
    found = [line.strip("|").split("|") for line in section(heading).splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in row] for row in found]
    return [row for k, row in enumerate(cells) if not (row[0].startswith("---") or _is_head(cells, k))]


def _is_head(cells: list[list[str]], k: int) -> bool:
    return k + 1 < len(cells) and cells[k + 1][0].startswith("---")


def test_it_has_the_parts_that_the_standard_asks_for() -> None:
    text = STATEMENT.read_text(encoding="utf-8")
    assert tuple(re.findall(r"(?m)^## (.*)$", text)) == SECTIONS


def test_transfer_syntaxes_are_those_accepted_in_their_order() -> None:
    assert [row[1] for row in rows("3.3 Accepted presentation contexts")] == list(TRANSFER_SYNTAXES)


def test_names_are_those_of_the_uids() -> None:
    tables = "3.1 SOP Classes", "3.3 Accepted presentation contexts", "4.1 SOP Classes", "4.5 Studies from archives"
    for heading in tables:
        for name, uid, *_ in rows(heading):
            known = UID(uid)
            if uid != LABEL_MAP:  # younger than the dictionary
                assert known.is_private or known.name in (name, f"{name} SOP Class"), uid


def accepted(port: int, uids: list[str]) -> set[str]:
    """Which of these SOP Classes the listener accepts."""
    found: set[str] = set()
    for start in range(0, len(uids), 100):
        ae = AE()
        for uid in uids[start : start + 100]:
            ae.add_requested_context(uid, ImplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", port)
        try:
            found |= {str(c.abstract_syntax) for c in association.accepted_contexts}
        finally:
            association.release()
    return found


def test_the_listener_accepts_storage_and_what_the_table_says(tmp_path: Path) -> None:
    storage = {str(uid) for uid in _STORAGE_CLASSES.values()}
    others = {str(v) for v in vars(pynetdicom.sop_class).values() if isinstance(v, UID)} - storage
    stated = {uid for _, uid, _, scp in rows("3.1 SOP Classes") if scp == "yes"}
    with listening(tmp_path, destinations=()) as node:
        assert accepted(node.port, sorted(storage)) == storage
        assert accepted(node.port, sorted(others)) == stated


def test_sop_classes_of_results_are_those_that_are_made_and_asked() -> None:
    stated = {uid for _, uid, scu, _ in rows("4.1 SOP Classes") if scu == "yes"}
    assert stated == {*MODALITIES, str(StudyRootQueryRetrieveInformationModelFind)}


def test_sop_classes_of_retrieval_are_those_that_are_asked() -> None:
    stated = {uid for _, uid, scu, _ in rows("4.5 Studies from archives") if scu == "yes"}
    models = {str(uid) for name, uid in vars(pynetdicom.sop_class).items() if name.startswith("StudyRoot")}
    named = {str(uid) for module in (fetch_dimse, find) for uid in vars(module).values() if isinstance(uid, UID)}
    assert stated == named & models


def test_results_are_proposed_as_stated(tmp_path: Path) -> None:
    file = StoredFile(tmp_path, "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3", str(ExplicitVRLittleEndian))
    syntaxes = [transfer for _, transfer in _contexts(file)]
    assert syntaxes == [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    assert "Explicit VR Little Endian and one with Implicit VR Little Endian" in section(
        "4.2 Proposed presentation contexts"
    )


def test_status_values_are_those_that_are_answered() -> None:
    stated = {int(row[0], 16) for row in rows("3.4 C-STORE response status")}
    assert stated == {SUCCESS, OutOfResources.status, InvalidInstance.status, InstanceConflict.status}
    announced = {
        int(row[0], 16) for row in rows("3.7 Modality Performed Procedure Step and Instance Availability Notification")
    }
    known = {value for name, value in vars(refusal).items() if name.isupper() and isinstance(value, int)}
    assert announced == known - {refusal.MAY_NO_LONGER_BE_UPDATED}


def test_properties_of_associations_are_the_defaults() -> None:
    stated = dict(rows("3.2 Association policies"))
    receive = Settings().receive
    assert stated["Maximum PDU length received"].startswith(f"{receive.maximum_pdu_bytes} bytes")
    numbers = re.findall(r"\b\d+\b", stated["Simultaneous associations"])
    assert numbers == [str(receive.maximum_associations), str(receive.maximum_associations_per_peer)]
    assert f"after {receive.idle_seconds:g} s" in stated["Idle association"]
    assert f"after {receive.artim_seconds:g} s" in stated["Connection without an association request"]
    assert f"after {receive.message_seconds:g} s" in stated["Message that is not whole"]
    assert stated["Implementation Class UID"].startswith(PYNETDICOM_IMPLEMENTATION_UID)
    assert stated["Implementation Version Name"] == PYNETDICOM_IMPLEMENTATION_VERSION
    assert stated["Implementation Class UID in files"] == _IMPLEMENTATION_CLASS_UID
    assert stated["Implementation Version Name in files"] == _IMPLEMENTATION_VERSION_NAME
    text = section("5 Network interfaces and configuration")
    assert str(receive.port) in text
    assert receive.ae_title in text
    assert receive.host in text


def test_every_setting_that_is_named_exists() -> None:
    text = STATEMENT.read_text(encoding="utf-8")
    for name in re.findall(r"`(receive\.\w+)`", text):
        assert name.removeprefix("receive.") in type(Settings().receive).model_fields, name
    for name in re.findall(r"`dicomweb\.(\w+)`", text):
        assert name in type(Settings().dicomweb).model_fields, name
    for name in re.findall(r"`(retry_\w+|give_up_hours|confirm|results|seg_encoding|batch_mb)`", text):
        assert name in Destination.model_fields, name


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """All results of one run, as files."""
    folder = tmp_path_factory.mktemp("results")
    source = []
    affine = plane_affine(PLANES["axial"], SPACING, (0, 0, 0))
    for k, ds in enumerate(slice_datasets(np.zeros(SHAPE, np.uint16), affine)):
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)
        source.append(pydicom.dcmread(folder / f"{k}.dcm", stop_before_pixels=True))
    views = ("contours", "sc", "pdf")
    made = encode_findings(findings(), source, context(), folder / "out", views, encodings=ENCODINGS)
    return {o.role: pydicom.dcmread(o.path) for o in made if not o.role.startswith("sr_")}


def test_created_instances_are_as_stated(results: dict[str, Dataset]) -> None:
    stated = {row[0]: row for row in rows("8.1 IODs of created SOP Instances") if len(row) == 5}
    assert stated.keys() == results.keys()
    base = context().series_number
    for role, ds in results.items():
        _, iod, modality, syntax, number = stated[role]
        known = "Label Map Segmentation" if ds.SOPClassUID == LABEL_MAP else str(ds.SOPClassUID.name)
        name = known.removesuffix(" Storage")
        assert iod.startswith(name), role
        assert (ds.Modality, ds.file_meta.TransferSyntaxUID) == (modality, syntax)
        assert ds.SeriesNumber == base + int(number.removeprefix("base").strip(" +") or 0)
        assert ds.Manufacturer == "dicom_node"
        assert "research use only" in ds.SeriesDescription
    assert results["sc"].BurnedInAnnotation == results["pdf"].BurnedInAnnotation == "NO"
    assert results["seg"].SegmentationType == "BINARY"


def test_nothing_private_is_created_and_codes_are_of_the_named_schemes(results: dict[str, Dataset]) -> None:
    (named,) = re.findall(
        r"Codes are of ([^.]*)\.", section("8.3 Private attributes, coding schemes, standard extended classes")
    )
    schemes = set(re.split(r", | and ", named))
    used = set()
    for ds in results.values():
        for element in ds.iterall():
            assert not element.tag.is_private
            if element.keyword == "CodingSchemeDesignator":
                used.add(element.value)
    assert used <= schemes
