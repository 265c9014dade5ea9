"""What the ultrasound networks learn from and work on: squares, losses, batches, folds, calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.breast_us import train_data as breast
from algorithms.thyroid_us import train_data as thyroid
from algorithms.ultrasound import augment, batches, calibrate, evaluate_folds, find, losses, networks, resample
from algorithms.ultrasound.batches import Lesion
from algorithms.ultrasound.evaluate_folds import Measured
from algorithms.ultrasound.networks import Answer
from algorithms.ultrasound.train_jobs import Plan, Training, run_job
from dicom_node.testing.phantom_ultrasound import Lesion as Nodule
from dicom_node.testing.phantom_ultrasound import Probe, draw
from tests.conftest import data_dir


def lesion(seed: int = 0, label: float = 1.0, grade: int = 2) -> Lesion:
    drawn = draw(Probe(seed=seed, spacing=0.2), Nodule(across=seed * 2.0), text=False)
    top, left, bottom, right = drawn.box
    mask = drawn.lesion[top:bottom, left:right]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    image = torch.from_numpy(drawn.screen[top:bottom, left:right].copy())
    return Lesion(image, torch.from_numpy(mask), box, label, grade, f"image {seed}", f"case {seed}", seed + 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_square_and_back() -> None:
    image = lesion().mask.float()
    square = resample.around(lesion().box)

    there = resample.cut(image[None], square, 128)
    back = resample.put_back(there[0], square, (image.shape[0], image.shape[1]))

    assert there.shape == (2, 128, 128)
    assert evaluate_folds.dice((back > 0.5).numpy(), lesion().mask.numpy()) > 0.98


def test_a_square_beyond_the_image_says_what_is_outside() -> None:
    square = resample.Square(0.0, 0.0, 40.0)

    image, inside = resample.cut(torch.ones(1, 50, 60), square, 40)

    assert inside[:20].sum() == inside[:, :20].sum() == 0
    assert torch.equal(image, inside)
    assert inside[20:, 20:].min() == 1
    assert resample.put_back(image, square, (50, 60))[:20, :20].min() > 0.99


def test_brightness_and_text_do_not_matter() -> None:
    square = resample.cut(lesion().image.float()[None] / 255, resample.around(lesion().box), 128)
    written = square.clone()
    written[0, 5:8, 10:60] = 1.0

    plain, darker, marked = resample.normalise(
        torch.stack([square, square * torch.tensor([0.5, 1.0])[:, None, None], written])
    )

    assert torch.allclose(plain[0], darker[0], atol=0.05)
    assert (plain[0] - marked[0])[20:].abs().mean() < 0.1


@pytest.mark.parametrize("make", [batches.find_batch, batches.grade_batch])
def test_batches_are_repeatable_and_hold_the_lesion(make) -> None:  # type: ignore[no-untyped-def]
    lesions = [lesion(k) for k in range(4)]

    first, again, other = make(lesions, generator()), make(lesions, generator()), make(lesions, generator(1))

    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert first.image.isfinite().all()
    assert (first.share.sum((1, 2, 3)) > 50).all()
    inside = (first.image[:, :1] * first.share).sum() / first.share.sum()
    assert inside < -0.3  # the phantom's lesions are darker than what is around them
    assert first.label.tolist() == [1.0] * 4


def test_the_ablation_sees_enhanced_images() -> None:
    lesions = [lesion()]

    plain, enhanced = (batches.grade_batch(lesions, generator(), ace=ace) for ace in (False, True))

    assert torch.equal(plain.share, enhanced.share)
    assert not torch.allclose(plain.image, enhanced.image, atol=0.1)


def test_balanced_batches() -> None:
    lesions = [lesion(0, 0.0)] + [lesion(1, 1.0)] * 9 + [lesion(2, float("nan"))]

    labels = [x.label for x in batches.chosen(lesions, 40, True, generator())]

    assert (labels.count(0.0), labels.count(1.0)) == (20, 20)


def test_one_lesion_of_each_image() -> None:
    assert len(batches.one_of_each_image([lesion(), lesion(), lesion(1)])) == 2


def test_calipers_and_bars_are_put_on_some_images_only() -> None:
    image = torch.full((40, 1, 64, 64), 0.5)

    marked = augment.marks(image, 0.5, generator())

    touched = (marked != image).flatten(1).any(1)
    assert 0.5 < touched.float().mean() < 0.95
    assert (image == 0.5).all()


def test_the_loss_prefers_the_right_outline() -> None:
    share = lesion().mask.float()[None, None]
    right = torch.where(share > 0.5, 6.0, -6.0)

    assert losses.outline_loss(right, share) < 0.1
    assert losses.outline_loss(-right, share) > 3


def test_a_grade_that_nobody_gave_costs_nothing() -> None:
    logits = torch.randn(3, 4, generator=generator(), requires_grad=True)

    losses.grade_loss(logits, torch.tensor([1.0, float("nan"), 0.0]), torch.tensor([2, -1, -1])).backward()

    assert logits.grad is not None
    assert logits.grad[1].abs().sum() == 0
    assert logits.grad[2, 1:].abs().sum() == 0
    assert logits.grad[0].abs().min() > 0
    assert logits.grad[2, 0] > 0


def test_grades_are_learnt_in_their_order() -> None:
    grade = torch.tensor([0, 1, 3])
    above = torch.tensor([[-5.0, -5, -5], [5, -5, -5], [5, 5, 5]])
    right = torch.cat([torch.tensor([[-5.0], [-5.0], [5.0]]), above], 1)
    label = torch.tensor([0.0, 0.0, 1.0])

    assert losses.grade_loss(right, label, grade) < 0.4 < losses.grade_loss(right.flip(0), label, grade)


def test_the_outline_does_not_learn_from_the_grades() -> None:
    network = networks.grade_network(4)
    answer = network(torch.randn(2, 2, 64, 64, generator=generator()))
    assert isinstance(answer, Answer)

    answer.grades.sum().backward()

    assert network.outline.weight.grad is None


def test_the_head_looks_below_the_lesion() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:8, 5:9] = 1

    inside, margin, below = networks.places(mask)

    assert torch.equal(inside, mask)
    assert below[0, 0, 8:, 5:9].min() == 1
    assert below.sum() == 8 * 4
    assert margin[0, 0, 2, 5] == 1
    assert margin[0, 0, 6, 7] == 1


def test_a_batch_does_not_change_an_image_s_result() -> None:
    graders = [networks.grade_network(4).eval() for _ in range(2)]
    squares = torch.randn(5, 2, 64, 64, generator=generator())

    outlines, grades = networks.predict(graders, squares, batch=4)
    alone = [networks.predict(graders, squares[k : k + 1]) for k in range(5)]

    assert torch.allclose(outlines, torch.cat([a[0] for a in alone]), atol=1e-5)
    assert torch.allclose(grades, torch.cat([a[1] for a in alone]), atol=1e-5)


def test_a_mirror_image_has_the_same_grades() -> None:
    grader = networks.grade_network(4).eval()
    square = torch.randn(1, 2, 64, 64, generator=generator())

    outline, grades = networks.predict([grader], square)
    mirrored, again = networks.predict([grader], square.flip(3))

    assert torch.allclose(grades, again, atol=1e-5)
    assert torch.allclose(outline, mirrored.flip(3), atol=1e-5)


def test_what_is_not_mirrored_is_seen_once() -> None:
    grader = networks.grade_network(4).eval()
    square = torch.randn(3, 2, 64, 64, generator=generator())

    outline, grades = networks.predict([grader], square, batch=2, mirrored=False)
    other, others = networks.predict([grader], square.flip(3), mirrored=False)
    both, mean = networks.predict([grader], square)

    assert torch.allclose(grades, grader(square).grades, atol=1e-5)
    assert not torch.allclose(grades, mean, atol=1e-4)
    assert torch.allclose((grades + others) / 2, mean, atol=1e-5)
    assert torch.allclose((outline + other.flip(3)) / 2, both, atol=1e-5)


def test_weights_are_small_and_come_back(tmp_path: Path) -> None:
    finder, grader = networks.find_network(), networks.grade_network(6)
    networks.save_weights(finder, tmp_path / "find.safetensors")
    networks.save_weights(grader, tmp_path / "grade.safetensors")

    again = networks.load_weights(networks.grade_network(6), tmp_path / "grade.safetensors")

    assert sum(f.stat().st_size for f in tmp_path.iterdir()) * 5 < 25e6
    for a, b in zip(grader.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    with pytest.raises(ValueError, match="another network"):
        networks.load_weights(networks.grade_network(4), tmp_path / "grade.safetensors")


def test_the_thyroid_starts_from_the_breast(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = networks.grade_network(4), networks.grade_network(6)
    last = second.head.last.weight.clone()
    networks.save_weights(first, tmp_path / "grade-1.safetensors")

    networks.start_from(second, tmp_path / "grade-1.safetensors")

    assert torch.allclose(second.stem[0].weight, first.stem[0].weight, atol=1e-3)
    assert torch.equal(second.head.last.weight, last)


def test_lesions_are_found_in_the_map_the_largest_first() -> None:
    likely = torch.zeros(128, 128)
    likely[20:40, 30:60] = 0.9
    likely[80:95, 80:95] = 0.8
    likely[5:7, 5:7] = 0.9  # too small
    square = resample.Square(200.0, 300.0, 256.0)

    first, second = find.candidates(likely, square)

    assert first.box == (72 + 40, 172 + 60, 72 + 80, 172 + 120)
    assert second.certainty == pytest.approx(0.8)
    assert find.candidates(torch.zeros(128, 128), square) == []


def test_calibration_learns_the_odds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000) * 2
    labels = (rng.random(4000) < 1 / (1 + np.exp(-truth))).astype(float)
    grades = np.stack([3 * truth + 1, truth], 1)  # overconfident and shifted

    fitted = calibrate.fit(grades, labels.tolist())
    probability = fitted.probability(grades)

    assert calibrate.expected_error(probability, labels) < 0.03
    assert calibrate.expected_error(1 / (1 + np.exp(-grades[:, 0])), labels) > 0.05
    low, high = calibrate.indeterminate(probability, labels)
    assert (probability[labels == 1] < low).mean() == pytest.approx(0.05, abs=0.01)
    assert (probability[labels == 0] > high).mean() == pytest.approx(0.05, abs=0.01)


def test_calibration_comes_back(tmp_path: Path) -> None:
    fitted = calibrate.fit([[1.0, 2.0], [0.0, -1.0], [2.0, 0.0], [-1.0, 1.0]], [1, 0, 1, 0], band=(0.2, 0.6))
    fitted.save(tmp_path / "calibration.json")

    assert calibrate.load(tmp_path / "calibration.json") == fitted


def test_area_under_the_curve() -> None:
    labels = np.array([0.0, 0, 1, 1])

    assert calibrate.area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), labels) == 0.75
    assert calibrate.area_under_curve(np.array([0.5, 0.5, 0.5, 0.5]), labels) == 0.5
    assert calibrate.sensitivity_at(np.array([0.1, 0.4, 0.35, 0.8]), labels, 1.0) == 0.5


def test_intervals_are_drawn_by_subject() -> None:
    """Ten images of one patient tell no more than one: the interval must not shrink."""
    rng = np.random.default_rng(1)
    dice = rng.normal(0.8, 0.1, 30)
    alone = [Measured(f"{k}", 1, 1.0, float(d), (0.0,), True) for k, d in enumerate(dice)]
    tenfold = [m for m in alone for _ in range(10)]

    def width(measured: list[Measured]) -> float:
        values = np.array([m.dice for m in measured])
        low, high = evaluate_folds.interval(measured, lambda c: float(values[list(c)].mean()))["ci95"]
        return float(high - low)

    assert width(tenfold) == pytest.approx(width(alone), rel=0.15)


def test_probabilities_come_from_the_other_folds() -> None:
    """A fold whose labels are turned around cannot teach itself."""
    measured = [Measured(f"{k}", k % 2, float(k // 2 % 2), 1.0, (2.0 * (k // 2 % 2) - 1,), True) for k in range(40)]
    turned = [Measured(m.subject, 0, 1 - m.label, 1.0, m.grades, True) if m.fold == 0 else m for m in measured]

    probability = evaluate_folds.probabilities(turned)

    wrong = [k for k, m in enumerate(turned) if m.fold == 0]
    assert all((probability[k] > 0.5) != (turned[k].label > 0.5) for k in wrong)


def test_breast_folds_are_by_patient() -> None:
    lesions = breast.read(data_dir("breast_us_busbra").parent)

    folds: dict[str, set[int]] = {}
    for x in lesions:
        folds.setdefault(x.subject, set()).add(x.fold)
    assert (len(lesions), len(folds)) == (1875, 1064)
    assert all(len(f) == 1 for f in folds.values())
    assert {x.grade for x in lesions} == {0, 1, 2, 3}


def test_thyroid_folds_are_by_group_and_show_no_reading() -> None:
    lesions = thyroid.read(data_dir("thyroid_us_ddti").parent)

    groups: dict[str, set[int]] = {}
    for x in lesions:
        groups.setdefault(x.subject, set()).add(x.fold)
    assert all(len(f) == 1 for f in groups.values())
    assert all(x.image.shape[0] < 330 for x in lesions)  # the reading is written below the sector
    assert {x.label for x in lesions if x.label == x.label} == {0.0, 1.0}
    assert all((x.grade >= thyroid.SUSPICIOUS) == (x.label == 1.0) for x in lesions if x.grade >= 0)
    assert {x.fold for x in lesions if x.label == 0.0} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("stage", ["grade", "grade_ace", "grade_plain"])
def test_a_job_starts_from_the_other_organ_and_goes_on_where_it_ended(stage: str, tmp_path: Path) -> None:
    other = networks.grade_network(4)
    networks.save_weights(other, tmp_path / "grade-1.safetensors")
    threads = torch.get_num_threads()
    (tmp_path / "work").mkdir()
    try:
        for steps in (1, 2):
            plans = {stage: Plan(steps, 2, rate=1e-6)}
            training = Training(tmp_path, lambda _: [lesion(k) for k in range(3)], 6, plans, start=tmp_path)
            run_job(training, f"{stage}-1", tmp_path, tmp_path / "work")
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)

    trained = networks.load_weights(networks.grade_network(6), tmp_path / "work" / f"{stage}-1.safetensors")
    assert torch.load(tmp_path / "work" / f"{stage}-1.pt", weights_only=True)["step"] == 2
    assert torch.allclose(trained.stem[0].weight, other.stem[0].weight, atol=1e-3)
