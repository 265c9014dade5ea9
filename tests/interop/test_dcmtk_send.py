"""DCMTK's storescu and echoscu as senders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.conftest import need_program
from tests.listening import Listening, listening

COUNT = 3


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path / "node") as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 4096, (COUNT, 32, 32), np.uint16)
    return save(tmp_path / "in", slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))))


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # Without it DCMTK leaves Nagle's algorithm on, and each image waits for a delayed ACK.
    environment = {**os.environ, "TCP_NODELAY": "1"}
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_echo(node: Listening) -> None:
    _run(need_program("echoscu"), "-aec", "DICOMNODE", "127.0.0.1", str(node.port))


@pytest.mark.parametrize(
    ("converter", "convert", "propose", "syntax"),
    [
        ("dcmconv", "+te", "-xe", ExplicitVRLittleEndian),
        ("dcmconv", "+ti", "-xi", ImplicitVRLittleEndian),
        ("dcmconv", "+tb", "-xb", ExplicitVRBigEndian),
        ("dcmconv", "+td", "-xd", DeflatedExplicitVRLittleEndian),
        ("dcmcjpeg", "+e1", "-xs", JPEGLosslessSV1),
        ("dcmcjpls", "+el", "-xt", JPEGLSLossless),
        ("dcmcrle", "--uid-never", "-xr", RLELossless),
    ],
)
def test_each_transfer_syntax(
    node: Listening,
    files: list[Path],
    tmp_path: Path,
    converter: str,
    convert: str,
    propose: str,
    syntax: pydicom.uid.UID,
) -> None:
    converted = []
    for file in files:
        out = tmp_path / f"{file.stem}.converted.dcm"
        _run(need_program(converter), convert, file, out)
        converted.append(out)
    _run(need_program("storescu"), propose, "127.0.0.1", str(node.port), *converted)
    stored = node.instances()
    assert len(stored) == COUNT
    for original in map(pydicom.dcmread, files):
        i = stored[original.SOPInstanceUID]
        assert i.TransferSyntaxUID == syntax
        back = pydicom.dcmread(node.files.path(i.path))
        if syntax == ExplicitVRBigEndian:
            back.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        assert np.array_equal(back.pixel_array, original.pixel_array)
    assert node.is_clean()


def test_a_folder_with_many_classes_proposed(node: Listening, files: list[Path]) -> None:
    """storescu proposes 64 storage classes, two contexts each, when it is not told to look at the files."""
    _run(
        need_program("storescu"), "-aet", "SCANNER", "--scan-directories", "--recurse",
        "127.0.0.1", str(node.port), files[0].parent,
    )  # fmt: skip
    assert len(node.instances()) == COUNT
    assert {i.source for i in node.instances().values()} == {"SCANNER"}


def test_twice_the_same_is_success(node: Listening, files: list[Path]) -> None:
    for _ in range(2):
        _run(need_program("storescu"), "127.0.0.1", str(node.port), *files)
    assert len(node.instances()) == COUNT


def test_a_refusal_stops_storescu_with_its_reason(node: Listening, files: list[Path]) -> None:
    _run(need_program("storescu"), "127.0.0.1", str(node.port), files[0])
    ds = pydicom.dcmread(files[0])
    ds.EchoTime = 3
    ds.save_as(files[0])
    done = subprocess.run(
        [need_program("storescu"), "-d", "127.0.0.1", str(node.port), str(files[0])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "0xc001" in said.lower()
    assert "already stored" in said


def test_dcmtk_reads_what_is_stored(node: Listening, files: list[Path]) -> None:
    _run(need_program("storescu"), "127.0.0.1", str(node.port), *files)
    for i in node.instances().values():
        assert "StudyInstanceUID" in _run(need_program("dcmdump"), node.files.path(i.path)).stdout
