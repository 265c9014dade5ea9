"""Runs that wait for the same algorithm are taken together; what is bad in one does not touch the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node import log
from dicom_node.algorithm import Clip, Findings, NotAnalysed
from dicom_node.errors import WorkerDied
from dicom_node.run import worker as worker_module
from dicom_node.run.registry import Algorithm, CodeEntry, Manifest
from dicom_node.run.worker import TOGETHER, Job, WorkerPool
from dicom_node.run.worker_process import _analyse_all
from dicom_node.settings import RunSettings
from dicom_node.testing.phantom_ultrasound import ultrasound_study

DEADLINE = 30.0


def algorithm(kind: str = "frames", name: str = "pictures") -> Algorithm:
    procedure = CodeEntry(value="1", scheme="99TEST", meaning="test")
    manifest = Manifest(
        id=name, name=name, version="1", description="", input=kind, procedure=procedure, time_limit_s=5
    )
    return Algorithm(manifest, Path(name))


class Scripted:
    """A worker that answers when it is let, and writes down what it was asked."""

    def __init__(self, device: str, threads: int) -> None:
        self.machine = {"device": "cpu", "devices": 0}
        self.asked: list[tuple[str, list[str]]] = []
        self.go = threading.Event()
        self.dies_of = ""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def call_together(self, asked: Algorithm, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        names = [job.out.name for job in jobs]
        self.asked.append((asked.manifest.id, names))
        assert self.go.wait(DEADLINE)
        if self.dies_of in names:
            raise WorkerDied(f"lost with {len(names)}")
        return [{"outcome": "found", "who": name} for name in names]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    monkeypatch.setattr(worker_module, "Worker", Scripted)
    made = WorkerPool(RunSettings(device="cpu"))
    made.start()
    return made


def scripted(pool: WorkerPool) -> Any:
    return pool._all[0]


def run_all(pool: WorkerPool, wanted: Sequence[tuple[Algorithm, str]]) -> dict[str, Any]:
    """Ask for these one after the other, each from a thread of its own, then let the worker answer."""
    results: dict[str, Any] = {}

    def ask(a: Algorithm, name: str) -> None:
        try:
            results[name] = pool.run(a, [], Path(name))
        except WorkerDied as e:
            results[name] = e

    threads = []
    for k, (a, name) in enumerate(wanted):
        threads.append(threading.Thread(target=ask, args=(a, name)))
        threads[-1].start()
        _until(lambda k=k: len(pool._line) + bool(scripted(pool).asked) == k + 1)  # type: ignore[misc]
    scripted(pool).go.set()
    for thread in threads:
        thread.join(DEADLINE)
    return results


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_waits_for_the_same_algorithm_is_taken_together(pool: WorkerPool) -> None:
    pictures, others = algorithm(), algorithm(name="others")

    results = run_all(pool, [(pictures, "a"), (pictures, "b"), (others, "x"), (pictures, "c"), (pictures, "d")])

    assert scripted(pool).asked == [("pictures", ["a"]), ("pictures", ["b", "c", "d"]), ("others", ["x"])]
    assert {name: r["who"] for name, r in results.items()} == {name: name for name in "abcdx"}
    assert [results[name]["together"] for name in "abcdx"] == [1, 3, 3, 3, 1]
    assert all(r["waited_seconds"] >= 0 for r in results.values())


def test_no_more_than_so_many_are_taken(pool: WorkerPool) -> None:
    names = [f"{k:02}" for k in range(TOGETHER + 4)]

    run_all(pool, [(algorithm(), name) for name in names])

    assert [len(asked) for _, asked in scripted(pool).asked] == [1, TOGETHER, 3]


def test_volumes_go_alone(pool: WorkerPool) -> None:
    run_all(pool, [(algorithm("volume"), name) for name in "abc"])

    assert [asked for _, asked in scripted(pool).asked] == [["a"], ["b"], ["c"]]


def test_a_run_that_kills_the_worker_costs_no_other_its_result(pool: WorkerPool) -> None:
    scripted(pool).dies_of = "c"

    results = run_all(pool, [(algorithm(), name) for name in "abcd"])

    assert [asked for _, asked in scripted(pool).asked] == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]
    assert isinstance(results["c"], WorkerDied)
    assert [results[name]["who"] for name in "abd"] == ["a", "b", "d"]


class Function:
    """Says how bright each study is, and breaks on those that say so; together on all, if asked to."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks, self.calls = breaks, list[int]()

    def __call__(self, clips: Sequence[Clip]) -> Findings:
        self.calls.append(1)
        (clip,) = clips
        if clip.tags.get("SeriesDescription") == "break":
            raise ValueError("broken")
        frame = clip.picture(0).frame
        mean = float(clip.picture(0).gray.mean())
        return Findings(np.zeros((1, *clip.shape), np.uint8), (), details={"mean": mean}, frames=(frame,))

    def together(self, studies: Sequence[Sequence[Clip]]) -> list[Findings | NotAnalysed]:
        self.calls.append(len(studies))
        if self.breaks:
            raise ValueError("one of them")
        found: list[Findings | NotAnalysed] = []
        for clips in studies:
            try:
                found.append(self(clips))
            except NotAnalysed as e:
                found.append(e)
        return found


def jobs(folder: Path, descriptions: Sequence[str]) -> list[Job]:
    return [
        Job(tuple(ultrasound_study(folder / str(k), header={"SeriesDescription": text})), folder / f"out{k}")
        for k, text in enumerate(descriptions)
    ]


def test_a_study_that_cannot_be_read_does_not_touch_the_others(tmp_path: Path) -> None:
    wanted = jobs(tmp_path, ["one", "two"])
    (tmp_path / "no").write_text("no DICOM")
    wanted.insert(1, Job((tmp_path / "no",), tmp_path / "outno"))
    function = Function()

    answers = _analyse_all(function, algorithm(), wanted, "cpu", log.get("worker"))

    assert [a["outcome"] for a in answers] == ["found", "not_analysed", "found"]
    assert function.calls[0] == 2


@pytest.mark.parametrize("together", [True, False])
def test_a_study_that_breaks_the_algorithm_is_found_out(tmp_path: Path, together: bool) -> None:
    function: Any = Function(breaks=True) if together else Function().__call__

    answers = _analyse_all(function, algorithm(), jobs(tmp_path, ["a", "break", "c"]), "cpu", log.get("worker"))

    assert [a["outcome"] for a in answers] == ["found", "failed", "found"]
    assert "ValueError in test_together.py" in answers[1]["reason"]
