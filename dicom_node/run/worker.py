"""Worker processes: one a device, warm models, replaced when they die, hang or run out of memory.

Runs wait in one line. An algorithm whose input is frames is fast, and its studies are small and many: a worker takes
the first of them together with those that wait behind it for the same algorithm, and the algorithm may look at all
their pictures at once. A run's result does not depend on which others went with it.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dicom_node import log
from dicom_node.errors import AlgorithmError, ConfigurationError, WorkerDied, WorkerTimedOut
from dicom_node.run.registry import Algorithm
from dicom_node.settings import RunSettings

_START_SECONDS = 120  # importing torch on a busy machine takes many seconds

TOGETHER = 16
"""Runs that a worker takes at once, of algorithms whose input is frames."""

_logger = log.get("workers")


@dataclass(frozen=True)
class Job:
    """What a run asks of a worker: its input files, and the folder for its findings."""

    paths: tuple[Path, ...]
    out: Path


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

    def load(self, algorithm: Algorithm) -> dict[str, Any]:
        """Load the algorithm, so that the first run need not wait for it; raises as :meth:`call`."""
        return self.call_together(algorithm, ())[0]

    def call(self, algorithm: Algorithm, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        """Run the algorithm on a series.

        Raises:
            WorkerDied, WorkerTimedOut: the process was ended; the next call starts a new one.
        """
        return self.call_together(algorithm, (Job(tuple(paths), out),))[0]

    def call_together(self, algorithm: Algorithm, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Run the algorithm on several studies: one answer each, in their order; raises as :meth:`call`."""
        if self._process is None or not self._process.is_alive():
            self.start()
        assert self._connection is not None
        try:
            self._connection.send((algorithm, tuple(jobs)))
        except OSError as e:
            self.stop()
            raise WorkerDied("the worker process was gone") from e
        answer = self._answer(algorithm.manifest.time_limit_s * max(1, len(jobs)))
        if answer.get("restart"):
            self.stop()
            raise WorkerDied(f"{answer['reason']}; the worker was replaced")
        answers: list[dict[str, Any]] = answer["answers"]
        return answers

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


class _Waiting:
    """A run in the line."""

    def __init__(self, algorithm: Algorithm, job: Job) -> None:
        self.algorithm, self.job = algorithm, job
        self.asked = time.perf_counter()
        self.answer: dict[str, Any] | None = None
        self.error: AlgorithmError | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


class WorkerPool:
    """All workers of this host; ``run`` takes the first that is free."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._all: list[Worker] = []
        self._free: list[Worker] = []
        self._line: list[_Waiting] = []
        # guards the line and the free workers, and is notified when either changes or a run is done
        self._changed = threading.Condition()
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
        with self._changed:
            self._all, self._free = workers, list(workers)
            self._changed.notify_all()
        if first.machine["device"] == "cpu":
            _logger.warning("no_gpu", consequence="models run on the CPU, which takes longer")
        return first.machine

    @property
    def size(self) -> int:
        """How many runs can go on at once, those that are taken together counted as one."""
        return len(self._all)

    def warm(self, algorithms: Sequence[Algorithm]) -> None:
        """Load the algorithms in every worker that is free, so that the first study need not wait for it."""
        with self._changed:
            workers, self._free = self._free, []
        for worker in workers:
            try:
                for a in algorithms:
                    worker.load(a)
            except AlgorithmError as e:
                _logger.error("warm_up_failed", reason=str(e))
            finally:
                self._give_back(worker)

    def run(self, algorithm: Algorithm, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        """Run the algorithm on a series and leave its findings in ``out``; waits for a free worker.

        Returns:
            the worker's answer (``worker_process.main``) with ``waited_seconds``, and ``together``: how many runs
            the worker took at once.

        Raises:
            WorkerDied, WorkerTimedOut: try again, a new worker stands ready.
        """
        mine = _Waiting(algorithm, Job(tuple(paths), out))
        with self._changed:
            self._line.append(mine)
            # the head of the line takes the next free worker, and with it whoever may come along
            self._changed.wait_for(lambda: mine.done or (self._free and self._line[0] is mine))
            taken = [] if mine.done else self._take()
            worker = self._free.pop(0) if taken else None
        if worker is not None:
            try:
                self._work(worker, taken)
            finally:
                self._give_back(worker)
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def _take(self) -> list[_Waiting]:
        """The head of the line, with those that go with it."""
        head = self._line[0]
        taken = [head]
        if head.algorithm.manifest.input == "frames":
            same = (w for w in self._line[1:] if w.algorithm.manifest.id == head.algorithm.manifest.id)
            taken += [w for _, w in zip(range(TOGETHER - 1), same, strict=False)]
        self._line = [w for w in self._line if w not in taken]
        return taken

    def _work(self, worker: Worker, taken: Sequence[_Waiting]) -> None:
        """Let the worker answer them; a worker that is lost with several is given each alone, to spare the others."""
        try:
            self._call(worker, taken)
        except AlgorithmError as e:
            if len(taken) == 1:
                taken[0].error = e
                return
            _logger.warning("taken_apart", runs=len(taken), reason=str(e))
            for one in taken:
                try:
                    self._call(worker, [one])
                except AlgorithmError as its_own:
                    one.error = its_own

    def _call(self, worker: Worker, taken: Sequence[_Waiting]) -> None:
        if self._stopped:
            raise WorkerDied("the node is stopping")
        begun = time.perf_counter()
        answers = worker.call_together(taken[0].algorithm, [w.job for w in taken])
        for w, answer in zip(taken, answers, strict=True):
            w.answer = {**answer, "waited_seconds": begun - w.asked, "together": len(taken)}

    def _give_back(self, worker: Worker) -> None:
        with self._changed:
            self._free.append(worker)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all workers, whatever they do."""
        self._stopped = True
        with self._changed:
            workers = list(self._all)
        for w in workers:
            w.stop()
