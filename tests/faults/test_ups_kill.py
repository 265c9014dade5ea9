"""kill -9 of the node before and after each request to a worklist: one result, and a workitem that ends right."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml
from pydicom import Dataset

from dicom_node.model.states import RunState
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.phantom_head import write_head
from dicom_node.testing.ups_server import Fault, UpsServer
from tests.faults.test_kill import CrashNode, finished_run, settings_file, until
from tests.ups_site import CODE, input_series, workitem
from tests.web_server import Answer, Request, web_server

UID = "1.2.3.9"
REQUESTS = ("look", "claim", "read", "progress", "final", "end")
"""Those that change something, or that the node's next step follows from."""


@dataclass
class Killer:
    """Kills the node when a named request has come, or has been performed."""

    server: UpsServer
    pacs: FakePacs
    kind: str = ""
    performed: bool = False
    node: CrashNode | None = None
    killed: int = 0

    def __call__(self, method: str, path: str) -> Fault | None:
        if not self.kind or self.node is None or self._kind(method, path) != self.kind:
            return None
        os.kill(self.node.process.pid, signal.SIGKILL)
        self.kind = ""
        self.killed += 1
        return Fault(500, performed=self.performed)

    def _kind(self, method: str, path: str) -> str:
        state = "SCHEDULED"
        if path != "/workitems":
            state = str(self.server.worklist.retrieve(UID).ProcedureStepState)
        if (method, path) == ("GET", "/workitems"):
            return "look"
        if method == "GET":
            return "read"
        if method == "PUT":
            return "claim" if state == "SCHEDULED" else "end"
        # An update: the last one says what was performed, and comes when the results have been delivered.
        return "final" if self.delivered() else "progress"

    def delivered(self) -> bool:
        return self.pacs.stores.total() >= 2


def archive(head: list[Dataset], files: list[Path]) -> Any:
    """Answers WADO-RS for one study."""
    part = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(part + file.read_bytes() + b"\r\n" for file in files) + b"--edge--"
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=edge'}

    def answer(request: Request) -> Answer:
        there = request.path.endswith(f"/studies/{head[0].StudyInstanceUID}")
        return Answer(200, body, kind) if there else Answer(404)

    return answer


@dataclass
class Site:
    server: UpsServer
    pacs: FakePacs
    settings: Path
    killer: Killer
    head: list[Dataset]

    def schedule(self) -> None:
        self.server.worklist.create(UID, workitem(input_series(self.head, ae_title="ARCHIVE")))

    def state(self) -> str:
        return str(self.server.worklist.retrieve(UID).ProcedureStepState)

    def outputs(self) -> list[str]:
        (done,) = self.server.worklist.retrieve(UID).UnifiedProcedureStepPerformedProcedureSequence
        return sorted(
            str(r.ReferencedSOPInstanceUID) for o in done.OutputInformationSequence for r in o.ReferencedSOPSequence
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    files = write_head(tmp_path / "head", spacing=(16, 8, 8))
    head = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    with ExitStack() as stack:
        server, pacs = stack.enter_context(UpsServer()), stack.enter_context(FakePacs())
        web = stack.enter_context(web_server(archive(head, files)))
        settings = settings_file(tmp_path / "node", pacs.port)
        values = yaml.safe_load(settings.read_text())
        source = {"name": "archive", "kind": "dicomweb", "ae_title": "ARCHIVE", "dicomweb_url": web.url}
        worklist = {
            "name": "ris",
            "dicomweb_url": server.url,
            "workitems": [{"value": CODE[0], "scheme": CODE[1], "algorithm": "threshold_demo"}],
            "every_seconds": 0.5,
            "retry_first_seconds": 0.2,
        }
        settings.write_text(yaml.safe_dump({**values, "sources": [source], "worklists": [worklist]}))
        yield Site(server, pacs, settings, Killer(server, pacs), head)


def test_a_workitem_walks_through_a_kill_at_every_request(site: Site) -> None:
    site.schedule()
    site.server.fault = site.killer
    for kind in REQUESTS:
        for performed in (False, True):
            with CrashNode(site.settings) as node:
                site.killer.node, site.killer.performed, site.killer.kind = node, performed, kind
                node.wait_for_death()
    assert site.killer.killed == 2 * len(REQUESTS)
    with CrashNode(site.settings) as node:
        until(lambda: site.state() == "COMPLETED")
        until(lambda: finished_run(site.settings) == [RunState.DONE])
        node.stop()
    assert site.outputs() == sorted(site.pacs.received)
    assert len(site.pacs.received) == 2
    assert all(len(digests) == 1 for digests in site.pacs.digests.values()), "a repeat sent other bytes"
