"""The organ by its pixels, and that what else is looked at changes no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.breast_us.algorithm import BREAST
from algorithms.thyroid_us.algorithm import THYROID
from algorithms.ultrasound import analyse, evaluate_organ, find, looks, networks, organ, train_organ
from algorithms.ultrasound.calibrate import Calibration
from dicom_node.algorithm import Findings, NotAnalysed
from dicom_node.run.frames import Clip, open_clip
from dicom_node.testing.phantom_ultrasound import Lesion, Probe, dataset, draw
from dicom_node.testing.series import save
from tests.unit.test_ultrasound_findings import Says, models


def clip(folder: Path, key: str, *seeds: int, **header: Any) -> Clip:
    drawn = [draw(Probe(seed=seed), Lesion(echo=-30)) for seed in seeds or (0,)]
    regions = [(drawn[0].box, drawn[0].spacing)]
    made = dataset([d.screen for d in drawn], regions=regions, key=key, header=header)
    return open_clip(save(folder / key, [made])[0])


def region(seed: int = 0) -> torch.Tensor:
    drawn = draw(Probe(seed=seed), Lesion())
    top, left, bottom, right = drawn.box
    return torch.from_numpy(drawn.screen[top:bottom, left:right].copy()).float() / 255


def classifier() -> organ.Classifier:
    torch.manual_seed(3)
    return organ.Classifier([organ.OrganNetwork().eval().requires_grad_(False) for _ in range(2)])


def test_what_tells_scanners_apart_is_not_seen() -> None:
    """Grey maps, sizes and text beside the tissue: the shortcuts that the two data sets offer."""
    image = region()
    seen = organ.squares(image)

    assert seen.shape == (3, 1, organ.SIZE, organ.SIZE)
    assert torch.allclose(
        organ.as_seen(image[None, None, :300, :300] ** 2), organ.as_seen(image[None, None, :300, :300])
    )
    large = torch.nn.functional.interpolate(image[None, None], scale_factor=2.0, mode="bilinear")[0, 0]
    assert (organ.squares(large) - seen).abs().mean() < 0.03
    flat = torch.full((1, 1, 64, 64), 0.3)
    assert organ.as_seen(flat).abs().max() == 0


def test_probabilities_are_those_of_each_region_alone(tmp_path: Path) -> None:
    known = classifier()
    regions = [region(0), region(1)[:300], region(2)]
    organ.save(known.networks, tmp_path / "organ.safetensors")
    again = organ.load(tmp_path / "organ.safetensors")

    both = known.probabilities(regions)

    assert both.shape == (3, 3)
    assert torch.allclose(both.sum(1), torch.ones(3))
    assert torch.allclose(both[1], known.probabilities(regions[1:2])[0], atol=1e-6)
    assert torch.allclose(again.probabilities(regions), both, atol=1e-2)  # float16
    networks.save_weights(networks.find_network(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another network"):
        organ.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ((0.02, 0.97, 0.01), "looks like thyroid (0.97), not breast"),
        ((0.02, 0.01, 0.97), "looks like neither breast nor thyroid (0.97)"),
        ((0.2, 0.75, 0.05), "looks like thyroid (0.75), not breast"),
        ((0.35, 0.6, 0.05), None),
        ((0.95, 0.03, 0.02), None),
    ],
)
def test_the_answer_in_words(what: tuple[float, ...], reason: str | None) -> None:
    assert organ.unlike("breast", what) == reason


def test_where_the_header_is_silent_the_pixels_tell(tmp_path: Path) -> None:
    other = replace(models(), organs=Says((), (0.02, 0.97, 0.01)))
    silent = clip(tmp_path, "silent", StudyDescription="Sonographie")

    with pytest.raises(NotAnalysed, match=r"it looks like thyroid \(0.97\), not breast, and its header does not name"):
        analyse.findings([silent], other)
    as_thyroid = analyse.findings([silent], replace(other, organ=THYROID))
    assert as_thyroid.details["pictures"][0]["organ_by_pixels"]["thyroid"] == 0.97
    moving = clip(tmp_path, "clip", 0, 1)
    with pytest.raises(NotAnalysed, match="looks like thyroid"):
        analyse.findings([moving], other)


def test_where_the_header_names_the_organ_the_pixels_are_not_asked(tmp_path: Path) -> None:
    other = replace(models(), organs=Says((), (0.02, 0.97, 0.01)))
    named = clip(tmp_path, "named", StudyDescription="US breast")

    found = analyse.findings([named], other)

    (details,) = found.details["pictures"]
    assert details["organ_by_header"] == "breast (StudyDescription: breast)"
    assert details["organ_by_pixels"] == {}
    with pytest.raises(NotAnalysed, match=r"the header says breast \(StudyDescription: breast\), not thyroid"):
        analyse.findings([named], replace(models(), organ=THYROID))


def test_without_a_classifier_what_says_nothing_is_not_analysed(tmp_path: Path) -> None:
    alone = replace(models(), organs=None)

    with pytest.raises(NotAnalysed, match="its header does not name the organ"):
        analyse.findings([clip(tmp_path, "silent")], alone)
    assert analyse.findings([clip(tmp_path, "named", BodyPartExamined="BREAST")], alone).frames


def test_of_a_mixed_study_each_algorithm_takes_its_own(tmp_path: Path) -> None:
    study = [clip(tmp_path, "b", StudyDescription="breast"), clip(tmp_path, "t", StudyDescription="thyroid")]

    found = analyse.findings(study, models())

    assert [f.SOPInstanceUID for f in found.frames] == [study[0].SOPInstanceUID]
    assert any(note.startswith("1 image was not analysed, because the header says thyroid") for note in found.notes)


def untrained() -> analyse.Models:
    """The real networks, which see something everywhere."""
    torch.manual_seed(1)
    finder, grader = networks.find_network(), networks.grade_network(4)
    for network in (finder, grader):
        network.eval().requires_grad_(False)
    known = looks.Looks(np.zeros(9), np.eye(9), 1e9)
    calibration = Calibration((2.0, 1.0), 0.0, (0.3, 0.7))
    device = torch.device("cpu")
    return analyse.Models(BREAST, [finder], [grader], calibration, known, device, Says((), (0.5, 0.4, 0.1)))


def test_what_else_is_in_the_batch_changes_no_bit(tmp_path: Path) -> None:
    """A CPU looks at single images one by one, and at a clip's frames with nothing else: so the results are equal."""
    known = untrained()
    studies = [[clip(tmp_path, f"s{k}", k)] for k in range(9)]
    studies += [[clip(tmp_path, "moving", 5, 6, 7)], [clip(tmp_path, "a", 10), clip(tmp_path, "b", 11)]]

    with torch.inference_mode():
        alone = [analyse.findings(study, known) for study in studies]
        all_of_them = analyse.together(studies, known)
        some = analyse.together([studies[10], studies[2]], known)

    assert sum(len(found.segments) for found in alone) > 3, "there is something to compare"
    for one, other in zip([*alone, alone[10], alone[2]], [*all_of_them, *some], strict=True):
        assert isinstance(other, Findings)
        assert np.array_equal(one.label_map, other.label_map)
        assert one.measurements == other.measurements
        assert (one.notes, one.details, one.frames) == (other.notes, other.details, other.frames)


