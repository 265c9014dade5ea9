"""kill -9 of the node at every boundary between and inside the steps: one result, once, with the same UIDs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dicom_node.deliver.dimse import send
from dicom_node.model.states import RunState
from dicom_node.run.registry import DEFAULT_FOLDER
from dicom_node.settings import Destination
from dicom_node.store.index import Index
from dicom_node.store.runs import Runs
from dicom_node.store.tables import open_engine
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("route", "prepare", "infer", "encode", "check", "dispatch", "confirm", "send", "follow")
BOUNDARIES = [f"{step}:{when}" for step in STEPS for when in ("before", "after")]
ROUTES = """
rules:
  - name: all volumes
    algorithm: threshold_demo
    when: {Modality: MR}
    deliver_to: [pacs]
"""


def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def settings_file(folder: Path, pacs_port: int) -> Path:
    folder.mkdir()
    (folder / "routes.yaml").write_text(ROUTES)
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", folder / "algorithms" / "threshold_demo")
    values = {
        "data_dir": str(folder / "data"),
        "run": {"algorithms_dir": str(folder / "algorithms")},
        "receive": {"port": 0, "disk_reserve_mb": 0},
        "complete": {"quiet_seconds": 0.5, "sweep_seconds": 0.1},
        "destinations": [
            {
                "name": "pacs",
                "ae_title": "FAKEPACS",
                "host": "127.0.0.1",
                "port": pacs_port,
                "confirm": "find",
                "results": ["seg", "sr"],
                "retry_first_seconds": 0.2,
                "retry_longest_seconds": 1,
            }
        ],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values))
    return folder / "node.yaml"


class CrashNode:
    """The process of crash_node.py."""

    def __init__(self, settings: Path, boundary: str = "") -> None:
        command = [sys.executable, "-m", "tests.faults.crash_node", str(settings), *([boundary] if boundary else [])]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)

    def __enter__(self) -> CrashNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for_death(self) -> None:
        assert self.process.wait(40) == -9

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0


def finished_run(settings: Path) -> list[RunState]:
    data = yaml.safe_load(settings.read_text())["data_dir"]
    engine = open_engine(f"sqlite:///{data}/node.sqlite")
    try:
        return [r.state for r in Runs(engine).all()]
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[Path]:
    return write_head(tmp_path_factory.mktemp("head"), spacing=(16, 8, 8))


def send_to(port: int, files: list[Path]) -> None:
    outcome = send(Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=port), "TEST", files)
    assert set(outcome.values()) == {""}


def test_a_study_walks_through_a_kill_at_every_boundary(tmp_path, head):
    with FakePacs() as undisturbed:
        control = settings_file(tmp_path / "control", undisturbed.port)
        with CrashNode(control) as node:
            send_to(node.port, head)
            until(lambda: finished_run(control) == [RunState.DONE])
            node.stop()
        wanted = set(undisturbed.received)
    with FakePacs() as pacs:
        settings = settings_file(tmp_path / "crash", pacs.port)
        for number, boundary in enumerate(BOUNDARIES):
            with CrashNode(settings, boundary) as node:
                if number == 0:
                    send_to(node.port, head)
                node.wait_for_death()
        with CrashNode(settings) as node:
            until(lambda: finished_run(settings) == [RunState.DONE])
            node.stop()
        assert set(pacs.received) == wanted
        assert len(wanted) == 2
        assert all(len(digests) == 1 for digests in pacs.digests.values()), "a repeat sent other bytes"


def test_images_acknowledged_before_a_kill_are_there_after_it(tmp_path, head):
    with FakePacs() as pacs:
        settings = settings_file(tmp_path / "n", pacs.port)
        with CrashNode(settings) as node:
            send_to(node.port, head[: len(head) // 2])
            os.kill(node.process.pid, 9)
            node.wait_for_death()
        with CrashNode(settings) as node:
            send_to(node.port, head[len(head) // 2 :])
            until(lambda: finished_run(settings)[:1] == [RunState.DONE])
            node.stop()
        engine = open_engine(f"sqlite:///{tmp_path / 'n' / 'data' / 'node.sqlite'}")
        assert Index(engine).count(Index(engine).studies()[0].study_uid) == len(head)
        engine.dispose()


def test_a_node_that_is_stopped_politely_goes_on_with_its_run_at_the_next_start(tmp_path, head):
    with FakePacs() as pacs:
        settings = settings_file(tmp_path / "n", pacs.port)
        algorithm = tmp_path / "n" / "algorithms" / "threshold_demo" / "algorithm.py"
        quick = algorithm.read_text()
        algorithm.write_text(quick.replace("    return bright\n", "    import time; time.sleep(3); return bright\n"))
        with CrashNode(settings) as node:
            send_to(node.port, head)
            until(lambda: finished_run(settings) == [RunState.RUNNING])
            node.stop()
        assert finished_run(settings) == [RunState.RUNNING]
        algorithm.write_text(quick)
        with CrashNode(settings) as node:
            until(lambda: finished_run(settings) == [RunState.DONE])
            node.stop()
        assert len(pacs.received) == 2
