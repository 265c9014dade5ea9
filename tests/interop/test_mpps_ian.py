"""The whole node where a modality sends MPPS, or an archive IAN: when runs start, and what the study's record says.

DCMTK sends the images. The quiet time is so long that none of these studies could be whole by it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from dicom_node import app
from dicom_node.cli import app as commands
from dicom_node.model.states import RunState, StudyState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import load_settings
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.series import save
from tests.announcing import associated, change, create, notification, performed, step
from tests.faults.inline_pool import InlinePool
from tests.interop.test_full_way import ROUTES, dcmtk, until

SLOW_MACHINE = 3.0
"""The figure is 2 s; a machine that is busy with other tests gets a little more."""


@dataclass(frozen=True)
class Site:
    node: app.Node
    folder: Path

    @property
    def port(self) -> int:
        return self.node.listener.port

    def send(self, files: Sequence[Path]) -> None:
        dcmtk("storescu", "-aet", "CT1", "-aec", "DICOMNODE", "127.0.0.1", str(self.port), *files)
        self.node.intake.rows.flush()

    def study(self) -> dict[str, Any]:
        """What `dicom-node studies --json` says of the one study that there is."""
        ended = CliRunner().invoke(commands, ["studies", "--json", "--config", str(self.folder / "node.yaml")])
        (study,) = json.loads(ended.stdout)
        return dict(study)

    def printed(self) -> str:
        return CliRunner().invoke(commands, ["studies", "--config", str(self.folder / "node.yaml")]).stdout

    def whole(self, revision: int = 1) -> float:
        """Wait until the study was whole so often; returns how long after its last image it was."""
        rows = self.node.services.index.studies
        until(lambda: rows() and rows()[0].revision == revision)
        (row,) = rows()
        with self.node.services.engine.connect() as c:
            at = c.exec_driver_sql("SELECT max(at) FROM completions").scalar()
        assert at is not None
        return float(at) - row.last_arrival


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    with FakePacs() as pacs:
        shutil.copytree(DEFAULT_FOLDER / "threshold_demo", tmp_path / "algorithms" / "threshold_demo")
        (tmp_path / "routes.yaml").write_text(ROUTES)
        values: dict[str, Any] = {
            "data_dir": str(tmp_path / "data"),
            "run": {"algorithms_dir": str(tmp_path / "algorithms")},
            "receive": {"port": 0, "disk_reserve_mb": 0},
            "complete": {"quiet_seconds": 600, "hold_seconds": 600},
            "destinations": [{"name": "archive", "ae_title": "FAKEPACS", "host": "127.0.0.1", "port": pacs.port}],
        }
        (tmp_path / "node.yaml").write_text(yaml.safe_dump(values))
        node = app.Node(load_settings(tmp_path / "node.yaml"))
        node.start()
        yield Site(node, tmp_path)
        node.stop()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_head(tmp_path_factory.mktemp("head"), spacing=(12, 8, 8))


def a_while(seconds: float, unchanged: Callable[[], object]) -> None:
    """So long it stays so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert unchanged()
        time.sleep(0.05)


def test_results_start_within_two_seconds_of_the_last_image(site: Site, head: list[Path]) -> None:
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in head]
    uid, study_uid = generate_uid(), str(images[0].StudyInstanceUID)
    states = site.node.services.index.states
    with associated(site.port) as modality:
        assert create(modality, step(study_uid), uid).Status == 0x0000
        site.send(head[:-1])
        ended = {"PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": performed(images)}
        until(lambda: site.study()["waits"].startswith("MPPS: CT1 has a procedure step in progress"))
        assert change(modality, uid, **ended).Status == 0x0000
    until(lambda: site.study()["waits"].startswith("MPPS: of what CT1 lists, 1 image in 1 series has not come"))
    assert "waits: MPPS: of what CT1 lists, 1 image in 1 series" in site.printed()
    a_while(1.5, lambda: states() == {StudyState.RECEIVING: 1})
    site.send(head[-1:])
    assert site.whole() < SLOW_MACHINE
    (completion,) = site.study()["completions"]
    assert (completion["revision"], completion["by"]) == (1, "MPPS")
    assert f"all {len(head)} images in 1 series that it lists are here" in completion["evidence"]
    assert "revision 1 was whole by MPPS: CT1 reported the procedure step as ended" in site.printed()
    until(lambda: [r.state for r in site.node.services.runs.all()] == [RunState.DONE])


def test_a_step_that_ends_after_the_images_came(site: Site, head: list[Path]) -> None:
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in head]
    uid = generate_uid()
    with associated(site.port) as modality:
        assert create(modality, step(str(images[0].StudyInstanceUID)), uid).Status == 0x0000
        site.send(head)
        started = time.time()
        ended = {"PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": performed(images)}
        assert change(modality, uid, **ended).Status == 0x0000
        site.whole()
        assert time.time() - started < SLOW_MACHINE
    assert site.study()["completions"][0]["by"] == "MPPS"


def test_a_late_image_that_the_step_does_not_list_is_no_new_revision_by_it(
    site: Site, head: list[Path], tmp_path: Path
) -> None:
    images = [pydicom.dcmread(path) for path in head]
    uid, listed = generate_uid(), images[:-1]
    with associated(site.port) as modality:
        assert create(modality, step(str(images[0].StudyInstanceUID)), uid).Status == 0x0000
        site.send(save(tmp_path / "listed", listed))
        ended = {"PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": performed(listed)}
        assert change(modality, uid, **ended).Status == 0x0000
        site.whole()
        until(lambda: site.study()["state"] == "routed")
        site.send(save(tmp_path / "late", images[-1:]))
        a_while(1.5, lambda: site.study()["state"] == "receiving")
        # A notification of the archive names it.
        assert create(modality, notification(images), ian=True).Status == 0x0000
        site.whole(2)
    assert [c["by"] for c in site.study()["completions"]] == ["MPPS", "MPPS"]


@pytest.mark.parametrize("first", ["images", "notification"])
def test_what_an_archive_announces(site: Site, head: list[Path], first: str) -> None:
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in head]
    if first == "images":
        site.send(head)
    with associated(site.port, "PACS") as archive:
        assert create(archive, notification(images), ian=True).Status == 0x0000
    if first == "notification":
        site.send(head)
        assert site.whole() < SLOW_MACHINE
    site.whole()
    (completion,) = site.study()["completions"]
    assert completion["by"] == "IAN"
    assert completion["evidence"] == f"PACS announced {len(head)} images in 1 series as available, and all are here"


def test_the_node_s_own_results_in_a_notification_are_not_waited_for(site: Site, head: list[Path]) -> None:
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in head]
    with associated(site.port, "PACS") as archive:
        assert create(archive, notification(images[1:]), ian=True).Status == 0x0000
        site.send(head[1:])
        site.whole()
        until(lambda: [r.state for r in site.node.services.runs.all()] == [RunState.DONE])
        (run,) = site.node.services.runs.all()
        results = [
            pydicom.dcmread(o.path, stop_before_pixels=True) for o in site.node.services.runs.results(run.run_id)
        ]
        assert {ds.Modality for ds in results} >= {"SEG", "OT"}
        assert create(archive, notification([*images, *results]), ian=True).Status == 0x0000
        site.send(head[:1])
        site.whole(2)
    assert site.study()["completions"][1]["by"] == "IAN"