def test_one_that_cannot_be_analysed_does_not_touch_the_others(tmp_path: Path) -> None:
    good, bad = clip(tmp_path, "good", 1), clip(tmp_path, "bad", StudyDescription="thyroid")

    first, second, third = analyse.together([[good], [bad], []], models())

    assert isinstance(first, Findings)
    assert isinstance(second, NotAnalysed)
    assert "the header says thyroid" in str(second)
    assert isinstance(third, NotAnalysed)


def test_a_gpu_s_batch_is_always_full() -> None:
    squares = torch.rand(3, 2, 8, 8)

    full = find.filled(squares)

    assert full.shape == (find.BATCH, 2, 8, 8)
    assert torch.equal(full[:3], squares)
    assert not full[3:].any()


def test_spoilt_squares_keep_their_texture_and_lose_their_anatomy() -> None:
    generator = torch.Generator().manual_seed(0)
    square = region()[None, None, :256, :256]

    mixed = train_organ.shuffled(square, generator)

    assert torch.equal(mixed.flatten().sort().values, square.flatten().sort().values)
    assert not torch.equal(mixed, square)
    assert train_organ.spoilt(square, generator).shape == square.shape


def test_a_batch_has_as_many_of_each_class() -> None:
    examples = [train_organ.Example(region(k)[:200, :260], k % 3, str(k), 1) for k in range(3)]

    images, labels = train_organ.batch(examples, torch.Generator().manual_seed(0))

    assert images.shape == (3 * train_organ.EACH, 1, organ.SIZE, organ.SIZE)
    assert torch.bincount(labels).tolist() == [train_organ.EACH] * 3
    assert images.abs().max() <= 1


def test_figures_count_what_is_turned_away_and_taken_in() -> None:
    image = torch.zeros(64, 64)
    examples = [train_organ.Example(image, label, f"{k}", 1) for k, label in enumerate((0, 0, 1, 2))]
    probabilities = np.array([[0.9, 0.1, 0], [0.05, 0.95, 0], [0.6, 0.4, 0], [0.0, 0.02, 0.98]])

    figures = evaluate_organ.figures_of(examples, probabilities)

    assert figures["images"] == {"breast": 2, "thyroid": 1, "neither": 1}
    assert figures["called_right"]["breast"]["value"] == 0.5
    assert figures["breast_turned_away"]["value"] == 0.5
    assert figures["others_taken_for_breast"]["value"] == 0.5  # the thyroid of 0.6
    assert figures["thyroid_turned_away"]["value"] == 0.0
    assert figures["auc_breast_thyroid"] == 0.5


def test_each_image_is_judged_by_the_network_that_never_saw_its_patient() -> None:
    examples = [train_organ.Example(region(k)[:80, :80], 0, f"{k}", fold) for k, fold in enumerate((1, 2, 1))]
    known = classifier()

    found = evaluate_organ.judged(examples, known.networks)

    for row, example, network in zip(found, examples, [known.networks[k] for k in (0, 1, 0)], strict=True):
        alone = organ.Classifier([network]).probabilities([example.image])[0].numpy()
        assert np.allclose(row, alone, atol=1e-5)


def test_the_shortcuts_are_looked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = [torch.rand(64, 80, generator=generator) for _ in range(20)]
    dark = [train_organ.Example(0.2 * grey[k], 0, f"a{k}", k % 5 + 1) for k in range(10)]
    light = [train_organ.Example(grey[10 + k], 1, f"b{k}", k % 5 + 1) for k in range(10)]
    coarse = evaluate_organ.changed([dark[0]], "coarse")[0]

    assert evaluate_organ.nine_numbers([*dark, *light]) > 0.9
    assert min(coarse.image.shape) == organ.SHARPEST // 2
    mixed = evaluate_organ.changed([dark[0]], "texture")[0]
    assert torch.equal(mixed.image.flatten().sort().values, dark[0].image[:64, :64].flatten().sort().values)
