"""Rules: what they accept, how they match, and what an error says."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from dicom_node.errors import ConfigurationError
from dicom_node.model.body_part import BODY_PARTS
from dicom_node.model.routing import CODE_SEQUENCES, ROUTING_KEYWORDS
from dicom_node.route.rules import CONDITION_KEYWORDS, INFERRED, Asked, Condition, Rule, glob, load_rules
from dicom_node.route.series_kind import SERIES_KINDS
from dicom_node.run.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]
RULE = """
rules:
  - name: one
    algorithm: hippocampus
    when: {%s}
    deliver_to: [pacs]
"""


ALGORITHMS = ["hippocampus", "left_ventricle", "breast_us", "thyroid_us", "threshold_demo"]


def load(tmp_path: Path, text: str) -> tuple[Rule, ...]:
    file = tmp_path / "routes.yaml"
    file.write_text(text, encoding="utf-8")
    return load_rules(file, ALGORITHMS, ["pacs", "archive"])


def test_the_default_file_is_valid_and_so_is_its_commented_example(tmp_path: Path) -> None:
    text = (ROOT / "config" / "routes.yaml").read_text(encoding="utf-8")
    rules = load(tmp_path, text)
    assert [(r.algorithm, r.deliver_to, r.series) for r in rules][:2] == [
        ("hippocampus", ("pacs",), "best"),
        ("left_ventricle", ("pacs",), "best"),
    ]
    uncommented = text.replace("\n  # - name", "\n  - name").replace("\n  #   ", "\n    ")
    before = "# The smallest example"
    assert before in uncommented
    assert [r.algorithm for r in load(tmp_path, uncommented)] == ALGORITHMS


def test_what_comes_with_the_node_has_a_rule(tmp_path: Path) -> None:
    """All but the example: when weights are released, the rule's comment signs go."""
    rules = load(tmp_path, (ROOT / "config" / "routes.yaml").read_text(encoding="utf-8"))
    assert {r.algorithm for r in rules} == load_registry().keys() - {"threshold_demo"}


def test_the_default_file_documents_all_that_may_be_asked_for() -> None:
    text = (ROOT / "config" / "routes.yaml").read_text(encoding="utf-8")
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in (*INFERRED, *BODY_PARTS, *SERIES_KINDS, *Rule.__dataclass_fields__):
        assert re.search(rf"\b{word}\b", comments), word


HOLDS: list[tuple[str, list[Any], bool]] = [
    ("Modality: MR", ["MR"], True),
    ("Modality: mr", ["MR "], True),
    ("Modality: MR", ["CT"], False),
    ("Modality: MR", [], False),
    ("Modality: [CT, MR]", ["MR"], True),
    ("ImageType: ORIGINAL", ["ORIGINAL", "PRIMARY"], True),
    ("SeriesNumber: 3", [3], True),
    ("SeriesNumber: 3", ["3"], True),
    ("MagneticFieldStrength: 3", [3.0], True),
    ("MagneticFieldStrength: 1.5", [3.0], False),
    ("MagneticFieldStrength: 3", ["three"], False),
    ('SeriesDescription: {matches: "*T1*"}', ["sag t1 mprage"], True),
    ('SeriesDescription: {matches: ["*T1*", "*mprage*"]}', ["MPRAGE"], True),
    ('SeriesDescription: {matches: "T1"}', ["sag t1"], False),
    ('SeriesDescription: {not_matches: "*scout*"}', ["AAHead_Scout"], False),
    ('SeriesDescription: {not_matches: "*scout*"}', [], True),
    ('SeriesDescription: {matches: "*t1*", not_matches: "*km*"}', ["T1 KM"], False),
    ("ImageType: {not_matches: DERIVED}", ["ORIGINAL", "DERIVED"], False),
    ("SliceThickness: {at_least: 0.5, at_most: 3}", [1.0], True),
    ("SliceThickness: {at_least: 0.5, at_most: 3}", [5], False),
    ("SliceThickness: {at_most: 3}", [], False),
    ("SliceThickness: {at_most: 3}", ["thin"], False),
    ("SliceThickness: {any_of: [1, 2]}", [2], True),
]


