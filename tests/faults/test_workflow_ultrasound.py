"""Ultrasound on its whole way: one run on all its images, and what becomes of those that cannot be analysed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import generate_frames

from dicom_node import app
from dicom_node.check.objects import content
from dicom_node.model.states import RUN_ENDED, RunState, StudyState
from dicom_node.store.runs import RunRow
from dicom_node.testing.phantom_ultrasound import Drawn, Probe, dataset, draw
from dicom_node.testing.series import phantom_uid, save
from tests.faults.inline_pool import InlinePool
from tests.faults.test_workflow import Site, pacs, until  # noqa: F401 - a fixture
from tests.ultrasound_algorithms import NODULE, install

ROUTES = """
rules:
  - {name: breast, algorithm: breast_us, when: {Modality: US, body_part: breast}, deliver_to: [pacs]}
  - {name: thyroid, algorithm: thyroid_us, when: {Modality: US, body_part: thyroid}, deliver_to: [pacs]}
"""
SHOWN = draw(Probe(), NODULE)
EMPTY = draw(Probe(seed=3), None)


def image(key: str, *drawn: Drawn, about: str = "Mammasonographie", **header: object) -> Dataset:
    """An image or clip of the examination."""
    shown = drawn or (SHOWN,)
    common = {
        "StudyInstanceUID": phantom_uid("examination", about),
        "SeriesInstanceUID": phantom_uid("examination", about, "series"),
        "StudyDescription": about,
    }
    regions = [(shown[0].box, shown[0].spacing)]
    return dataset([d.screen for d in shown], regions=regions, key=key + about, header={**common, **header})


@pytest.fixture
def site(tmp_path, pacs, monkeypatch) -> Iterator[Site]:  # noqa: F811
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    install(tmp_path / "algorithms")
    s = Site(tmp_path, pacs, ROUTES, ("seg", "sr", "contours", "sc"))
    yield s
    s.node.stop()


def ended(site: Site, state: RunState) -> RunRow:
    """The latest run, when it has ended so; networks take long on a busy machine."""
    until(lambda: site.s.runs.all() and site.s.runs.all()[0].state in RUN_ENDED, 120)
    run = site.s.runs.all()[0]
    assert run.state == state, run.reason
    return run


def words(site: Site) -> list[str]:
    """Everything that the report says."""
    (report,) = [r for r in site.pacs.received.values() if r.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"]
    return [i.TextValue for i in content(report, deep=True) if i.ValueType == "TEXT"]


def test_all_images_of_a_study_are_one_run_with_all_results(site, tmp_path):
    other = phantom_uid("another series")
    images = [
        image("one", ImageLaterality="L"),
        image("clip", SHOWN, EMPTY, SHOWN, SeriesInstanceUID=other, SeriesNumber=2),
    ]
    site.send(save(tmp_path / "in", images))
    run = ended(site, RunState.DONE)

    assert len(site.s.runs.all()) == 1
    assert run.algorithm == "breast_us"
    assert len(run.inputs) == 2
    seg = next(r for r in site.pacs.received.values() if r.Modality == "SEG")
    references = [g.DerivationImageSequence[0].SourceImageSequence[0] for g in seg.PerFrameFunctionalGroupsSequence]
    assert [r.get("ReferencedFrameNumber") in (1, 3) or None for r in references] == [None, True]
    assert {s.SeriesInstanceUID for s in seg.ReferencedSeriesSequence} == {i.SeriesInstanceUID for i in images}
    names = {m["name"]: (m["value"], m["unit"]) for m in run.measurements}
    assert names["Breast lesion 1: longest axis"][0] == pytest.approx(16, abs=2)
    assert names["Breast lesion 1: longest axis"][1] == "mm"
    assert names["Breast lesion 1: probability of malignancy"] == (pytest.approx(73.1, abs=0.1), "%")
    assert sorted(r.Modality for r in site.pacs.received.values()) == ["OT", "SEG", "SR", "SR"]
    said = " ".join(words(site))
    assert "Breast lesion 2: key frame" in said
    assert "For research use only" in said


def test_the_thyroid_is_read_and_never_called_malignant(site, tmp_path):
    site.send(save(tmp_path / "in", [image("one", about="US Schilddrüse")]))
    run = ended(site, RunState.DONE)

    assert run.algorithm == "thyroid_us"
    said = " ".join(
        str(element.value)
        for result in site.pacs.received.values()
        for element in result.iterall()
        if element.keyword != "PixelData"
    ).lower()
    assert "suspicious" in said
    assert "tirads" in said.replace("-", "")
    assert "malign" not in said
    assert "cancer" not in said


def test_no_nodule_is_an_explicit_result(site, tmp_path):
    site.send(save(tmp_path / "in", [image("one", EMPTY)]))
    ended(site, RunState.DONE)

    said = words(site)
    assert any(w.startswith("No finding") for w in said)
    assert any("No breast lesion was found in 1 image." in w for w in said)
    assert sorted(r.Modality for r in site.pacs.received.values()) == ["OT", "SR"]


def with_flow(ds: Dataset) -> Dataset:
    screen = np.repeat(SHOWN.screen[..., None], 3, axis=2)
    screen[150:220, 200:300] = [200, 30, 20]
    screen[150:220, 260:300, 1] = np.arange(40) * 4
    return dataset([screen], regions=[(SHOWN.box, SHOWN.spacing)], header=header_of(ds))


def header_of(ds: Dataset) -> dict[str, object]:
    return {k: ds[k].value for k in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDescription")}


def m_mode(ds: Dataset) -> Dataset:
    ds.SequenceOfUltrasoundRegions[0].RegionSpatialFormat = 2
    return ds


def spectral(ds: Dataset) -> Dataset:
    ds.SequenceOfUltrasoundRegions[0].RegionSpatialFormat = 3
    return ds


def capture(ds: Dataset) -> Dataset:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    return ds


def text_only(ds: Dataset) -> Dataset:
    blank = SHOWN.screen.copy()
    top, left, bottom, right = SHOWN.box
    blank[top:bottom, left:right] = 0
    return dataset([blank], header=header_of(ds))


def tiny(ds: Dataset) -> Dataset:
    return dataset([np.full((1, 1), 9, np.uint8)], header=header_of(ds))


def wrongly_coloured(ds: Dataset) -> Dataset:
    ds.PhotometricInterpretation = "RGB"
    return ds


REFUSED: list[tuple[Callable[[Dataset], Dataset], str]] = [
    (with_flow, "shows flow or stiffness in colour"),
    (m_mode, "M-mode"),
    (spectral, "spectral Doppler"),
    (capture, "a secondary capture"),
    (text_only, "no tissue is seen"),
    (tiny, "the image is too small"),
    (wrongly_coloured, "the header is wrong: RGB pixels do not have 1 sample"),
]


def test_what_cannot_be_analysed_is_reported_with_the_reason(site, tmp_path):
    """A study of each kind."""
    images = {f"Breast {spoil.__name__}": (spoil, reason) for spoil, reason in REFUSED}
    site.send(save(tmp_path / "in", [spoil(image("spoilt", about=about)) for about, (spoil, _) in images.items()]))
    until(lambda: sum(r.state == RunState.NOT_ANALYSED for r in site.s.runs.all()) == len(REFUSED), 120)

    reasons = {run.study_uid: run.reason for run in site.s.runs.all()}
    reports = {r.StudyInstanceUID: r for r in site.pacs.received.values()}
    assert len(site.pacs.received) == len(reports) == len(REFUSED)
    for about, (_, reason) in images.items():
        uid = phantom_uid("examination", about)
        assert reason in reasons[uid]
        said = [i.TextValue for i in content(reports[uid], deep=True) if i.ValueType == "TEXT"]
        assert any(w.startswith("Not analysed, because ") and reason in w for w in said), about


def test_beside_a_good_image_it_is_left_out_and_named(site, tmp_path):
    spoilt = [spoil(image(f"spoilt {k}")) for k, (spoil, _) in enumerate(REFUSED)]
    site.send(save(tmp_path / "in", [image("good"), *spoilt]))
    run = ended(site, RunState.DONE)

    said = words(site)
    for _, reason in REFUSED:
        assert any(reason in w and w.startswith("1 image left out") for w in said), reason
    assert len(run.inputs) == 1 + len(REFUSED)
    assert "SEG" in {r.Modality for r in site.pacs.received.values()}


def test_what_looks_unlike_the_training_data_is_not_scored(tmp_path, pacs, monkeypatch):  # noqa: F811
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    install(tmp_path / "algorithms", ["breast_us"], limit=0.0)
    site = Site(tmp_path, pacs, ROUTES.split("\n  - {name: thyroid")[0])
    try:
        site.send(save(tmp_path / "in", [image("one")]))
        run = ended(site, RunState.NOT_ANALYSED)
        assert "looks unlike the images that this algorithm was trained on" in run.reason
        assert any(w.startswith("Not analysed, because it looks unlike") for w in words(site))
    finally:
        site.node.stop()


def jpeg_clip(frames: int, broken: int | None) -> Dataset:
    """A JPEG clip, of which one frame (from 1) cannot be decoded."""
    from tests.unit.test_frames import jpeg

    clip = jpeg(image("clip", *[SHOWN] * frames), [SHOWN.screen] * frames)
    if broken is not None:
        compressed = list(generate_frames(clip.PixelData, number_of_frames=frames))
        compressed[broken - 1] = b"\xff\xd8" + bytes(50)
        clip.PixelData = pydicom.encaps.encapsulate(compressed)
    return clip


def test_a_broken_frame_of_a_clip_costs_that_frame_alone(site, tmp_path):
    site.send(save(tmp_path / "in", [jpeg_clip(30, 17)]))
    run = ended(site, RunState.DONE)

    assert any("frame 17 of 30 cannot be read" in n for n in run.record["notes"])
    assert any("found in 29 of 29 looked at" in n for n in run.record["notes"])
    assert {r.Modality for r in site.pacs.received.values()} == {"SEG", "SR", "OT"}


def test_another_part_of_the_body_is_not_wanted(site, tmp_path):
    site.send(save(tmp_path / "in", [image("one", about="US Abdomen")]))
    site.study(StudyState.UNWANTED)

    reasons = [r["reason"] for r in site.s.runs.routes(phantom_uid("examination", "US Abdomen"))]
    assert any("body_part is abdomen" in r for r in reasons)


def test_a_late_image_makes_a_report_that_replaces_the_first(site, tmp_path):
    site.send(save(tmp_path / "a", [image("one")]))
    first = ended(site, RunState.DONE)
    site.send(save(tmp_path / "b", [image("two", SeriesInstanceUID=phantom_uid("late"), SeriesNumber=9)]))
    until(lambda: len(site.s.runs.all()) == 2, 120)
    second = ended(site, RunState.DONE)

    assert len(second.inputs) == 2
    old = next(o.SOPInstanceUID for o in site.s.runs.results(first.run_id) if o.role == "sr")
    new = next(o.SOPInstanceUID for o in site.s.runs.results(second.run_id) if o.role == "sr")
    (predecessor,) = site.pacs.received[new].PredecessorDocumentsSequence
    assert predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old
