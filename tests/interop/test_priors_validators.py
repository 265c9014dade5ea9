"""Reports that compare with a prior study, under the eyes of dicom3tools, DCMTK and PixelMed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import absent, need_program
from tests.interop.test_dciodvfy import assert_valid
from tests.interop.test_validators import NOT_IN_TEMPLATE, ONE_TEMPLATE_FOR_ALL, PIXELMED, SOURCE_SERIES
from tests.unit.test_change import now, write

INFERRED = {
    # TID 300 is extensible: by which two values a change was computed, and of which study the prior's is.
    "Left ventricular ejection fraction by MR",
    "Volume",
    "Procedure Study Instance UID",
    "Study Date",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths, *_ = write(tmp_path_factory.mktemp("compared"), now(), ())
    return next(p for p in paths if p.name == "sr.dcm")


def test_dciodvfy_finds_no_error(report: Path) -> None:
    assert_valid(report)


def test_dsrdump_reads_both_values_of_a_change(report: Path) -> None:
    command = [need_program("dsrdump"), "+Pl", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Change since prior study" in done.stdout
    assert done.stdout.count("inferred from NUM") == 2 * 5


def test_pixelmed_finds_no_error(report: Path) -> None:
    need_program("java")
    if not PIXELMED.exists():
        absent("PixelMed is not installed (Debian package: libpixelmed-java)")
    script = Path(__file__).with_name("pixelmed.py")
    command = [sys.executable, str(script), str(PIXELMED), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (lines,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert "IOD validation complete" in lines
    unexplained = []
    for line in lines:
        named = line.rpartition('"): ')[0].rpartition('"')[2]
        known = line.endswith("Content Item not in template") and named in NOT_IN_TEMPLATE | INFERRED
        if line.startswith(("Error", "Warning")) and not known:
            unexplained.append(line)
    rest = [x for x in unexplained if not ONE_TEMPLATE_FOR_ALL.fullmatch(x) and not SOURCE_SERIES.fullmatch(x)]
    assert rest == []
