"""From pictures to findings: what is found, measured and said. The networks are stand-ins that see what is dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.breast_us.algorithm import BREAST
from algorithms.thyroid_us.algorithm import THYROID
from algorithms.ultrasound import analyse, find, looks, measure, networks, organ
from algorithms.ultrasound.calibrate import Calibration
from algorithms.ultrasound.networks import Answer
from dicom_node.algorithm import Findings, NotAnalysed, Picture
from dicom_node.run.frames import Clip, open_clip
from dicom_node.run.registry import Algorithm, Manifest
from dicom_node.run.worker_process import load_algorithm
from dicom_node.testing.phantom_ultrasound import Drawn, Lesion, Probe, dataset, draw
from dicom_node.testing.series import phantom_uid, save


class Dark(networks.LesionNetwork):
    """What is much darker than the rest of the square is lesion; the grade is how dark its middle is."""

    def forward(self, image: torch.Tensor) -> Answer:
        smooth = torch.nn.functional.avg_pool2d(image[:, :1], 9, 1, 4, count_include_pad=False)
        inside = torch.nn.functional.avg_pool2d(image[:, 1:], 9, 1, 4)
        outline = torch.nn.functional.avg_pool2d(((smooth < -1.5) & (inside > 0.9)).float() * 8 - 4, 2)
        middle = image.shape[2] // 2
        value = -image[:, 0, middle - 4 : middle + 4, middle - 4 : middle + 4].mean((1, 2))
        return Answer(outline, torch.stack([value, value, value, value], 1))


NODULE = Lesion(depth=20, across=2, radii=(5, 8), echo=-30, behind=0, lobes=0)


@dataclass(frozen=True)
class Says(organ.Classifier):
    """The same of whatever it is asked about."""

    what: tuple[float, ...] = (1.0, 0.0, 0.0)

    def probabilities(self, regions: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([self.what] * len(regions))


def models(limit: float = 1e9) -> analyse.Models:
    network = Dark(networks.FIND_FEATURES, 0).eval()
    known = looks.Looks(np.zeros(9), np.eye(9), limit)
    return analyse.Models(
        BREAST, [network], [network], Calibration((2.0, 0.0), 0.0, (0.3, 0.7)), known, torch.device("cpu"), Says(())
    )


def clip(folder: Path, drawn: list[Drawn], *, scale: bool = True, key: str = "one") -> Clip:
    regions = [(drawn[0].box, drawn[0].spacing)] if scale else []
    return open_clip(save(folder / key, [dataset([d.screen for d in drawn], regions=regions, key=key)])[0])


@pytest.fixture(scope="module")
def nodule() -> Drawn:
    return draw(Probe(), NODULE)


def named(findings: Findings, part: str) -> list[float]:
    return [m.value for m in findings.measurements if part in m.name]


def test_a_lesion_is_outlined_and_measured_in_mm(tmp_path: Path, nodule: Drawn) -> None:
    found = analyse.findings([clip(tmp_path, [nodule])], models())

    (plane,) = found.label_map
    both = (plane == 1) & nodule.lesion
    assert 2 * both.sum() / ((plane == 1).sum() + nodule.lesion.sum()) > 0.85
    assert named(found, "longest axis") == [pytest.approx(16, abs=2)]
    assert named(found, "shortest axis") == [pytest.approx(10, abs=2)]
    assert {m.unit for m in found.measurements if "axis" in m.name} == {"mm"}
    (probability,) = named(found, "malignancy")
    assert 50 < probability <= 100
    assert found.frames[0].number == 1
    assert found.key_planes == (0,)
    assert any("suspicious of malignancy" in note or "indeterminate" in note for note in found.notes)


def test_without_a_scale_it_is_measured_in_pixels_and_said_so(tmp_path: Path, nodule: Drawn) -> None:
    found = analyse.findings([clip(tmp_path, [nodule], scale=False)], models())

    axes = [m for m in found.measurements if "axis" in m.name]
    assert {m.unit for m in axes} == {"{pixels}"}
    assert all("no scale" in (m.method or "") for m in axes)
    assert axes[0].value == pytest.approx(160, abs=20)


def test_nothing_found_is_an_explicit_result(tmp_path: Path) -> None:
    found = analyse.findings([clip(tmp_path, [draw(Probe(), None)])], models())

    assert found.label_map.max() == 0
    assert (found.segments, found.measurements, found.key_planes) == ((), (), ())
    assert "No breast lesion was found in 1 image." in found.notes


def test_what_looks_unlike_the_training_is_not_analysed(tmp_path: Path, nodule: Drawn) -> None:
    with pytest.raises(NotAnalysed, match="looks unlike the images that this algorithm was trained on"):
        analyse.findings([clip(tmp_path, [nodule])], models(limit=0.0))


def test_beside_others_it_is_named(tmp_path: Path, nodule: Drawn) -> None:
    clips = [clip(tmp_path, [nodule]), clip(tmp_path, [draw(Probe(spacing=0.2), NODULE)], key="coarse")]
    known = models()
    distance = {c.SOPInstanceUID: known.looks.distance(region_of(c)) for c in clips}
    one, other = sorted(clips, key=lambda c: distance[c.SOPInstanceUID])
    assert distance[one.SOPInstanceUID] < distance[other.SOPInstanceUID]

    found = analyse.findings([other, one], models(limit=sum(distance.values()) / 2))

    assert [f.SOPInstanceUID for f in found.frames] == [one.SOPInstanceUID]
    assert any(n.startswith("1 image was not analysed, because it looks unlike") for n in found.notes)


def region_of(clip: Clip) -> torch.Tensor:
    picture = clip.picture(0)
    top, left, bottom, right = picture.regions[0].box
    return torch.from_numpy(picture.gray[top:bottom, left:right].copy()).float() / 255


def test_lesions_that_overlap_are_measured_as_they_are_marked(
    tmp_path: Path, nodule: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (slice(100, 200), slice(200, 300))
    first, second, third = (np.zeros(nodule.screen.shape, bool) for _ in range(3))
    first[box] = True
    second[150:260, 200:300] = True
    third[110:120, 210:220] = True

    def looked(pictures: list[Picture], known: analyse.Models, silent: list[bool]) -> list[analyse.Seen]:
        lesions = tuple(analyse.Lesion(m, (0.1, 0.1), 0.9, (1.0, 1.0, 1.0, 1.0)) for m in (first, second, third))
        return [analyse.Seen(p.frame, p.gray.shape, lesions, 0.0) for p in pictures]  # type: ignore[arg-type]

    monkeypatch.setattr(analyse, "look", looked)
    found = analyse.findings([clip(tmp_path, [nodule])], models())

    assert len(found.segments) == 2
    for value, longest in zip((1, 2), named(found, "longest"), strict=True):
        assert longest == pytest.approx(measure.axes(found.label_map[0] == value, (0.1, 0.1))[0])


def test_the_side_of_the_header_is_that_of_the_result(tmp_path: Path, nodule: Drawn) -> None:
    ds = dataset([nodule.screen], regions=[(nodule.box, nodule.spacing)], header={"ImageLaterality": "L"})
    found = analyse.findings([open_clip(save(tmp_path, [ds])[0])], models())

    assert [s.laterality for s in found.segments] == ["left"]
    assert {m.laterality for m in found.measurements} == {"left"}


def test_images_of_another_size_are_named(tmp_path: Path, nodule: Drawn) -> None:
    cut = Drawn(nodule.screen[:, :600], nodule.lesion[:, :600], nodule.box, nodule.spacing)
    clips = [clip(tmp_path, [cut], key="cut"), *(clip(tmp_path, [nodule], key=k) for k in "ab")]

    found = analyse.findings(clips, models())

    assert len(found.frames) == 2
    assert "1 image was not analysed, because the results are of the images of 640 x 480 pixels." in found.notes


def test_a_clip_answers_with_its_key_frame(tmp_path: Path) -> None:
    frames = [
        draw(Probe(seed=k), None if k == 0 else Lesion(depth=20, radii=(3 + k, 5 + k), echo=-30, behind=0))
        for k in range(4)
    ]

    found = analyse.findings([clip(tmp_path, frames)], models())

    assert found.frames[0].number == 4
    (details,) = found.details["pictures"]
    assert (details["frames_looked_at"], details["frames_with_lesion"]) == (4, 3)
    assert "Breast lesion 1: key frame 4 of 4, found in 3 of 4 looked at." in found.notes
    assert len(found.segments) == 1


def test_a_lesion_in_one_frame_of_many_does_not_count(tmp_path: Path, nodule: Drawn) -> None:
    empty = draw(Probe(), None)

    found = analyse.findings([clip(tmp_path, [*[empty] * 7, nodule])], models())

    assert found.segments == ()


def test_only_a_single_image_is_seen_from_both_sides(
    tmp_path: Path, nodule: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: dict[str, set[bool]] = {"find": set(), "grade": set()}
    for stage, own in (("find", find.find), ("grade", find.grade)):

        def spied(*given: Any, stage: str = stage, own: Any = own, mirrored: bool = True, **more: Any) -> Any:
            sides[stage].add(mirrored)
            return own(*given, mirrored=mirrored, **more)

        monkeypatch.setattr(find, stage, spied)

    analyse.findings([clip(tmp_path, [nodule])], models())
    assert sides == {"find": {True}, "grade": {True}}

    for seen in sides.values():
        seen.clear()
    analyse.findings([clip(tmp_path, [nodule] * 10, key="clip")], models())
    assert sides == {"find": {False}, "grade": {False}}


def test_what_else_is_in_the_batch_does_not_change_a_result(tmp_path: Path, nodule: Drawn) -> None:
    torch.manual_seed(0)
    real = models()
    graders = [networks.grade_network(4).eval()]
    real = analyse.Models(BREAST, real.finders, graders, real.calibration, real.looks, real.device)
    others = [draw(Probe(seed=k), Lesion(depth=25, radii=(6, 6), echo=-25)) for k in (1, 2)]
    first = clip(tmp_path, [nodule]).picture(0)
    rest = [clip(tmp_path, [d], key=f"{k}").picture(0) for k, d in enumerate(others)]

    with torch.inference_mode():
        together, (alone,) = analyse.look([*rest, first], real)[2], analyse.look([first], real)

    assert len(together.lesions) == len(alone.lesions) > 0
    for a, b in zip(together.lesions, alone.lesions, strict=True):
        assert np.array_equal(a.mask, b.mask)
        assert a.grades == pytest.approx(b.grades, abs=1e-5)


def test_the_most_suspicious_image_comes_first(tmp_path: Path, nodule: Drawn) -> None:
    fainter = draw(Probe(), Lesion(depth=20, across=2, radii=(5, 8), echo=-20, behind=0))
    clips = [clip(tmp_path, [d], key=key) for key, d in (("empty", draw(Probe(), None)), ("a", fainter), ("b", nodule))]

    found = analyse.findings(clips, models())

    assert set(found.key_planes) <= {1, 2}
    assert [f.SOPInstanceUID for f in found.frames] == [phantom_uid(k, "instance") for k in ("empty", "a", "b")]
    assert len({m.name for m in found.measurements}) == len(found.measurements)


def test_the_thyroid_never_says_malignant() -> None:
    said = " ".join([THYROID.probability, THYROID.low, THYROID.high, *THYROID.limits, THYROID.code.meaning]).lower()

    assert "malignan" not in said
    assert "cancer" not in said
    assert "not pathology" in said


@pytest.mark.parametrize(
    ("size", "spacing", "axes"),
    [((1, 1), (1.0, 1.0), (2**0.5, 2**0.5)), ((10, 40), (0.2, 0.1), (20**0.5, None)), ((0, 0), (1.0, 1.0), (0.0, 0.0))],
)
def test_axes(size: tuple[int, int], spacing: tuple[float, float], axes: tuple[float, float | None]) -> None:
    mask = np.zeros((60, 60), bool)
    mask[5 : 5 + size[0], 5 : 5 + size[1]] = True

    longest, shortest = measure.axes(mask, spacing)

    assert longest == pytest.approx(axes[0])
    if axes[1] is not None:
        assert shortest == pytest.approx(axes[1])


def test_axes_of_a_turned_ellipse() -> None:
    y, x = np.mgrid[-40:41, -40:41]
    u, v = (x + y) / 2**0.5, (x - y) / 2**0.5

    longest, shortest = measure.axes((u / 30) ** 2 + (v / 12) ** 2 <= 1, (0.5, 0.5))

    assert longest == pytest.approx(30, abs=1)
    assert shortest == pytest.approx(12, abs=1)


def test_pictures_of_another_kind_look_unlike() -> None:
    training = []
    for k in range(40):
        drawn = draw(Probe(seed=k, spacing=0.2), Lesion(across=k / 4 - 5, echo=-10 - k / 4), text=False)
        top, left, bottom, right = drawn.box
        training.append(torch.from_numpy(drawn.screen[top:bottom, left:right].copy()).float() / 255)
    known = looks.fit(training[:30])

    assert np.mean([known.distance(r) > 1.5 * known.limit for r in training[30:]]) < 0.3
    ramp = torch.linspace(0, 1, 200)[None].expand(150, 200)
    assert known.distance(ramp) > 3 * known.limit
    assert known.distance(torch.rand(150, 200)) > 3 * known.limit
    assert known.distance(1 - training[35]) > 1.5 * known.limit


def test_looks_come_back(tmp_path: Path) -> None:
    known = looks.Looks(np.arange(9.0), np.eye(9), 3.5)
    known.save(tmp_path / "looks.json")

    again = looks.load(tmp_path / "looks.json")

    assert (again.limit, again.mean.tolist(), again.inverse.tolist()) == (
        3.5,
        known.mean.tolist(),
        known.inverse.tolist(),
    )


def test_the_worker_loads_an_algorithm_that_shares_code(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2] / "algorithms" / "breast_us"
    manifest = Manifest.model_validate(
        {
            "id": "breast_us",
            "name": "Breast",
            "version": "0",
            "description": "",
            "input": "volume",
            "procedure": {"value": "1", "scheme": "99", "meaning": "x"},
            "time_limit_s": 10,
        }
    )

    with pytest.raises(KeyError, match="calibration"):  # it got as far as asking for its weights
        load_algorithm(Algorithm(manifest, root), "cpu")
