"""STOW-RS among real peers: into Orthanc, confirmed by QIDO-RS; from Orthanc and dicomweb-client into the node."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset

from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.send import send
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.settings import Destination
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.interop.orthanc import Orthanc, orthanc
from tests.listening import Listening, listening, web_listening


@pytest.fixture(scope="module")
def server() -> Iterator[Orthanc]:
    with orthanc(users={"node": "s3cret"}) as running:
        yield running


@pytest.fixture
def destination(server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Destination:
    monkeypatch.setenv("ORTHANC_USER", "node")
    monkeypatch.setenv("ORTHANC_PASSWORD", "s3cret")
    return Destination(
        name="orthanc",
        kind="stow",
        confirm="qido",
        dicomweb_url=server.dicomweb_url,
        username_env="ORTHANC_USER",
        password_env="ORTHANC_PASSWORD",
        timeout_seconds=20,
    )


def a_series(key: str) -> list[Dataset]:
    pixels = np.arange(5 * 64 * 48, dtype=np.uint16).reshape(5, 64, 48) % 4096
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key=key)


def objects(datasets: list[Dataset], paths: list[Path]) -> list[ResultObject]:
    return [
        ResultObject("seg", str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), path)
        for ds, path in zip(datasets, paths, strict=True)
    ]


@pytest.mark.parametrize("batch_mb", [50, 0.01])
def test_stow_out_stores_in_orthanc_what_qido_confirms(
    server: Orthanc, destination: Destination, tmp_path: Path, batch_mb: float
) -> None:
    datasets = a_series(f"stow {batch_mb}")
    paths = save(tmp_path, datasets)
    destination = destination.model_copy(update={"batch_mb": batch_mb})
    sent = objects(datasets, paths)
    wanted = {o.SOPInstanceUID for o in sent}
    study = str(datasets[0].StudyInstanceUID)
    assert confirm(destination, "DICOMNODE", sent, study) == set()

    assert send(destination, "DICOMNODE", paths) == dict.fromkeys(wanted, "")
    assert send(destination, "DICOMNODE", paths) == dict.fromkeys(wanted, "")  # a retry changes nothing

    assert confirm(destination, "DICOMNODE", sent, study) == wanted
    for path, o in zip(paths, sent, strict=True):
        found = server.session.post(f"{server.url}/tools/lookup", data=o.SOPInstanceUID, timeout=10).json()
        assert pydicom.dcmread(BytesIO(server.get(f"{found[0]['Path']}/file").content)) == pydicom.dcmread(path)


def test_stow_out_tells_which_instance_orthanc_refused(destination: Destination, tmp_path: Path) -> None:
    datasets = a_series("stow bad")
    paths = save(tmp_path, datasets)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: whole.index(b"\x08\x00\x16\x00UI")])  # only the file meta information is left

    outcome = send(destination, "DICOMNODE", paths)

    assert [bool(outcome[str(ds.SOPInstanceUID)]) for ds in datasets] == [False, False, True, False, False]


def test_stow_out_with_wrong_credentials_is_final(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORTHANC_PASSWORD", "guess")
    with pytest.raises(PeerError, match="refused POST /studies with HTTP 401") as caught:
        send(destination, "DICOMNODE", save(tmp_path, a_series("stow guess")))
    assert not caught.value.retryable


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path / "node") as running:
        yield running


def test_stow_in_takes_what_dicomweb_client_sends(node: Listening, tmp_path: Path) -> None:
    # As they are read from files: of others it sends no file meta information.
    datasets = [pydicom.dcmread(path) for path in save(tmp_path / "files", a_series("stow client"))]
    with web_listening(node) as web:
        client = DICOMwebClient(f"http://127.0.0.1:{web.port}/dicom-web")
        answer = client.store_instances(datasets, study_instance_uid=str(datasets[0].StudyInstanceUID))
    stored = {str(item.ReferencedSOPInstanceUID) for item in answer.ReferencedSOPSequence}
    assert stored == set(node.instances()) == {str(ds.SOPInstanceUID) for ds in datasets}
    for uid, instance in node.instances().items():
        kept = pydicom.dcmread(node.files.path(instance.path))
        assert kept == next(ds for ds in datasets if ds.SOPInstanceUID == uid)


def test_stow_in_takes_what_orthanc_sends(
    server: Orthanc, destination: Destination, node: Listening, tmp_path: Path
) -> None:
    datasets = a_series("stow from orthanc")
    send(destination, "DICOMNODE", save(tmp_path / "files", datasets))
    with web_listening(node) as web:
        target = {"Url": f"http://127.0.0.1:{web.port}/dicom-web/"}
        server.session.put(f"{server.dicomweb_url}/servers/node", json=target, timeout=10).raise_for_status()
        study = server.session.post(f"{server.url}/tools/lookup", data=datasets[0].StudyInstanceUID, timeout=10).json()
        job = {"Resources": [study[0]["ID"]], "Synchronous": True}
        sent = server.session.post(f"{server.dicomweb_url}/servers/node/stow", json=job, timeout=60)
        assert sent.status_code == 200, sent.text
    assert set(node.instances()) == {str(ds.SOPInstanceUID) for ds in datasets}
    assert node.is_clean()
