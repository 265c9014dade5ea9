"""Checking whole folders, with and without sources, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_node.check.results import NOTE, check_folder, check_results
from dicom_node.testing.series import plane_affine, save, slice_datasets
from tests.unit.result_samples import SHAPE, headers, write_results


def scan(folder: Path, key: str = "series") -> None:
    """The source series on disk, with pixels."""
    datasets = (
        headers()
        if key == "series"
        else slice_datasets(np.zeros(SHAPE, np.uint16), plane_affine((1, 0, 0, 0, 1, 0), (1, 1, 1), (0, 0, 0)), key=key)
    )
    save(folder, datasets)


def test_a_folder_is_checked_with_the_series_that_it_refers_to(tmp_path: Path) -> None:
    write_results(tmp_path / "out")
    scan(tmp_path / "in" / "a")
    scan(tmp_path / "in" / "b", key="another series")
    (tmp_path / "in" / "notes.txt").write_text("not DICOM")
    write_results(tmp_path / "in" / "earlier results")
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


def test_without_sources_the_rest_is_checked_and_the_gap_is_noted(tmp_path: Path) -> None:
    write_results(tmp_path)
    (note,) = check_folder(tmp_path)
    assert note.startswith(NOTE)
    assert "geometry" in note


def test_a_wrong_source_folder_is_a_problem(tmp_path: Path) -> None:
    write_results(tmp_path / "out")
    scan(tmp_path / "in", key="another series")
    assert any("is not there" in p for p in check_folder(tmp_path / "out", tmp_path / "in"))


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert "no result object" in check_folder(tmp_path)[0]
    assert check_results([], headers()) == ["there is no result object"]


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm"])
def test_a_file_cut_anywhere_is_a_problem_and_never_an_exception(tmp_path: Path, name: str) -> None:
    write_results(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for size in [0, 1, 131, 132, 140, 400, *range(500, len(whole) - 1, len(whole) // 20), len(whole) - 2]:
        (tmp_path / name).write_bytes(whole[:size])
        problems = [p for p in check_results([tmp_path / "seg.dcm", tmp_path / "sr.dcm"], headers())]
        assert problems, size


def test_a_file_of_noise_is_a_problem(tmp_path: Path) -> None:
    paths = write_results(tmp_path)
    whole = bytearray(paths[1].read_bytes())
    rng = np.random.default_rng(1)
    for _ in range(30):
        spoilt = bytearray(whole)
        for place in rng.integers(132, len(whole), 200):
            spoilt[place] = rng.integers(256)
        paths[1].write_bytes(spoilt)
        assert check_results(paths, headers())


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert any("cannot be read" in p for p in check_results([tmp_path / "sr.dcm"], headers()))


def test_an_image_among_the_results_is_a_problem(tmp_path: Path) -> None:
    paths = write_results(tmp_path)
    scan(tmp_path / "in")
    stranger = next((tmp_path / "in").iterdir())
    problems = check_results([*paths, stranger], headers())
    assert any("no class that this check knows" in p for p in problems)


def test_a_seg_alone_is_a_problem(tmp_path: Path) -> None:
    seg, _ = write_results(tmp_path)
    assert "there is no Comprehensive 3D SR among the results" in check_results([seg], headers())
