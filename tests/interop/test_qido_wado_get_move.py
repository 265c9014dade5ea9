"""Query and retrieve among real archives: C-FIND with C-MOVE and C-GET (Orthanc, dcmqrscp), QIDO-RS with WADO-RS, and
Orthanc's REST API, all behind one interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.deliver.send import send
from dicom_node.errors import OutOfResources, PeerError
from dicom_node.peer.archive import StudyFound, StudyQuery, find_studies
from dicom_node.receive.fetch import fetch_study
from dicom_node.settings import Destination, Source
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.interop.dcmqrscp import AE_TITLE, dcmqrscp
from tests.interop.orthanc import Orthanc, orthanc
from tests.listening import Listening, listening

NODE = "DICOMNODE"
WAYS = ("move", "get", "wado", "orthanc", "dcmqrscp-move", "dcmqrscp-get")
SLICES = 4


@dataclass(frozen=True)
class Archives:
    """Two archives that hold the same two studies, and the node that they may send to."""

    node: Listening
    orthanc: Orthanc
    dcmqrscp_port: int
    studies: tuple[list[Dataset], list[Dataset]]

    def source(self, way: str, **more: object) -> Source:
        web = {"dicomweb_url": self.orthanc.dicomweb_url, "orthanc_url": self.orthanc.url, "host": "127.0.0.1"}
        kind = {"wado": "dicomweb", "orthanc": "orthanc"}.get(way, "dimse")
        ae_title, port = (AE_TITLE, self.dcmqrscp_port)
        if "dcmqrscp" not in way:
            ae_title, port = self.orthanc.ae_title, self.orthanc.dicom_port
        retrieve = "get" if way.endswith("get") else "move"
        values = {"name": "archive", "kind": kind, "ae_title": ae_title, "port": port, "retrieve": retrieve, **web}
        return Source(**{**values, "timeout_seconds": 20, **more})


def a_study(number: int) -> list[Dataset]:
    pixels = np.arange(SLICES * 32 * 32, dtype=np.uint16).reshape(SLICES, 32, 32) % 4096
    header = {"AccessionNumber": f"A{number}", "StudyDate": f"2026010{number}", "PatientID": f"P{number}"}
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    return slice_datasets(pixels, affine, key=f"archive {number}", header=header)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    folder = tmp_path_factory.mktemp("archives")
    studies = (a_study(1), a_study(2))
    with ExitStack() as stack:
        node = stack.enter_context(listening(folder / "unused", ae_title=NODE))
        server = stack.enter_context(orthanc(callers=[NODE]))
        port = stack.enter_context(dcmqrscp({NODE: node.port}))
        address = {"AET": NODE, "Host": "127.0.0.1", "Port": node.port}
        server.session.put(f"{server.url}/modalities/{NODE}", json=address, timeout=10).raise_for_status()
        for ae_title, at in ((server.ae_title, server.dicom_port), (AE_TITLE, port)):
            destination = Destination(name="x", ae_title=ae_title, host="127.0.0.1", port=at)
            for number, datasets in enumerate(studies):
                sent = send(destination, NODE, save(folder / f"{ae_title}{number}", datasets))
                assert not any(sent.values()), sent
        yield Archives(node, server, port, studies)


def uid(datasets: list[Dataset]) -> str:
    return str(datasets[0].StudyInstanceUID)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "query",
    [
        StudyQuery(AccessionNumber="A2"),
        StudyQuery(StudyDate="20260102-20260103", ModalitiesInStudy="MR"),
    ],
    ids=["accession", "dates"],
)
def test_a_study_is_found(archives: Archives, way: str, query: StudyQuery) -> None:
    counted = None if way == "orthanc" else SLICES
    found = find_studies(archives.source(way), NODE, query)
    assert found in ([StudyFound(uid(archives.studies[1]), counted)], [StudyFound(uid(archives.studies[1]), None)])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_there_is_not_found(archives: Archives, way: str) -> None:
    assert find_studies(archives.source(way), NODE, StudyQuery(AccessionNumber="A9")) == []
    with pytest.raises(PeerError) as caught:
        fetch_study(archives.source(way), NODE, "1.2.3.4", archives.node.intake)
    assert not caught.value.retryable


@pytest.mark.parametrize("way", WAYS)
def test_a_study_comes_as_it_is(archives: Archives, way: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        node = archives.node
        if way.endswith("move"):
            # Only the listener that the archives know can be sent to: what came before goes.
            for row in node.index.studies():
                stored = [i for x in node.index.series(row.study_uid) for i in x.instances]
                assert node.index.remove_study(row)
                node.intake.discard(stored)
        else:
            node = stack.enter_context(listening(tmp_path / "node"))
        study = archives.studies[0]

        for _ in range(2):  # the second time changes nothing
            fetched = fetch_study(archives.source(way), NODE, uid(study), node.intake)
            assert (fetched.kept, fetched.refused) == (SLICES, 0)

        kept = node.instances()
        assert {i.called for i in kept.values()} == {NODE}
        assert {u: pydicom.dcmread(node.files.path(i.path)) for u, i in kept.items()} == {
            str(ds.SOPInstanceUID): ds for ds in study
        }
        assert node.is_clean()


@pytest.mark.parametrize("way", ["get", "wado", "orthanc"])
def test_a_full_node_keeps_what_it_has_and_says_so(archives: Archives, way: str, tmp_path: Path) -> None:
    with listening(tmp_path / "node") as node:
        node.files.reserve_bytes = 1 << 62
        with pytest.raises(OutOfResources, match="reserve"):
            fetch_study(archives.source(way), NODE, uid(archives.studies[0]), node.intake)
        assert node.instances() == {}
        assert node.is_clean()


def test_move_to_a_node_that_the_archive_does_not_know(archives: Archives) -> None:
    source = archives.source("dcmqrscp-move", calling_ae_title="STRANGER")
    with pytest.raises(PeerError, match="does not know the AE title STRANGER to move to") as caught:
        fetch_study(source, NODE, uid(archives.studies[0]), archives.node.intake)
    assert not caught.value.retryable


def test_get_by_a_node_that_may_not_ask(archives: Archives, tmp_path: Path) -> None:
    source = archives.source("get", calling_ae_title="STRANGER")
    with pytest.raises(PeerError, match="may STRANGER ask it"):
        fetch_study(source, NODE, uid(archives.studies[0]), archives.node.intake)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_answers(archives: Archives, way: str) -> None:
    gone = {"port": 9, "dicomweb_url": "http://127.0.0.1:9/", "orthanc_url": "http://127.0.0.1:9/"}
    with pytest.raises(PeerError, match="no connection") as caught:
        fetch_study(archives.source(way, **gone), NODE, "1.2.3.4", archives.node.intake)
    assert caught.value.retryable
