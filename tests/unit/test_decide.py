"""Decisions: which series of a study runs where, and the reason for each that does and does not."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from dicom_node.route.decide import Decision, decide
from dicom_node.route.rules import Asked, Condition, Rule, load_rules
from tests.routing import T1, T2, series

ROOT = Path(__file__).resolve().parents[2]
ACCEPTS = {"hippocampus": {"Modality": ("MR",), "min_slices": 20}, "threshold_demo": {"Modality": (), "min_slices": 5}}


@pytest.fixture
def default() -> tuple[Rule, ...]:
    rules = load_rules(
        ROOT / "config" / "routes.yaml", ["hippocampus", "left_ventricle", "breast_us", "thyroid_us"], ["pacs"]
    )
    return tuple(r for r in rules if r.algorithm == "hippocampus")


def rule(name: str = "r", algorithm: str = "threshold_demo", **options: Any) -> Rule:
    when = tuple(Condition(k, Asked(any_of=(v,))) for k, v in options.pop("when", {}).items())
    return Rule(name, algorithm, when, options.pop("deliver_to", ("pacs",)), **options)


def wanted(decision: Decision) -> list[str]:
    return [r.series_uid for r in decision.routes if r.wanted]


def reasons(decision: Decision) -> dict[str, str]:
    return {r.series_uid: r.reason for r in decision.routes}


def test_the_default_rule_picks_the_t1_volume_and_says_why_not_the_others(default: tuple[Rule, ...]) -> None:
    study = [
        series(T1, 3, 1, SeriesDescription="localizer", SeriesNumber=1),
        series(T2, 30, 2),
        series(T1, 170, 3),
        series({"Modality": "SR", "SeriesNumber": 99}, 1, 4),
    ]
    decision = decide(study, default, ACCEPTS)
    assert decision.refused is None
    assert wanted(decision) == ["1.2.3"]
    assert len(decision.routes) == 4
    assert [r.deliver_to for r in decision.routes if r.wanted] == [("pacs",)]
    told = reasons(decision)
    assert "series_kind is localizer (SeriesDescription: localizer)" in told["1.2.1"]
    assert "series_kind is t2 (SeriesDescription: t2), the rule wants t1_volume or volume" in told["1.2.2"]
    assert told["1.2.3"].startswith("body part brain (StudyDescription: brain), series kind t1_volume (")
    assert told["1.2.4"] == "Modality is SR, the rule wants MR"


def test_a_volume_that_says_nothing_of_its_contrast_is_tried_but_after_a_t1(default: tuple[Rule, ...]) -> None:
    silent = series(T1, 200, 1, SeriesDescription="3D", RepetitionTime=None, SeriesNumber=1)
    assert wanted(decide([silent], default, ACCEPTS)) == ["1.2.1"]
    decision = decide([silent, series(T1, 170, 2)], default, ACCEPTS)
    assert wanted(decision) == ["1.2.2"]
    assert reasons(decision)["1.2.1"] == "series 3 is preferred: it is t1_volume, this one volume"


def test_two_patients_under_one_study_are_refused(default: tuple[Rule, ...]) -> None:
    decision = decide([series(T1, 170, 1), series(T1, 170, 2, patient="b")], default, ACCEPTS)
    assert decision == Decision("it holds instances of 2 patients under one Study Instance UID", ())


def test_own_results_never_count(default: tuple[Rule, ...]) -> None:
    own = series(T1, 200, 2, own=True, patient="somebody else")
    decision = decide([series(T1, 170, 1), own], default, ACCEPTS)
    assert wanted(decision) == ["1.2.1"]
    assert len(decision.routes) == 1
    assert decide([own], default, ACCEPTS) == Decision(None, ())


BETTER: list[tuple[dict[str, Any], int, str]] = [
    ({"SliceThickness": 1}, 180, "it has 180 slices, this one 170"),
    ({"PixelSpacing": [0.5, 0.5]}, 170, r"its voxels are finer \(0.25 mm³, here 1.00\)"),
    ({}, 170, "it comes first"),
]


@pytest.mark.parametrize(("changed", "count", "because"), BETTER)
def test_the_better_series_is_preferred(changed: dict[str, Any], count: int, because: str) -> None:
    good = series({**T1, "SeriesNumber": 7, **changed}, count, 2)
    other = series({**T1, "SeriesNumber": 8 if because == "it comes first" else 5}, 170, 1)
    decision = decide([other, good], [rule()], ACCEPTS)
    assert wanted(decision) == ["1.2.2"]
    assert re.fullmatch(f"series 7 is preferred: {because}", reasons(decision)["1.2.1"])


def test_original_comes_before_derived_with_more_slices() -> None:
    derived = series(T1, 256, 1, ImageType=["DERIVED", "SECONDARY", "MPR"], SeriesNumber=1)
    decision = decide([derived, series(T1, 170, 2)], [rule()], ACCEPTS)
    assert wanted(decision) == ["1.2.2"]
    assert reasons(decision)["1.2.1"] == "series 3 is preferred: it is original, this one derived"


NATIVE = ["T1 MPRAGE", "t1_mprage_pre_gad", "Ax T1 w/o contrast", "T1 -C", "T1 ohne KM", "T1 SPACE", "T1 CE-free pre"]
ENHANCED = ["T1 MPRAGE +C", "t1 post GAD", "T1 mprage Gd", "T1_KM", "T1 C+", "3D T1 CE", "AX T1 POST", "T1+GD"]


@pytest.mark.parametrize(
    ("native", "after"),
    [
        *(({"SeriesDescription": name}, {"SeriesDescription": "T1 +C"}) for name in NATIVE),
        *(({}, {"SeriesDescription": name}) for name in ENHANCED),
        ({"ContrastBolusAgent": "NONE"}, {"ContrastBolusAgent": "Gadovist"}),
    ],
)
def test_native_comes_before_after_contrast_medium(native: dict[str, Any], after: dict[str, Any]) -> None:
    decision = decide(
        [series({**T1, **native, "SeriesNumber": 9}, 170, 1), series({**T1, **after, "SeriesNumber": 2}, 200, 2)],
        [rule()],
        ACCEPTS,
    )
    assert wanted(decision) == ["1.2.1"]
    because = "series 9 is preferred: it is native, this one was acquired after contrast medium"
    assert reasons(decision)["1.2.2"] == because


def test_all_series_when_the_rule_says_so() -> None:
    study = [series(T1, 170, 1), series(T2, 30, 2), series(T1, 3, 3)]
    decision = decide(study, [rule(series="all")], ACCEPTS)
    assert wanted(decision) == ["1.2.1", "1.2.2"]
    assert reasons(decision)["1.2.3"] == "threshold_demo takes 5 slices or more, and these are 3"


def test_the_manifest_is_respected() -> None:
    study = [series({**T1, "Modality": "CT"}, 170, 1), series(T1, 10, 2)]
    decision = decide(study, [rule(algorithm="hippocampus")], ACCEPTS)
    assert wanted(decision) == []
    assert list(reasons(decision).values()) == [
        "hippocampus takes MR, and this is CT",
        "hippocampus takes 20 slices or more, and these are 10",
    ]
    assert wanted(decide(study, [rule(algorithm="hippocampus")], {})) == ["1.2.1"]


def test_a_later_rule_does_not_run_the_algorithm_again() -> None:
    study = [series(T1, 170, 1), series(T1, 100, 2, SeriesNumber=9)]
    fallback = rule("fallback", deliver_to=("archive",))
    decision = decide(study, [rule("first", when={"SeriesNumber": 3}), fallback], ACCEPTS)
    assert [(r.rule, r.series_uid) for r in decision.routes if r.wanted] == [("first", "1.2.1")]
    assert decision.routes[-1].reason == "rule 'first' already runs threshold_demo"
    decision = decide(study, [rule("first", when={"SeriesNumber": 77}), fallback], ACCEPTS)
    assert [(r.rule, r.series_uid) for r in decision.routes if r.wanted] == [("fallback", "1.2.1")]
    decision = decide(study, [rule("first", when={"SeriesNumber": 3}), rule("rest", series="all")], ACCEPTS)
    assert [(r.rule, r.series_uid) for r in decision.routes if r.wanted] == [("first", "1.2.1"), ("rest", "1.2.2")]
    both = decide(study, [rule("first"), rule("other", algorithm="hippocampus")], ACCEPTS)
    assert wanted(both) == ["1.2.1", "1.2.1"]


def test_ae_titles_and_counts_can_be_asked_for() -> None:
    study = [series(T1, 170, 1, source="MR1", called="AI")]
    for when, runs in (
        ({"calling_ae_title": "mr1", "called_ae_title": "AI", "images": 170}, True),
        ({"calling_ae_title": "MR2"}, False),
        ({"called_ae_title": "DICOMNODE"}, False),
    ):
        assert bool(wanted(decide(study, [rule(when=when)], ACCEPTS))) is runs, when


def test_reasons_repeat_no_free_text() -> None:
    study = [series(T1, 170, 1, SeriesDescription="Doe John t1", StudyDescription="Doe brain")]
    no = decide(study, [rule(when={"SeriesDescription": "other"})], ACCEPTS)
    yes = decide(study, [rule(when={"body_part": "brain"})], ACCEPTS)
    assert reasons(no)["1.2.1"] == "SeriesDescription is not what the rule wants; the rule wants other"
    assert wanted(yes) == ["1.2.1"]
    assert "Doe" not in str(no) + str(yes)


def test_the_same_whatever_the_order_of_the_series(default: tuple[Rule, ...]) -> None:
    study = [series(T1, 170, n, SeriesNumber=n % 3 or None) for n in range(1, 8)] + [series(T2, 30, 9)]
    first = decide(study, default, ACCEPTS)
    for seed in range(5):
        random.Random(seed).shuffle(study)
        assert decide(study, default, ACCEPTS) == first
    assert len(wanted(first)) == 1
