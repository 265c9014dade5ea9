"""Whether a study is whole: what MPPS, IAN and an archive's count say, and what is believed for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dicom_node.complete.decide import decide, next_question
from dicom_node.model.completeness import Announced, By, Count, Verdict, is_image_class
from dicom_node.settings import CompleteSettings

SETTINGS = CompleteSettings(quiet_seconds=10, hold_seconds=100, settle_seconds=30, answer_seconds=15)
LAST = 1000.0
HERE = {"1": 20, "2": 30}


def verdict(after: float, announced: Announced | None = None, count: Count | None = None, **settings: Any) -> Verdict:
    """The verdict so many seconds after the last arrival."""
    return decide(HERE, LAST, announced, count, SETTINGS.model_copy(update=settings), LAST + after)


def announced(**changes: Any) -> Announced:
    whole = Announced(By.MPPS, ("CT1",), in_progress=0, completed=1, listed=HERE, missing={}, unlisted=0)
    return replace(whole, **changes)


def count(series: dict[str, int] = HERE, since: float = 1, asked: float = 31, **more: Any) -> Count:
    """What PACS said, in seconds after the last arrival."""
    return Count("pacs", series, since=LAST + since, asked=LAST + asked, **more)


def test_without_evidence_it_is_the_quiet_time() -> None:
    assert not verdict(9.9).whole
    assert verdict(10) == Verdict(By.QUIET, "nothing new for 10 s")


def test_all_that_an_ended_step_lists_is_here() -> None:
    found = verdict(0, announced())
    assert found.by == By.MPPS
    assert (
        found.words == "CT1 reported the procedure step as ended, and all 50 images in 2 series that it lists are here"
    )


def test_all_that_an_archive_announced_is_here() -> None:
    found = verdict(0, announced(by=By.IAN, callers=("PACS",)))
    assert (found.by, found.words) == (
        By.IAN,
        "PACS announced 50 images in 2 series as available, and all are here",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_progress": 1}, "MPPS: CT1 has a procedure step in progress"),
        ({"missing": {"2": 3}}, "MPPS: of what CT1 lists, 3 images in 1 series have not come"),
        ({"missing": {"9": 3}}, "MPPS: of what CT1 lists, 3 images in 1 series have not come"),
    ],
)
def test_what_says_that_images_are_missing_holds_the_study_back_for_so_long(changes: Any, words: str) -> None:
    waiting = verdict(109, announced(**changes))
    assert waiting == Verdict(None, f"{words}; waited for until nothing has come for 110 s")
    assert verdict(110, announced(**changes)) == Verdict(By.QUIET, f"nothing new for 110 s; waited in vain: {words}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"completed": 0}, "MPPS: CT1 discontinued the procedure step"),
        ({"unlisted": 4}, "MPPS: 4 of the images are in no list of CT1"),
        ({"listed": {}, "unlisted": 50}, "MPPS: CT1 listed no images"),
    ],
)
def test_what_says_nothing_leaves_it_to_the_quiet_time(changes: Any, words: str) -> None:
    assert not verdict(9, announced(**changes)).whole
    assert verdict(10, announced(**changes)) == Verdict(By.QUIET, f"nothing new for 10 s; {words}")


def test_a_step_in_progress_outweighs_one_that_is_whole_and_a_count() -> None:
    assert not verdict(50, announced(in_progress=1), count(asked=49)).whole


def test_where_only_some_series_are_sent_only_those_that_came_are_waited_for() -> None:
    elsewhere = announced(missing={"9": 3})
    assert not verdict(9, elsewhere, expect="series").whole
    found = verdict(10, elsewhere, expect="series")
    assert found == Verdict(By.QUIET, "nothing new for 10 s; MPPS: of 1 series that CT1 lists nothing has come")
    assert not verdict(50, announced(missing={"2": 3}), expect="series").whole


def test_a_count_that_stands_still_and_equals_ours() -> None:
    found = verdict(31, None, count())
    words = "pacs has as many as are here, 50 objects in 2 series, and its count stood still for 30 s"
    assert found == Verdict(By.COUNT, words)


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"since": 1, "asked": 30},  # the second answer is too early
        {"since": -50, "asked": -1},  # something came since it was asked
        {"series": {"1": 20, "2": 31}},
        {"series": {"1": 20, "2": 29}},
        {"series": {"1": 20, "2": 30, "3": 1}},
        {"series": {"1": 20}},
    ],
)
def test_any_other_count_holds_the_study_back(said: dict[str, Any] | None) -> None:
    at = 12 if said is None else max(1, said.get("asked", 31))
    assert verdict(at, None, Count("pacs") if said is None else count(**said)).by is None


def test_a_count_that_stood_still_before_the_last_image_came_decides_when_it_is_asked_again() -> None:
    assert verdict(0.6, None, count(since=-40, asked=0.5)).by == By.COUNT


def test_a_count_that_never_equals_ours_is_waited_for_in_vain() -> None:
    lie = count({"1": 20, "2": 31}, asked=109)
    assert not verdict(109.9, None, lie).whole
    words = "waited in vain: pacs has 51 objects in 2 series, here are 50 objects in 2 series"
    assert verdict(110, None, lie) == Verdict(By.QUIET, f"nothing new for 110 s; {words}")


def test_no_answer_leaves_it_to_the_quiet_time() -> None:
    silent = Count("pacs").not_answered(LAST + 1, "pacs: no connection", refused=False)
    assert not verdict(15.2, None, silent).whole
    found = verdict(15.4, None, silent)
    assert found == Verdict(By.QUIET, "nothing new for 10 s; pacs did not give its count: pacs: no connection")


def test_a_second_answer_that_does_not_come_leaves_it_to_the_quiet_time() -> None:
    once = count(since=1, asked=1).not_answered(LAST + 31, "down", refused=False)
    assert not verdict(45, None, once).whole
    assert verdict(46, None, once).by == By.QUIET


def test_a_refusal_is_not_waited_for_until_something_comes() -> None:
    refused = Count("pacs").not_answered(LAST + 1, "may DICOMNODE ask it?", refused=True)
    assert not verdict(9, None, refused).whole
    assert verdict(10, None, refused).words.endswith("pacs did not give its count: may DICOMNODE ask it?")
    assert next_question(HERE, LAST, refused, SETTINGS) == float("inf")
    assert next_question(HERE, LAST + 50, refused, SETTINGS) == LAST + 50.3


def test_an_archive_that_does_not_know_the_study_says_nothing() -> None:
    assert not verdict(9, None, count({}, since=1, asked=1)).whole
    assert verdict(10, None, count({}, since=1, asked=1)).words == "nothing new for 10 s; pacs does not know the study"


def test_series_that_are_not_sent_here_are_not_counted_where_only_some_are() -> None:
    more = count({**HERE, "3": 7})
    assert not verdict(35, None, more).whole
    found = verdict(31, None, more, expect="series")
    assert found.by == By.QUIET
    assert found.words.startswith("nothing new for 10 s; of 1 series that pacs has nothing has come")
    assert not verdict(31, None, count({**HERE, "2": 31, "3": 7}), expect="series").whole


def test_what_is_no_image_counts_where_it_is_here() -> None:
    assert verdict(31, None, count(others={"5": 1})).by == By.COUNT
    assert verdict(31, None, count({"1": 20}, others={"2": 30})).by == By.COUNT
    assert verdict(31, None, count({"1": 20, "2": 32}, left_out={"2": 2})).by == By.COUNT


def test_when_the_archive_is_asked() -> None:
    def due(said: Count) -> float:
        return next_question(HERE, LAST, said, SETTINGS) - LAST

    assert due(Count("pacs")) == pytest.approx(0.3)
    assert due(count(since=-9, asked=-0.1)) == pytest.approx(0.9)  # never more often than each second
    assert due(count(since=1, asked=1)) == 31
    assert due(count({"1": 20}, since=1, asked=1)) == 6
    assert due(count({"1": 20}, since=0, asked=100)) == 125
    assert due(count({"1": 20}, since=0, asked=1000)) == 1030
    assert due(Count("pacs").not_answered(LAST + 2, "", refused=False)) == 7


def test_answers_that_say_the_same() -> None:
    first = Count("pacs").answered(HERE, {}, 1, 2)
    assert (first.since, first.asked) == (2, 1)
    second = first.answered(dict(HERE), {}, 5, 6)
    assert (second.since, second.asked) == (2, 5)
    third = second.answered({"1": 21, "2": 30}, {}, 9, 10)
    assert (third.since, third.asked) == (10, 9)


@pytest.mark.parametrize(
    ("sop_class", "is_image"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", True),
        ("1.2.840.10008.5.1.4.1.1.7", True),
        ("1.2.840.10008.5.1.4.1.1.66.4", False),
        ("1.2.840.10008.5.1.4.1.1.88.33", False),
        ("1.2.3.4.5", True),
    ],
)
def test_classes_of_images(sop_class: str, is_image: bool) -> None:
    assert is_image_class(sop_class) is is_image
