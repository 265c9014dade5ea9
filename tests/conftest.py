"""What all tests share: strict reading, the public data's place, the programs of real peers."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom.config
import pytest
import structlog

pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that configures the logs must not change those of the next test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def absent(reason: str) -> None:
    """Skip with the reason, or fail with it where CI=true says that all must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and with CI=true this test must run")
    pytest.skip(reason)


def need_program(*names: str) -> str:
    """The path of the first of these programs that is installed; skip (fail with CI=true) if none is."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    absent(f"{' / '.join(names)} is not installed (the Debian packages are named in .ci/run)")
    raise AssertionError("unreachable")


def data_dir(*parts: str) -> Path:
    """A folder of the public data; skip with a reason if it is not here."""
    base = Path(os.environ.get("DICOM_NODE_DATA", ROOT.parent / "shared" / "data"))
    folder = base.joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"the public data is not at {folder} (set DICOM_NODE_DATA)")
    return folder
