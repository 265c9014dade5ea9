"""Worker processes: one a device, warm models, replaced when they die, hang or run out of memory."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dicom_node import log
from dicom_node.errors import AlgorithmError, ConfigurationError, WorkerDied, WorkerTimedOut
from dicom_node.run.registry import Algorithm
from dicom_node.settings import RunSettings

_START_SECONDS = 120  # importing torch on a busy machine takes many seconds

_logger = log.get("workers")


class Worker:
    """One process that owns one device. Not thread-safe: the pool lends it to one thread at a time."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._process: Any = None
        self._connection: Connection | None = None
        self.machine: dict[str, Any] = {}

    def start(self) -> None:
        """Start the process and wait until it has its device.

        Raises:
            ConfigurationError: the device is not there.
            WorkerDied: the process ended at once.
        """
        from dicom_node.run import worker_process

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._device, self._threads, *log.chosen())
        self._process = context.Process(target=worker_process.main, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        self.machine = self._answer(_START_SECONDS)
        if "error" in self.machine:
            self.stop()
            raise ConfigurationError(self.machine["error"])
        self._device = self.machine["device"]
        _logger.info("worker_started", pid=self._process.pid, **self.machine)

    def call(self, algorithm: Algorithm, paths: Sequence[Path] | None, out: Path | None) -> dict[str, Any]:
        """Run the algorithm on a series, or (``paths`` None) only load it.

        Raises:
            WorkerDied, WorkerTimedOut: the process was ended; the next call starts a new one.
        """
        if self._process is None or not self._process.is_alive():
            self.start()
        assert self._connection is not None
        try:
            self._connection.send((algorithm, None if paths is None else list(paths), out))
        except OSError as e:
            self.stop()
            raise WorkerDied("the worker process was gone") from e
        answer = self._answer(algorithm.manifest.time_limit_s)
        if answer.get("restart"):
            self.stop()
            raise WorkerDied(f"{answer['reason']}; the worker was replaced")
        return answer

    def stop(self) -> None:
        """End the process, now."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._connection is not None
        ready = wait([self._connection, self._process.sentinel], timeout=seconds)
        if self._connection in ready:
            try:
                answer: dict[str, Any] = self._connection.recv()
                return answer
            except (EOFError, OSError):
                pass  # it died while it wrote: told below, as any death
        if not ready:
            self.stop()
            raise WorkerTimedOut(f"no answer within the time limit of {seconds:g} s; the worker was replaced")
        self._process.join(10)
        code = self._process.exitcode
        self.stop()
        how = f"by signal {-code}" if code and code < 0 else f"with exit code {code}"
        raise WorkerDied(f"the worker process ended {how} (out of memory is the usual cause of signal 9)")


class WorkerPool:
    """All workers of this host; ``run`` takes the first that is free."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._free: queue.Queue[Worker] = queue.Queue()
        self._all: list[Worker] = []
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> dict[str, Any]:
        """Start one worker a device; returns what the first one says of the machine.

        Raises:
            ConfigurationError: ``run.device`` asks for a device that is not there.
        """
        first = Worker(self._settings.device, self._settings.cpu_threads)
        first.start()
        workers = [first]
        if first.machine["device"] != "cpu":
            workers += [Worker(f"cuda:{i}", self._settings.cpu_threads) for i in range(1, first.machine["devices"])]
        for w in workers[1:]:
            w.start()
        with self._lock:
            self._all = workers
        for w in workers:
            self._free.put(w)
        if first.machine["device"] == "cpu":
            _logger.warning("no_gpu", consequence="models run on the CPU, which takes longer")
        return first.machine

    @property
    def size(self) -> int:
        """How many runs can go on at once."""
        return len(self._all)

    def warm(self, algorithms: Sequence[Algorithm]) -> None:
        """Load the algorithms in every worker that is free, so that the first study need not wait for it."""
        for worker in [self._free.get() for _ in range(self._free.qsize())]:
            try:
                for a in algorithms:
                    worker.call(a, None, None)
            except AlgorithmError as e:
                _logger.error("warm_up_failed", reason=str(e))
            finally:
                self._free.put(worker)

    def run(self, algorithm: Algorithm, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        """Run the algorithm on a series and leave its findings in ``out``; waits for a free worker.

        Returns:
            the worker's answer (``worker_process.main``) with ``waited_seconds``.

        Raises:
            WorkerDied, WorkerTimedOut: try again, a new worker stands ready.
        """
        asked = time.perf_counter()
        worker = self._free.get()
        try:
            if self._stopped:
                raise WorkerDied("the node is stopping")
            waited = time.perf_counter() - asked
            return {**worker.call(algorithm, paths, out), "waited_seconds": waited}
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        """End all workers, whatever they do."""
        self._stopped = True
        with self._lock:
            for w in self._all:
                w.stop()
