"""Orthanc through its own REST API: results go in, stable studies come out, and it routes by itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.deliver.confirm import confirm
from dicom_node.deliver.orthanc import has_labels
from dicom_node.deliver.send import send
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.peer.http import HttpPeer
from dicom_node.settings import Destination
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.conftest import ROOT
from tests.interop.orthanc import Orthanc, orthanc
from tests.listening import listening, wait_for

SNIPPETS = ROOT / "deploy" / "orthanc"


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
        kind="orthanc",
        confirm="orthanc",
        orthanc_url=server.url,
        orthanc_label="dicom-node",
        orthanc_metadata="1024",
        username_env="ORTHANC_USER",
        password_env="ORTHANC_PASSWORD",
        timeout_seconds=20,
    )


def a_series(key: str, modality: str = "MR") -> list[Dataset]:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    return slice_datasets(np.ones((3, 16, 16), np.uint16), affine, key=key, header={"Modality": modality})


def objects(datasets: list[Dataset], paths: list[Path]) -> list[ResultObject]:
    return [
        ResultObject("seg", str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), path)
        for ds, path in zip(datasets, paths, strict=True)
    ]


def of_study(server: Orthanc, datasets: list[Dataset]) -> str:
    found = server.session.post(f"{server.url}/tools/lookup", data=str(datasets[0].StudyInstanceUID), timeout=10)
    return f"/studies/{found.json()[0]['ID']}"


def test_results_are_uploaded_confirmed_and_named_on_their_study(
    server: Orthanc, destination: Destination, tmp_path: Path
) -> None:
    datasets = a_series("rest")
    paths = save(tmp_path, datasets)
    sent = objects(datasets, paths)
    study = str(datasets[0].StudyInstanceUID)
    uids = [o.SOPInstanceUID for o in sent]
    assert confirm(destination, "DICOMNODE", sent, study) == set()

    assert send(destination, "DICOMNODE", paths[:2]) == dict.fromkeys(uids[:2], "")
    assert send(destination, "DICOMNODE", paths) == dict.fromkeys(uids, "")  # two of them are there already

    assert confirm(destination, "DICOMNODE", sent, study) == set(uids)
    for path, uid in zip(paths, uids, strict=True):
        found = server.session.post(f"{server.url}/tools/lookup", data=uid, timeout=10).json()
        assert server.get(f"{found[0]['Path']}/file").content == path.read_bytes()
    assert server.get(f"{of_study(server, datasets)}/metadata/1024").text.split("\\") == sorted(uids)


def test_labels_are_set_where_there_are_labels(server: Orthanc, destination: Destination, tmp_path: Path) -> None:
    datasets = a_series("labels")
    assert not any(send(destination, "DICOMNODE", save(tmp_path, datasets)).values())
    with HttpPeer(destination, server.url) as web:
        labelled = has_labels(web)
    assert labelled == bool(server.get("/system").json().get("HasLabels"))
    if labelled:
        assert server.get(f"{of_study(server, datasets)}/labels").json() == ["dicom-node"]


def test_what_orthanc_does_not_take(
    server: Orthanc, destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = save(tmp_path, a_series("refused"))
    paths[1].write_bytes(paths[1].read_bytes()[:400])
    outcome = list(send(destination, "DICOMNODE", paths).values())
    assert [bool(failure) for failure in outcome] == [False, True, False]
    assert not outcome[1].retryable
    monkeypatch.setenv("ORTHANC_PASSWORD", "guess")
    with pytest.raises(PeerError, match="refused POST /instances with HTTP 401") as caught:
        send(destination, "DICOMNODE", paths)
    assert not caught.value.retryable


def test_the_lua_script_sends_what_came_but_no_results(tmp_path: Path) -> None:
    with listening(tmp_path / "node") as node:
        more = {
            "LuaScripts": [str(SNIPPETS / "dicom-node.lua")],
            "DicomModalities": {"dicom-node": ["DICOMNODE", "127.0.0.1", node.port]},
        }
        images, results = a_series("routed"), a_series("a result", "SEG")
        with orthanc(more=more) as server:
            destination = Destination(name="x", kind="orthanc", orthanc_url=server.url)
            send(destination, "DICOMNODE", save(tmp_path / "results", results))
            send(destination, "DICOMNODE", save(tmp_path / "images", images))
            assert wait_for(lambda: len(node.instances()) >= len(images), 40)
            stable = [
                c for c in server.get("/changes?limit=100").json()["Changes"] if c["ChangeType"] == "StableSeries"
            ]
            assert len(stable) == 2
        assert set(node.instances()) == {str(ds.SOPInstanceUID) for ds in images}


@pytest.mark.parametrize(("modality", "sent"), [("MR", True), ("SEG", False), ("SR", False)])
def test_the_python_plugin_sends_what_came_but_no_results(
    monkeypatch: pytest.MonkeyPatch, modality: str, sent: bool
) -> None:
    """Debian has no Python plugin: its module is played here, as its manual describes it."""
    posted: list[tuple[str, str]] = []
    called = []
    played = ModuleType("orthanc")
    played.__dict__.update(
        ChangeType=SimpleNamespace(STABLE_SERIES=8, STABLE_STUDY=9),
        RegisterOnChangeCallback=called.append,
        RestApiGet=lambda path: json.dumps({"ID": path, "MainDicomTags": {"Modality": modality}}),
        RestApiPost=lambda path, body: posted.append((path, body)),
    )
    monkeypatch.setitem(sys.modules, "orthanc", played)
    spec = importlib.util.spec_from_file_location("plugin", SNIPPETS / "dicom_node_plugin.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

    called[0](9, 1, "a study")
    called[0](8, 2, "a series")

    job = '{"Resources": ["a series"], "Synchronous": false}'
    assert posted == ([("/modalities/dicom-node/store", job)] if sent else [])
