"""A node whose model never ends: ``python -m receiving.backlog_node node.yaml``; all else is the node's own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicom_node import app, log
from dicom_node.run.registry import Algorithm
from dicom_node.settings import RunSettings, load_settings


class BusyPool:
    """Has the methods of ``dicom_node.run.worker.WorkerPool``; a run that it is given keeps it busy for ever."""

    size = 1

    def __init__(self, settings: RunSettings) -> None:
        pass

    def start(self) -> dict[str, Any]:
        return {"device": "cpu", "device_name": "busy", "devices": 0, "threads": 1}

    def warm(self, algorithms: Sequence[Algorithm]) -> None:
        pass

    def stop(self) -> None:
        pass

    def run(self, algorithm: Algorithm, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        threading.Event().wait()
        raise AssertionError("unreachable")


if __name__ == "__main__":
    app.WorkerPool = BusyPool  # type: ignore[misc,assignment]
    log.configure("json")
    app.Node(load_settings(Path(sys.argv[1]))).serve()
