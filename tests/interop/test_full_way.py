"""The whole node among real peers: DCMTK sends a head, the results arrive in Orthanc, and Orthanc sends them back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml
from pydicom import Dataset

from dicom_node import app
from dicom_node.model.states import DeliveryState, RunState, StudyState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import load_settings
from dicom_node.store.runs import RunRow
from dicom_node.testing.phantom_head import write_head
from tests.conftest import need_program
from tests.faults.inline_pool import InlinePool
from tests.interop.orthanc import Orthanc, orthanc

NODE, ARCHIVE = "DICOMNODE", "ORTHANC"
QUIET_SECONDS = 0.4
ROUTES = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain}
    deliver_to: [archive]
"""


@dataclass(frozen=True)
class Site:
    """A node whose results go to a real archive, with one head that has gone the whole way.

    Attributes:
        port: where the node listens.
        run: the head's run, done.
    """

    node: app.Node
    archive: Orthanc
    port: int
    run: RunRow


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def dcmtk(program: str, *arguments: str | Path) -> None:
    """Run one of DCMTK's programs; it succeeds."""
    # Without it DCMTK leaves Nagle's algorithm on, and each image waits for a delayed ACK.
    environment = {**os.environ, "TCP_NODELAY": "1"}
    command = [need_program(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def configuration(folder: Path, archive: Orthanc) -> Path:
    """node.yaml of a node that knows one algorithm and the archive."""
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", folder / "algorithms" / "threshold_demo")
    (folder / "routes.yaml").write_text(ROUTES)
    to_archive = {
        "name": "archive",
        "ae_title": archive.ae_title,
        "host": "127.0.0.1",
        "port": archive.dicom_port,
        "confirm": "qido",
        "dicomweb_url": archive.dicomweb_url,
        "retry_first_seconds": 0.2,
    }
    values: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "run": {"algorithms_dir": str(folder / "algorithms")},
        "receive": {"ae_title": NODE, "port": 0, "disk_reserve_mb": 0},
        "complete": {"quiet_seconds": QUIET_SECONDS, "sweep_seconds": 0.05},
        "destinations": [to_archive],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values))
    return folder / "node.yaml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    head = write_head(folder / "head", spacing=(12, 8, 8))
    with orthanc(ae_title=ARCHIVE, callers=[NODE]) as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "WorkerPool", InlinePool)
        node = app.Node(load_settings(configuration(folder, archive)))
        node.start()
        try:
            port = node.listener.port
            dcmtk("storescu", "-aet", "SCANNER", "-aec", NODE, "127.0.0.1", str(port), *head)
            runs = node.services.runs
            until(lambda: [r.state for r in runs.all()] == [RunState.DONE])
            yield Site(node, archive, port, runs.all()[0])
        finally:
            node.stop()


def instances(site: Site) -> dict[str, Dataset]:
    """What the archive has of the study, by SOP Instance UID: QIDO-RS Search for Instances (PS3.18 section 10.6)."""
    path = f"/dicom-web/studies/{site.run.study_uid}/instances"
    found = site.archive.get(path, headers={"Accept": "application/dicom+json"}).json()
    return {str(ds.SOPInstanceUID): ds for ds in map(Dataset.from_json, found)}


def retrieve(site: Site, instance: Dataset) -> bytes:
    """WADO-RS Retrieve Instance (PS3.18 section 10.4): the one part of a multipart answer."""
    path = (
        f"/dicom-web/studies/{site.run.study_uid}/series/{instance.SeriesInstanceUID}"
        f"/instances/{instance.SOPInstanceUID}"
    )
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    answer = site.archive.get(path, headers={"Accept": accept})
    return answer.content.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]


def test_dcmtk_gets_an_echo(site: Site) -> None:
    dcmtk("echoscu", "-aec", NODE, "127.0.0.1", str(site.port))


def test_every_result_is_confirmed_and_in_the_archive(site: Site) -> None:
    deliveries = site.node.services.runs.deliveries(site.run.run_id)
    assert {d.state for d in deliveries} == {DeliveryState.CONFIRMED}
    found = instances(site)
    assert set(found) == {d.sop_uid for d in deliveries}
    assert sorted(ds.Modality for ds in found.values()) == ["OT", "SEG", "SR"]


