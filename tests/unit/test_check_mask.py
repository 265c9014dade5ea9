"""The mask against the findings: right numbers and references do not save a mask that lies elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dicom_node.check.results import NOTE, check_folder, check_results
from dicom_node.encode.results import encode_findings, encode_not_analysed
from dicom_node.run.findings_io import save_findings
from dicom_node.testing.series import save
from tests.unit.result_samples import SHAPE, context, findings, headers, write_results

Labels = npt.NDArray[np.uint8]


def write(out: Path, label_map: Labels, **changes: Any) -> list[Path]:
    """Results of the sample findings, but for the label map."""
    found = replace(findings(), label_map=label_map, **changes)
    return [r.path for r in encode_findings(found, headers(), context(), out)]


def mirrored(label_map: Labels) -> Labels:
    return np.ascontiguousarray(label_map[:, :, ::-1])


def upside_down(label_map: Labels) -> Labels:
    return np.ascontiguousarray(label_map[:, ::-1])


def one_slice_off(label_map: Labels) -> Labels:
    return np.roll(label_map, 1, axis=0)


def stack_reversed(label_map: Labels) -> Labels:
    return np.ascontiguousarray(label_map[::-1])


MOVES: dict[Callable[[Labels], Labels], str] = {
    mirrored: r"^seg\.dcm: frame 1 differs in \d+ pixels from segment 1 of the findings .* so do 6 more frames$",
    upside_down: r"^seg\.dcm: frame \d differs in 56 pixels from segment 2 of the findings .* so do 2 more frames$",
    one_slice_off: r"^seg\.dcm: segment 1 of the findings on the image 2\.25\.\d+ lacks its frame; so do 1 more",
    stack_reversed: r"^seg\.dcm: segment 1 of the findings on the image 2\.25\.\d+ lacks its frame; so do 6 more",
}


@pytest.mark.parametrize("move", MOVES, ids=lambda m: m.__name__)
def test_a_mask_that_lies_elsewhere_is_told_from_the_findings_alone(
    tmp_path: Path, move: Callable[[Labels], Labels]
) -> None:
    paths = write(tmp_path, move(findings().label_map))
    assert check_results(paths, headers()) == []
    problems = check_results(paths, headers(), findings=findings())
    assert any(re.search(MOVES[move], p) for p in problems), problems


def test_a_mask_one_slice_off_differs_where_it_ends(tmp_path: Path) -> None:
    paths = write(tmp_path, one_slice_off(findings().label_map))
    problems = check_results(paths, headers(), findings=findings())
    # The last left slice now lies at index 6, where the findings have nothing.
    beyond = headers()[6].SOPInstanceUID
    assert any(f"differs in 150 pixels from segment 1 of the findings on the image {beyond}" in p for p in problems)


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
def test_the_findings_own_mask_is_sound_whatever_the_order_of_the_headers(tmp_path: Path, orientation: str) -> None:
    # As a volume is read: along the normal.
    source = headers(orientation)
    normal = np.cross(source[0].ImageOrientationPatient[:3], source[0].ImageOrientationPatient[3:])
    source.sort(key=lambda h: float(np.dot(normal, h.ImagePositionPatient)))
    paths = write_results(tmp_path, source)
    assert check_results(paths, source, findings=findings()) == []
    assert check_results(paths, source[5:] + source[4::-1], findings=findings()) == []


def test_a_tilted_stack_is_sound(tmp_path: Path) -> None:
    source = headers("axial", shear=0.4)
    assert check_results(write_results(tmp_path, source), source, findings=findings()) == []


def test_a_segment_that_was_not_found_is_sound(tmp_path: Path) -> None:
    label_map = np.where(findings().label_map == 1, 0, findings().label_map).astype(np.uint8)
    found = replace(findings(), label_map=label_map, measurements=findings().measurements[1:2])
    paths = [r.path for r in encode_findings(found, headers(), context(), tmp_path)]
    assert check_results(paths, headers(), findings=found) == []


def test_findings_on_another_grid_are_a_problem(tmp_path: Path) -> None:
    paths = write_results(tmp_path)
    fewer = replace(findings(), label_map=findings().label_map[1:])
    assert any("11 slices, the source images are 12" in p for p in check_results(paths, headers(), findings=fewer))
    wider = replace(findings(), label_map=np.pad(findings().label_map, ((0, 0), (0, 0), (0, 1))))
    assert any(r"(20, 24) pixels" in p for p in check_results(paths, headers(), findings=wider))


def test_an_image_without_a_place_is_a_problem(tmp_path: Path) -> None:
    paths = write_results(tmp_path)
    source = headers()
    del source[0].ImagePositionPatient
    assert any("no place in space" in p for p in check_results(paths, source, findings=findings()))


def test_marked_voxels_without_a_seg_are_a_problem(tmp_path: Path) -> None:
    (path,) = write(tmp_path, np.zeros(SHAPE, np.uint8), measurements=())
    assert check_results([path], headers()) == []
    problems = check_results([path], headers(), findings=findings())
    assert "the findings mark voxels, but there is no Segmentation among the results" in problems


def test_a_report_without_numbers_is_sound_for_an_algorithm_that_measures_nothing(tmp_path: Path) -> None:
    found = replace(findings(), measurements=())
    paths = write(tmp_path / "out", found.label_map, measurements=())
    assert check_results(paths, headers(), findings=found) == []
    problem = "sr.dcm: it has no measurement (NUM), but seg.dcm describes 2 segments"
    assert check_results(paths, headers()) == [problem]
    missing = "sr.dcm: the measurement Left hippocampus volume of the findings is missing"
    assert check_results(paths, headers(), findings=findings()) == [problem, missing]
    save(tmp_path / "in", headers())
    save_findings(found, tmp_path / "out" / "findings")
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


def test_a_folder_is_checked_with_the_findings_in_it(tmp_path: Path) -> None:
    save(tmp_path / "in", headers())
    write(tmp_path / "out", mirrored(findings().label_map))
    assert check_folder(tmp_path / "out", tmp_path / "in") == []
    save_findings(findings(), tmp_path / "out" / "findings")
    (problem,) = check_folder(tmp_path / "out", tmp_path / "in")
    assert "differs in" in problem


def test_findings_of_an_earlier_run_do_not_count_against_a_report_that_nothing_was_analysed(tmp_path: Path) -> None:
    save(tmp_path / "in", headers())
    encode_not_analysed("a test", headers(), context(), tmp_path / "out")
    save_findings(findings(), tmp_path / "out" / "findings")
    assert check_folder(tmp_path / "out", tmp_path / "in") == []


@pytest.mark.parametrize("spoil", ["cut", "not a number", "no json"])
def test_spoilt_findings_are_noted(tmp_path: Path, spoil: str) -> None:
    save(tmp_path / "in", headers())
    write_results(tmp_path / "out")
    folder = tmp_path / "out" / "findings"
    save_findings(findings(), folder)
    if spoil == "cut":
        (folder / "findings.npz").write_bytes((folder / "findings.npz").read_bytes()[:200])
    elif spoil == "not a number":
        np.savez(folder / "findings.npz", label_map=np.array("text"))
    else:
        (folder / "findings.json").write_text(json.dumps([]))
    (line,) = check_folder(tmp_path / "out", tmp_path / "in")
    assert line.startswith(NOTE)
    assert "masks were not compared" in line
