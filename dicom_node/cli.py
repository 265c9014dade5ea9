"""The command line: thin commands over the composition root."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Column, Table

from dicom_node import __version__, log
from dicom_node.cli_common import Config, Json, out, print_json, progress, say, services_of, settings_of, stop
from dicom_node.cli_pull import pull, pulls, workitems
from dicom_node.cli_runs import runs_app
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.model.result import readable

NOT_ANALYSED_EXIT = 3

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A DICOM AI node. For research use only.")
route_app = typer.Typer(no_args_is_help=True, help="Which algorithm a study goes to, and why.")
config_app = typer.Typer(no_args_is_help=True, help="The settings.")
app.add_typer(runs_app, name="runs")
app.add_typer(route_app, name="route")
app.add_typer(config_app, name="config")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of the program itself."""
    log.configure("console", level=logging.WARNING)  # whoever waits for one command's answer reads no diary
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def serve(config: Config = None) -> None:
    """Run the node: listen, analyse, deliver, until it is told to stop (Ctrl-C, SIGTERM)."""
    from dicom_node.app import Node

    settings = settings_of(config)
    log.configure(settings.log_format)
    try:
        Node(settings).serve()
    except NodeError as e:
        stop(str(e), 2)
    except OSError as e:
        stop(f"{e.filename or settings.data_dir}: {e.strerror}", 2)


@app.command()
def demo(
    input_folder: Annotated[Path | None, typer.Option("--input", help="A folder of DICOM files instead.")] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("demo-out"),
) -> None:
    """Show the main job: a head is sent to a node, and its results arrive in a PACS."""
    from dicom_node.demo import run_demo

    if out_folder.exists() and not out_folder.is_dir():
        stop(f"--out {out_folder}: is not a folder")
    try:
        complete = run_demo(input_folder, out_folder)
    except NodeError as e:
        stop(str(e))
    if not complete:
        raise typer.Exit(1)


