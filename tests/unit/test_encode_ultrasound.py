"""Results on ultrasound, which has no place in the patient: masks are known by image, frame number and pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pydicom.config
import pytest
from pydicom import Dataset
from pydicom.pixels.utils import pixel_array

from dicom_node.algorithm import Findings
from dicom_node.check.objects import content
from dicom_node.check.results import check_folder, check_results
from dicom_node.encode.results import encode_findings
from dicom_node.errors import EncodeError
from dicom_node.run.findings_io import load_findings, save_findings
from dicom_node.run.frames import FrameSource
from tests.unit.result_samples import context
from tests.unit.ultrasound_samples import OTHER, SHOWN, findings, image, named, study

VIEWS = ("contours", "sc")


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    yield
    pydicom.config.settings.reading_validation_mode = before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FrameSource:
    """A single image, and a clip whose second frame shows another lesion."""
    images = [image("one", InstanceNumber=1), image("clip", (SHOWN, OTHER, SHOWN), InstanceNumber=2)]
    return study(tmp_path_factory.mktemp("study"), images)


@pytest.fixture(scope="module")
def found(source: FrameSource) -> Findings:
    return findings(source, (SHOWN, OTHER), (1, 2), "left")


def written(source: FrameSource, found: Findings, out: Path) -> tuple[dict[str, Dataset], list[str]]:
    """The results by role, and what the check says."""
    objects = encode_findings(found, source.headers, context(), out, VIEWS)
    problems = check_results([o.path for o in objects], source.headers, findings=found)
    return {o.role: pydicom.dcmread(o.path) for o in objects}, problems


def test_masks_refer_to_image_and_frame_and_have_no_place(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    results, problems = written(source, found, tmp_path)

    assert problems == []
    seg = results["seg"]
    for keyword in ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"):
        assert all(keyword not in group for group in seg.PerFrameFunctionalGroupsSequence)
        assert keyword not in seg.SharedFunctionalGroupsSequence[0]
    assert "FrameOfReferenceUID" not in seg
    planes = pixel_array(seg)
    told = []
    for plane, group, truth in zip(planes, seg.PerFrameFunctionalGroupsSequence, (SHOWN, OTHER), strict=True):
        assert np.array_equal(plane > 0, truth.lesion)
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        told.append((reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")))
        assert reference.ReferencedSOPClassUID == next(
            h.SOPClassUID for h in source.headers if h.SOPInstanceUID == reference.ReferencedSOPInstanceUID
        )
    assert told == [(source.clips[0].SOPInstanceUID, None), (source.clips[1].SOPInstanceUID, 2)]
    labels = [g.FrameContentSequence[0].FrameLabel for g in seg.PerFrameFunctionalGroupsSequence]
    assert labels == ["image 1", "image 2, frame 2"]
    named = {i.ReferencedSOPInstanceUID for i in seg.SourceImageSequence}
    assert named == {c.SOPInstanceUID for c in source.clips}


def test_the_report_has_axes_probability_site_and_side(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    report = written(source, found, tmp_path)[0]["sr"]

    numbers = {
        (i.ConceptNameCodeSequence[0].CodeMeaning, i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
        for i in content(report, deep=True)
        if i.ValueType == "NUM"
    }
    assert numbers == {("Probability of cancer", "%"), ("Long Axis", "mm"), ("Short Axis", "mm")}
    coded = [i.ConceptCodeSequence[0].CodeMeaning for i in content(report, deep=True) if i.ValueType == "CODE"]
    assert coded.count("Left") >= 2
    assert "Breast" in coded
    frames = [
        r.get("ReferencedFrameNumber")
        for i in content(report, deep=True)
        if i.ValueType == "IMAGE" and i.ConceptNameCodeSequence[0].CodeValue == "121233"
        for r in i.ReferencedSOPSequence
    ]
    assert frames == [None, 2]


def test_outlines_name_their_frame(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    contours = written(source, found, tmp_path)[0]["contours"]

    places = [
        (r.ReferencedSOPInstanceUID, r.get("ReferencedFrameNumber"))
        for i in content(contours, deep=True)
        if i.ValueType == "SCOORD"
        for child in i.ContentSequence
        for r in child.ReferencedSOPSequence
    ]
    assert places == [(source.clips[0].SOPInstanceUID, None), (source.clips[1].SOPInstanceUID, 2)]


def test_the_picture_shows_tissue_only(tmp_path: Path) -> None:
    """Something is written around the tissue, where scanners write the patient's name."""
    source = study(tmp_path / "in", [image("named", (named(),))])
    results, _ = written(source, findings(source, (SHOWN,), (1,)), tmp_path / "out")
    picture = results["sc"].pixel_array[44:464, 8:428].astype(int)

    box = SHOWN.box
    margin = (max(box[2] - box[0], box[3] - box[1]) - (box[3] - box[1])) / 2
    edge = int(margin / max(box[2] - box[0], box[3] - box[1]) * 420) - 2
    assert edge > 5
    assert picture[30:, :edge].max() == picture[30:, -edge:].max() == 0
    assert picture[30:, edge + 5 : -edge - 5].max() > 200
    assert results["sc"].BurnedInAnnotation == "NO"


def test_a_picture_of_an_image_with_burned_in_names_says_so(tmp_path: Path) -> None:
    marked = study(tmp_path / "in", [image("named", BurnedInAnnotation="YES")])
    results, problems = written(marked, findings(marked, (SHOWN,), (1,)), tmp_path / "out")

    assert problems == []
    assert results["sc"].BurnedInAnnotation == "YES"


