from __future__ import annotations

import pytest

from dicom_node.model.states import (
    DELIVERY_MOVES,
    RUN_ENDED,
    RUN_MOVES,
    STUDY_MOVES,
    WORKITEM_MOVES,
    DeliveryState,
    RunState,
    StudyState,
    WorkitemState,
    move,
)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (STUDY_MOVES, StudyState),
        (RUN_MOVES, RunState),
        (DELIVERY_MOVES, DeliveryState),
        (WORKITEM_MOVES, WorkitemState),
    ],
)
def test_every_state_has_its_row_and_is_reached(table, kind):
    assert set(table) == set(kind)
    reached = set().union(*table.values()) | {next(iter(kind))}
    assert reached == set(kind)


def test_an_illegal_move_raises_and_staying_is_legal():
    with pytest.raises(ValueError, match="RunState cannot go from done to running"):
        move(RUN_MOVES, RunState.DONE, RunState.RUNNING)
    assert move(RUN_MOVES, RunState.RUNNING, RunState.RUNNING) is RunState.RUNNING


def test_what_ended_well_stays_ended():
    assert not RUN_MOVES[RunState.DONE]
    assert not RUN_MOVES[RunState.NOT_ANALYSED]
    assert RUN_MOVES[RunState.SET_ASIDE] == {RunState.QUEUED}
    # only what failed on its way out is delivered again without being analysed again
    assert RUN_MOVES[RunState.FAILED] == {RunState.QUEUED, RunState.DELIVERING}
    assert {RunState.DONE, RunState.NOT_ANALYSED, RunState.FAILED, RunState.SET_ASIDE} == RUN_ENDED


def test_a_confirmed_delivery_never_changes():
    assert not DELIVERY_MOVES[DeliveryState.CONFIRMED]
