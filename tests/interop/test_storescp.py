"""DCMTK's storescp as a destination that misbehaves; what it takes well is in contract/test_pacs_contract.py."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dicom_node.deliver.dimse import send
from dicom_node.errors import PeerError
from dicom_node.settings import Destination
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.conftest import need_program
from tests.interop.orthanc import free_port, listening, stop


@contextlib.contextmanager
def _storescp(folder: Path, *options: str, timeout: float = 10) -> Iterator[Destination]:
    port = free_port()
    process = subprocess.Popen([need_program("storescp"), "--quiet", "-od", str(folder), *options, str(port)])
    try:
        deadline = time.monotonic() + 10
        while not listening(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "storescp does not listen"
            time.sleep(0.02)
        yield Destination(name="storescp", ae_title="STORESCP", host="127.0.0.1", port=port, timeout_seconds=timeout)
    finally:
        stop(process)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    pixels = np.zeros((2, 64, 64), np.uint16)
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    return save(tmp_path / "sent", slice_datasets(pixels, affine, key="storescp"))


def test_refused_association(tmp_path: Path, paths: list[Path]) -> None:
    # storescp hangs up so fast behind its rejection (permanent, no reason) that the rejection may be lost on the way.
    refused = pytest.raises(PeerError, match=r"rejected the association permanently|ended the connection")
    with _storescp(tmp_path, "--refuse") as destination, refused as caught:
        send(destination, "DICOMNODE", paths)
    assert caught.value.retryable is ("ended the connection" in str(caught.value))


@pytest.mark.parametrize("when", ["--abort-during", "--abort-after"])
def test_aborted_association(tmp_path: Path, paths: list[Path], when: str) -> None:
    with _storescp(tmp_path, when) as destination:
        outcome = send(destination, "DICOMNODE", paths)
    assert len(outcome) == 2
    assert all("ended the association" in failure and failure.retryable for failure in outcome.values())


def test_slow_storage_is_a_time_out(tmp_path: Path, paths: list[Path]) -> None:
    with _storescp(tmp_path, "--sleep-during", "3", timeout=0.5) as destination:
        outcome = send(destination, "DICOMNODE", paths)
    assert all("did not answer within 0.5 s" in failure and failure.retryable for failure in outcome.values())
