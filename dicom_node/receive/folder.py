"""DICOM files in a folder, which are read where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dicom_node import log
from dicom_node.errors import InvalidInstance
from dicom_node.model.instance import Instance
from dicom_node.receive.part10 import read_part10

_DIRECTORY = "DICOMDIR"
_NAMED = 20

_logger = log.get("receive")


def read_folder(path: Path) -> Iterator[Path]:
    """The Part 10 files below a folder, sorted by path; a single file is itself.

    Directories of media (``DICOMDIR``, PS3.10 section 8.6) are left out. What is no DICOM file is named in one log
    line when the iteration ends.
    """
    strange = []
    for file in [path] if path.is_file() else _files(path):
        if file.name == _DIRECTORY:
            continue
        if _is_part10(file):
            yield file
        else:
            strange.append(str(file.relative_to(path) if file != path else file.name))
    if strange:
        _logger.warning("not_dicom", count=len(strange), files=strange[:_NAMED])


def instance_of(path: Path) -> Instance:
    """What the index would keep about the file; ``path`` is the file's own.

    Raises:
        InvalidInstance: not DICOM, truncated, a UID is missing or is none, or the file cannot be read.
    """
    try:
        return read_part10(path, str(path))
    except InvalidInstance as e:
        raise InvalidInstance(f"{path}: {e}") from e


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _is_part10(file: Path) -> bool:
    try:
        with file.open("rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        # It is named among what is no DICOM file.
        return False
