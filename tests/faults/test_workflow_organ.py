"""Ultrasound whose headers do not name the organ: both algorithms look, and each says why it takes it or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from algorithms.ultrasound.train_jobs import write_manifest
from dicom_node import app
from dicom_node.model.states import RUN_ENDED, RunState
from dicom_node.store.runs import RunRow
from dicom_node.testing.phantom_ultrasound import dataset
from dicom_node.testing.series import phantom_uid, save
from tests.faults.inline_pool import InlinePool
from tests.faults.test_workflow import Site, pacs, until  # noqa: F401 - a fixture
from tests.faults.test_workflow_ultrasound import SHOWN, image, words
from tests.ultrasound_algorithms import install

ROUTES = """
rules:
  - {name: breast, algorithm: breast_us, when: {Modality: US, body_part: [breast, unknown]}, deliver_to: [pacs]}
  - {name: thyroid, algorithm: thyroid_us, when: {Modality: US, body_part: [thyroid, unknown]}, deliver_to: [pacs]}
"""
SAYS = """

def load(path, device="cpu"):
    class Always:
        def probabilities(self, regions):
            return torch.tensor([[0.02, 0.97, 0.01]] * len(regions))

    return Always()
"""
SILENT = "Sonographie"


@pytest.fixture
def site(tmp_path, pacs, monkeypatch) -> Iterator[Site]:  # noqa: F811
    monkeypatch.setattr(app, "WorkerPool", InlinePool)
    install(tmp_path / "algorithms")
    for name in ("breast_us", "thyroid_us"):
        (tmp_path / "algorithms" / name / "models" / "organ.safetensors").write_bytes(b"")
        assert write_manifest(tmp_path / "algorithms" / name)
    with (tmp_path / "algorithms" / "ultrasound" / "organ.py").open("a") as file:
        file.write(SAYS)
    s = Site(tmp_path, pacs, ROUTES, ("seg", "sr", "sc"))
    yield s
    s.node.stop()


def both_ended(site: Site) -> dict[str, RunRow]:
    until(lambda: len(site.s.runs.all()) == 2 and all(r.state in RUN_ENDED for r in site.s.runs.all()), 180)
    return {run.algorithm: run for run in site.s.runs.all()}


def test_the_organ_that_it_looks_like_is_analysed_and_the_other_algorithm_says_why_not(site, tmp_path):
    site.send(save(tmp_path / "in", [image("one", about=SILENT)]))
    runs = both_ended(site)

    assert runs["thyroid_us"].state == RunState.DONE
    assert runs["breast_us"].state == RunState.NOT_ANALYSED
    assert "looks like thyroid (0.97), not breast, and its header does not name the organ" in runs["breast_us"].reason
    (details,) = runs["thyroid_us"].record["details"]["pictures"]
    assert details["organ_by_header"] == "unknown"
    assert details["organ_by_pixels"] == {"breast": 0.02, "thyroid": 0.97, "neither": 0.01}
    routes = site.s.runs.routes(phantom_uid("examination", SILENT))
    assert [("body part unknown" in r["reason"], r["wanted"]) for r in routes] == [(True, True)] * 2


def test_an_empty_sector_is_refused_whatever_the_organ(site, tmp_path):
    screen = SHOWN.screen.copy()
    top, left, bottom, right = SHOWN.box
    screen[top + 30 : bottom, left:right] = 2  # a probe in air: bright lines at its surface
    air = dataset([screen], regions=[(SHOWN.box, SHOWN.spacing)], header={"StudyDescription": "US breast"})
    site.send(save(tmp_path / "in", [air]))
    until(lambda: site.s.runs.all() and site.s.runs.all()[0].state in RUN_ENDED, 180)

    (run,) = site.s.runs.all()
    assert (run.algorithm, run.state) == ("breast_us", RunState.NOT_ANALYSED)
    assert "no tissue is seen" in run.reason


def test_colours_that_are_wrongly_named_are_read_as_they_are_and_said_so(site, tmp_path):
    shown = np.repeat(SHOWN.screen[..., None], 3, 2)
    shown[..., 1:] = 128  # YBR samples under the name of RGB
    wrong = dataset([shown], regions=[(SHOWN.box, SHOWN.spacing)], header={"StudyDescription": "US thyroid"})
    site.send(save(tmp_path / "in", [wrong]))
    until(lambda: site.s.runs.all() and site.s.runs.all()[0].state in RUN_ENDED, 180)

    (run,) = site.s.runs.all()
    assert run.state == RunState.DONE
    assert any("they were read as these" in said for said in words(site))
