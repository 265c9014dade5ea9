"""What the tests of the command line share: a site to work in, and a way to run a command."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from dicom_node import offline
from dicom_node.cli import app as commands
from dicom_node.run.registry import DEFAULT_FOLDER, Algorithm
from dicom_node.settings import RunSettings
from dicom_node.testing.phantom_head import write_head
from tests.faults.inline_pool import InlinePool

PICKY = """
from dicom_node.algorithm import NotAnalysed

def load(bundle):
    def refuse(volume):
        raise NotAnalysed("the contrast is that of a [pomelo]")
    return refuse
"""
ROUTES = """
rules:
  - name: heads
    algorithm: threshold_demo
    when: {Modality: MR, body_part: brain}
    deliver_to: [pacs]
"""


class InlineWorker:
    """In place of the worker process, which ``test_worker.py`` tests."""

    def __init__(self, device: str, threads: int) -> None:
        self.machine = InlinePool(RunSettings()).start()

    def start(self) -> None:
        pass

    def load(self, algorithm: Algorithm) -> dict[str, Any]:
        return {"outcome": "loaded"}

    def call(self, algorithm: Algorithm, paths: list[Path], out: Path) -> dict[str, Any]:
        return InlinePool(RunSettings()).run(algorithm, paths, out)

    def stop(self) -> None:
        pass


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head") / "head"
    write_head(folder, spacing=(12, 8, 8))
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with node.yaml, routes.yaml and two algorithms; commands are given its node.yaml."""
    for name in list(os.environ):
        if name.startswith("DICOM_NODE__"):
            monkeypatch.delenv(name)
    algorithms = tmp_path / "algorithms"
    shutil.copytree(DEFAULT_FOLDER / "threshold_demo", algorithms / "threshold_demo")
    manifest = yaml.safe_load((algorithms / "threshold_demo" / "algorithm.yaml").read_text())
    (algorithms / "picky").mkdir()
    (algorithms / "picky" / "algorithm.yaml").write_text(yaml.safe_dump({**manifest, "id": "picky", "name": "Picky"}))
    (algorithms / "picky" / "algorithm.py").write_text(PICKY)
    (tmp_path / "routes.yaml").write_text(ROUTES)
    configure(tmp_path)
    monkeypatch.setenv("DICOM_NODE_CONFIG", str(tmp_path / "node.yaml"))
    monkeypatch.setattr(offline, "Worker", InlineWorker)
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    """(Re)write node.yaml."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11113, "confirm": "find"}
    values = {
        "data_dir": str(folder / "data"),
        "run": {"algorithms_dir": str(folder / "algorithms"), "device": "cpu", "cpu_threads": 1},
        "receive": {"port": 0, "disk_reserve_mb": 0},
        "destinations": [pacs],
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(values | changes))


def dicom_node(*arguments: object, code: int = 0) -> Result:
    """Run a command; it ends with ``code``, and an error leaves no traceback but at least a line for the user."""
    ended = CliRunner().invoke(commands, [str(a) for a in arguments])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        pytest.fail("".join(traceback.format_exception(ended.exception)))
    assert ended.exit_code == code, ended.output
    assert not code or ended.stderr.strip()
    return ended
