"""A worker pool without processes and without torch: what the workflow's tests run algorithms with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dicom_node.errors import NotAnalysed
from dicom_node.run.findings_io import save_findings
from dicom_node.run.registry import Algorithm
from dicom_node.run.worker_process import load_algorithm, placed, read_input
from dicom_node.settings import RunSettings

MACHINE = {"device": "cpu", "device_name": "inline", "devices": 0, "threads": 1}


class InlinePool:
    """Has the methods of ``dicom_node.run.worker.WorkerPool``; the algorithm runs in the calling thread."""

    size = 1

    def __init__(self, settings: RunSettings) -> None:
        # A new process has loaded nothing: not the code that algorithms of another folder share either.
        for name in [n for n in sys.modules if n.startswith("dicom_node_algorithms.")]:
            del sys.modules[name]

    def start(self) -> dict[str, Any]:
        return MACHINE

    def warm(self, algorithms: Sequence[Algorithm]) -> None:
        pass

    def stop(self) -> None:
        pass

    def run(self, algorithm: Algorithm, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        answer: dict[str, Any] = {"seconds": 0.0, "peak_memory_mb": 0.0, "machine": MACHINE}
        try:
            given, headers, notes = read_input(algorithm.manifest.input, list(paths))
            findings = load_algorithm(algorithm, "cpu")(given)  # type: ignore[arg-type]
            findings = replace(placed(findings, given), notes=(*findings.notes, *notes))
        except NotAnalysed as e:
            return {**answer, "outcome": "not_analysed", "reason": str(e)}
        save_findings(findings, out)
        return {
            **answer,
            "outcome": "found",
            "order": list(dict.fromkeys(str(h.filename) for h in headers)),
            "measurements": [{**asdict(m), "flag": m.flag} for m in findings.measurements],
            "notes": list(findings.notes),
            "details": dict(findings.details),
        }
