"""The node's own SEG and SR in a real archive: sent, confirmed both ways, fetched back over REST and WADO-RS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pydicom import Dataset

from dicom_node.algorithm import Code, Findings, Measurement, Segment
from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.dimse import send
from dicom_node.encode.context import Context
from dicom_node.encode.results import encode_findings
from dicom_node.errors import PeerError
from dicom_node.model.result import AlgorithmIdentity, ResultObject
from dicom_node.settings import Destination
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.interop.orthanc import Orthanc, orthanc

CALLER = "DICOMNODE"
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
VOLUME = Code("118565006", "SCT", "Volume")
MR_HEAD = Code("816077007", "SCT", "MRI of brain")


@pytest.fixture(scope="module")
def server() -> Iterator[Orthanc]:
    with orthanc(callers=[CALLER], users={"node": "s3cret"}) as running:
        yield running


@pytest.fixture
def destination(server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Destination:
    monkeypatch.setenv("ORTHANC_USER", "node")
    monkeypatch.setenv("ORTHANC_PASSWORD", "s3cret")
    return Destination(
        name="orthanc",
        ae_title=server.ae_title,
        host="127.0.0.1",
        port=server.dicom_port,
        confirm="find",
        dicomweb_url=server.dicomweb_url,
        username_env="ORTHANC_USER",
        password_env="ORTHANC_PASSWORD",
        timeout_seconds=10,
    )


@pytest.fixture(scope="module")
def source() -> list[Dataset]:
    pixels = np.arange(6 * 24 * 20, dtype=np.uint16).reshape(6, 24, 20) % 4096
    return slice_datasets(pixels, plane_affine(PLANES["sagittal"], (1.2, 1, 1), (-3, 12, 10)), key="orthanc")


@pytest.fixture(scope="module")
def results(source: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultObject, ...]:
    """A SEG with one segment of 3 x 6 x 5 voxels, and the SR with its volume."""
    label_map = np.zeros((6, 24, 20), np.uint8)
    label_map[1:4, 4:10, 7:12] = 1
    findings = Findings(
        label_map,
        (Segment(1, "Left hippocampus", ANATOMY, HIPPOCAMPUS, laterality="left"),),
        (Measurement("Left hippocampus volume", 90 * 1.2 / 1000, "mL", VOLUME, HIPPOCAMPUS, "left", (1,), True),),
    )
    identity = AlgorithmIdentity("test", "Test", "1.0", "", "2.25.4711")
    context = Context(identity, MR_HEAD, "node", "test_orthanc", datetime(2026, 1, 2, 3, 4, 5), 9000)
    return encode_findings(findings, source, context, tmp_path_factory.mktemp("results"))


def _digest(ds: Dataset) -> str:
    """SHA-256 of the pixel data, or of nothing."""
    return hashlib.sha256(ds.get("PixelData", b"")).hexdigest()


def _assert_same(received: Dataset, sent: Dataset) -> None:
    for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert received.get(keyword) == sent.get(keyword)
    assert _digest(received) == _digest(sent)
    assert received == sent


def test_results_arrive_are_confirmed_and_come_back_the_same(
    server: Orthanc, destination: Destination, source: list[Dataset], results: tuple[ResultObject, ...]
) -> None:
    study = str(source[0].StudyInstanceUID)
    wanted = {o.SOPInstanceUID for o in results}
    assert {o.role for o in results} == {"seg", "sr"}
    by_qido = destination.model_copy(update={"confirm": "qido"})
    assert confirm(destination, CALLER, results, study) == set()
    assert confirm(by_qido, CALLER, results, study) == set()

    assert send(destination, CALLER, [o.path for o in results]) == dict.fromkeys(wanted, "")

    assert confirm(destination, CALLER, results, study) == wanted
    assert confirm(by_qido, CALLER, results, study) == wanted
    for o in results:
        sent = pydicom.dcmread(o.path)
        found = server.session.post(f"{server.url}/tools/lookup", data=o.SOPInstanceUID, timeout=10).json()
        _assert_same(pydicom.dcmread(BytesIO(server.get(f"{found[0]['Path']}/file").content)), sent)
        _assert_same(_retrieve(server, study, o), sent)


def _retrieve(server: Orthanc, study: str, wanted: ResultObject) -> Dataset:
    """WADO-RS Retrieve Instance (PS3.18 section 10.4): the one part of a multipart answer."""
    path = f"/dicom-web/studies/{study}/series/{wanted.SeriesInstanceUID}/instances/{wanted.SOPInstanceUID}"
    answer = server.get(path, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    part = answer.content.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    return pydicom.dcmread(BytesIO(part))


def test_a_study_that_is_sent_again_holds_each_object_once(
    server: Orthanc, destination: Destination, source: list[Dataset], results: tuple[ResultObject, ...], tmp_path: Path
) -> None:
    for _ in range(2):
        send(destination, CALLER, [o.path for o in results])
    study = f"{server.dicomweb_url}/studies/{source[0].StudyInstanceUID}/instances"
    held = server.session.get(study, headers={"Accept": "application/dicom+json"}, timeout=10).json()
    uids = sorted(item["00080018"]["Value"][0] for item in held)
    assert uids == sorted(o.SOPInstanceUID for o in results)


def test_wrong_credentials_are_final(
    server: Orthanc,
    destination: Destination,
    source: list[Dataset],
    results: tuple[ResultObject, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert requests.get(server.dicomweb_url + "/studies", timeout=10).status_code == 401
    monkeypatch.setenv("ORTHANC_PASSWORD", "guess")
    by_qido = destination.model_copy(update={"confirm": "qido"})
    with pytest.raises(PeerError, match="HTTP 401") as caught:
        confirm(by_qido, CALLER, results, str(source[0].StudyInstanceUID))
    assert not caught.value.retryable


def test_a_node_that_the_archive_does_not_list_may_not_ask(
    destination: Destination, source: list[Dataset], results: tuple[ResultObject, ...]
) -> None:
    with pytest.raises(PeerError, match="ended the association at the query: may STRANGER ask it") as caught:
        confirm(destination, "STRANGER", results, str(source[0].StudyInstanceUID))
    assert caught.value.retryable  # Orthanc hangs up, as it would if it stopped
