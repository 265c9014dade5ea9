"""How the ultrasound algorithms come to be known to the node, and what it does not take of an algorithm on frames."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from algorithms.breast_us.train import TRAINING
from algorithms.ultrasound.train_jobs import release, write_manifest
from dicom_node.algorithm import Findings, Frame
from dicom_node.errors import AlgorithmError
from dicom_node.run.frames import FrameSource
from dicom_node.run.registry import DEFAULT_FOLDER, load_registry
from dicom_node.run.worker_process import placed
from tests.ultrasound_algorithms import install
from tests.unit.ultrasound_samples import OTHER, SHOWN, findings, image, study

ORGANS = ["breast_us", "thyroid_us"]


def test_both_manifests_are_read_when_weights_are_there(tmp_path: Path) -> None:
    install(tmp_path, ORGANS)
    found = load_registry(tmp_path)

    assert list(found) == ORGANS
    for organ, algorithm in found.items():
        manifest = algorithm.manifest
        assert (manifest.input, manifest.accepts.Modality) == ("frames", ("US",))
        assert set(manifest.weights) == {"calibration", "find-1", "grade-1", "looks"}
        for weights in manifest.weights.values():
            content = (tmp_path / organ / weights.file).read_bytes()
            assert hashlib.sha256(content).hexdigest() == weights.sha256


@pytest.mark.parametrize("name", ["calibration.json", "looks.json", "find-1.safetensors", "grade-1.safetensors"])
def test_without_one_of_them_there_is_no_manifest(name: str, tmp_path: Path) -> None:
    install(tmp_path, ["breast_us"])
    (tmp_path / "breast_us" / "algorithm.yaml").unlink()
    (tmp_path / "breast_us" / "models" / name).unlink()

    assert not write_manifest(tmp_path / "breast_us")
    assert load_registry(tmp_path) == {}


def test_a_release_takes_what_is_trained_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, ["breast_us"])
    shutil.move(tmp_path / "breast_us" / "models", tmp_path / "work")
    (tmp_path / "breast_us" / "algorithm.yaml").unlink()
    release(replace(TRAINING, folder=tmp_path / "breast_us"), tmp_path / "work")

    said = capsys.readouterr().out
    assert "find-2.safetensors is still to be made" in said
    assert "breast_us/algorithm.yaml is written" in said
    assert set(load_registry(tmp_path)) == {"breast_us"}


def test_a_manifest_in_the_tree_is_what_a_release_writes(tmp_path: Path) -> None:
    for organ in ORGANS:
        given = DEFAULT_FOLDER / organ
        written = given / "algorithm.yaml"
        values = yaml.safe_load((given / "algorithm.yaml.in").read_text(encoding="utf-8"))
        assert values["id"] == organ
        if written.exists():
            shutil.copytree(given, tmp_path / organ, ignore=shutil.ignore_patterns("__pycache__"))
            assert write_manifest(tmp_path / organ)
            assert (tmp_path / organ / "algorithm.yaml").read_text() == written.read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FrameSource:
    images = [image("one", InstanceNumber=1), image("clip", (SHOWN, OTHER), InstanceNumber=2)]
    return study(tmp_path_factory.mktemp("study"), images)


def test_findings_are_given_what_may_be_shown(source: FrameSource) -> None:
    found = findings(source, (SHOWN, OTHER), (1, 2))

    assert found.shown == tuple(tuple(r.box for r in clip.regions) for clip in source.clips)


def test_findings_that_do_not_fit_the_clips_are_the_algorithm_s_fault(source: FrameSource) -> None:
    found: Findings = replace(findings(source, (SHOWN, OTHER), (1, 2)), shown=())
    uid = source.clips[1].SOPInstanceUID
    wrong = {
        "does not name a frame": replace(found, frames=()),
        "that none of the clips has": replace(found, frames=(found.frames[0], Frame(uid, 3))),
        "none of the clips": replace(found, frames=(found.frames[0], Frame("1.2.3"))),
        "the size of the frames": replace(found, label_map=np.zeros((2, 10, 10), np.uint8)),
    }
    for said, bad in wrong.items():
        with pytest.raises(AlgorithmError, match=said):
            placed(bad, source.clips)
