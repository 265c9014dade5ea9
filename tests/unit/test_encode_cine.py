"""Results of a cine: however it was sent, every mask refers to the frame that it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.pixels.utils import pixel_array

from dicom_node.algorithm import Cine, Code, Findings, Frame, Measurement, Segment
from dicom_node.check.results import check_folder, check_results
from dicom_node.encode.results import encode_findings
from dicom_node.errors import EncodeError
from dicom_node.run.cine import CineSource, read_cine
from dicom_node.run.findings_io import load_findings, save_findings
from dicom_node.testing.phantom_cine import WAYS, CineSequence, Way, cine_datasets
from dicom_node.testing.series import save
from tests.unit.result_samples import ANATOMY, VOLUME, context

VENTRICLE = Code("87878005", "SCT", "Left ventricle")
SEQUENCE = CineSequence(phases=8, slices=6, size=24, spacing=10.0)
ED, ES = 7, 2


def found_in(cine: Cine) -> Findings:
    """A cavity at end diastole in slices 1 to 4, and a smaller one at end systole in slices 2 and 3."""
    slices = cine.array.shape[1]
    label_map = np.zeros((2 * slices, *cine.array.shape[2:]), np.uint8)
    label_map[1:5, 5:15, 6:16] = 1
    label_map[1:5, 4, 6:16] = 2
    label_map[slices + 2 : slices + 4, 7:12, 8:13] = 3
    volume = cine.voxel_volume / 1000
    return Findings(
        label_map,
        (
            Segment(1, "Cavity ED", ANATOMY, VENTRICLE),
            Segment(2, "Wall ED", ANATOMY, VENTRICLE),
            Segment(3, "Cavity ES", ANATOMY, VENTRICLE),
        ),
        (
            Measurement("EDV", float((label_map == 1).sum()) * volume, "mL", VOLUME, VENTRICLE, None, (1,), True),
            Measurement("ESV", float((label_map == 3).sum()) * volume, "mL", VOLUME, VENTRICLE, None, (3,), True),
            *(Measurement(f"Volume {k}", 10.0 + k, "mL", VOLUME, VENTRICLE, group="Curve") for k in range(3)),
        ),
        frames=(*cine.frames[ED], *cine.frames[ES]),
        key_planes=(2, slices + 2),
    )


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Way], CineSource]:
    known: dict[str, CineSource] = {}

    def of(way: Way) -> CineSource:
        if way not in known:
            known[way] = read_cine(save(tmp_path_factory.mktemp(way), cine_datasets(way, SEQUENCE)))
        return known[way]

    return of


def headers_of(source: CineSource) -> list[Dataset]:
    """The files' headers, each once, as the node reads them."""
    paths = dict.fromkeys(str(h.filename) for phase in source.headers for h in phase)
    return [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]


def written(source: CineSource, out: Path, findings: Findings | None = None) -> tuple[Dataset, Dataset, list[str]]:
    """SEG, SR, and what the check says."""
    headers, findings = headers_of(source), findings or found_in(source.cine)
    objects = encode_findings(findings, headers, context(), out)
    paths = [o.path for o in objects]
    return (*(pydicom.dcmread(p) for p in paths), check_results(paths, headers, findings=findings))


@pytest.mark.parametrize("way", WAYS)
def test_each_mask_refers_to_the_frame_it_is_of(way: Way, sent: Callable[[Way], CineSource], tmp_path: Path) -> None:
    source = sent(way)
    seg, report, problems = written(source, tmp_path)

    assert problems == []
    labels = found_in(source.cine).label_map
    frames = found_in(source.cine).frames
    planes = pixel_array(seg).reshape(-1, seg.Rows, seg.Columns)
    told = {}
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert ("ReferencedFrameNumber" in reference) == (way == "multi_frame")
        frame = Frame(reference.ReferencedSOPInstanceUID, int(reference.get("ReferencedFrameNumber", 1)))
        told[(frame, number)] = plane.astype(bool)
    every = {(frame, v): plane == v for frame, plane in zip(frames, labels, strict=True) for v in (1, 2, 3)}
    expected = {key: mask for key, mask in every.items() if mask.any()}
    assert told.keys() == expected.keys()
    assert all(np.array_equal(told[key], expected[key]) for key in told)
    listed = {i.ReferencedSOPInstanceUID for s in seg.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence}
    assert listed == {f.SOPInstanceUID for f in frames}
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(SEQUENCE.step)
    named = 3 if way == "multi_frame" else len(told)  # an object with several frames is named once a segment
    assert str(report).count("'121233'") == named


