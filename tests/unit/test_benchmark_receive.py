"""The receiver's benchmark: what it calls a shortfall, and that its node is the node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import receive

    yield receive
    for name in [n for n in sys.modules if n == "receive" or n.split(".")[0] == "receiving"]:
        del sys.modules[name]


def _figures(benchmark: Any, **per_s: float) -> dict[str, dict[str, dict[str, float]]]:
    usual = {"mb_per_s": 1.0, "cpu_s_per_gb": 1.0, "rss_mb": 100.0}
    return {r: {case: {"per_s": value, **usual} for case in benchmark.CASES} for r, value in per_s.items()}


def test_all_reached(benchmark: Any) -> None:
    figures = _figures(
        benchmark, storescp=100, orthanc=40, pynetdicom_decode=20, pynetdicom_raw=25, node_none=100, node_instance=80
    )
    assert benchmark.shortfalls(figures, 20.0, 0.7) == []


@pytest.mark.parametrize(
    ("slower", "words"),
    [
        ({"node_none": 99}, "node_none takes 0.99 x storescp"),
        ({"pynetdicom_decode": 21}, "4.76 x pynetdicom_decode"),
        ({"pynetdicom_raw": 26}, "3.85 x pynetdicom_raw"),
        ({"orthanc": 41}, "2.44 x orthanc, at least 2.5"),
        ({"orthanc": 56}, "1.79 x orthanc, at least 1.8"),
        ({"node_instance": 79}, "node_instance takes 0.79 x storescp"),
        ({"node_instance": 59}, "1.48 x orthanc"),
    ],
)
def test_each_figure_that_falls_short_is_named(benchmark: Any, slower: dict[str, float], words: str) -> None:
    usual = {
        "storescp": 100.0,
        "orthanc": 40.0,
        "pynetdicom_decode": 20.0,
        "pynetdicom_raw": 25.0,
        "node_none": 100.0,
        "node_instance": 80.0,
    }
    assert words in "\n".join(benchmark.shortfalls(_figures(benchmark, **{**usual, **slower}), None, None))


def test_processor_memory_and_manners(benchmark: Any) -> None:
    figures = _figures(benchmark, storescp=100, node_none=100)
    figures["node_none"]["ct_x4"]["cpu_s_per_gb"] = 1.1
    figures["node_none"]["us_x1"]["rss_mb"] = 201.0
    missed = benchmark.shortfalls(figures, 20.1, 0.69)
    assert [m.split()[0] for m in missed] == ["ct_x4:", "us_x1:", "C-ECHO", "with"]


def test_medians_and_the_table(benchmark: Any) -> None:
    rounds = [_figures(benchmark, node_none=n)["node_none"] for n in (3.0, 1.0, 2.0)]
    figures = {"node_none": benchmark.medians(rounds)}
    assert figures["node_none"]["mr_x1"]["per_s"] == 2.0
    assert "| node_none | 2, 1.0 s/GB, 100 MB |" in benchmark.table(figures)