@app.command()
def run(
    algorithm: Annotated[str, typer.Argument(help="The algorithm's id; `dicom-node algorithms` lists them.")],
    path: Annotated[Path, typer.Argument(help="A folder (or file) of DICOM images.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Where result objects and result.json go.")],
    prior: Annotated[
        Path | None, typer.Option("--prior", help="A folder with an earlier study of the patient to compare with.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run one algorithm on a folder of DICOM files, without a node. Exit code 3: not analysed, see the reason."""
    from dicom_node.offline import run_offline

    settings = settings_of(config)
    try:
        with progress.status(f"running {algorithm} ..."):
            result = run_offline(settings, algorithm, path, out_folder, prior)
    except NodeError as e:
        stop(str(e))
    if as_json:
        print_json(result)
    else:
        print_result(result, out_folder)
    if result["state"] == "not_analysed":
        raise typer.Exit(NOT_ANALYSED_EXIT)
    if result["state"] != "done":
        raise typer.Exit(1)


def print_result(result: dict[str, Any], folder: Path) -> None:
    """A result for people."""
    if result["reason"]:
        words = {"not_analysed": "Not analysed, because ", "set_aside": "Result set aside: "}
        say(words.get(result["state"], "Failed: ") + str(result["reason"]))
    if result["other_series"]:
        described = f" ({result['SeriesDescription']})" if result["SeriesDescription"] else ""
        say(f"Of {len(result['other_series']) + 1} series, {result['SeriesInstanceUID']}{described} was taken.")
    for reason in result["unreadable"]:
        say(f"left out: {reason}")
    if result["measurements"]:
        table = Table("measurement", Column("value", justify="right"), "unit", box=SIMPLE)
        for m in result["measurements"]:
            table.add_row(m["name"], readable(m["value"]), m["unit"])
        out.print(table)
    for flag in (m["flag"] for m in result["measurements"] if m["flag"]):
        out.print(f"! {flag}")
    for note in result["notes"]:
        out.print(f"- {note}")
    for role, why in result["missing"].items():
        say(f"the result {role} could not be made: {why}")
    out.print("For research use only. Results in " + str(folder))


@app.command()
def send(
    path: Annotated[Path, typer.Argument(help="A folder (or file) of DICOM files.")],
    to: Annotated[str, typer.Option("--to", help="AET@HOST:PORT")],
    calling: Annotated[str, typer.Option("--from", help="Our AE title.")] = "SENDER",
    as_json: Json = False,
) -> None:
    """Send DICOM files by C-STORE. Exit code 1 if any was not accepted."""
    from dicom_node.offline import send_folder

    try:
        report = send_folder(path, to, calling, progress)
    except NodeError as e:
        stop(str(e))
    if as_json:
        print_json(report)
    else:
        say(f"{len(report['accepted'])} accepted, {len(report['refused'])} refused")
        for uid, why in report["refused"].items():
            say(f"{uid}: {why}")
    if report["refused"]:
        raise typer.Exit(1)


@app.command()
def status(config: Config = None, as_json: Json = False) -> None:
    """Say whether the node can take more, and what is waiting. Exit code 1: the disk is below its reserve."""
    from dicom_node.views import status_view

    found = status_view(services_of(config))
    disk = found["disk"]
    if as_json:
        print_json(found)
    else:
        out.print(f"disk: {disk['free_mb']} MB free, {disk['reserve_mb']} MB in reserve")
        for what in ("studies", "runs"):
            counts = ", ".join(f"{n} {state}" for state, n in sorted(found[what].items()))
            out.print(f"{what}: {counts or 'none'}")
        for c in found["commitments"]:
            error = f": {c['error']}" if c["error"] else ""
            out.print(f"storage commitment for {c['requestor']} since {c['since']}, {c['state']}{error}")
    if disk["state"] == "below_reserve":
        stop("the disk is below its reserve: new instances get 0xA700 Out of Resources (receive.disk_reserve_mb)")


@app.command()
def studies(config: Config = None, as_json: Json = False) -> None:
    """List the studies there are, with their state and what was noticed about them."""
    from dicom_node.views import study_views

    s = services_of(config)
    rows = study_views(s)
    if as_json:
        print_json(rows)
        return
    for r in rows:
        images = f"{r['instances']} {'image' if r['instances'] == 1 else 'images'}"
        out.print(f"{r['StudyInstanceUID']}: {r['state']}, revision {r['revision']}, {images}, {r['last_arrival']}")
        if r["waits"]:
            out.print(f"    waits: {r['waits']}")
        for c in r["completions"][-1:]:
            out.print(f"    revision {c['revision']} was whole by {c['by']}: {c['evidence']}")
        for remark in (r["reason"], *r["notes"]):
            if remark:
                out.print(f"    {remark}")
    if not rows:
        say("no study has come yet")


app.command()(pull)
app.command()(pulls)
app.command()(workitems)


@route_app.command("explain")
def route_explain(
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files.")], config: Config = None, as_json: Json = False
) -> None:
    """Say for each series of a folder which rule wants it or does not, and why. Nothing is run or stored."""
    from dicom_node.offline import explain

    try:
        studies_found = explain(settings_of(config), path)
    except NodeError as e:
        stop(str(e), 2)
    if as_json:
        print_json(studies_found)
        return
    for s in studies_found:
        out.print(f"study {s['StudyInstanceUID']}" + (f": refused, {s['refused']}" if s["refused"] else ""))
        for r in s["routes"]:
            mark = "runs" if r["wanted"] else "no  "
            out.print(f"  {mark} {r['algorithm']} on series {r['series_uid']} ({r['rule']}): {r['reason']}")


@app.command()
def algorithms(config: Config = None, as_json: Json = False) -> None:
    """List the algorithms there are."""
    from dicom_node.run.registry import load_registry

    try:
        found = load_registry(settings_of(config).run.algorithms_dir)
    except ConfigurationError as e:
        stop(str(e), 2)
    if as_json:
        print_json([a.manifest.model_dump(mode="json") for a in found.values()])
        return
    table = Table("id", "version", "takes", "what it does")
    for a in found.values():
        m = a.manifest
        takes = f"{'/'.join(m.accepts.Modality) or 'any'} {m.input}{', and a prior' if m.priors else ''}"
        table.add_row(m.id, m.version, takes, m.description)
    out.print(table)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A folder of result objects.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="The images they were made from [default: as result.json says]")
    ] = None,
) -> None:
    """Cross-check result objects with their source images. Exit code 1 names every problem."""
    from dicom_node.offline_check import check_path

    try:
        problems, notes = check_path(path, source)
    except NodeError as e:
        stop(str(e), 2)
    for note in notes:
        say(note)
    for problem in problems:
        typer.echo(problem)
    if problems:
        stop("1 problem" if len(problems) == 1 else f"{len(problems)} problems")
    say("sound: no problem found")


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Check settings, rules, algorithms and device, and say what would run where."""
    from dicom_node.app import check_results_settings, check_storage, check_tls, open_rules
    from dicom_node.run.registry import load_registry
    from dicom_node.run.worker import Worker
    from dicom_node.workflow.ups import check_worklists

    settings = settings_of(config)
    worker = Worker(settings.run.device, settings.run.cpu_threads)
    try:
        found = load_registry(settings.run.algorithms_dir)
        rules = open_rules(settings, found)
        check_worklists(settings, found, rules)
        check_results_settings(settings, found)
        database = check_storage(settings)
        check_tls(settings)
        with progress.status("asking torch for its devices, and loading the algorithms ..."):
            worker.start()
            for name in sorted({r.algorithm for r in rules}):
                answer = worker.load(found[name])
                if answer["outcome"] != "loaded":
                    stop(f"algorithm {name} does not load: {answer['reason']}", 2)
    except NodeError as e:
        stop(str(e), 2)
    finally:
        worker.stop()
    machine = worker.machine
    receive = settings.receive
    ports = [str(receive.port)] if receive.port is not None else []
    if receive.tls_port is not None:
        ports.append(f"{receive.tls_port} (TLS)")
    listen = f"{receive.ae_title}@{receive.host}:{' and '.join(ports)}"
    out.print(f"listens as {listen}; data in {settings.data_dir}; database {database}")
    hosts = ", ".join(("this machine", *receive.calling_hosts))
    out.print(f"takes from {hosts}, AE titles {', '.join(receive.calling_ae_titles) or 'any'}")
    for r in rules:
        out.print(f"rule {r.name!r}: {r.algorithm} {found[r.algorithm].manifest.version} -> {', '.join(r.deliver_to)}")
    for d in settings.destinations:
        by_tls = ", TLS" if d.tls else ""
        out.print(f"destination {d.name}: {d.address}{by_tls}, confirmed by {d.confirm}")
    for source in settings.sources:
        by_tls = ", TLS" if source.tls else ""
        counted = f", asked for its count of studies from {', '.join(source.senders)}" if source.counts else ""
        out.print(f"source {source.name}: {source.kind}{by_tls}{counted}")
    for worklist in settings.worklists:
        for wanted in worklist.workitems:
            code = f"({wanted.value}, {wanted.scheme})"
            out.print(f"worklist {worklist.name}: workitems {code} -> {wanted.algorithm}")
    if machine["device"] == "cpu":
        out.print(f"device: CPU ({machine['threads']} threads). There is no GPU: models run, but slower.")
    else:
        out.print(f"device: {machine['devices']} x {machine['device_name']}, {machine['precision']}")
    out.print("the configuration is sound")


def main() -> None:
    """The console script."""
    app(prog_name="dicom-node")


if __name__ == "__main__":
    main()
