"""What the documentation promises exists, and what exists is documented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from dicom_node.cli import app
from dicom_node.model.states import DeliveryState, PullState, RunState, StudyState, WorkitemState
from dicom_node.run.registry import Manifest
from dicom_node.settings import Destination, Settings, Source, Worklist

ROOT = Path(__file__).resolve().parents[2]
GUIDES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/algorithms.md",
    "docs/states.md",
    "docs/configuration.md",
    "docs/integration.md",
)


def text_of(name: str) -> str:
    """A document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def documented(name: str, heading: str | None = None) -> set[str]:
    """What the tables of a document (or of one section) explain: the code in each row's first column."""
    text = text_of(name)
    if heading is not None:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\|([^|]+)\|", text)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def keys(model: type[BaseModel], before: str = "", *, sections: bool = False) -> Iterator[str]:
    """Every key of a tree of models, dotted; a mapping's own keys are written ``<name>``."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        inner = [a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if sections:
                yield f"{before}{name}"
            yield from keys(kind, f"{before}{name}.", sections=sections)
        elif inner and type(None) in get_args(kind):
            if sections:
                yield f"{before}{name}"
            yield from keys(inner[0], f"{before}{name}.", sections=sections)
        elif inner and sections:
            yield f"{before}{name}"
            yield from keys(inner[0], f"{before}{name}.<name>.", sections=sections)
        else:
            yield f"{before}{name}"


def test_every_setting_is_documented() -> None:
    expected = set(keys(Settings)) - {"destinations", "sources", "worklists"}
    for listed in (Destination, Source, Worklist):
        expected |= set(keys(listed))

    assert documented("docs/configuration.md") == expected


def test_documented_defaults_are_the_defaults() -> None:
    defaults = dict(re.findall(r"(?m)^\| `([\w.]+)` \| `([^`]+)` \|", text_of("docs/configuration.md")))
    assert len(defaults) > 20
    for key, text in defaults.items():
        at: Any = Settings().model_dump(mode="json")
        for peer in (Worklist, Source, Destination):
            if key in peer.model_fields:
                at = peer.model_construct(name="x").model_dump(mode="json")
        for part in key.split("."):
            at = at[part]
        assert yaml.safe_load(text) == (list(at) if isinstance(at, tuple) else at), key


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("Studies", StudyState),
        ("Runs", RunState),
        ("Deliveries", DeliveryState),
        ("Pulls", PullState),
        ("Workitems", WorkitemState),
    ],
)
def test_every_state_is_documented(heading: str, states: Any) -> None:
    assert documented("docs/states.md", heading) == {str(state) for state in states}


def test_every_manifest_key_is_documented() -> None:
    assert documented("docs/algorithms.md", "The manifest") == set(keys(Manifest, sections=True))


def test_the_example_manifest_names_only_documented_keys() -> None:
    manifest = yaml.safe_load(text_of("algorithms/threshold_demo/algorithm.yaml"))

    assert set(manifest) <= documented("docs/algorithms.md", "The manifest")


def commands(program: str) -> Iterator[tuple[str, str]]:
    """Every use of a program in the guides: (document, arguments)."""
    for name in GUIDES:
        text = text_of(name)
        for block in re.findall(rf"(?m)^ {{4}}{program} ([^#\n]+)", text) + re.findall(rf"`{program} ([^`]+)`", text):
            yield name, block.strip()


@pytest.mark.parametrize(("name", "line"), sorted(set(commands("make"))))
def test_make_targets_exist(name: str, line: str) -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", text_of("Makefile")))

    assert {word for word in line.split() if "=" not in word} <= targets
    for variable in (word.split("=")[0] for word in line.split() if "=" in word):
        assert f"$({variable})" in text_of("Makefile")


@pytest.mark.parametrize(("name", "line"), sorted(set(commands("dicom-node"))))
def test_commands_exist(name: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    rest = shlex.split(line)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, line
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= options


def test_readme_shows_the_first_steps_first() -> None:
    first_screen = "\n".join(text_of("README.md").splitlines()[:20])

    for words in ("make demo ", "make demo INPUT=", "make test", "research use only"):
        assert words.lower() in first_screen.lower()


def test_readme_names_every_command() -> None:
    named = {line.split()[0] for _, line in commands("dicom-node")}
    tree: Any = typer.main.get_command(app)

    assert named | {"demo"} == set(tree.commands)


@pytest.mark.parametrize("name", [*GUIDES, "deploy/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", text_of(name)):
        assert (ROOT / name).parent.joinpath(link).exists(), link
