"""A listener on a free port of 127.0.0.1, with a store of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.model.instance import Instance
from dicom_node.receive.dimse import Listener
from dicom_node.receive.intake import Intake
from dicom_node.receive.web import WebListener
from dicom_node.settings import DicomwebSettings, ReceiveSettings
from dicom_node.store.files import FileStore
from dicom_node.store.index import Index
from dicom_node.store.tables import open_engine

READERS = ("fast", "stock")


@dataclass(frozen=True)
class Listening:
    listener: Listener
    intake: Intake
    files: FileStore
    index: Index

    @property
    def port(self) -> int:
        return self.listener.port

    def instances(self) -> dict[str, Instance]:
        """Everything stored, by SOP Instance UID."""
        self.intake.rows.flush()
        studies = [s.study_uid for s in self.index.studies()]
        return {i.SOPInstanceUID: i for uid in studies for s in self.index.series(uid) for i in s.instances}

    def is_clean(self) -> bool:
        """Whether files and rows agree and nothing is half-written."""
        self.intake.rows.flush()
        half_written = list((self.files.folder / "incoming").iterdir())
        return not half_written and set(self.files.walk()) == self.index.paths()


@contextlib.contextmanager
def web_listening(there: Listening, **settings: Any) -> Iterator[WebListener]:
    """A STOW-RS service, on a free port too, that keeps what comes in the same store."""
    service = WebListener(DicomwebSettings(**{"enabled": True, "port": 0, **settings}), there.intake, "DICOMNODE")
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def listening(folder: Path, *, reader: str = "fast", **settings: Any) -> Iterator[Listening]:
    files = FileStore(folder / "store", durability=settings.get("durability", "instance"))
    engine = open_engine(f"sqlite:///{folder / 'node.sqlite'}")
    index = Index(engine)
    intake = Intake(files, index, settings.get("largest_object_mb", 4096) * 1_000_000)
    values = {"port": 0, "disk_reserve_mb": 0, "reader": reader, **settings}
    listener = Listener(ReceiveSettings(**values), intake)
    listener.start()
    try:
        yield Listening(listener, intake, files, index)
    finally:
        listener.stop()
        engine.dispose()


def wait_for(predicate: Callable[[], bool], timeout: float = 10) -> bool:
    """Poll until it holds; False if it does not in time."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
