"""The whole node with a worklist (IHE AIW-I): a workitem names images in a real Orthanc, and is completed with the
results that are there in the end; another one is canceled on request, a third because no algorithm suits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
import yaml
from pydicom import Dataset

from dicom_node import app
from dicom_node.deliver.send import send
from dicom_node.model.states import RunState, WorkitemState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import Destination, load_settings
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.ups_server import UpsServer
from dicom_node.workflow.ups import workitems_of
from tests.faults.inline_pool import InlinePool
from tests.interop.orthanc import Orthanc, orthanc
from tests.ups_site import CODE, input_series, until, workitem

NODE = "AINODE"
ROUTES = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain, images: {at_least: 8}}
    deliver_to: [archive]
"""
JSON = {"Content-Type": "application/dicom+json", "Accept": "application/dicom+json"}


@dataclass(frozen=True)
class Site:
    node: app.Node
    archive: Orthanc
    server: UpsServer

    def store(self, folder: Path, study: str, spacing: tuple[float, float, float] = (12, 8, 8)) -> list[Dataset]:
        """Put a head into the archive."""
        files = write_head(folder, spacing=spacing, study=study)
        scanner = Destination(name="scanner", kind="stow", dicomweb_url=self.archive.dicomweb_url)
        assert not any(send(scanner, "SCANNER", files).values())
        return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]

    def schedule(self, uid: str, head: list[Dataset]) -> None:
        """Create a workitem for images of the archive, as a requester does."""
        url = f"{self.archive.dicomweb_url}/studies/{head[0].StudyInstanceUID}"
        ds = workitem(input_series(head, url=url), ScheduledProcedureStepPriority="HIGH")
        made = requests.post(
            f"{self.server.url}/workitems?{uid}", data=f"[{ds.to_json()}]".encode(), headers=JSON, timeout=60
        )
        assert made.status_code == 201, made.headers

    def end(self, uid: str) -> Dataset:
        """The workitem when it has ended, as a requester sees it."""
        rows = workitems_of(self.node.services)
        ended = {WorkitemState.COMPLETED, WorkitemState.CANCELED, WorkitemState.LOST}
        until(lambda: (row := rows.get("ris", uid)) and row.state in ended, 120)
        answer = requests.get(f"{self.server.url}/workitems/{uid}", headers=JSON, timeout=60)
        return Dataset.from_json(answer.json()[0])


def configuration(folder: Path, archive: Orthanc, server: UpsServer) -> Path:
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", folder / "algorithms" / "threshold_demo")
    (folder / "routes.yaml").write_text(ROUTES)
    web = {"dicomweb_url": archive.dicomweb_url}
    values: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "run": {"algorithms_dir": str(folder / "algorithms")},
        "receive": {"ae_title": NODE, "port": 0, "disk_reserve_mb": 0},
        "complete": {"quiet_seconds": 0.4, "sweep_seconds": 0.05},
        "destinations": [{"name": "archive", "kind": "stow", "confirm": "qido", "retry_first_seconds": 0.2, **web}],
        "sources": [{"name": "web", "kind": "dicomweb", **web}],
        "worklists": [
            {
                "name": "ris",
                "dicomweb_url": server.url,
                "workitems": [{"value": CODE[0], "scheme": CODE[1], "algorithm": "threshold_demo"}],
                "station": {"value": "AI1", "scheme": "99SITE", "meaning": "AI node 1"},
                "every_seconds": 1,
                "subscribe": True,
            }
        ],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values))
    return folder / "node.yaml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ups")
    with ExitStack() as stack:
        archive = stack.enter_context(orthanc())
        server = stack.enter_context(UpsServer())
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(app, "WorkerPool", InlinePool)
        node = app.Node(load_settings(configuration(folder, archive, server)))
        node.start()
        stack.callback(node.stop)
        yield Site(node, archive, server)


