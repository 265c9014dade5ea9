"""The whole node by HTTP: an Orthanc is followed and gets the results, another fails on purpose, STOW-RS comes in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node import app
from dicom_node.deliver.send import send
from dicom_node.model.states import DeliveryState, PullState, RunState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import Destination, load_settings
from dicom_node.testing.phantom_head import write_head
from dicom_node.workflow.pull import ask_source, pulls_of
from tests.faults.inline_pool import InlinePool
from tests.interop.orthanc import Orthanc, orthanc
from tests.interop.test_full_way import until

REFUSE = "function ReceivedInstanceFilter(dicom, origin, info)\n   return false\nend\n"
ROUTES = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain}
    deliver_to: [rest, stow, failing]
"""


@dataclass(frozen=True)
class Site:
    node: app.Node
    archive: Orthanc
    failing: Orthanc
    head: tuple[Path, ...]


def configuration(folder: Path, archive: Orthanc, failing: Orthanc) -> Path:
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", folder / "algorithms" / "threshold_demo")
    (folder / "routes.yaml").write_text(ROUTES)
    rest = {"kind": "orthanc", "confirm": "orthanc", "orthanc_url": archive.url, "orthanc_metadata": "1024"}
    by_stow = {"kind": "stow", "confirm": "qido", "dicomweb_url": archive.dicomweb_url}
    refusing = {"kind": "orthanc", "orthanc_url": failing.url}
    followed = {"kind": "orthanc", "orthanc_url": archive.url, "follow": True, "every_seconds": 0.2}
    asked = {"kind": "dicomweb", "dicomweb_url": archive.dicomweb_url}
    values: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "run": {"algorithms_dir": str(folder / "algorithms")},
        "receive": {"port": 0, "disk_reserve_mb": 0},
        "dicomweb": {"enabled": True, "port": 0},
        "complete": {"quiet_seconds": 0.4, "sweep_seconds": 0.05, "settle_seconds": 0.4},
        "destinations": [
            {"name": name, "retry_first_seconds": 0.2, **more}
            for name, more in (("rest", rest), ("stow", by_stow), ("failing", refusing))
        ],
        "sources": [{"name": "archive", **followed}, {"name": "web", **asked}],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values))
    return folder / "node.yaml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "refuse.lua").write_text(REFUSE)
    head = tuple(write_head(folder / "head", spacing=(12, 8, 8)))
    with ExitStack() as stack:
        archive = stack.enter_context(orthanc())
        failing = stack.enter_context(orthanc(more={"LuaScripts": [str(folder / "refuse.lua")]}))
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(app, "WorkerPool", InlinePool)
        node = app.Node(load_settings(configuration(folder, archive, failing)))
        node.start()
        stack.callback(node.stop)
        yield Site(node, archive, failing, head)


def test_an_archive_that_is_followed_gets_results_and_one_that_fails_is_told(site: Site) -> None:
    s = site.node.services
    pulls = pulls_of(s)
    until(lambda: pulls.point("archive") is not None)
    scanner = Destination(name="scanner", kind="stow", dicomweb_url=site.archive.dicomweb_url)
    assert not any(send(scanner, "SCANNER", site.head).values())

    until(lambda: [r.state for r in s.runs.all()] == [RunState.FAILED], 60)

    run = s.runs.all()[0]
    states = {(d.destination, d.state) for d in s.runs.deliveries(run.run_id)}
    assert states == {
        ("rest", DeliveryState.CONFIRMED),
        ("stow", DeliveryState.CONFIRMED),
        ("failing", DeliveryState.FAILED),
    }
    assert run.reason == "not delivered to failing: answered FilteredOut instead of Success"
    assert site.failing.get("/instances").json() == []
    assert len(site.archive.get("/instances").json()) == len(site.head) + 3  # SEG, SR and picture
    # The results make the study stable anew: it is asked for again, and nothing of it is new.
    until(
        lambda: (r := pulls.get("archive", run.study_uid)) and r.asked > run.created and r.state == PullState.DONE, 60
    )
    assert [r.run_id for r in s.runs.all()] == [run.run_id]
    assert s.index.count(run.study_uid) == len(site.head)


def test_a_study_is_pulled_by_accession_once_more_without_harm(site: Site) -> None:
    s = site.node.services
    study = s.index.studies()[0].study_uid
    assert ask_source(s, "web", [], [study], None) == (1, [])
    until(lambda: (r := pulls_of(s).get("web", study)) and r.state == PullState.DONE, 60)
    assert len(s.runs.all()) == 1


def test_stow_in_goes_the_same_way(site: Site, tmp_path: Path) -> None:
    s = site.node.services
    assert site.node.web is not None
    other = write_head(tmp_path / "other", spacing=(12, 8, 8), study="2")
    known = {row.study_uid for row in s.index.studies()}
    to_node = Destination(name="node", kind="stow", dicomweb_url=f"http://127.0.0.1:{site.node.web.port}/dicom-web")
    assert not any(send(to_node, "SCANNER", other).values())
    until(lambda: len({r.study_uid for r in s.runs.all()} - known) == 1, 60)
