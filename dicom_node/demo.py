"""``dicom-node demo``: the main job, shown step by step on this machine."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node import log
from dicom_node.app import Node
from dicom_node.beating import draw_beating
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.model.result import readable
from dicom_node.model.states import RUN_ENDED, RunState, StudyState
from dicom_node.outlined import draw_outlined
from dicom_node.overlay import draw_overlay
from dicom_node.receive.folder import read_folder
from dicom_node.run.findings_io import load_findings
from dicom_node.run.registry import load_registry
from dicom_node.settings import load_settings
from dicom_node.store.runs import RunRow
from dicom_node.testing.fake_modality import FakeModality
from dicom_node.views import run_view
from dicom_node.workflow.services import Services

_QUIET_SECONDS = 3.0
_LONGEST_SECONDS = 600.0
_MARKER = ".dicom-node-demo"
_ROUTES = Path(__file__).resolve().parents[1] / "config" / "routes.yaml"


def run_demo(input_folder: Path | None, out: Path) -> bool:
    """Start a node and a fake PACS, send what stands for patients; leave results, pictures and ``summary.json``.

    Returns:
        True if a run ended with every result delivered and confirmed, and nothing is missing in ``out``.

    Raises:
        NodeError: there is nothing to send, or the node cannot start.
    """
    console = Console(soft_wrap=True, highlight=False)
    if input_folder is not None and not input_folder.is_dir():
        raise ConfigurationError(f"INPUT: {input_folder} is not a folder")
    if input_folder is not None and input_folder.resolve().is_relative_to(out.resolve()):
        raise ConfigurationError(f"INPUT: {input_folder} lies in {out}, which the demo empties; move it elsewhere")
    _empty(out)
    console.print("[bold]dicom-node demo[/bold]: a scanner, a node and a PACS on this machine. For research use only.")
    files = list(read_folder(input_folder)) if input_folder else _phantom(console, out / "sent")
    if not files:
        raise ConfigurationError(f"INPUT: there is no DICOM file in {input_folder}")
    with _pacs(out / "pacs") as pacs_port:
        settings_file = _write_settings(out, pacs_port)
        log.configure("json", file=out / "node.log")
        node = Node(load_settings(settings_file))
        with console.status("starting the node and loading the models ..."):
            node.start()
        try:
            receiving = _send(console, node, files)
            runs = _watch(console, node.services)
            return _report(console, node.services, runs, files, out, receiving)
        finally:
            node.stop()


def _empty(out: Path) -> None:
    """Make ``out`` an empty folder, but never empty one that is not an earlier demo's."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARKER).exists())):
        raise ConfigurationError(f"--out: {out} holds other things; choose an empty folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARKER).write_text("Made by `dicom-node demo`, which empties this folder when it runs again.\n")


def _phantom(console: Console, folder: Path) -> list[Path]:
    """Studies as scanners would make them: a sagittal T1 head with its localizer, a cardiac cine, and ultrasound
    where its algorithms are installed."""
    from dicom_node.testing.phantom_cine import write_cine
    from dicom_node.testing.phantom_head import write_head, write_localizer

    with console.status("making a T1 head from the MNI template ..."):
        try:
            files = write_localizer(folder / "localizer") + write_head(folder / "t1")
        except ModuleNotFoundError as e:
            raise ConfigurationError(str(e)) from e
    console.print(f"  made      a head of {len(files)} images from the MNI template")
    with console.status("making a beating heart ..."):
        heart = write_cine(folder / "heart", "series_per_slice", views=True)
    console.print(f"  made      a heart of {len(heart)} images, one series a slice, with other views beside them")
    return files + heart + _ultrasound(console, folder)


def _ultrasound(console: Console, folder: Path) -> list[Path]:
    """An image of a breast, and a clip of a thyroid."""
    from dicom_node.testing.phantom_ultrasound import ultrasound_study

    made: list[Path] = []
    installed = load_registry()
    with console.status("making ultrasound ..."):
        if "breast_us" in installed:
            header = {"StudyDescription": "US breast", "ImageLaterality": "L", "PatientID": "PHANTOM-US-1"}
            made += ultrasound_study(folder / "breast", header=header)
            console.print("  made      an ultrasound image of a left breast, with text around it")
        if "thyroid_us" in installed:
            # darker than the breast: a thyroid as bright as that is unlike the training images, and not analysed
            header = {"StudyDescription": "US thyroid", "ImageLaterality": "R", "PatientID": "PHANTOM-US-2"}
            made += ultrasound_study(folder / "thyroid", frames=4, gain=-8.0, header=header)
            console.print("  made      an ultrasound clip of a right thyroid lobe")
    return made


@contextmanager
def _pacs(folder: Path) -> Iterator[int]:
    """A fake PACS as a process of its own; yields its port."""
    command = [sys.executable, "-m", "dicom_node.testing.fake_pacs", "--folder", str(folder), "--ae-title", "PACS"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise NodeError("the fake PACS did not start")
        yield int(json.loads(line)["port"])
    finally:
        process.terminate()
        process.wait(10)


def _write_settings(out: Path, pacs_port: int) -> Path:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "confirm": "find"}
    values = {
        "node_id": "demo",
        "data_dir": str((out / "node-data").absolute()),
        "routes_file": str(_ROUTES),
        "receive": {"port": port, "disk_reserve_mb": 0},
        "complete": {"quiet_seconds": _QUIET_SECONDS},
        "destinations": [pacs],
    }
    file = out / "node.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def _send(console: Console, node: Node, files: list[Path]) -> dict[str, Any]:
    """Send as a scanner would, and say how long it took."""
    modality = FakeModality("127.0.0.1", node.listener.port, called="DICOMNODE", calling="SCANNER")
    columns = (TextColumn("  sending   "), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("send", total=len(files))
        report = modality.send(files, on_response=lambda: progress.advance(task))
    if report.refused:
        raise NodeError(f"the node refused {len(report.refused)} images: {next(iter(report.refused.values()))}")
    rate = len(report.acknowledged) / max(report.seconds, 1e-6)
    console.print(f"  received  {len(report.acknowledged)} images in {report.seconds:.1f} s ({rate:.0f}/s)")
    return {"images": len(report.acknowledged), "seconds": report.seconds, "last_response": report.last_response}


def _watch(console: Console, s: Services) -> list[RunRow]:
    """Tell what happens until every study is routed and every run has ended."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    told: set[str] = set()

    def tell(key: str, line: str) -> None:
        if key not in told:
            told.add(key)
            console.print(line)

    with console.status("waiting ..."):
        while time.monotonic() < deadline:
            studies = s.index.studies()
            for study in studies:
                if study.state not in (StudyState.RECEIVING, StudyState.COMPLETE):
                    tell(study.study_uid, f"  complete  no new image for {_QUIET_SECONDS:g} s")
                    for r in s.runs.routes(study.study_uid):
                        mark = "routed  " if r["wanted"] else "left out"
                        line = f"  {mark}  {r['algorithm']}: {r['reason']}"
                        tell(line, line)  # once, if many series share it
            runs = s.runs.all()
            for run in runs:
                for step, _, seconds in s.runs.steps(run.run_id):
                    tell(f"{run.run_id}{step}", f"  {step:<9} {seconds:.2f} s")
            routed = studies and all(x.state not in (StudyState.RECEIVING, StudyState.COMPLETE) for x in studies)
            if routed and all(r.state in RUN_ENDED for r in runs):
                return runs
            time.sleep(0.05)
    raise NodeError(f"the runs have not ended within {_LONGEST_SECONDS:g} s; see node.log")


def _report(
    console: Console, s: Services, runs: list[RunRow], files: list[Path], out: Path, receiving: dict[str, Any]
) -> bool:
    """Collect what the PACS holds, draw the overlay, write summary.json, and say what is missing."""
    missing = [] if runs else ["no algorithm was run"]
    studies = []
    for run in runs:
        view = run_view(s, run)
        view["steps"] = [
            {"step": "receive", "seconds": round(receiving["seconds"], 3)},
            {"step": "complete", "seconds": _QUIET_SECONDS},
            *view["steps"],
        ]
        # From the last C-STORE response to the last confirmation, less the quiet time.
        ended = max((d.confirmed or d.sent or 0 for d in s.runs.deliveries(run.run_id)), default=0)
        view["seconds_to_results"] = round(ended - receiving["last_response"] - _QUIET_SECONDS, 3)
        studies.append(view)
        missing += _missing(view)
        for d in view["deliveries"]:
            arrived = out / "pacs" / f"{d['SOPInstanceUID']}.dcm"
            if not arrived.is_file():
                missing.append(f"{d['role']} is not in the PACS's folder")
                continue
            shutil.copy(arrived, out / f"{run.algorithm}_{d['role']}.dcm")
        if (out / f"{run.algorithm}_seg.dcm").is_file():
            _draw(s, run, files, out)
        elif run.state == RunState.DONE:
            missing.append("SEG")
        _print_run(console, view)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    summary = {"research_use_only": True, "studies": studies, "node_peak_memory_mb": round(memory, 1)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    for what in missing:
        console.print(f"[red]missing: {what}[/red]")
    if not missing:
        names = sorted(p.name for p in out.iterdir() if p.suffix in (".dcm", ".png", ".gif", ".json"))
        console.print(f"results in {out}/: " + ", ".join(names))
    return not missing


def _draw(s: Services, run: RunRow, files: list[Path], out: Path) -> None:
    """A picture of the masks; of a cine a moving one, of ultrasound the key frames."""
    title = f"{run.algorithm} {run.record['algorithm']['version']}"
    findings = load_findings(s.folder(run.run_id))
    if findings.frames and findings.curves:
        inputs = [s.files.path(i.path) for i in s.index.instances(run.inputs)]
        draw_beating(findings, inputs, out / f"{run.algorithm}_beating.gif", title)
    elif findings.shown:
        inputs = [s.files.path(i.path) for i in s.index.instances(run.inputs)]
        draw_outlined(findings, inputs, out / f"{run.algorithm}_overlay.png", title)
    elif not findings.frames:
        draw_overlay(out / f"{run.algorithm}_seg.dcm", files, out / f"{run.algorithm}_overlay.png", title)


def _missing(view: dict[str, Any]) -> list[str]:
    problems = []
    if view["state"] != RunState.DONE:
        problems.append(f"{view['algorithm']} ended as {view['state']}: {view['reason']}")
    for d in view["deliveries"]:
        if not d["confirmed"]:
            problems.append(f"{d['role']} was not confirmed by {d['destination']}: {d['error']}")
    return problems


def _print_run(console: Console, view: dict[str, Any]) -> None:
    console.print(
        f"[bold]{view['algorithm']}[/bold]: {view['state']}, {view['seconds_to_results']:.1f} s from the last image "
        "to the confirmed results, less the quiet time"
    )
    grouped: dict[tuple[str, str], list[float]] = {}
    for m in view["measurements"]:
        if m["group"]:
            grouped.setdefault((m["group"], m["unit"]), []).append(m["value"])
        else:
            console.print(f"  {m['name']:<60} {readable(m['value']):>9} {m['unit']}")
    for (group, unit), values in grouped.items():
        console.print(f"  {group}: {len(values)} values, {readable(min(values))} to {readable(max(values))} {unit}")
    for flag in (m["flag"] for m in view["measurements"] if m["flag"]):
        console.print(f"  ! {flag}")
    for note in view["notes"]:
        console.print(f"  - {note}")
