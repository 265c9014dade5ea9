"""What a radiologist sees: the node's results in OHIF, in a headless browser, with an archive behind it.

The assertions are on numbers: voxels in the viewer's memory, colours and lines on the screen. Screenshots are left
in ``$DICOM_NODE_SCREENSHOTS`` (or the test's own folder).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from highdicom.color import CIELabColor
from PIL import Image
from pydicom import Dataset
from scipy import ndimage

from dicom_node.check.objects import Sources
from dicom_node.check.results import check_results
from dicom_node.encode.results import encode_findings
from dicom_node.offline import run_offline
from dicom_node.run.findings_io import load_findings
from dicom_node.settings import RunSettings, Settings
from tests.browser.cases import CASES, Case
from tests.browser.install import NEW_OHIF, OLD_OHIF, PLAYWRIGHT, NotInstalled, installed
from tests.browser.site import upload, viewer_site
from tests.conftest import absent, need_program
from tests.interop.orthanc import Orthanc, orthanc
from tests.unit.result_samples import context

LOOK = Path(__file__).with_name("look.js")
A_PIXEL = ((0.0, 0.0), (1.0, 0.0))
"""Two points one pixel apart: how large a pixel is on the screen."""


@dataclass(frozen=True)
class Results:
    """One algorithm's results in an archive, beside the images.

    Attributes:
        objects: by role: seg, sr, contours, sc.
        label_map: the same segmentation as a destination with ``seg_encoding: labelmap`` gets it.
    """

    case: Case
    archive: Orthanc
    objects: dict[str, Dataset]
    label_map: Dataset | None = None


def package(name: str) -> Path:
    """An npm package; skips (fails with CI=true) with the reason where it cannot be had."""
    try:
        return installed(name)
    except NotInstalled as e:
        absent(str(e))
        raise


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.algorithm)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    case: Case = request.param
    need_program("chromium")
    folder = tmp_path_factory.mktemp(case.algorithm)
    images = case.source(folder / "images")
    settings = Settings()
    if case.install is not None:
        case.install(folder / "algorithms")
        settings = settings.model_copy(update={"run": RunSettings(algorithms_dir=folder / "algorithms")})
    said = run_offline(settings, case.algorithm, folder / "images", folder / "results")
    assert said["state"] == "done", said["reason"]
    files = {p.stem: p for p in (folder / "results").glob("*.dcm")}
    label_maps = [label_map_of(images, folder)] if case.label_map else []
    with orthanc() as archive:
        upload(archive, [*images, *files.values(), *label_maps])
        label_map = pydicom.dcmread(label_maps[0]) if label_maps else None
        yield Results(case, archive, {role: pydicom.dcmread(p) for role, p in files.items()}, label_map)


def label_map_of(images: list[Path], folder: Path) -> Path:
    """The findings in ``folder`` as a label map, in a series that is known by its description."""
    sources = Sources([pydicom.dcmread(p, stop_before_pixels=True) for p in images])
    headers = [sources.by_uid[uid] for uid, _ in sources.stacked or ()]
    found, out = load_findings(folder / "results" / "findings"), folder / "label_map"
    called = context(key="label map", series_number=9500, series_description="{algorithm} {result} label map")
    written = {o.role: o.path for o in encode_findings(found, headers, called, out, encodings=("labelmap",))}
    assert check_results(list(written.values()), headers, findings=found) == []
    return written["seg_labelmap"]


@dataclass(frozen=True)
class Look:
    """What the viewer said, and the plan it was given.

    Attributes:
        opened: by kind (SEG, SR, SC, LABELMAP).
        inside, outside: the points of the SEG's image, segment number by point.
        by_place: whether this viewer paints a segment on every image of its place, of whatever moment.
    """

    said: dict[str, Any]
    opened: dict[str, dict[str, Any]]
    inside: list[tuple[int, tuple[float, float]]]
    outside: list[tuple[float, float]]
    by_place: bool


@pytest.fixture(scope="module", params=[NEW_OHIF, OLD_OHIF])
def look(request: pytest.FixtureRequest, results: Results, tmp_path_factory: pytest.TempPathFactory) -> Look:
    ohif, playwright, node = package(request.param), package(PLAYWRIGHT), need_program("node")
    base = os.environ.get("DICOM_NODE_SCREENSHOTS")
    shots = Path(base) if base else tmp_path_factory.mktemp("screenshots")
    shots = shots / f"{results.case.algorithm}-{request.param.rpartition('@')[2]}"
    shots.mkdir(parents=True, exist_ok=True)
    opens, inside, outside = [], [], []
    if results.case.segmentation:
        image, inside, outside = points_of(results.objects["seg"])
        points = [p for _, p in inside] + outside
        opens.append(opening("SEG", results.objects["seg"], image, points))
    image, line = first_outline(results.objects["contours"])
    opens.append(opening("SR", results.objects["contours"], image, [*line, *A_PIXEL]))
    opens.append(opening("SC", results.objects["sc"], results.objects["sc"].SOPInstanceUID, []))
    if results.label_map is not None:
        opens.append(opening("LABELMAP", results.label_map, image, []))
    with viewer_site(ohif, results.archive) as url:
        plan = {
            "playwright": str(playwright),
            "chromium": need_program("chromium"),
            "url": url,
            "study": results.objects["sr"].StudyInstanceUID,
            "shots": str(shots),
            "opens": opens,
        }
        (shots / "plan.json").write_text(json.dumps(plan))
        command = [node, str(LOOK), str(shots / "plan.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        (shots / "plan.json").unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    (shots / "said.json").write_text(done.stdout)
    said = json.loads(done.stdout)
    return Look(said, {o["kind"]: o for o in said["opened"]}, inside, outside, by_place=request.param == OLD_OHIF)


def opening(kind: str, ds: Dataset, image: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    return {"kind": kind, "description": str(ds.SeriesDescription), "image": str(image), "points": points}


def masks_of(seg: Dataset) -> Iterator[tuple[str, int, npt.NDArray[np.bool_]]]:
    """Source image, segment number and mask of each frame."""
    planes = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns) > 0
    for plane, frame in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        # of a single segment all frames share it
        identified = frame if "SegmentIdentificationSequence" in frame else seg.SharedFunctionalGroupsSequence[0]
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        yield str(source), int(number), plane


def points_of(seg: Dataset) -> tuple[str, list[tuple[int, tuple[float, float]]], list[tuple[float, float]]]:
    """The image with the largest mask, points well inside its segments, and points well outside but near."""
    by_image: dict[str, dict[int, npt.NDArray[np.bool_]]] = {}
    for image, number, mask in masks_of(seg):
        by_image.setdefault(image, {})[number] = mask
    image = max(by_image, key=lambda i: sum(int(m.sum()) for m in by_image[i].values()))
    inside = []
    for number, mask in sorted(by_image[image].items()):
        deep = np.argwhere(ndimage.binary_erosion(mask, iterations=2))
        inside += [(number, (float(c), float(r))) for r, c in deep[:: max(1, len(deep) // 6)]]
    marked = np.logical_or.reduce(list(by_image[image].values()))
    ring = ndimage.binary_dilation(marked, iterations=9) & ~ndimage.binary_dilation(marked, iterations=5)
    near = np.argwhere(ring)
    return image, inside, [(float(c), float(r)) for r, c in near[:: max(1, len(near) // 12)]]


def groups_of(report: Dataset) -> list[Dataset]:
    (measurements,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return list(measurements.ContentSequence)


def first_outline(report: Dataset) -> tuple[str, list[tuple[float, float]]]:
    """Image and points of the first group's first outline; (0, 0) is the centre of the first pixel."""
    region = next(i for i in groups_of(report)[0].ContentSequence if i.ValueType == "SCOORD")
    data = [float(v) - 0.5 for v in region.GraphicData]
    image = str(region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    return image, list(zip(data[::2], data[1::2], strict=True))


def screen(opened: dict[str, Any]) -> npt.NDArray[np.int16]:
    with Image.open(opened["screenshot"]) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int16)


