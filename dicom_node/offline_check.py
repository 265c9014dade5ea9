"""The check of a folder of results from the command line, apart from the node, which takes seconds to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dicom_node.check.results import NOTE, check_folder
from dicom_node.errors import ConfigurationError

RECORD = "result.json"
"""What ``dicom-node run`` leaves beside its results."""


def check_path(path: Path, source: Path | None) -> tuple[list[str], list[str]]:
    """Cross-check a folder of result objects; returns (problems, notes on what could not be checked).

    Raises:
        ConfigurationError: there is no result in the folder, no such source, or result.json is unreadable.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder")
    if not any(path.glob("*.dcm")):
        raise ConfigurationError(f"there is no result object (*.dcm) in {path}")
    if source is not None and not source.exists():
        raise ConfigurationError(f"--source {source} does not exist")
    if source is None:
        known = remembered(path).get("source")
        source = known if known is not None and known.exists() else None
    found = check_folder(path, source)
    notes = [line for line in found if line.startswith(NOTE)]
    return [line for line in found if line not in notes], notes


def remembered(folder: Path) -> dict[str, Any]:
    """The folder's result.json; empty where there is none.

    Raises:
        ConfigurationError: it is not what ``dicom-node run`` writes.
    """
    record = folder / RECORD
    if not record.exists():
        return {}
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return {"source": Path(found["source"]), "files": [str(name) for name in found["files"]]}
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigurationError(f"{record}: is not what `dicom-node run` writes; remove it") from e
