"""The node's steps without a node: on a folder of files, from the command line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
from rich.console import Console
from rich.progress import track

from dicom_node import log
from dicom_node.algorithm import Findings
from dicom_node.app import open_rules
from dicom_node.check.results import check_results
from dicom_node.deliver.dimse import send
from dicom_node.encode.change import study_day
from dicom_node.encode.results import Context, encode_findings, encode_not_analysed
from dicom_node.errors import AlgorithmError, ConfigurationError, EncodeError, InvalidInstance, PeerError
from dicom_node.model.instance import Instance, Series
from dicom_node.model.routing import STUDY_INPUTS
from dicom_node.offline_check import RECORD, remembered
from dicom_node.receive.folder import instance_of, read_folder
from dicom_node.route.decide import decide
from dicom_node.route.rules import Rule
from dicom_node.run.findings_io import load_findings
from dicom_node.run.registry import Algorithm, load_registry
from dicom_node.run.worker import Worker
from dicom_node.settings import Destination, Settings
from dicom_node.store.index import digest_of_inputs
from dicom_node.workflow.comparison import Compared, compare, with_note
from dicom_node.workflow.priors import patient_of

_SEND_AT_ONCE = 50
VIEWS = ("contours", "sc")
"""Made beside SEG and SR: what is not wanted can be left unsent. A PDF only where a destination takes it."""

_logger = log.get("offline")


def read_series(path: Path) -> tuple[list[Series], dict[str, Path], list[str]]:
    """The series of a folder, the file of each SOP Instance UID, and why files could not be read.

    Raises:
        ConfigurationError: there is no such folder, or no DICOM file in it that can be read.
    """
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist")
    grouped: dict[str, list[Instance]] = {}
    files: dict[str, Path] = {}
    unreadable = []
    for file in read_folder(path):
        try:
            i = instance_of(file)
        except InvalidInstance as e:
            unreadable.append(str(e))
            continue
        if i.SOPInstanceUID in files:
            continue  # the same image twice: it counts once, as in a node
        grouped.setdefault(i.SeriesInstanceUID, []).append(i)
        files[i.SOPInstanceUID] = file
    if not grouped:
        raise ConfigurationError("\n".join(unreadable) or f"there is no DICOM file in {path}")
    return [Series(uid, m[0].StudyInstanceUID, tuple(m)) for uid, m in grouped.items()], files, unreadable


def explain(settings: Settings, path: Path) -> list[dict[str, Any]]:
    """For each study of a folder: which rule wants which series, and why or why not."""
    algorithms = load_registry(settings.run.algorithms_dir)
    rules = open_rules(settings, algorithms)
    accepts = {a.manifest.id: a.accepts for a in algorithms.values()}
    series, _, unreadable = read_series(path)
    for reason in unreadable:
        _logger.warning("unreadable", reason=reason)
    answers = []
    for uid, members in _by_study(series).items():
        d = decide(members, rules, accepts)
        answers.append({"StudyInstanceUID": uid, "refused": d.refused, "routes": [asdict(r) for r in d.routes]})
    return answers


def run_offline(
    settings: Settings, algorithm_id: str, path: Path, folder: Path, prior: Path | None = None
) -> dict[str, Any]:
    """Run one algorithm on a folder: the result objects as ``*.dcm``, and ``result.json``, go to ``folder``.

    Of several series the best that the algorithm's manifest accepts is taken, as a node would choose it; for a cine
    or frames, all of the study that suit.

    Args:
        prior: a folder with an earlier study of the patient, to compare with.

    Returns:
        what result.json holds: ``state`` (done, not_analysed, set_aside, failed), ``reason``, ``measurements``,
        ``notes``, ``files``, ``missing`` (views that could not be made, and why), ``algorithm``,
        ``source``, ``other_series`` (not taken), ``record``.

    Raises:
        ConfigurationError: no such algorithm, no DICOM files, two patients in a study, a prior that is not earlier or
            not surely the same patient's, or ``folder`` cannot be had.
    """
    algorithms = load_registry(settings.run.algorithms_dir)
    if algorithm_id not in algorithms:
        raise ConfigurationError(
            f"there is no algorithm {algorithm_id!r}; there are: {', '.join(algorithms) or 'none'}"
        )
    algorithm = algorithms[algorithm_id]
    series, files, unreadable = read_series(path)
    rules = _rules_of(settings, algorithms, algorithm_id)
    chosen, against = _choose(series, algorithm, rules)
    instances = [i for s in chosen for i in s.instances]
    paths = [files[i.SOPInstanceUID] for i in instances]
    before = None if prior is None else _prior_paths(prior, paths[0], algorithm, rules)
    _empty(folder)
    result: dict[str, Any] = {
        "algorithm": algorithm_id,
        "version": algorithm.manifest.version,
        "source": str(path.absolute()),
        "SeriesInstanceUID": chosen[0].SeriesInstanceUID,
        "SeriesDescription": instances[0].tags.get("SeriesDescription", ""),
        "other_series": [s.SeriesInstanceUID for s in series if s not in chosen],
        "unreadable": unreadable,
        "research_use_only": True,
        "state": "failed",
        "reason": "",
        "measurements": [],
        "notes": [],
        "files": [],
        "missing": {},
    }
    answer: dict[str, Any] = {"outcome": "not_analysed", "reason": against}
    if not against:
        worker = Worker(settings.run.device, settings.run.cpu_threads)
        try:
            answer = worker.call(algorithm, paths, folder / "findings")
            if before is not None and answer["outcome"] == "found":
                answer["prior"] = worker.call(algorithm, before, folder / "prior")
        except AlgorithmError as e:
            answer = {"outcome": "failed", "reason": str(e)}
        finally:
            worker.stop()
    result["reason"] = answer.get("reason", "")
    result["record"] = {k: v for k, v in answer.items() if k not in ("measurements", "notes", "order", "reason")}
    if answer["outcome"] != "failed":
        try:
            left_out = _left_out(unreadable)
            result |= _encode(settings, algorithm, instances, paths, answer, folder, left_out, before, algorithms)
        except EncodeError as e:
            result["reason"] = str(e)
    (folder / RECORD).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _rules_of(settings: Settings, algorithms: Mapping[str, Algorithm], algorithm_id: str) -> list[Rule]:
    """The site's rules for the algorithm, which know what suits it; none where the rules are another node's."""
    try:
        return [r for r in open_rules(settings, algorithms) if r.algorithm == algorithm_id]
    except ConfigurationError as e:
        _logger.warning("rules_not_used", reason=str(e))
        return []


def _choose(series: Sequence[Series], algorithm: Algorithm, rules: Sequence[Rule]) -> tuple[list[Series], str]:
    """The series to analyse, as a node would choose it, and an empty text; or the largest, and why it does not suit.

    One series, but for a cine or frames.

    Raises:
        ConfigurationError: two patients in one study.
    """
    manifest = algorithm.manifest
    against: dict[str, str] = {}
    # Whoever asks for an algorithm gets it on what no rule wants too, if its manifest accepts that.
    for tried in (rules, [Rule("run", manifest.id, (), ())]):
        for uid, members in _by_study(series).items():
            decision = decide(members, tried, {manifest.id: algorithm.accepts})
            if decision.refused:
                raise ConfigurationError(f"study {uid} is not analysed: {decision.refused}")
            for r in decision.routes:
                against[r.series_uid] = "" if r.wanted else against.get(r.series_uid) or r.reason
        if "" in against.values():
            break
    known = [s for s in series if s.SeriesInstanceUID in against]
    if not known:
        raise ConfigurationError("there are only results of this node, which are not analysed again")
    wanted = [s for s in known if not against[s.SeriesInstanceUID]]
    largest = max(wanted or known, key=lambda s: (len(s.instances), s.SeriesInstanceUID))
    if wanted and manifest.input in STUDY_INPUTS:
        study = sorted((s for s in wanted if s.StudyInstanceUID == largest.StudyInstanceUID), key=_uid)
        return study, ""
    return [largest], against[largest.SeriesInstanceUID]


def _uid(series: Series) -> str:
    return series.SeriesInstanceUID


def _by_study(series: Sequence[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = {}
    for s in series:
        found.setdefault(s.StudyInstanceUID, []).append(s)
    return found


def _empty(folder: Path) -> None:
    """Make the folder, or remove an earlier run's results from it; nobody else's file is touched.

    Raises:
        ConfigurationError: it holds other DICOM files, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = remembered(folder).get("files", [])
        others = sorted(p.name for p in folder.glob("*.dcm") if p.name not in earlier)
        if others:
            raise ConfigurationError(
                f"--out {folder}: holds {others[0]}, which is no result of an earlier run; give an empty or new folder"
            )
        for name in (RECORD, *earlier):
            (folder / Path(name).name).unlink(missing_ok=True)
    except OSError as e:
        raise ConfigurationError(f"--out {folder}: cannot be written: {e.strerror}") from e


