"""What the commands share: their options, how they speak and end, and how they come to the node's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.settings import Settings, load_settings

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
