"""The composition root: the one place that builds the parts and wires them."""

from __future__ import annotations

import fcntl
import gc
import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer

from dicom_node import log
from dicom_node.complete.evidence import Evidence
from dicom_node.errors import ConfigurationError
from dicom_node.receive.announcements import AnnouncementScp
from dicom_node.receive.commitment import CommitmentScp
from dicom_node.receive.dimse import Listener
from dicom_node.receive.intake import Intake
from dicom_node.receive.vouch import Voucher
from dicom_node.receive.web import WebListener
from dicom_node.route.rules import Rule, load_rules
from dicom_node.run.registry import Algorithm, load_registry
from dicom_node.run.worker import TOGETHER, WorkerPool
from dicom_node.settings import Settings
from dicom_node.store.announcements import Announcements
from dicom_node.store.commitments import Commitments
from dicom_node.store.files import FileStore
from dicom_node.store.index import Index
from dicom_node.store.priors import PriorFetches
from dicom_node.store.runs import Runs
from dicom_node.store.tables import check_database, open_engine
from dicom_node.tls import TlsContext
from dicom_node.workflow import analyse, counts, deliver, housekeeping, priors, pull, study
from dicom_node.workflow.commitment import CommitmentReporter
from dicom_node.workflow.pace import POLL_SECONDS, Pace
from dicom_node.workflow.services import APPLICATION, APPLICATION_VERSION, QUEUES, Services, bind
from dicom_node.workflow.ups import Performer, check_worklists

_RETENTION_SECONDS = 3600
_BURIAL_SECONDS = 60
_FORGET_SECONDS = 30 * 86400  # what was announced of studies that never came
_ROUTED_AT_ONCE = 4  # a queue gives no more than so many in each poll
_PICTURES_AT_ONCE = 40  # threads; the engine has 64
_PULL_SECONDS = 1
_WORKITEMS_SECONDS = 0.5
_PRIORS_AT_ONCE = 8  # they wait for archives, and hold no worker
SERIES_OF_A_RUN = 5  # SEG, SR, contours, picture, PDF
_DELIVERIES_AT_ONCE = 2  # for each destination

# Imported to be registered with the engine, which finds a workflow by its name.
WORKFLOWS = (study.study_workflow, priors.prior_workflow, analyse.analyse_workflow, deliver.deliver_workflow)

_logger = log.get("node")


def open_rules(settings: Settings, algorithms: Mapping[str, Algorithm]) -> tuple[Rule, ...]:
    """The routing rules, checked against the algorithms and destinations there are."""
    return load_rules(settings.routes_file, set(algorithms), {d.name for d in settings.destinations})


def check_results_settings(settings: Settings, algorithms: Mapping[str, Algorithm]) -> None:
    """See that Series Numbers are given to algorithms that there are, and that no two share one.

    Raises:
        ConfigurationError: says which does not.
    """
    for name in settings.results.series_numbers:
        if name not in algorithms:
            known = ", ".join(sorted(algorithms)) or "none"
            raise ConfigurationError(f"results.series_numbers: there is no algorithm {name!r}; there are: {known}")
    taken: dict[str, int] = {name: settings.results.first_series_number(name, algorithms) for name in algorithms}
    in_order = sorted(taken.items(), key=lambda item: item[1])
    for (name, number), (other, following) in itertools.pairwise(in_order):
        if following - number < SERIES_OF_A_RUN:
            raise ConfigurationError(
                f"results.series_numbers: {name} begins at {number} and {other} at {following}, "
                f"but a run's results take {SERIES_OF_A_RUN} numbers"
            )


def check_storage(settings: Settings) -> str:
    """See that data folder and database can be had, without making them; returns the database's name.

    Raises:
        ConfigurationError: says which cannot, and why.
    """
    folder = settings.data_dir.absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"data_dir: {folder} cannot be written: {there} is no folder that this user may write to"
        )
    return check_database(settings.url())