def _left_out(unreadable: Sequence[str]) -> tuple[str, ...]:
    """The report says that files were left out: they may have been images of this very series."""
    return (f"Files that could not be read and were left out: {len(unreadable)}.",) if unreadable else ()


def _encode(
    settings: Settings,
    algorithm: Algorithm,
    instances: Sequence[Instance],
    paths: list[Path],
    answer: dict[str, Any],
    folder: Path,
    left_out: tuple[str, ...],
    before: list[Path] | None,
    installed: Collection[str],
) -> dict[str, Any]:
    files = [Path(p) for p in answer["order"]] if "order" in answer else paths
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in files]
    i = algorithm.identity
    study, inputs = instances[0].StudyInstanceUID, digest_of_inputs(instances)
    context = Context(
        identity=i,
        procedure=algorithm.procedure,
        node_id=settings.node_id,
        key="|".join(("offline", settings.node_id, study, inputs, i.id, i.version, i.weights_digest)),
        when=datetime.now().replace(microsecond=0),
        series_number=settings.results.first_series_number(i.id, installed),
        institution_name=settings.results.institution_name,
        series_description=settings.results.series_description,
        source_dates=settings.results.series_date == "source",
        comparison="" if before is None else "|".join(uids_of(before)),
    )
    views = (*VIEWS, *(("pdf",) if any("pdf" in d.results for d in settings.destinations) else ()))
    missing: dict[str, str] = {}
    saved, both = None, None
    if answer["outcome"] == "found":
        saved = load_findings(folder / "findings")
        both = _compared(algorithm, saved, headers, answer, before, folder)
        findings = replace(both.findings, notes=(*both.findings.notes, *left_out))
        objects = encode_findings(findings, headers, context, folder, views, both.prior, missing=missing)
    else:
        objects = encode_not_analysed(answer["reason"], headers, context, folder, views, missing=missing)
    checked = None if both is None else both.checked
    problems = check_results([o.path for o in objects], headers, findings=saved, prior=checked)
    told = () if both is None else both.findings.measurements
    state = "done" if answer["outcome"] == "found" else "not_analysed"
    return {
        "state": "set_aside" if problems else state,
        "reason": "; ".join(problems) or answer.get("reason", ""),
        "measurements": [{"name": m.name, "value": m.value, "unit": m.unit, "flag": m.flag} for m in told],
        "notes": [*(both.findings.notes if both else answer.get("notes", [])), *left_out],
        "files": [o.path.name for o in objects],
        "missing": missing,
    }


