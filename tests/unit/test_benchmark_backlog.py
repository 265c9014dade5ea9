"""The backlog's benchmark: what it calls a shortfall, what it sends, and how it goes with a handful of studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node.receive.header import make_instance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import backlog

    yield backlog
    for name in [n for n in sys.modules if n == "backlog" or n.split(".")[0] == "receiving"]:
        del sys.modules[name]


def _figures(**changed: Any) -> dict[str, Any]:
    tenth = {"seconds": 0.1, "cpu_seconds": 0.04, "rss_mb": 200.0, "load": 1.0}
    last = {**tenth, **{k: v for k, v in changed.items() if k in tenth}}
    whole = {"studies": 100, "restart_seconds": 5.0, "restart_cpu_seconds": 2.0, "rss_mb": 290.0, "list_seconds": 3.0}
    return {"tenths": [tenth, last], **whole, **{k: v for k, v in changed.items() if k in whole and k != "rss_mb"}}


def test_all_reached(backlog: Any) -> None:
    assert backlog.shortfalls(_figures()) == []
    assert "| 11 to 20 | 100 | 40 | 200 | 1.0 |" in backlog.table(_figures())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seconds": 0.13}, "1.30 x the time"),
        ({"cpu_seconds": 0.06}, "1.50 x the processor time"),
        ({"restart_seconds": 11}, "starts in 11.0 s"),
    ],
)
def test_what_falls_short_is_said(backlog: Any, changed: dict[str, float], words: str) -> None:
    (missed,) = backlog.shortfalls(_figures(**changed))
    assert words in missed


def test_memory_that_is_too_large_is_said(backlog: Any) -> None:
    (missed,) = backlog.shortfalls(_figures() | {"rss_mb": 301.0})
    assert "301 MB" in missed


def test_studies_differ_and_their_images_belong_together(backlog: Any) -> None:
    from receiving.studies import head_study

    sent = [head_study(n) for n in (1, 12345678)]
    made = [[make_instance(e.dataset, TransferSyntaxUID="1.2.840.10008.1.2.1") for e in s] for s in sent]
    assert len({i.SOPInstanceUID for s in made for i in s}) == 16
    for instances, encoded in zip(made, sent, strict=True):
        assert [i.SOPInstanceUID for i in instances] == [e.sop_instance for e in encoded]
        assert len({i.StudyInstanceUID for i in instances}) == 1
        assert len({i.SeriesInstanceUID for i in instances}) == 2
        assert len({i.patient_key for i in instances}) == 1
    assert made[0][0].patient_key != made[1][0].patient_key


def test_a_short_run(backlog: Any, tmp_path: Path) -> None:
    figures = backlog.measure(tmp_path, 10)
    assert len(figures["tenths"]) == 10
    assert all(tenth["cpu_seconds"] >= 0 and tenth["seconds"] > 0 for tenth in figures["tenths"])
    assert 50 < figures["rss_mb"] < 400
