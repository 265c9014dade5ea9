"""The worker process: warm models, and what becomes of a run whose process dies, hangs or raises."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dicom_node.errors import ConfigurationError, WorkerDied, WorkerTimedOut
from dicom_node.run.findings_io import load_findings
from dicom_node.run.registry import Algorithm, load_registry
from dicom_node.run.worker import Worker, WorkerPool
from dicom_node.settings import RunSettings
from dicom_node.testing.phantom_head import write_head

CODE = """
import os, signal, time
import numpy as np
from dicom_node.algorithm import *

loads = 0

def load(bundle):
    global loads
    loads += 1
    from .sibling import BODY
    return globals()["{function}"]

A = Code("91723000", "SCT", "Anatomical structure")

def fine(volume):
    mask = (volume.array > volume.array.mean()).astype(np.uint8)
    return Findings(mask, (Segment(1, "x", A, A),), details={{"loads": loads, "pid": os.getpid()}})

def die(volume):
    os.kill(os.getpid(), signal.SIGKILL)

def hang(volume):
    time.sleep(60)

def refuse(volume):
    raise NotAnalysed("it is a test")

def wrong(volume):
    raise KeyError("Doe^John")

def off_grid(volume):
    return Findings(np.zeros((2, 2, 2), np.uint8), ())
"""


def algorithm(folder: Path, function: str, *, limit: float = 30, weights: bytes = b"w", named: str = "") -> Algorithm:
    here = folder / function
    here.mkdir()
    (here / "algorithm.py").write_text(CODE.format(function=function))
    (here / "sibling.py").write_text("BODY = 1\n")
    (here / "w.bin").write_bytes(weights)
    manifest = {
        "id": function,
        "name": function,
        "version": "1",
        "description": "a test",
        "input": "volume",
        "procedure": {"value": "113091000", "scheme": "SCT", "meaning": "MRI"},
        "time_limit_s": limit,
        "weights": {"net": {"file": "w.bin", "sha256": named or hashlib.sha256(weights).hexdigest()}},
    }
    (here / "algorithm.yaml").write_text(yaml.safe_dump(manifest))
    return load_registry(folder)[function]


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[Path]:
    return write_head(tmp_path_factory.mktemp("head"), spacing=(8, 8, 8))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    w = Worker("cpu", 1)
    yield w
    w.stop()


def test_findings_come_back_and_the_model_stays_warm(tmp_path, head, worker):
    a = algorithm(tmp_path, "fine")
    first = worker.call(a, head, tmp_path / "1")
    second = worker.call(a, head, tmp_path / "2")
    assert first["outcome"] == second["outcome"] == "found"
    assert first["details"] == second["details"]  # the same process, loaded once
    assert second["details"]["loads"] == 1
    found = load_findings(tmp_path / "2")
    assert found.label_map.shape[0] == len(head) == len(second["order"])
    assert found.segments[0].label == "x"
    assert second["machine"]["device"] == "cpu"


def test_a_reason_comes_back_as_a_reason(tmp_path, head, worker):
    answer = worker.call(algorithm(tmp_path, "refuse"), head, tmp_path / "o")
    assert (answer["outcome"], answer["reason"]) == ("not_analysed", "it is a test")


def test_an_exception_is_a_failure_and_the_worker_lives(tmp_path, head, worker):
    answer = worker.call(algorithm(tmp_path, "wrong"), head, tmp_path / "o")
    assert answer["outcome"] == "failed"
    assert "KeyError in algorithm.py" in answer["reason"]
    assert worker.call(algorithm(tmp_path, "fine"), head, tmp_path / "o")["outcome"] == "found"


def test_a_label_map_that_is_off_the_grid_is_a_failure(tmp_path, head, worker):
    answer = worker.call(algorithm(tmp_path, "off_grid"), head, tmp_path / "o")
    assert "not on the grid of the series" in answer["reason"]


def test_weights_that_are_not_the_manifests_do_not_load(tmp_path, head):
    fresh = Worker("cpu", 1)
    try:
        answer = fresh.call(algorithm(tmp_path, "fine", named="0" * 64), head, tmp_path / "o")
    finally:
        fresh.stop()
    assert answer["outcome"] == "failed"
    assert "w.bin is not the file that the manifest names" in answer["reason"]


def test_a_dead_or_hung_process_is_replaced(tmp_path, head):
    pool = WorkerPool(RunSettings(device="cpu", cpu_threads=1))
    pool.start()
    try:
        with pytest.raises(WorkerDied, match="by signal 9"):
            pool.run(algorithm(tmp_path, "die"), head, tmp_path / "o")
        with pytest.raises(WorkerTimedOut, match="time limit of 5 s"):
            pool.run(algorithm(tmp_path, "hang", limit=5), head, tmp_path / "o")
        assert pool.run(algorithm(tmp_path, "fine"), head, tmp_path / "o")["outcome"] == "found"
    finally:
        pool.stop()


def test_a_worker_ends_with_a_node_that_is_killed():
    code = """
import time
from dicom_node import log
from dicom_node.run.worker import Worker
if __name__ == "__main__":
    log.configure("json")
    worker = Worker("cpu", 1)
    worker.start()
    print(worker._process.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        pid = int(node.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        node.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the worker outlived its node"
        time.sleep(0.05)


def test_a_device_that_is_not_there_stops_the_start():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigurationError, match=r"run.device is cuda.*accepted: auto, cpu, cuda"):
        WorkerPool(RunSettings(device="cuda")).start()
