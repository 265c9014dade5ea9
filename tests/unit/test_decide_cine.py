"""A cine is one run on all its series, in whatever way it was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.model.instance import Instance, Series
from dicom_node.receive.folder import instance_of
from dicom_node.route.decide import decide
from dicom_node.route.rules import load_rules
from dicom_node.run.cine import read_cine
from dicom_node.run.registry import load_registry
from dicom_node.testing.phantom_cine import WAYS, CineSequence, Way, write_cine
from dicom_node.workflow.study import one_run_each
from tests.routing import T1, series

ROOT = Path(__file__).resolve().parents[2]
SEQUENCE = CineSequence(phases=10, slices=6, size=24, spacing=10.0)
ALGORITHMS = load_registry()
RULES = load_rules(ROOT / "config" / "routes.yaml", list(ALGORITHMS), ["pacs"])
ACCEPTS = {a.manifest.id: a.accepts for a in ALGORITHMS.values()}


def study(paths: list[Path]) -> list[Series]:
    members: dict[str, list[Instance]] = {}
    for path in paths:
        instance = instance_of(path)
        members.setdefault(instance.SeriesInstanceUID, []).append(instance)
    return [Series(uid, found[0].StudyInstanceUID, tuple(found)) for uid, found in members.items()]


@pytest.mark.parametrize("bare", [False, True], ids=["", "without CardiacNumberOfImages"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_sending_is_one_run_with_all_of_the_stack(way: Way, bare: bool, tmp_path: Path) -> None:
    header = {"CardiacNumberOfImages": None, "SeriesDescription": "", "BodyPartExamined": ""} if bare else {}
    paths = write_cine(tmp_path, way, sequence=SEQUENCE, header=header)
    found = study(paths)
    decision = decide(found, RULES, ACCEPTS)

    runs = one_run_each([r for r in decision.routes if r.wanted], ALGORITHMS)
    assert [(route.algorithm, set(uids)) for route, uids in runs] == [
        ("left_ventricle", {s.SeriesInstanceUID for s in found})
    ]
    read_cine(paths)  # which is a stack


def test_other_views_may_come_along_and_a_localizer_does_not(tmp_path: Path) -> None:
    found = study(write_cine(tmp_path, "series_per_slice", sequence=SEQUENCE, views=True))
    decision = decide(found, RULES, ACCEPTS)

    numbers = {s.SeriesInstanceUID: int(s.tags["SeriesNumber"]) for s in found}
    wanted = {numbers[r.series_uid] for r in decision.routes if r.wanted}
    assert 1 not in wanted
    assert len(wanted) == len(found) - 1


def test_slices_of_a_head_at_eight_echo_times_are_no_cine() -> None:
    echoes = [series(T1, 12, n, EchoTime=3.0 * n, SeriesNumber=n) for n in range(1, 10)]
    decision = decide(echoes, RULES, ACCEPTS)
    assert not [r for r in decision.routes if r.wanted and r.algorithm == "left_ventricle"]


def test_repeats_of_fewer_than_eight_times_are_no_cine() -> None:
    def triggered(count: int) -> list[Series]:
        place = {"ImagePositionPatient": lambda i: [0, 0, 8.0 * i], "BodyPartExamined": "HEART", "StudyDescription": ""}
        tags = {**T1, "SeriesDescription": "", "SliceThickness": 8, "InversionTime": None, "FlipAngle": 60}
        return [series(tags, 10, n, TriggerTime=40.0 * n, SeriesNumber=n, **place) for n in range(1, count + 1)]

    def chosen(found: list[Series]) -> int:
        return sum(r.wanted for r in decide(found, RULES, ACCEPTS).routes if r.algorithm == "left_ventricle")

    assert chosen(triggered(7)) == 0
    assert chosen(triggered(8)) == 8
