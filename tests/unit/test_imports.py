"""The layers: imports run one way, down; the steps know nothing of one another; listing needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 450

# The parts of dicom_node, and what each may import of the others. A part not named here fails the test.
BASE = frozenset({"errors", "settings", "log", "tls", "version"})
MODEL = BASE | {"model"}
STORE = MODEL | {"store", "algorithm"}
SERVICES = STORE | {"peer"}
STEPS = frozenset({"receive", "complete", "route", "run", "encode", "check", "deliver"})
WORKFLOW = SERVICES | STEPS | {"workflow"}
APP = WORKFLOW | {"app", "testing", "offline", "views", "overlay", "outlined", "beating", "demo"}
MAY_IMPORT: dict[str, frozenset[str]] = {
    "version": frozenset(),
    "errors": frozenset(),
    "settings": frozenset({"errors", "settings"}),
    "log": frozenset({"errors", "settings"}),
    "tls": frozenset({"errors", "settings", "log"}),
    "checkpoint": frozenset(),
    "model": MODEL,
    "algorithm": MODEL,
    "store": STORE,
    "peer": MODEL | {"peer", "checkpoint"},
    **{step: SERVICES | {step} for step in STEPS},
    "testing": frozenset({"model", "errors", "algorithm", "checkpoint", "testing"}),
    "workflow": WORKFLOW,
    # Beside the composition root: what looks at the node's state, or strings the steps together without a node.
    "app": APP,
    "offline": APP,
    "views": APP,
    "overlay": APP,
    "outlined": APP,
    "beating": APP,
    "demo": APP,
    "cli": APP | {"cli"},
}

ALGORITHM_PACKAGES = frozenset({"dicom_node", "numpy", "scipy", "torch", "monai", "safetensors"})
SCRIPTS = ("train", "evaluate", "benchmark", "prove", "prepare")
"""Files of an algorithm with these beginnings never run in the node, and may import what they need."""


def part_of(module: str) -> str:
    """The part of dicom_node that a module belongs to: ``dicom_node.store.index`` -> ``store``."""
    parts = module.split(".")
    if len(parts) == 1:
        return "version"
    return next((part for part in ("cli", "settings") if parts[1].startswith(f"{part}_")), parts[1])


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterable[str]:
    """Every module that a module names in an import, relative ones resolved, imports inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level + (1 if is_package else 0) or None]
                base = ".".join([*above, base] if base else above)
            # `from package import module` names the module only in its second half.
            for alias in node.names:
                yield f"{base}.{alias.name}" if base == "dicom_node" else base


def broken_layers(package: Path) -> list[str]:
    """Every import of the package that runs against the layers, and every part that has no layer."""
    wrong = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package.parent).with_suffix("")
        is_package = relative.name == "__init__"
        module = ".".join(relative.parent.parts if is_package else relative.parts)
        part = part_of(module)
        if part not in MAY_IMPORT:
            wrong.append(f"{relative}: {part} belongs to no layer")
            continue
        for name in imported(ast.parse(file.read_text(encoding="utf-8")), module, is_package=is_package):
            if name.split(".")[0] == "algorithms":
                wrong.append(f"{relative}: imports {name}; algorithms are loaded from their folder by the worker")
            if name.split(".")[0] != "dicom_node":
                continue
            other = part_of(name)
            if other.startswith("__"):
                other = "version"
            if other not in MAY_IMPORT[part]:
                wrong.append(f"{relative}: {part} must not import {other}")
    return wrong


