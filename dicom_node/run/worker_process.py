"""What runs inside a worker process: the only place where torch and the algorithms are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node import log
from dicom_node.algorithm import AlgorithmFunction, Bundle, Cine, Clip, Findings, Volume
from dicom_node.errors import AlgorithmError, NotAnalysed
from dicom_node.run.cine import read_cine
from dicom_node.run.findings_io import save_findings
from dicom_node.run.frames import read_frames
from dicom_node.run.registry import Algorithm
from dicom_node.run.volumes import read_volume
from dicom_node.run.worker import Job

SEED = 20260101


def main(
    connection: Connection,
    device: str,
    threads: int,
    log_format: log.LogFormat,
    log_file: Path | None,
    log_level: int,
) -> None:
    """Answer requests until the other end goes away.

    A request is ``(algorithm, jobs)``; without jobs the algorithm is only loaded. The answer has ``answers``, one for
    each job (or one), dicts with ``outcome``: ``"found"``, ``"not_analysed"`` (and ``reason``), ``"failed"``
    (``reason``) or ``"loaded"``; or it has ``restart`` and ``reason``: the device cannot be used any more.
    """
    log.configure(log_format, log_file, log_level)
    threading.Thread(target=_end_with_the_node, daemon=True).start()
    # Ctrl-C reaches every process of a terminal; the node ends its workers itself, when their runs are put away.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logger = log.get("worker")
    machine = _set_up(device, threads)
    loaded: dict[str, AlgorithmFunction] = {}
    connection.send(machine)
    while True:
        try:
            algorithm, jobs = connection.recv()
        except (EOFError, OSError):
            return  # the node has ended, and so do we
        started, cpu = time.perf_counter(), time.process_time()
        try:
            if algorithm.manifest.id not in loaded:
                loaded[algorithm.manifest.id] = load_algorithm(algorithm, machine["device"])
                logger.info("algorithm_loaded", algorithm=algorithm.manifest.id, device=machine["device"])
            answers = _analyse_all(loaded[algorithm.manifest.id], algorithm, jobs, machine["device"], logger)
        except _DeviceLost as e:
            connection.send({"restart": True, "reason": str(e)})
            continue
        except Exception as e:  # noqa: BLE001 - the process's border: whatever an algorithm raises becomes an answer
            answers = [_failed(e, algorithm, machine["device"], logger)] * max(1, len(jobs))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        common = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
            "peak_memory_mb": usage.ru_maxrss / 1024,
            "machine": machine,
        }
        connection.send({"answers": [{**answer, **common} for answer in answers]})


class _DeviceLost(Exception):
    """After a CUDA error, out of memory included, only a fresh process can use the device again."""


def _failed(error: Exception, algorithm: Algorithm, device: str, logger: Any) -> dict[str, Any]:
    """The answer for what an algorithm raised.

    Raises:
        _DeviceLost: it may have been the device.
    """
    where = traceback.extract_tb(error.__traceback__)[-1]
    # The message of a foreign exception may hold header values, so only its kind and place are logged.
    reason = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
    logger.error("algorithm_failed", algorithm=algorithm.manifest.id, reason=reason)
    said = f"the algorithm failed ({reason}): {error}"
    if isinstance(error, RuntimeError) and device != "cpu":
        raise _DeviceLost(said) from error
    return {"outcome": "failed", "reason": said}


def _end_with_the_node() -> None:
    """A node that was killed leaves nobody who would stop a model that hangs, and holds its device."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def load_algorithm(algorithm: Algorithm, device: str) -> AlgorithmFunction:
    """Check the weights' SHA-256 and call the algorithm's ``load``.

    Raises:
        AlgorithmError: weights that are not what the manifest says, or no ``load`` in algorithm.py.
    """
    weights = {}
    for name, entry in algorithm.manifest.weights.items():
        file = algorithm.folder / entry.file
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != entry.sha256:
            raise AlgorithmError(f"{file.name} is not the file that the manifest names: its SHA-256 is {found}")
        weights[name] = file
    module = _import(algorithm.folder, algorithm.manifest.id)
    load: Callable[[Bundle], AlgorithmFunction] | None = getattr(module, "load", None)
    if load is None:
        raise AlgorithmError(f"{algorithm.manifest.id}/algorithm.py has no function load(bundle)")
    return load(Bundle(algorithm.folder, device, weights))


def _import(folder: Path, name: str) -> ModuleType:
    """Import ``folder`` as a package of its own name, so that algorithm.py can import its siblings.

    Folders beside it are packages too (``from ..ultrasound import find``): algorithms may share code.
    """
    package = f"dicom_node_algorithms.{name}"
    parent = sys.modules.setdefault("dicom_node_algorithms", ModuleType("dicom_node_algorithms"))
    parent.__path__ = [str(folder.parent)]
    outer = ModuleType(package)
    outer.__path__ = [str(folder)]
    sys.modules[package] = outer
    spec = importlib.util.spec_from_file_location(f"{package}.algorithm", folder / "algorithm.py")
    if spec is None or spec.loader is None:
        raise AlgorithmError(f"{name}/algorithm.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _analyse_all(
    function: AlgorithmFunction, algorithm: Algorithm, jobs: Sequence[Job], device: str, logger: Any
) -> list[dict[str, Any]]:
    """One answer for each job; one that is bad does not touch the others."""
    if not jobs:
        return [{"outcome": "loaded"}]
    read: dict[int, _Read] = {}
    answers: dict[int, dict[str, Any]] = {}
    for k, job in enumerate(jobs):
        started = time.perf_counter()
        try:
            given, headers, notes = read_input(algorithm.manifest.input, list(job.paths))
        except NotAnalysed as e:
            answers[k] = {"outcome": "not_analysed", "reason": str(e)}
        except Exception as e:  # noqa: BLE001 - the job's border
            answers[k] = _failed(e, algorithm, device, logger)
        else:
            read[k] = _Read(given, headers, notes, job.out, time.perf_counter() - started)
    started = time.perf_counter()
    results = _results(function, [r.given for r in read.values()], device)
    seconds = (time.perf_counter() - started) / max(1, len(read))
    for (k, source), result in zip(read.items(), results, strict=True):
        if isinstance(result, NotAnalysed):
            answers[k] = {"outcome": "not_analysed", "reason": str(result)}
            continue
        try:
            if not isinstance(result, Findings):
                raise result
            answers[k] = _answer(result, source) | {"infer_seconds": seconds}
        except Exception as e:  # noqa: BLE001 - the job's border
            answers[k] = _failed(e, algorithm, device, logger)
    return [answers[k] for k in range(len(jobs))]