def colour_at(pixels: npt.NDArray[np.int16], place: list[float]) -> npt.NDArray[np.int16]:
    x, y = round(place[0]), round(place[1])
    return pixels[y, x]


def rgb_of(segment: Dataset) -> npt.NDArray[np.int16]:
    value = segment.RecommendedDisplayCIELabValue
    lab = CIELabColor(value[0] * 100 / 65535, value[1] * 255 / 65535 - 128, value[2] * 255 / 65535 - 128)
    return np.asarray(lab.to_rgb(), np.int16)


of_segmentations = pytest.mark.parametrize(
    "results",
    [case for case in CASES if case.segmentation],
    ids=lambda case: case.algorithm,
    indirect=True,
    scope="module",
)
"""Of the cases whose SEG the viewer can show; the others have the contour report and the picture."""


of_label_maps = pytest.mark.parametrize(
    "results",
    [case for case in CASES if case.label_map],
    ids=lambda case: case.algorithm,
    indirect=True,
    scope="module",
)


def test_nothing_fails_and_nothing_leaves_the_machine(look: Look) -> None:
    assert look.said["errors"] == []
    assert look.said["refused"] == []
    assert look.said["elsewhere"] == []


def test_the_images_come_first_and_every_result_is_listed(look: Look, results: Results) -> None:
    descriptions = {str(ds.SeriesDescription) for ds in results.objects.values()}
    listed = {s["description"]: s["unsupported"] for s in look.said["series"]}
    assert descriptions <= listed.keys()
    assert not any(listed[d] for d in descriptions)
    assert len(look.said["first"]) == 1
    assert look.said["first"][0] not in descriptions


