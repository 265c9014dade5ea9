"""A node whose only algorithm compares with prior studies, with a PACS for its results, in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml
from pydicom import Dataset

from dicom_node import app
from dicom_node.check.objects import content
from dicom_node.deliver.dimse import send
from dicom_node.model.states import RunState
from dicom_node.settings import Destination, load_settings
from dicom_node.store.runs import RunRow
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head
from tests.faults.inline_pool import InlinePool

NODE = "DICOMNODE"
ROUTES = """
rules:
  - name: heads
    algorithm: bright
    when: {Modality: MR, body_part: brain, calling_ae_title: SCANNER}
    deliver_to: [pacs]
"""
MANIFEST = """
id: bright
name: Bright
version: 1.0.0
description: Voxels brighter than half the maximum. Only for tests.
input: volume
priors:
  minimum_days: 30
  caution: Two scans of the same head differ.
procedure: {value: "25056-3", scheme: LN, meaning: MRI unspecified body region}
time_limit_s: 60
"""
CODE = """
import numpy as np
from dicom_node.algorithm import *

TISSUE = Code("85756007", "SCT", "Body tissue structure")
ANATOMY = Code("91723000", "SCT", "Anatomical structure")
VOLUME = Code("118565006", "SCT", "Volume")

def load(bundle):
    return bright

def bright(volume):
    if volume.array.shape[0] < 5:
        raise NotAnalysed("there are fewer than five slices")
    mask = volume.array > volume.array.max() / 2
    ml = float(mask.sum()) * volume.voxel_volume / 1000
    return Findings(
        mask.astype(np.uint8),
        (Segment(1, "Bright tissue", ANATOMY, TISSUE),),
        (Measurement("Bright volume", ml, "mL", VOLUME, TISSUE, segments=(1,), from_mask=True, compare="yearly"),),
    )
"""
CHANGE, YEARLY = "Bright volume: change since the prior study", "Bright volume: change per year"
NOW, BEFORE = "20260105", "20240105"


_heads = tempfile.TemporaryDirectory(prefix="heads-")
"""Heads that were written: many tests send the same."""


@cache
def head(day: str, study: str, seed: int = 0, **header: str) -> list[Path]:
    """A small head of one day. Of another seed the volume is a little different."""
    given = {"StudyDate": day, "SeriesDate": day, **header}
    folder = Path(tempfile.mkdtemp(dir=_heads.name))
    return write_head(folder, spacing=(12, 8, 8), study=study, seed=seed, noise=0.02, header=given)


def study_of(files: Sequence[Path]) -> str:
    """The Study Instance UID of files."""
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class PriorSite:
    """The node, its PACS, and what can be seen of both."""

    def __init__(self, node: app.Node, pacs: FakePacs) -> None:
        self.node = node
        self.s = node.services
        self.pacs = pacs

    def send(self, files: Sequence[Path], calling: str = "SCANNER") -> None:
        port = self.node.listener.port
        assert port is not None
        to = Destination(name="node", ae_title=NODE, host="127.0.0.1", port=port)
        assert set(send(to, calling, list(files)).values()) == {""}

    def run(self, state: RunState = RunState.DONE, number: int = 1) -> RunRow:
        """Wait until so many runs are there and the latest is in ``state``."""
        until(lambda: len(self.s.runs.all()) == number and self.s.runs.all()[0].state == state)
        return self.s.runs.all()[0]

    def report(self, run: RunRow) -> Dataset:
        """The run's SR, as the PACS received it."""
        uid = next(o.SOPInstanceUID for o in self.s.runs.results(run.run_id) if o.role == "sr")
        return self.pacs.received[uid]

    def words(self, run: RunRow) -> list[str]:
        """The sentences of its report."""
        return [str(i.TextValue) for i in content(self.report(run), deep=True) if i.ValueType == "TEXT"]


def measured(run: RunRow) -> dict[str, float]:
    """The run's measurements by name."""
    return {m["name"]: m["value"] for m in run.measurements}


@contextmanager
def prior_site(
    folder: Path, sources: Sequence[dict[str, Any]] = (), port: int = 0, priors: dict[str, Any] | None = None
) -> Iterator[PriorSite]:
    """A running site.

    Args:
        sources: as in node.yaml.
        port: where the node listens, for archives that send to it.
        priors: of the settings.
    """
    installed = folder / "algorithms" / "bright"
    installed.mkdir(parents=True)
    (installed / "algorithm.yaml").write_text(MANIFEST)
    (installed / "algorithm.py").write_text(CODE)
    (folder / "routes.yaml").write_text(ROUTES)
    with FakePacs() as pacs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "WorkerPool", InlinePool)
        to = {"name": "pacs", "ae_title": "FAKEPACS", "host": "127.0.0.1", "port": pacs.port, "results": ["seg", "sr"]}
        values: dict[str, Any] = {
            "data_dir": str(folder / "data"),
            "run": {"algorithms_dir": str(folder / "algorithms")},
            "receive": {"ae_title": NODE, "port": port, "disk_reserve_mb": 0},
            "complete": {"quiet_seconds": 1, "sweep_seconds": 0.05},
            "priors": {"time_limit_seconds": 60, **(priors or {})},
            "destinations": [to],
            "sources": list(sources),
        }
        (folder / "node.yaml").write_text(yaml.safe_dump(values))
        node = app.Node(load_settings(folder / "node.yaml"))
        node.start()
        try:
            yield PriorSite(node, pacs)
        finally:
            node.stop()