def test_a_workitem_is_completed_with_the_results_that_the_archive_has(site: Site, tmp_path: Path) -> None:
    head = site.store(tmp_path / "head", "1")
    site.schedule("1.2.3.1", head)

    done = site.end("1.2.3.1")

    assert done.ProcedureStepState == "COMPLETED"
    (what,) = done.UnifiedProcedureStepPerformedProcedureSequence
    assert what.PerformedStationNameCodeSequence[0].CodeValue == "AI1"
    assert what.PerformedWorkitemCodeSequence[0].CodeValue == CODE[0]
    assert what.PerformedProcedureStepStartDateTime <= what.PerformedProcedureStepEndDateTime
    classes = set()
    for output in what.OutputInformationSequence:
        assert output.StudyInstanceUID == head[0].StudyInstanceUID
        url = output.WADORSRetrievalSequence[0].RetrieveURL.removeprefix(site.archive.url)
        there = site.archive.get(f"{url}/instances", headers={"Accept": "application/dicom+json"}).json()
        named = {str(r.ReferencedSOPInstanceUID) for r in output.ReferencedSOPSequence}
        assert named == {ds["00080018"]["Value"][0] for ds in there}
        classes |= {r.ReferencedSOPClassUID.name for r in output.ReferencedSOPSequence}
    assert len(classes) == 3  # SEG, SR and picture


def test_a_workitem_of_done_work_is_completed_with_the_same_results(site: Site, tmp_path: Path) -> None:
    head = [pydicom.dcmread(f, stop_before_pixels=True) for f in write_head(tmp_path / "head", spacing=(12, 8, 8))]
    before = site.node.services.runs.all()
    site.schedule("1.2.3.2", head)
    (again,) = site.end("1.2.3.2").UnifiedProcedureStepPerformedProcedureSequence
    first = site.server.worklist.retrieve("1.2.3.1").UnifiedProcedureStepPerformedProcedureSequence[0]
    assert again.OutputInformationSequence == first.OutputInformationSequence
    assert [r.run_id for r in site.node.services.runs.all()] == [r.run_id for r in before]


def test_a_workitem_that_no_algorithm_suits_is_canceled_with_the_reason(site: Site, tmp_path: Path) -> None:
    head = site.store(tmp_path / "short", "3")[:1]
    study = str(head[0].StudyInstanceUID)
    for instance in site.archive.get("/instances?expand").json():
        tags = instance["MainDicomTags"]
        parent = site.archive.get(f"/instances/{instance['ID']}/study").json()["MainDicomTags"]["StudyInstanceUID"]
        if parent == study and tags["SOPInstanceUID"] != head[0].SOPInstanceUID:
            site.archive.session.delete(f"{site.archive.url}/instances/{instance['ID']}", timeout=60)
    site.schedule("1.2.3.3", head)

    told = site.end("1.2.3.3")

    assert told.ProcedureStepState == "CANCELED"
    (progress,) = told.ProcedureStepProgressInformationSequence
    assert progress.ReasonForCancellation.startswith("threshold_demo does not suit: ")
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110522"


def test_a_workitem_whose_images_are_nowhere_is_canceled(site: Site, tmp_path: Path) -> None:
    files = write_head(tmp_path / "nowhere", spacing=(12, 8, 8), study="4")
    site.schedule("1.2.3.4", [pydicom.dcmread(file, stop_before_pixels=True) for file in files])
    (progress,) = site.end("1.2.3.4").ProcedureStepProgressInformationSequence
    assert "has no study" in progress.ReasonForCancellation
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110523"


def test_a_workitem_is_canceled_on_request_and_nothing_is_delivered(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = site.node.services
    head = site.store(tmp_path / "head", "5")
    study = str(head[0].StudyInstanceUID)
    run = InlinePool.run

    def slowly(*arguments: Any) -> Any:
        until(lambda: s.runs.all(study)[0].state == RunState.FAILED)
        return run(*arguments)

    monkeypatch.setattr(InlinePool, "run", slowly)
    site.schedule("1.2.3.5", head)
    until(lambda: [r.state for r in s.runs.all(study)] == [RunState.RUNNING])

    asked = requests.post(
        f"{site.server.url}/workitems/1.2.3.5/cancelrequest",
        json=[{"00741238": {"vr": "LT", "Value": ["wrong patient"]}}],
        headers=JSON,
        timeout=60,
    )

    assert asked.status_code == 202, asked.headers
    told = site.end("1.2.3.5")
    assert told.ProcedureStepState == "CANCELED"
    assert (
        told.ProcedureStepProgressInformationSequence[0].ReasonForCancellation == "canceled on request: wrong patient"
    )
    assert not told.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence
    run_id = s.runs.all(study)[0].run_id
    until(lambda: {w.status for w in s.client.list_workflows(workflow_id_prefix=[run_id])} == {"CANCELLED"})
    assert s.runs.deliveries(run_id) == []
    assert s.runs.all(study)[0].state == RunState.FAILED
