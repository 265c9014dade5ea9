"""Commands about work that comes from elsewhere: studies of other archives, workitems of worklists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli_common import Config, Json, out, print_json, say, services_of, stop
from dicom_node.errors import ConfigurationError, NodeError


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


def workitems(config: Config = None, as_json: Json = False) -> None:
    """List the workitems that the node took from worklists (UPS-RS), the latest first."""
    from dicom_node.views import workitem_view
    from dicom_node.workflow.ups import workitems_of

    rows = [workitem_view(row) for row in workitems_of(services_of(config)).all()]
    if as_json:
        print_json(rows)
        return
    for r in rows:
        of = f" on study {r['StudyInstanceUID']}" if r["StudyInstanceUID"] else ""
        asked = ", to be canceled" if r["cancel_requested"] and r["ended"] is None else ""
        out.print(f"{r['workitem']} of {r['worklist']}: {r['state']}{asked}, {r['algorithm']}{of}")
        if r["reason"]:
            out.print(f"    {r['reason']}")
        if r["error"]:
            out.print(f"    failures: {r['attempts']}, {r['error']}")
    if not rows:
        say("no workitem was taken yet")
