"""The command line: thin commands over the composition root."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from dicom_node import __version__, log
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.model.result import readable
from dicom_node.settings import Settings, load_settings

NOT_ANALYSED_EXIT = 3

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A DICOM AI node. For research use only.")
runs_app = typer.Typer(no_args_is_help=True, help="What ran, what it found and where it went.")
route_app = typer.Typer(no_args_is_help=True, help="Which algorithm a study goes to, and why.")
config_app = typer.Typer(no_args_is_help=True, help="The settings.")
app.add_typer(runs_app, name="runs")
app.add_typer(route_app, name="route")
app.add_typer(config_app, name="config")

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="DICOM_NODE_CONFIG", help="node.yaml [default: config/node.yaml]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# Header values and paths may hold brackets and colons: nothing in a text is markup.
out = Console(soft_wrap=True, markup=False, emoji=False)
progress = Console(stderr=True, markup=False, emoji=False)


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout stays for results."""
    typer.echo(text, err=True)


def stop(text: str, code: int = 1) -> NoReturn:
    """End with a reason."""
    say(text)
    raise typer.Exit(code)


def settings_of(config: Path | None) -> Settings:
    """The settings; without --config those of ./config/node.yaml, or the defaults where there is none."""
    default = Path("config/node.yaml")
    try:
        return load_settings(config or (default if default.is_file() else None))
    except ConfigurationError as e:
        stop(str(e), 2)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


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
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run one algorithm on a folder of DICOM files, without a node. Exit code 3: not analysed, see the reason."""
    from dicom_node.offline import run_offline

    settings = settings_of(config)
    try:
        with progress.status(f"running {algorithm} ..."):
            result = run_offline(settings, algorithm, path, out_folder)
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
        for remark in (r["reason"], *r["notes"]):
            if remark:
                out.print(f"    {remark}")
    if not rows:
        say("no study has come yet")


@app.command()
def pull(
    source: Annotated[str, typer.Argument(help="A source's name in node.yaml.")],
    accession: Annotated[list[str] | None, typer.Option("--accession", help="An accession number.")] = None,
    study: Annotated[list[str] | None, typer.Option("--study", help="A Study Instance UID.")] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="A file with an accession number or Study Instance UID a line.")
    ] = None,
    config: Config = None,
) -> None:
    """Ask an archive for studies; the serving node fetches them. Exit code 1 names what the archive does not have."""
    from dicom_node.workflow.pull import ask_source

    s = services_of(config)
    try:
        asked, missing = ask_source(s, source, accession or [], study or [], list_file)
    except NodeError as e:
        stop(str(e), 2 if isinstance(e, ConfigurationError) else 1)
    say(f"{asked} {'study is' if asked == 1 else 'studies are'} asked for; `dicom-node pulls` shows how it goes")
    for line in missing:
        say(f"{source} has nothing for {line}")
    if missing:
        raise typer.Exit(1)


@app.command()
def pulls(config: Config = None, as_json: Json = False) -> None:
    """List the studies that were asked for at other archives, the latest first."""
    from dicom_node.views import pull_view
    from dicom_node.workflow.pull import pulls_of

    rows = [pull_view(row) for row in pulls_of(services_of(config)).all()]
    if as_json:
        print_json(rows)
        return
    for r in rows:
        out.print(
            f"{r['StudyInstanceUID']} from {r['source']}: {r['state']}" + (f", {r['reason']}" if r["reason"] else "")
        )
    if not rows:
        say("nothing was asked for yet")


@runs_app.command("list")
def runs_list(config: Config = None, as_json: Json = False) -> None:
    """List the runs, the latest first."""
    from dicom_node.views import run_view

    s = services_of(config)
    rows = [run_view(s, r) for r in s.runs.all()]
    if as_json:
        print_json(rows)
        return
    for r in rows:
        out.print(f"{r['run']}: {r['state']}, {r['algorithm']} on study {r['StudyInstanceUID']}")
        if r["reason"]:
            out.print(f"    {r['reason']}")
        for m in r["measurements"]:
            out.print(f"    {m['name']} {readable(m['value'])} {m['unit']}")
        for d in r["deliveries"]:
            arrived = "confirmed" if d["confirmed"] else "sent" if d["delivered"] else "not sent"
            out.print(f"    {d['role']} to {d['destination']}: {arrived}" + (f" ({d['error']})" if d["error"] else ""))
    if not rows:
        say("nothing has run yet")


@runs_app.command("show")
def runs_show(run_id: str, config: Config = None) -> None:
    """Show one run as JSON: measurements, steps, deliveries, record."""
    from dicom_node.views import run_view

    s = services_of(config)
    found = s.runs.get(run_id)
    if found is None:
        stop(f"there is no run {run_id}; `dicom-node runs list` lists them")
    print_json(run_view(s, found))


@runs_app.command("retry")
def runs_retry(run_id: str, config: Config = None) -> None:
    """Run a failed or set-aside run again; the serving node takes it up at once."""
    from dicom_node.model.states import RUN_MOVES, RunState
    from dicom_node.workflow.analyse import retry

    s = services_of(config)
    found = s.runs.get(run_id)
    if found is None:
        stop(f"there is no run {run_id}; `dicom-node runs list` lists them")
    if RunState.QUEUED not in RUN_MOVES[found.state]:
        stop(f"run {run_id} is {found.state}: only a run that is failed or set_aside can be run again")
    retry(s, run_id)
    say(f"run {run_id} is queued again")


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
        table.add_row(m.id, m.version, f"{'/'.join(m.accepts.Modality) or 'any'} {m.input}", m.description)
    out.print(table)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A folder of result objects.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="The images they were made from [default: as result.json says]")
    ] = None,
) -> None:
    """Cross-check result objects with their source images. Exit code 1 names every problem."""
    from dicom_node.offline import check_path

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
    from dicom_node.app import check_storage, check_tls, open_rules
    from dicom_node.run.registry import load_registry
    from dicom_node.run.worker import Worker

    settings = settings_of(config)
    worker = Worker(settings.run.device, settings.run.cpu_threads)
    try:
        found = load_registry(settings.run.algorithms_dir)
        rules = open_rules(settings, found)
        database = check_storage(settings)
        check_tls(settings)
        with progress.status("asking torch for its devices, and loading the algorithms ..."):
            worker.start()
            for name in sorted({r.algorithm for r in rules}):
                answer = worker.call(found[name], None, None)
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
        out.print(f"source {source.name}: {source.kind}{by_tls}")
    if machine["device"] == "cpu":
        out.print(f"device: CPU ({machine['threads']} threads). There is no GPU: models run, but slower.")
    else:
        out.print(f"device: {machine['devices']} x {machine['device_name']}, {machine['precision']}")
    out.print("the configuration is sound")


def services_of(config: Path | None) -> Any:
    """The node's state, for looking at; nothing is started."""
    from dicom_node.app import open_services

    settings = settings_of(config)
    if settings.database_url is None and not (settings.data_dir / "node.sqlite").is_file():
        stop(
            f"there is no node in {settings.data_dir} (data_dir): start one with `dicom-node serve`, or give --config",
            2,
        )
    try:
        return open_services(settings)
    except NodeError as e:
        stop(str(e), 2)


def main() -> None:
    """The console script."""
    app(prog_name="dicom-node")


if __name__ == "__main__":
    main()
