"""A short run of the fuzzers; the long one is in CONTRIBUTING."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pydicom.config
import pytest

from tests.fuzz import target
from tests.fuzz.make_corpus import CORPUS, corpus
from tests.fuzz.mutate import mutants

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = 4000
MOST_SECONDS = 2.0  # of the processor, for one input of 32 KiB


@pytest.fixture
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)


def test_the_corpus_is_what_its_script_writes() -> None:
    assert {p.name: p.read_bytes() for p in CORPUS.iterdir()} == corpus()


def test_the_corpus_reaches_what_it_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[int, str]] = []
    finish = target._Storage.finish

    def noted(*call: object) -> tuple[int, str]:
        answers.append(finish(*call))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(target._Storage, "finish", noted)
    inputs = corpus()
    for name, expected in (
        ("store", [0]),
        ("store_pieces", [0]),
        ("store_thrice", [0, 0, 0]),
        ("store_differs", [0xC000]),
        ("echo", []),
    ):
        answers.clear()
        target.read_one(inputs[f"connection_{name}"])
        assert [status for status, _ in answers] == expected


@pytest.mark.usefixtures("_as_in_production")
def test_mutations() -> None:
    inputs = list(corpus().values())
    slowest = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (*inputs, *mutants(inputs, MUTANTS, 1, target.LONGEST_INPUT)):
            began = time.thread_time()
            try:
                target.read_one(data)
            except Exception as e:
                raise AssertionError(f"{type(e).__name__} from the input {data.hex()}") from e
            slowest = max(slowest, time.thread_time() - began)
    assert slowest < MOST_SECONDS


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="there is no atheris for this system")
def test_guided_by_coverage(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    command = [sys.executable, "-m", "tests.fuzz.soak", "-runs=3000", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    # Linux counts the largest memory of who starts a program as the program's: the shell is small.
    small = ["sh", "-c", '"$@"; exit $?', "sh"]
    done = subprocess.run([*small, *command, str(new)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    # It found its way beyond what it was given.
    assert list(new.iterdir())