def _prior_paths(prior: Path, current: Path, algorithm: Algorithm, rules: Sequence[Rule]) -> list[Path]:
    """The files of the prior study that are compared with.

    Raises:
        ConfigurationError: they do not suit, are not earlier, or not surely of the same patient.
    """
    series, files, _ = read_series(prior)
    chosen, against = _choose(series, algorithm, rules)
    if against:
        raise ConfigurationError(f"--prior {prior}: {against}")
    paths = [files[i.SOPInstanceUID] for s in chosen for i in s.instances]
    now, then = (pydicom.dcmread(p, stop_before_pixels=True) for p in (current, paths[0]))
    differs = patient_of(now).differs(patient_of(then))
    if differs:
        raise ConfigurationError(f"--prior {prior}: {differs}")
    day, earlier = study_day(now), study_day(then)
    if day is None or earlier is None or earlier >= day:
        raise ConfigurationError(f"--prior {prior}: its Study Date is not known to be earlier")
    return paths


def uids_of(paths: Sequence[Path]) -> list[str]:
    """SOP Instance UIDs of files."""
    return sorted(instance_of(p).SOPInstanceUID for p in paths)


def _compared(
    algorithm: Algorithm,
    findings: Findings,
    headers: Sequence[pydicom.Dataset],
    answer: Mapping[str, Any],
    before: list[Path] | None,
    folder: Path,
) -> Compared:
    """The findings beside those of the prior, if one was given."""
    if before is None:
        return Compared(findings)
    other = answer["prior"]
    if other["outcome"] != "found":
        return Compared(with_note(findings, f"The prior study was not measured, because {other['reason']}."))
    wished = algorithm.manifest.priors
    caution = [wished.caution.strip()] if wished is not None else []
    earlier = [pydicom.dcmread(p, stop_before_pixels=True) for p in before]
    return compare(findings, headers, load_findings(folder / "prior"), earlier, caution)


def send_folder(path: Path, to: str, calling: str, console: Console) -> dict[str, Any]:
    """C-STORE every DICOM file of a folder to ``AET@HOST:PORT``.

    Returns:
        ``accepted``: SOP Instance UIDs; ``refused``: the reason by SOP Instance UID.

    Raises:
        ConfigurationError: the address is none, or there is nothing to send.
        PeerError: the destination cannot be reached.
    """
    try:
        title, address = to.split("@")
        host, port = address.rsplit(":", 1)
        destination = Destination(name="destination", ae_title=title, host=host, port=int(port))
    except ValueError as e:
        raise ConfigurationError(
            f"--to {to!r}: must be AET@HOST:PORT, for example DICOMNODE@127.0.0.1:11112 (AET: 1 to 16 characters)"
        ) from e
    if not 1 <= len(calling.strip()) <= 16 or not calling.isascii() or not calling.isprintable():
        raise ConfigurationError(f"--from {calling!r}: must be an AE title: 1 to 16 ASCII characters")
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist")
    files = list(read_folder(path))
    if not files:
        raise ConfigurationError(f"there is no DICOM file in {path}")
    outcome: dict[str, str] = {}
    batches = [files[i : i + _SEND_AT_ONCE] for i in range(0, len(files), _SEND_AT_ONCE)]
    what = f"sending {len(files)} files"
    for batch in track(batches, what, console=console, transient=True, disable=not console.is_terminal):
        try:
            outcome |= send(destination, calling, batch)
        except PeerError as e:
            said = f"{e}; {len(outcome)} of {len(files)} files had been sent" if outcome else str(e)
            raise PeerError(said, retryable=e.retryable) from e
    accepted = [uid for uid, error in outcome.items() if not error]
    return {"accepted": accepted, "refused": {uid: error for uid, error in outcome.items() if error}}