@of_segmentations
def test_the_viewer_holds_every_voxel(look: Look, results: Results) -> None:
    seg = results.objects["seg"]
    voxels = {int(s.SegmentNumber): 0 for s in seg.SegmentSequence}
    for _, number, mask in masks_of(seg):
        voxels[number] += int(mask.sum())
    shown = {s["number"]: (s["label"], s["voxels"]) for s in look.opened["SEG"]["segments"]}
    assert shown == {int(s.SegmentNumber): (s.SegmentLabel, voxels[s.SegmentNumber]) for s in seg.SegmentSequence}


@of_segmentations
def test_segments_have_their_colours(look: Look, results: Results) -> None:
    segments = {int(s.SegmentNumber): s for s in results.objects["seg"].SegmentSequence}
    for shown in look.opened["SEG"]["segments"]:
        assert np.abs(rgb_of(segments[shown["number"]]) - shown["colour"]).max() <= 3, shown


@of_label_maps
def test_the_viewer_holds_every_voxel_of_a_label_map(look: Look, results: Results) -> None:
    assert results.label_map is not None
    numbers, voxels = np.unique(results.label_map.pixel_array, return_counts=True)
    in_file = dict(zip(numbers.tolist(), voxels.tolist(), strict=True)) | {0: 0}  # background is not counted
    assert sum(v > 0 for v in in_file.values()) == len(results.objects["seg"].SegmentSequence)
    shown = {s["number"]: (s["label"], s["voxels"]) for s in look.opened["LABELMAP"]["segments"]}
    described = results.label_map.SegmentSequence
    assert shown == {int(s.SegmentNumber): (s.SegmentLabel, in_file[int(s.SegmentNumber)]) for s in described}


@of_label_maps
def test_a_label_map_has_each_colour_one_segment_late(look: Look, results: Results) -> None:
    """A limit of both versions, told in docs/results.md: each segment has the colour of the one before."""
    assert results.label_map is not None
    segments = {int(s.SegmentNumber): s for s in results.label_map.SegmentSequence}
    shown = {s["number"]: s["colour"] for s in look.opened["LABELMAP"]["segments"]}
    for number in range(1, len(segments)):
        before = rgb_of(segments[number - 1]) if number > 1 else np.zeros(3)
        assert np.abs(before - shown[number]).max() <= 3, number


@of_segmentations
def test_the_overlay_is_painted_where_the_mask_is(look: Look, results: Results) -> None:
    opened = look.opened["SEG"]
    pixels = screen(opened)
    colours = {int(s.SegmentNumber): rgb_of(s) for s in results.objects["seg"].SegmentSequence}
    # Where another moment's mask is painted over it, a segment's colour is there, but mixed.
    alike = 0.5 if look.by_place and results.case.moments else 0.9
    assert len(look.inside) >= 6
    for (number, _), place in zip(look.inside, opened["places"], strict=False):
        tint = colour_at(pixels, place) - colour_at(pixels, place).min()
        wanted = colours[number] - colours[number].min()
        assert tint.max() > 20, (number, place)
        assert np.dot(tint, wanted) > alike * np.linalg.norm(tint) * np.linalg.norm(wanted), (number, place)
    for place in opened["places"][len(look.inside) :]:
        assert np.ptp(colour_at(pixels, place)) < 12, place


def test_the_contour_report_shows_its_values(look: Look, results: Results) -> None:
    expected = []
    for group in groups_of(results.objects["contours"]):
        labels = []
        for item in (i for i in group.ContentSequence if i.ValueType == "NUM"):
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            value = float(measured.NumericValue)
            labels.append(f"{item.ConceptNameCodeSequence[0].CodeMeaning}: {value:.2f} {unit}")
        expected.append(labels)
    shown = [a["labels"] for a in look.opened["SR"]["annotations"]]
    assert sorted(shown) == sorted(expected)
    assert any(words == label for words in look.opened["SR"]["words"] for label in expected[0])


def test_the_outline_is_drawn_where_it_lies(look: Look) -> None:
    opened = look.opened["SR"]
    places = np.asarray(opened["places"])
    pixel = float(np.linalg.norm(places[-1] - places[-2]))
    wanted = box_of(places[:-2])
    boxes = [box_of(np.asarray(line)) for line in opened["lines"]]
    assert min(np.abs(box - wanted).max() for box in boxes) <= 0.25 * pixel, (pixel, wanted, boxes)


def box_of(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Smallest and largest x and y."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def test_the_picture_is_shown(look: Look, results: Results) -> None:
    opened, sc = look.opened["SC"], results.objects["sc"]
    place = opened["place"]
    assert (place["rows"], place["columns"]) == (sc.Rows, sc.Columns)
    pixels = screen(opened)
    shown = pixels[
        int(place["top"]) : int(place["top"] + place["height"]),
        int(place["left"]) : int(place["left"] + place["width"]),
    ]
    assert (np.ptp(shown, axis=-1) > 60).sum() > 500