def test_dicomweb_serves_what_the_node_wrote(site: Site) -> None:
    found = instances(site)
    for o in site.node.services.runs.results(site.run.run_id):
        served = pydicom.dcmread(BytesIO(retrieve(site, found[o.SOPInstanceUID])))
        assert served == pydicom.dcmread(o.path)
        assert served.StudyInstanceUID == site.run.study_uid


def test_the_validator_finds_no_error_in_what_the_archive_serves(site: Site, tmp_path: Path) -> None:
    validator = need_program("dciodvfy")
    for uid, instance in instances(site).items():
        file = tmp_path / f"{uid}.dcm"
        file.write_bytes(retrieve(site, instance))
        done = subprocess.run(
            [validator, str(file)], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
        said = done.stdout + done.stderr
        assert {"SEG": "Segmentation", "SR": "Comprehensive3DSR", "OT": "SCImage"}[instance.Modality] in said, said
        assert "Error" not in said, said


def test_results_that_the_archive_sends_back_start_nothing(site: Site) -> None:
    s = site.node.services
    before = s.index.studies()
    assert [(r.state, r.revision) for r in before] == [(StudyState.ROUTED, 1)]
    rest = f"{site.archive.url}/modalities/node"
    address = {"AET": NODE, "Host": "127.0.0.1", "Port": site.port}
    site.archive.session.put(rest, json=address, timeout=10).raise_for_status()
    studies = site.archive.get("/studies").json()
    sent = site.archive.session.post(f"{rest}/store", json={"Resources": studies}, timeout=30)
    sent.raise_for_status()
    assert (sent.json()["InstancesCount"], sent.json()["FailedInstancesCount"]) == (3, 0)

    site.node.intake.rows.flush()  # rows follow the answers within moments
    own = s.index.series(site.run.study_uid, own=True)
    assert {i.SOPInstanceUID for x in own for i in x.instances} == {
        d.sop_uid for d in s.runs.deliveries(site.run.run_id)
    }
    noticed = time.monotonic() + 3 * QUIET_SECONDS
    until(lambda: time.monotonic() > noticed)
    assert s.index.studies() == before
    assert [r.run_id for r in s.runs.all()] == [site.run.run_id]
    assert s.index.count(site.run.study_uid) == len(site.run.inputs)


def test_orthanc_gets_the_storage_commitment_it_asks_for(site: Site) -> None:
    """Orthanc asks over an association of its own, and hears the report over one of the node's (PS3.4 Annex J)."""
    address = {"AET": NODE, "Host": "127.0.0.1", "Port": site.port}
    url = f"{site.archive.url}/modalities/committer"
    site.archive.session.put(url, json=address, timeout=10).raise_for_status()
    (series,) = site.node.services.index.series(site.run.study_uid)
    held = [{"SOPClassUID": i.SOPClassUID, "SOPInstanceUID": i.SOPInstanceUID} for i in series.instances]
    absent = {"SOPClassUID": series.instances[0].SOPClassUID, "SOPInstanceUID": "1.2.3"}

    def ask(wanted: list[dict[str, str]]) -> Any:
        asked = site.archive.session.post(f"{url}/storage-commitment", json={"DicomInstances": wanted}, timeout=10)
        asked.raise_for_status()
        report = f"/storage-commitment/{asked.json()['ID']}"
        until(lambda: site.archive.get(report).json()["Status"] != "Pending")
        return site.archive.get(report).json()

    for wanted, outcome, missing in ((held, "Success", []), ([*held, absent], "Failure", ["1.2.3"])):
        said = ask(wanted)
        assert said["Status"] == outcome
        assert {i["SOPInstanceUID"] for i in said["Success"]} == {i["SOPInstanceUID"] for i in held}
        assert [(f["SOPInstanceUID"], f["FailureReason"]) for f in said["Failures"]] == [(m, 0x0112) for m in missing]