@pytest.mark.parametrize(("when", "values", "holds"), HOLDS, ids=[f"{w} / {v}" for w, v, _ in HOLDS])
def test_conditions(tmp_path: Path, when: str, values: list[Any], holds: bool) -> None:
    (rule,) = load(tmp_path, RULE % when)
    assert rule.when[0].holds(values) is holds


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("", "", True),
        ("*", "", True),
        ("", "a", False),
        ("a*b?c", "AxxbYc", True),
        ("*b", "abab", True),
        ("*ab*ba*", "abba", True),
        ("*ab*ba*", "aba", False),
        ("[ab]", "a", False),
        ("a.c", "abc", False),
        ("*schädel*", "MR SCHÄDEL", True),
    ],
)
def test_glob(pattern: str, text: str, found: bool) -> None:
    assert glob(pattern, text) is found


def test_glob_is_never_slow() -> None:
    start = time.perf_counter()
    assert not glob("*a" * 40 + "b", "a" * 2000)
    assert time.perf_counter() - start < 2


def test_every_routing_keyword_may_be_asked_for(tmp_path: Path) -> None:
    assert set(ROUTING_KEYWORDS) - set(CODE_SEQUENCES) < set(CONDITION_KEYWORDS)
    for keyword in CONDITION_KEYWORDS:
        (rule,) = load(tmp_path, RULE % f'{keyword}: {{matches: "*"}}')
        assert rule.when == (Condition(keyword, Asked(matches=("*",))),)


WRONG: list[tuple[str, str]] = [
    (RULE % "Modalty: MR", r"rule 'one': when.Modalty: unknown keyword; did you mean Modality\? accepted: body_part, "),
    (RULE % "PatientName: Doe", r"when.PatientName: unknown keyword"),
    (RULE % "body_part: brian", r"when.body_part: 'brian' is unknown; accepted: abdomen, .*brain"),
    (RULE % "series_kind: [t1_volume, t3]", r"when.series_kind: 't3' is unknown; accepted: .*t1_volume"),
    (RULE % "SeriesDescription: {regex: .*}", r"when.SeriesDescription.regex: .*accepted: a value, a list"),
    (RULE % "SliceThickness: {at_most: thin}", r"when.SliceThickness.at_most: .*number"),
    (RULE % "SeriesDescription: {}", r"when.SeriesDescription: is empty"),
    (RULE % "SeriesDescription:", r"when.SeriesDescription: is empty"),
    (RULE % "SeriesDescription: []", r"when.SeriesDescription: is empty"),
    (RULE % "BurnedInAnnotation: no", r"when.BurnedInAnnotation: true and false are no DICOM values"),
    ((RULE % "Modality: MR").replace("hippocampus", "hipocampus"), "'hipocampus' is unknown; accepted: .*hippocampus"),
    ((RULE % "Modality: MR").replace("[pacs]", "[pasc]"), "deliver_to: 'pasc' is unknown; accepted: archive, pacs"),
    ((RULE % "Modality: MR").replace("[pacs]", "[]"), "rule 'one': deliver_to: "),
    ((RULE % "Modality: MR").replace("[pacs]", "[pacs]\n    series: each"), "rule 'one': series: .*'best' or 'all'"),
    ((RULE % "Modality: MR").replace("when:", "if:"), "rule 'one': if: .*accepted: name, algorithm, when"),
    ((RULE % "Modality: MR").replace("name: one", "title: one"), "rule number 1: name: Field required"),
    (RULE % "Modality: MR" + (RULE % "Modality: CT").replace("\nrules:\n", ""), "rule 'one': name: is used twice"),
    ("rules: [1]", "rule number 1: "),
    ("rule: []", "routes.yaml: rules: Field required"),
    ("", "accepted: a mapping with the key rules"),
    ("rules: [", "is not YAML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_errors_name_file_rule_key_and_what_is_accepted(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(tmp_path, text)
    assert all(line.startswith(str(tmp_path / "routes.yaml")) for line in str(caught.value).splitlines()[:1])


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, RULE.replace("pacs", "nowhere") % "Modalty: MR, body_part: leg")
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_rules(tmp_path / "absent.yaml", [], [])


def test_no_rules_are_rules_too(tmp_path: Path) -> None:
    assert load(tmp_path, "rules: []") == ()