@dataclass(frozen=True)
class _Read:
    given: Given
    headers: list[Dataset]
    notes: tuple[str, ...]
    out: Path
    seconds: float


def _results(function: AlgorithmFunction, given: Sequence[Given], device: str) -> list[Findings | Exception]:
    """What the algorithm says of each; what it raises stands in the place of the findings."""
    together = getattr(function, "together", None)
    if together is not None and len(given) > 1:
        try:
            with _ready(device):
                return list(together(given))
        except Exception as e:
            if isinstance(e, RuntimeError) and device != "cpu":
                raise
            # one of them made it fail: alone, only that one does
    results: list[Findings | Exception] = []
    for one in given:
        try:
            with _ready(device):
                found = function(one)  # type: ignore[arg-type]  # the manifest's input says which it takes
            if not isinstance(found, Findings):
                raise AlgorithmError(f"the algorithm returned {type(found).__name__}, not Findings")
            results.append(found)
        except Exception as e:  # noqa: BLE001 - the job's border
            results.append(e)
    return results


@contextmanager
def _ready(device: str) -> Iterator[None]:
    """As every algorithm runs: seeded, without gradients, on a GPU with bfloat16 where that is enough."""
    import torch

    _seed()
    with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
        yield


def _answer(findings: Findings, source: _Read) -> dict[str, Any]:
    """Save the findings; what the node is told of them."""
    findings = placed(findings, source.given)
    findings = replace(findings, notes=(*findings.notes, *source.notes))
    save_findings(findings, source.out)
    measurements = [{**asdict(m), "flag": m.flag} for m in findings.measurements]
    return {
        "outcome": "found",
        "order": list(dict.fromkeys(str(h.filename) for h in source.headers)),
        "measurements": json.loads(json.dumps(measurements)),
        "notes": list(findings.notes),
        "details": dict(findings.details),
        "read_seconds": source.seconds,
    }


Given = Volume | Cine | Sequence[Clip]


def read_input(kind: str, paths: list[Path]) -> tuple[Given, list[Dataset], tuple[str, ...]]:
    """What the algorithm is given, the headers that it came from in its order, and notes."""
    if kind == "cine":
        cine = read_cine(paths)
        return cine.cine, [header for phase in cine.headers for header in phase], cine.notes
    if kind == "frames":
        frames = read_frames(paths)
        return frames.clips, list(frames.headers), frames.notes
    source = read_volume(paths)
    return source.volume, list(source.headers), tuple(source.notes)


def placed(findings: Findings, given: Given) -> Findings:
    """The findings, of clips with what may be shown of each plane.

    Raises:
        AlgorithmError: the label map cannot be laid over the images.
    """
    shape = findings.label_map.shape
    if isinstance(given, Volume):
        if findings.frames or shape != given.array.shape:
            raise AlgorithmError("the algorithm's label map is not on the grid of the series")
        return findings
    if not isinstance(given, Cine):
        return _on_clips(findings, given)
    known = {frame for phase in given.frames for frame in phase}
    if len(findings.frames) != shape[0] or not known.issuperset(findings.frames):
        raise AlgorithmError("the algorithm's label map does not name a frame of the cine for each of its planes")
    if shape[1:] != given.array.shape[2:]:
        raise AlgorithmError("the algorithm's label map is not on the grid of the cine")
    return findings


def _on_clips(findings: Findings, clips: Sequence[Clip]) -> Findings:
    by_uid = {clip.SOPInstanceUID: clip for clip in clips}
    if len(findings.frames) != len(findings.label_map) or not findings.frames:
        raise AlgorithmError("the algorithm's label map does not name a frame for each of its planes")
    for frame in findings.frames:
        clip = by_uid.get(frame.SOPInstanceUID)
        if clip is None or not 1 <= frame.number <= len(clip):
            raise AlgorithmError("the algorithm's label map names a frame that none of the clips has")
        if clip.shape != findings.label_map.shape[1:]:
            raise AlgorithmError("the algorithm's label map does not have the size of the frames that it names")
    regions = [by_uid[frame.SOPInstanceUID].regions for frame in findings.frames]
    return replace(findings, shown=tuple(tuple(r.box for r in of_plane) for of_plane in regions))


def _seed() -> None:
    import torch

    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _set_up(device: str, threads: int) -> dict[str, Any]:
    """Choose the device, and say what this machine is: goes into every run's record."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda:0" if count else "cpu"
    if device.startswith("cuda") and not count:
        return {"error": "run.device is cuda, but torch finds no CUDA device (accepted: auto, cpu, cuda)"}
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if count else platform.processor() or platform.machine(),
        "devices": count,
        "precision": "bfloat16 autocast" if device != "cpu" else "as the algorithm chooses",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": SEED,
    }