def test_measurements_of_one_group_stand_together(sent: Callable[[Way], CineSource], tmp_path: Path) -> None:
    _, report, _ = written(sent("one_series"), tmp_path)

    groups = [
        [c.ConceptNameCodeSequence[0].CodeMeaning for c in item.ContentSequence if c.ValueType == "NUM"]
        for container in report.ContentSequence
        if container.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
        for item in container.ContentSequence
    ]
    assert groups == [["Volume"], [], ["Volume"], ["Volume"] * 3]


def test_a_segment_in_two_images_of_one_slice_is_refused(sent: Callable[[Way], CineSource], tmp_path: Path) -> None:
    source = sent("one_series")
    findings = found_in(source.cine)
    label_map = findings.label_map.copy()
    label_map[SEQUENCE.slices + 2, 0, 0] = 1

    with pytest.raises(EncodeError, match="segment 1 is marked in two images of the same slice"):
        written(source, tmp_path, replace(findings, label_map=label_map))


def test_frames_that_are_not_the_sources_are_refused(sent: Callable[[Way], CineSource], tmp_path: Path) -> None:
    source = sent("multi_frame")
    findings = found_in(source.cine)
    alien = replace(findings, frames=(Frame("1.2.3"), *findings.frames[1:]))
    beyond = replace(findings, frames=(replace(findings.frames[0], number=10_000), *findings.frames[1:]))

    with pytest.raises(EncodeError, match=r"the image 1\.2\.3, which is no source image"):
        written(source, tmp_path, alien)
    with pytest.raises(EncodeError, match="has 48 frames, and none of number 10000"):
        written(source, tmp_path, beyond)


def test_images_that_each_name_another_frame_of_reference_get_one_mask(tmp_path: Path) -> None:
    datasets = cine_datasets("one_series", SEQUENCE)
    for number, ds in enumerate(datasets):
        ds.FrameOfReferenceUID = f"1.2.{number}"
    source = read_cine(save(tmp_path / "in", datasets))
    seg, _, problems = written(source, tmp_path / "out")

    assert problems == []
    first = next(d for d in datasets if d.SOPInstanceUID == source.cine.frames[ED][0].SOPInstanceUID)
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID


def spoil_reference(seg: Dataset, source: CineSource) -> None:
    """End diastole's mask names the image of end systole: the same place, another time."""
    group = seg.PerFrameFunctionalGroupsSequence[0]
    reference = group.DerivationImageSequence[0].SourceImageSequence[0]
    uid = reference.ReferencedSOPInstanceUID
    k = [f.SOPInstanceUID for f in source.cine.frames[ED]].index(uid)
    reference.ReferencedSOPInstanceUID = source.cine.frames[ES][k].SOPInstanceUID


def spoil_number(seg: Dataset, source: CineSource) -> None:
    """The frame before, at the same place."""
    for group in seg.PerFrameFunctionalGroupsSequence[:1]:
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber -= SEQUENCE.slices


def drop_number(seg: Dataset, source: CineSource) -> None:
    del seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber


@pytest.mark.parametrize(
    ("way", "spoil", "said"),
    [
        ("one_series", spoil_reference, "differs in"),
        ("series_per_phase", spoil_reference, "differs in"),
        ("multi_frame", spoil_number, "lacks its frame"),
        ("multi_frame", drop_number, "without a ReferencedFrameNumber"),
    ],
)
def test_the_check_catches_a_mask_of_another_time(
    way: Way, spoil: Callable[[Dataset, CineSource], None], said: str,
    sent: Callable[[Way], CineSource], tmp_path: Path,
) -> None:  # fmt: skip
    source = sent(way)
    findings, headers = found_in(source.cine), headers_of(source)
    objects = encode_findings(findings, headers, context(), tmp_path)
    seg = pydicom.dcmread(objects[0].path)
    spoil(seg, source)
    seg.save_as(objects[0].path)

    problems = check_results([o.path for o in objects], headers, findings=findings)
    assert any(said in p for p in problems), problems


def test_a_saved_result_is_checked_with_its_frames(sent: Callable[[Way], CineSource], tmp_path: Path) -> None:
    source = sent("shuffled")
    findings = found_in(source.cine)
    save_findings(findings, tmp_path / "findings")
    assert load_findings(tmp_path / "findings").frames == findings.frames
    encode_findings(findings, headers_of(source), context(), tmp_path)
    folder = Path(str(source.headers[0][0].filename)).parent
    assert check_folder(tmp_path, folder) == []

    shifted: dict[str, Any] = {"label_map": np.roll(findings.label_map, 1, axis=2)}
    save_findings(replace(findings, **shifted), tmp_path / "findings")
    assert any("differs in" in line for line in check_folder(tmp_path, folder))