def test_without_a_scale_axes_are_in_pixels(tmp_path: Path) -> None:
    plain = study(tmp_path / "in", [image("plain", scale=False)])
    found = findings(plain, (SHOWN,), (1,))
    results, problems = written(plain, found, tmp_path / "out")

    assert problems == []
    units = {m.unit for m in found.measurements}
    assert units == {"{pixels}", "%"}
    assert "({pixels}, UCUM" not in str(results["sr"])
    assert any(
        i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "{pixels}"
        for i in content(results["sr"], deep=True)
        if i.ValueType == "NUM"
    )


def test_a_source_s_frame_of_reference_is_kept(tmp_path: Path) -> None:
    placed = study(tmp_path / "in", [image("placed", FrameOfReferenceUID="1.2.3.4", PositionReferenceIndicator="")])
    results, problems = written(placed, findings(placed, (SHOWN,), (1,)), tmp_path / "out")

    assert problems == []
    assert results["seg"].FrameOfReferenceUID == "1.2.3.4"


def test_nothing_found_is_a_report_that_says_so(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    nothing = replace(
        found,
        label_map=np.zeros_like(found.label_map),
        segments=(),
        measurements=(),
        notes=("No breast lesion was found in 2 images.",),
        key_planes=(),
    )
    results, problems = written(source, nothing, tmp_path)

    assert problems == []
    assert results.keys() == {"sr", "sc"}
    said = [i.TextValue for i in content(results["sr"], deep=True) if i.ValueType == "TEXT"]
    assert any(text.startswith("No finding: the algorithm marked no pixel of these images.") for text in said)


def test_saved_results_are_checked_with_their_frames(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    encode_findings(found, source.headers, context(), tmp_path, VIEWS)
    save_findings(found, tmp_path / "findings")

    assert load_findings(tmp_path / "findings").shown == found.shown
    assert check_folder(tmp_path, Path(source.headers[0].filename).parent) == []


def test_findings_that_name_no_frame_are_refused(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="must name the frame"):
        encode_findings(replace(found, frames=(), shown=()), source.headers, context(), tmp_path)


def test_a_frame_beyond_the_clip_is_refused(source: FrameSource, found: Findings, tmp_path: Path) -> None:
    beyond = replace(found, frames=(found.frames[0], replace(found.frames[1], number=4)))

    with pytest.raises(EncodeError, match="has 3 frames, and none of number 4"):
        encode_findings(beyond, source.headers, context(), tmp_path)


def reference_of(seg: Dataset, index: int) -> Dataset:
    item: Dataset = seg.PerFrameFunctionalGroupsSequence[index].DerivationImageSequence[0].SourceImageSequence[0]
    return item


def spoil_number(seg: Dataset) -> None:
    reference_of(seg, 1).ReferencedFrameNumber = 3


def drop_number(seg: Dataset) -> None:
    del reference_of(seg, 1).ReferencedFrameNumber


def swap_images(seg: Dataset) -> None:
    first, second = reference_of(seg, 0), reference_of(seg, 1)
    first.ReferencedSOPInstanceUID, second.ReferencedSOPInstanceUID = (
        second.ReferencedSOPInstanceUID,
        first.ReferencedSOPInstanceUID,
    )


def mirror(seg: Dataset) -> None:
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    planes = bits.reshape(-1, seg.Rows, seg.Columns)[:, :, ::-1]
    seg.PixelData = np.packbits(planes, bitorder="little").tobytes()


def grow(seg: Dataset) -> None:
    """One row more at the bottom of each mask: findings and SEG agree no more, nor do the axes."""
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    planes = bits.reshape(-1, seg.Rows, seg.Columns)
    planes[:, 8:] |= planes[:, :-8]
    seg.PixelData = np.packbits(planes, bitorder="little").tobytes()


def give_spacing(seg: Dataset) -> None:
    item = Dataset()
    item.PixelSpacing = [1, 1]
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [item]


def give_place(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def name_stranger(seg: Dataset) -> None:
    seg.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    ("spoil", "said", "without_findings"),
    [
        (spoil_number, "lacks its frame", False),
        (drop_number, "without a ReferencedFrameNumber", True),
        (swap_images, "a ReferencedFrameNumber", True),
        (mirror, "differs in", False),
        (grow, "axis is", True),
        (give_spacing, "has a PixelMeasuresSequence", True),
        (give_place, "FrameOfReferenceUID is 1.2.3", True),
        (name_stranger, "SourceImageSequence names 1.2.3", True),
    ],
)
def test_the_check_catches_a_spoilt_mask(
    spoil: Callable[[Dataset], None], said: str, without_findings: bool,
    source: FrameSource, found: Findings, tmp_path: Path,
) -> None:  # fmt: skip
    objects = encode_findings(found, source.headers, context(), tmp_path)
    seg = pydicom.dcmread(objects[0].path)
    spoil(seg)
    seg.save_as(objects[0].path)

    given = None if without_findings else found
    problems = check_results([o.path for o in objects], source.headers, findings=given)
    assert any(said in p for p in problems), problems


@pytest.mark.parametrize(
    ("name", "factor", "unit", "said"),
    [
        ("longest", 1.1, "mm", "longest axis is"),
        ("shortest", 0.9, "mm", "shortest axis is"),
        ("longest", 1.0, "{pixels}", "the image's scale makes it mm"),
    ],
)
def test_the_check_catches_a_wrong_axis(
    name: str, factor: float, unit: str, said: str, source: FrameSource, found: Findings, tmp_path: Path
) -> None:
    wrong = [
        replace(m, value=m.value * factor, unit=unit) if name in m.name and "Lesion 2" in m.name else m
        for m in found.measurements
    ]
    _, problems = written(source, replace(found, measurements=tuple(wrong)), tmp_path)

    assert len([p for p in problems if said in p]) == 1, problems