def broken_algorithms(folder: Path) -> list[str]:
    """Every import of an algorithm's runtime code that an author should not need."""
    wrong = []
    for file in sorted(folder.glob("*/**/*.py")):
        if file.name.startswith(SCRIPTS):
            continue
        home = folder / file.relative_to(folder).parts[0]
        siblings = {p.stem for p in home.rglob("*.py")} | {p.name for p in home.iterdir() if p.is_dir()}
        # a folder without a manifest is no algorithm, but code that algorithms share
        siblings |= {p.name for p in folder.iterdir() if p.is_dir() and not (p / "algorithm.yaml").exists()}
        for name in imported(ast.parse(file.read_text(encoding="utf-8")), file.stem, is_package=False):
            top = name.split(".")[0]
            if top == "dicom_node" and not name.startswith("dicom_node.algorithm"):
                wrong.append(f"{file.relative_to(folder)}: imports {name}; dicom_node.algorithm is the whole API")
            elif top and top not in ALGORITHM_PACKAGES | siblings | sys.stdlib_module_names | {home.name, "algorithms"}:
                wrong.append(f"{file.relative_to(folder)}: imports {top}, which no algorithm may need")
    return wrong


def test_the_layers_hold() -> None:
    assert broken_layers(ROOT / "dicom_node") == []


def test_algorithms_know_only_the_public_api() -> None:
    assert broken_algorithms(ROOT / "algorithms") == []


def test_files_stay_short() -> None:
    long = {}
    for folder in ("dicom_node", "algorithms", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            if lines > LONGEST_FILE:
                long[str(file.relative_to(ROOT))] = lines
    assert long == {}


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("route/rules.py", "from dicom_node.receive.intake import Intake", "route must not import receive"),
        ("route/rules.py", "from dicom_node import receive", "route must not import receive"),
        ("route/rules.py", "from ..receive import intake", "route must not import receive"),
        ("route/__init__.py", "from ..receive import intake", "route must not import receive"),
        ("encode/seg.py", "def f():\n    import dicom_node.check.seg", "encode must not import check"),
        ("store/index.py", "from dicom_node.workflow import study", "store must not import workflow"),
        ("model/states.py", "from dicom_node.store.index import Index", "model must not import store"),
        ("settings.py", "import dicom_node.model", "settings must not import model"),
        ("testing/fake_pacs.py", "from dicom_node.deliver.dimse import send", "testing must not import deliver"),
        ("workflow/study.py", "from dicom_node.app import Node", "workflow must not import app"),
        ("app.py", "from dicom_node import cli", "app must not import cli"),
        ("run/worker.py", "from algorithms.x import y", "algorithms are loaded from their folder"),
        ("web/page.py", "", "web belongs to no layer"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    planted = tmp_path / "dicom_node" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(code, encoding="utf-8")

    assert [complaint in line for line in broken_layers(tmp_path / "dicom_node")] == [True]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("route/rules.py", "from dicom_node import log\nfrom .kinds import x\nfrom dicom_node.errors import NodeError"),
        ("cli_runs.py", "from dicom_node.cli import app\nfrom dicom_node import __version__"),
        ("workflow/study.py", "from dicom_node.route.decide import decide"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, code: str) -> None:
    planted = tmp_path / "dicom_node" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(code, encoding="utf-8")

    assert broken_layers(tmp_path / "dicom_node") == []


@pytest.mark.parametrize(
    ("file", "code", "fine"),
    [
        ("a/algorithm.py", "import torch, scipy.ndimage\nfrom net import Net\nfrom .net import Net", True),
        ("a/algorithm.py", "import pydicom", False),
        ("a/algorithm.py", "from dicom_node.errors import NotAnalysed", False),
        ("a/train.py", "import nibabel", True),
    ],
)
def test_an_algorithm_s_imports(tmp_path: Path, file: str, code: str, fine: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "net.py").write_text("", encoding="utf-8")
    (tmp_path / file).write_text(code, encoding="utf-8")

    assert (broken_algorithms(tmp_path) == []) is fine


@pytest.mark.parametrize(
    "module", ["dicom_node.cli", "dicom_node.receive", "dicom_node.route", "dicom_node.run.registry"]
)
def test_listing_receiving_and_routing_load_no_torch(module: str) -> None:
    package = ROOT.joinpath(*module.split("."))
    modules = [module]
    if package.is_dir():
        modules = [f"{module}.{p.stem}" for p in sorted(package.glob("*.py")) if p.stem != "__init__"] or [module]
    if not package.is_dir() and not package.with_suffix(".py").is_file():
        pytest.skip(f"{module} does not exist")
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'monai'}))"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == ""