def check_tls(settings: Settings) -> None:
    """See that the files of TLS are sound, where it is used.

    Raises:
        ConfigurationError: says which is not.
    """
    if settings.tls.certificate_file is not None:
        TlsContext(settings.tls, server=True)


def open_services(settings: Settings) -> Services:
    """Everything but what runs by itself: enough to look at the node's state, or to ask for a retry."""
    algorithms = load_registry(settings.run.algorithms_dir)
    rules = open_rules(settings, algorithms)
    check_worklists(settings, algorithms, rules)
    check_results_settings(settings, algorithms)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(settings.url())
    reserve = settings.receive.disk_reserve_mb * 1_000_000
    store = FileStore(settings.data_dir.absolute() / "store", reserve, settings.receive.durability)
    client = DBOSClient(
        system_database_engine=engine,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        lazy=True,
    )
    pool = WorkerPool(settings.run)
    return Services(settings, engine, Index(engine), Runs(engine), store, pool, algorithms, rules, client)


class Node:
    """A running node: listener, completion sweep, workflow engine, worker processes."""

    def __init__(self, settings: Settings) -> None:
        self.services = open_services(settings)
        largest = settings.receive.largest_object_mb * 1_000_000
        self.intake = Intake(self.services.files, self.services.index, largest)
        self.services = replace(self.services, intake=self.intake)
        requests = Commitments(self.services.engine)
        self._reporter = CommitmentReporter(settings, requests, Voucher(self.intake, self.services.index))
        self._commitment = CommitmentScp(requests, self._reporter.wake)
        self._announcements = Announcements(self.services.engine)
        announced = AnnouncementScp(self._announcements)
        self.listener = Listener(settings.receive, self.intake, settings.tls, self._commitment, announced)
        self.web: WebListener | None = None
        if settings.dicomweb.enabled:
            self.web = WebListener(settings.dicomweb, self.intake, settings.receive.ae_title)
        self._performers = [Performer(self.services, worklist) for worklist in settings.worklists]
        self._started = ExitStack()

    def start(self) -> None:
        """Start everything; the listener comes last, when what it acknowledges can be worked on.

        Raises:
            ConfigurationError: another node uses the data folder, or the device or the port cannot be had; what
                had been started is stopped again.
        """
        s = self.services
        with ExitStack() as started:
            started.callback(s.engine.dispose)
            started.enter_context(_only_node(s.settings.data_dir))
            started.callback(s.pool.stop)
            machine = s.pool.start()
            started.callback(s.client.destroy)
            for problem in self.intake.reconcile():
                _logger.error("store_problem", problem=problem)
            self._announcements.forget(_FORGET_SECONDS)
            PriorFetches(s.engine, s.index.clock).end_all()
            bind(s)
            started.callback(bind, None)
            started.callback(DBOS.destroy, workflow_completion_timeout_sec=0)
            self._launch_engine(s.engine)
            routed = [s.algorithms[name] for name in sorted({r.algorithm for r in s.rules})]
            threading.Thread(target=s.pool.warm, args=(routed,), daemon=True, name="warm-up").start()
            for performer in self._performers:
                started.callback(performer.stop)
                performer.start()
            started.callback(self._start_ticks().shutdown)
            started.callback(self._reporter.stop)
            self._reporter.start(self._commitment.tell_here)
            started.callback(self.listener.stop)
            self.listener.start()
            if self.web is not None:
                started.callback(self.web.stop)
                self.web.start()
                _logger.info("dicomweb_started", port=self.web.port)
            self._started = started.pop_all()
        ports = {"port": self.listener.port, "tls_port": self.listener.tls_port}
        opened = {name: port for name, port in ports.items() if port}
        _logger.info("node_started", ae_title=s.settings.receive.ae_title, **opened, **machine)

    def stop(self) -> None:
        """Take down a node within a process that goes on; only when nothing is under way."""
        self._started.close()
        _logger.info("node_stopped")

    def serve(self) -> NoReturn:
        """Start, work until SIGTERM or SIGINT, and end the process.

        Instances that are being received are finished; a run that is under way is not waited for, nor marked as
        failed: like one that was killed, it goes on at the next start.

        Raises:
            ConfigurationError: as ``start``.
        """
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        self.start()
        # The libraries' objects stay: the garbage collector need not look through them again and again.
        gc.freeze()
        stopped.wait()
        if self.web is not None:
            self.web.stop()
        self.listener.stop()
        _logger.info("node_stopped")
        logging.shutdown()
        os._exit(0)

    def _start_ticks(self) -> BackgroundScheduler:
        s = self.services
        # A source that is slow must not keep the others, or the sweep, from a thread.
        threads = {"default": ThreadPoolExecutor(5 + 3 * len(s.settings.sources) + len(self._performers))}
        ticks = BackgroundScheduler(
            executors=threads, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        evidence, often = Evidence(s.index, s.settings), s.settings.complete.sweep_seconds
        ticks.add_job(study.sweep, "interval", seconds=often, args=(s, evidence))
        ticks.add_job(Pace(s).adjust, "interval", seconds=often)
        ticks.add_job(housekeeping.bury_dead, "interval", seconds=_BURIAL_SECONDS, args=(s,))
        if s.settings.retention.keep_days:
            ticks.add_job(housekeeping.remove_old, "interval", seconds=_RETENTION_SECONDS, args=(s, self.intake))
        for source in s.settings.sources:
            ticks.add_job(pull.fetch_due, "interval", seconds=_PULL_SECONDS, args=(s, source, self.intake))
            if source.counts:
                ticks.add_job(counts.ask_counts, "interval", seconds=often, args=(s, source, evidence))
            if source.follow or source.query_days:
                at_once = datetime.now().astimezone()
                every = source.every_seconds
                ticks.add_job(pull.look_for_new, "interval", seconds=every, args=(s, source), next_run_time=at_once)
        for performer in self._performers:
            ticks.add_job(performer.tick, "interval", seconds=_WORKITEMS_SECONDS)
        ticks.start()
        return ticks

    def _launch_engine(self, engine: sa.Engine) -> None:
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_engine": engine,
            "executor_id": self._executor(),
            "application_version": APPLICATION_VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "use_listen_notify": False,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
        DBOS(config=config)
        logging.getLogger("dbos").handlers.clear()  # its lines go where ours go, in our format
        DBOS.launch()
        # One run more than there are workers: it is encoded while the next one is inferred. Of pictures, two times
        # as many as a worker takes together.
        size = self.services.pool.size
        pictures = min(2 * TOGETHER * size, _PICTURES_AT_ONCE)
        at_once = {"study": _ROUTED_AT_ONCE, "prior": _PRIORS_AT_ONCE, "analyse": size + 1, "pictures": pictures}
        for name, limit in at_once.items():
            DBOS.register_queue(QUEUES[name], worker_concurrency=limit, polling_interval_sec=POLL_SECONDS)
        DBOS.register_queue(
            QUEUES["deliver"],
            partition_worker_concurrency=_DELIVERIES_AT_ONCE,
            polling_interval_sec=POLL_SECONDS,
        )

    def _executor(self) -> str:
        """Who takes up again what was pending: unique among the nodes on one database, the same after a restart.

        A container's host name changes when it is made anew; the only node of a SQLite file keeps its own name.
        """
        one_of_several = socket.gethostname() if self.services.settings.database_url else "only"
        return f"{self.services.settings.node_id}/{one_of_several}"


@contextmanager
def _only_node(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for this process; the lock goes with the process, however that ends.

    Raises:
        ConfigurationError: another node holds it.
    """
    with (data_dir / "node.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigurationError(f"data_dir: another node is running on {data_dir}") from e
        yield
