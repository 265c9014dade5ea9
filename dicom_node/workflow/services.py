"""What the workflow works with, and how one part of it hands over to the next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient

from dicom_node.model.instance import Instance
from dicom_node.receive.intake import Intake
from dicom_node.route.rules import Rule
from dicom_node.run.registry import Algorithm
from dicom_node.run.worker import WorkerPool
from dicom_node.settings import Settings
from dicom_node.store.files import FileStore
from dicom_node.store.index import Index, digest_of_inputs
from dicom_node.store.runs import RunRow, Runs

APPLICATION = "dicom_node"
APPLICATION_VERSION = "1"
"""Pinned: the engine's default hashes the source, and an upgrade would strand what is pending."""
QUEUES = {"study": "studies", "prior": "priors", "analyse": "runs", "pictures": "pictures", "deliver": "deliveries"}
"""The queue of each workflow: studies are routed, and results delivered, while a long run goes on. Runs on frames have
one of their own: many go on at once, so that a worker can take them together, which for heads would only cost memory.
"""
NORMAL_PRIORITY = 10


@dataclass(frozen=True)
class Services:
    """What the workflow works with; the composition root makes one."""

    settings: Settings
    engine: sa.Engine
    index: Index
    runs: Runs
    files: FileStore
    pool: WorkerPool
    algorithms: Mapping[str, Algorithm]
    rules: tuple[Rule, ...]
    client: DBOSClient
    intake: Intake | None = None
    """Where prior studies that are fetched go; None: nothing is fetched."""

    def folder(self, run_id: str) -> Path:
        """Where a run's findings and result objects lie."""
        return self.settings.data_dir.absolute() / "runs" / run_id


_services: Services | None = None


def bind(services: Services | None) -> None:
    """Give the workflow its services (DBOS workflows are functions of the module)."""
    global _services
    _services = services


def services() -> Services:
    """What :func:`bind` was given."""
    if _services is None:
        raise RuntimeError("workflow.bind() has not been called")
    return _services


def enqueue(
    s: Services,
    c: sa.Connection,
    name: str,
    workflow_id: str,
    *arguments: Any,
    to: str = "",
    delay: float = 0,
    queue: str = "",
) -> None:
    """Within the caller's transaction: put a workflow on its queue; an id that is there already is left alone."""
    options: Any = {
        "workflow_name": name,
        "queue_name": QUEUES[queue or name],
        "workflow_id": workflow_id,
        "app_version": APPLICATION_VERSION,
    }
    if to:
        options["queue_partition_key"] = to
    if name == "analyse":
        options["priority"] = NORMAL_PRIORITY  # unset would go before any other
    if delay:
        options["delay_seconds"] = delay
    s.client.enqueue_in_transaction(c, options, *arguments)


def enqueue_run(s: Services, c: sa.Connection, run_id: str, algorithm: Algorithm, turn: str) -> None:
    """Within the caller's transaction: a run begins, with the search for a prior study if its algorithm wants one.

    ``turn``: ``first``, or what tells this time from an earlier one.
    """
    if wants_prior(s, algorithm):
        enqueue(s, c, "prior", f"{run_id}/prior/{turn}", run_id, turn)
    else:
        enqueue_analysis(s, c, run_id, algorithm, turn)


def enqueue_analysis(s: Services, c: sa.Connection, run_id: str, algorithm: Algorithm | None, turn: str) -> None:
    """Within the caller's transaction: the run is analysed."""
    workflow_id = run_id if turn == "first" else f"{run_id}/{turn}"
    enqueue(s, c, "analyse", workflow_id, run_id, turn, queue=analysis_queue(algorithm))


def wants_prior(s: Services, algorithm: Algorithm) -> bool:
    """Whether reports of the algorithm compare with a prior study."""
    return s.settings.priors.enabled and algorithm.manifest.priors is not None


def analysis_queue(algorithm: Algorithm | None) -> str:
    """Where its runs wait."""
    return "pictures" if algorithm is not None and algorithm.manifest.input == "frames" else "analyse"


@contextmanager
def timed(run_id: str, step: str) -> Iterator[None]:
    """Keep how long the step took."""
    started, clock = time.time(), time.perf_counter()
    yield
    services().runs.add_step(run_id, step, started, time.perf_counter() - clock)


def the_run(run_id: str) -> RunRow:
    """The run's row.

    Raises:
        LookupError: it is gone.
    """
    run = services().runs.get(run_id)
    if run is None:
        raise LookupError(f"run {run_id} is not in the database (was its study removed?)")
    return run


def result_key(settings: Settings, algorithm: Algorithm, study_uid: str, inputs: Sequence[Instance]) -> str:
    """All that result UIDs derive from, as one string."""
    i = algorithm.identity
    return "|".join((settings.node_id, study_uid, digest_of_inputs(inputs), i.id, i.version, i.weights_digest))
