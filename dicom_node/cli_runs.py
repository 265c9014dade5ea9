"""Commands about runs: what ran, what it found and where it went."""

from __future__ import annotations

import typer

from dicom_node.cli_common import Config, Json, out, print_json, say, services_of, stop
from dicom_node.model.result import readable

runs_app = typer.Typer(no_args_is_help=True, help="What ran, what it found and where it went.")


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
