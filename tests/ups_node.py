"""A node's rows and a worklist that is worked on tick by tick; the study's runs are rows that a test moves on.

The server, its network and the receiver are real.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node.deliver.dimse import send
from dicom_node.model.result import ResultObject
from dicom_node.model.states import DeliveryState, PullState, RunState, StudyState, WorkitemState
from dicom_node.settings import Destination, Settings
from dicom_node.store.pulls import Pulls
from dicom_node.store.runs import RunRow, Runs
from dicom_node.store.workitems import WorkitemRow
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from dicom_node.testing.ups_server import UpsServer
from dicom_node.workflow.ups import Performer
from tests.listening import Listening, listening
from tests.ups_site import CODE, input_series, workitem

UID = "1.2.3.9"
AFFINE = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A node's rows, and a worklist that is worked on by ``tick``."""

    server: UpsServer
    node: Listening
    clock: Clock
    runs: Runs
    images: list[Dataset]
    files: list[Path]
    canceled_workflows: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    performer: Any = None

    def begin(self, **more: Any) -> None:
        """A (new) process: nothing but the rows is left of an earlier one."""
        if self.performer is not None:
            self.performer.stop()
        self.more |= more
        worklist = {
            "name": "ris",
            "dicomweb_url": self.server.url,
            "workitems": [{"value": CODE[0], "scheme": CODE[1], "algorithm": "liver"}],
            "every_seconds": 10,
            "retry_first_seconds": 5,
            "timeout_seconds": 60,
            **self.more,
        }
        archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 9}
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9, "dicomweb_url": "http://pacs/dw"}
        settings = Settings(worklists=(worklist,), sources=(archive,), destinations=(pacs,))
        cancel = SimpleNamespace(
            list_workflows=lambda workflow_id_prefix, **_: [SimpleNamespace(workflow_id=workflow_id_prefix[0])],
            cancel_workflows=self.canceled_workflows.extend,
        )
        services: Any = SimpleNamespace(
            settings=settings, engine=self.node.index.engine, index=self.node.index, runs=self.runs, client=cancel
        )
        self.performer = Performer(services, settings.worklists[0])
        self.performer.start()

    @property
    def pulls(self) -> Pulls:
        return Pulls(self.node.index.engine, self.clock)

    def schedule(self, uid: str = UID, **more: Any) -> None:
        self.server.worklist.create(uid, workitem(input_series(self.images), **more))

    def tick(self, seconds: float = 0) -> None:
        self.clock.now += seconds
        self.performer.tick()

    def row(self, uid: str = UID) -> WorkitemRow:
        found = self.performer._rows.get("ris", uid)
        assert found is not None
        return found

    def state(self, uid: str = UID) -> str:
        """At the server."""
        return str(self.server.worklist.retrieve(uid).ProcedureStepState)

    def reason(self, uid: str = UID) -> str:
        """Why it was canceled, as the server has it."""
        return str(self.server.worklist.retrieve(uid).ProcedureStepProgressInformationSequence[0].ReasonForCancellation)

    def push(self) -> None:
        """The images come, though nobody asked for them."""
        to = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=self.node.port)
        assert not any(send(to, "ARCHIVE", self.files).values())
        self.node.intake.rows.flush()

    def fetch(self) -> None:
        """The pull that was asked for is done."""
        self.push()
        (pull,) = self.pulls.due("archive")
        assert self.pulls.settle(pull, PullState.DONE)

    def route(self, *, wanted: bool = True, reason: str = "body part brain") -> None:
        study = self.node.index.study(str(self.images[0].StudyInstanceUID))
        assert study is not None
        with self.node.index.engine.begin() as c:
            assert self.node.index.finish(c, study, StudyState.COMPLETE, "")
        study = self.node.index.study(study.study_uid)
        assert study is not None
        series = str(self.images[0].SeriesInstanceUID)
        route = {"series_uid": series, "rule": "r", "algorithm": "liver", "wanted": wanted, "reason": reason}
        with self.node.index.engine.begin() as c:
            self.node.index.finish(c, study, StudyState.ROUTED, "")
            self.runs.set_routes(c, study.study_uid, study.revision, [route])
            if wanted:
                self.runs.create(c, self._run(study.revision))

    def _run(self, revision: int) -> RunRow:
        return RunRow(
            run_id="1.2.77",
            study_uid=str(self.images[0].StudyInstanceUID),
            revision=revision,
            series_uid=str(self.images[0].SeriesInstanceUID),
            algorithm="liver",
            destinations=("pacs",),
            inputs=tuple(str(i.SOPInstanceUID) for i in self.images),
            state=RunState.QUEUED,
            reason="",
            created=self.clock(),
            last_arrival=self.clock(),
            ended=None,
            measurements=(),
            record={"outcome": "found"},
        )

    def run_to(self, *states: RunState, reason: str = "") -> None:
        for state in states:
            if state == RunState.DELIVERING:
                self.runs.set_results("1.2.77", [ResultObject("sr", "1.2.77.1", SR, "1.2.77.2", Path("sr"))])
                with self.runs.engine.begin() as c:
                    self.runs.open_deliveries(c, "1.2.77", "pacs", ["1.2.77.1"])
            if state == RunState.DONE:
                self.runs.set_delivery("1.2.77", "pacs", "1.2.77.1", DeliveryState.SENT)
            self.runs.set_state("1.2.77", state, reason)

    def done(self) -> None:
        self.route()
        self.run_to(RunState.RUNNING, RunState.DELIVERING, RunState.DONE)


@contextlib.contextmanager
def ups_node(folder: Path, tls: tuple[Path, Path] | None = None) -> Iterator[Site]:
    """A node without a workitem, and a worklist without one."""
    clock = Clock()
    images = slice_datasets(np.ones((3, 16, 16), np.uint16), AFFINE, key="ups")
    with UpsServer(tls=tls) as server, listening(folder / "node") as node:
        node.index.clock = clock
        site = Site(server, node, clock, Runs(node.index.engine, clock), images, save(folder / "images", images))
        site.begin()
        yield site
        site.performer.stop()


def canceled(site: Site) -> tuple[str, str, str]:
    """State and reason at the server, and the reason's code, when the node has told them."""
    for _ in range(3):
        site.tick(1)
    assert site.row().state == WorkitemState.CANCELED
    (told,) = site.server.worklist.retrieve(UID).ProcedureStepProgressInformationSequence
    return site.state(), site.reason(), told.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue
