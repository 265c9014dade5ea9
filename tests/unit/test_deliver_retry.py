import pytest

from dicom_node.deliver.retry import next_wait


def test_the_wait_doubles_and_is_capped() -> None:
    waits = [next_wait(attempt, first=5, longest=900) for attempt in range(1, 11)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


def test_an_outage_of_days_does_not_overflow() -> None:
    assert next_wait(100_000, first=5, longest=900) == 900


def test_the_longest_wait_holds_from_the_first() -> None:
    assert next_wait(1, first=60, longest=10) == 10


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="attempt"):
        next_wait(0, first=5, longest=900)
