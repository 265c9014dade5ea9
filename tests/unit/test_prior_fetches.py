"""When a study counts as fetched to be compared with, and which studies an archive is asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from dicom_node.errors import PeerError
from dicom_node.model.states import StudyState
from dicom_node.peer import patient
from dicom_node.peer.patient import find_patient_studies
from dicom_node.settings import Source
from dicom_node.store.index import Index, StudyRow
from dicom_node.store.priors import PriorFetches
from dicom_node.store.tables import open_engine


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fetches(tmp_path: Path, clock: Clock) -> Any:
    engine = open_engine(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield PriorFetches(engine, clock)
    engine.dispose()


def last_image(at: float) -> StudyRow:
    return StudyRow("1.2", StudyState.COMPLETE, 1, 0.0, at, "")


def test_what_came_during_the_fetch_is_a_priors_and_nothing_else(fetches: PriorFetches, clock: Clock) -> None:
    assert not fetches.covers(last_image(100))
    fetches.begin("1.2")
    assert fetches.covers(last_image(100))
    assert fetches.covers(last_image(5000))
    assert not fetches.covers(last_image(99))
    clock.now = 110
    fetches.end("1.2", whole=True)
    assert fetches.covers(last_image(110))
    assert not fetches.covers(last_image(111))


def test_of_two_fetches_at_once_the_first_beginning_counts(fetches: PriorFetches, clock: Clock) -> None:
    fetches.begin("1.2")
    clock.now = 105
    fetches.begin("1.2")
    assert fetches.covers(last_image(101))
    fetches.end("1.2", whole=True)
    clock.now = 200
    fetches.begin("1.2")  # a later one begins anew
    assert not fetches.covers(last_image(101))


def test_a_study_is_partial_until_all_of_it_came(fetches: PriorFetches, clock: Clock) -> None:
    assert not fetches.is_partial("1.2")  # it was never fetched
    fetches.begin("1.2")
    assert fetches.is_partial("1.2")
    fetches.end_all()  # the node was killed
    assert fetches.is_partial("1.2")
    clock.now = 120
    assert not fetches.covers(last_image(121))
    fetches.begin("1.2")
    fetches.end("1.2", whole=True)
    assert not fetches.is_partial("1.2")


def test_who_asks_for_the_study_itself_has_it_opened(fetches: PriorFetches, clock: Clock) -> None:
    index = Index(fetches.engine, clock)
    with fetches.engine.begin() as c:
        index._touch(c, "1.2", 100, 100)
    (row,) = index.studies()
    fetches.begin("1.2")
    with fetches.engine.begin() as c:
        assert index.finish(c, row, StudyState.COMPLETE, "")
    (row,) = index.studies()
    with fetches.engine.begin() as c:
        assert index.finish(c, row, StudyState.UNWANTED, "a prior")
    clock.now = 200
    with fetches.engine.begin() as c:
        assert fetches.release(c, "1.2")
        assert not fetches.release(c, "1.2")
    (row,) = index.studies()
    assert (row.state, row.last_arrival, fetches.covers(row)) == (StudyState.RECEIVING, 200, False)


def told(uid: str, day: str, **more: Any) -> Dataset:
    ds = Dataset()
    ds.StudyInstanceUID, ds.StudyDate = uid, day
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def test_studies_are_told_latest_first_without_those_that_cannot_be_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [
        told("1.1", "20200101", StudyTime="080000"),
        told("1.2", "20230101", NumberOfStudyRelatedInstances=7, ModalitiesInStudy=["MR", "SR"], PatientSex="F"),
        told("1.3", "20200101", StudyTime="090000"),
        told("1.4", "20250101"),  # the archive does not match dates
        told("1.5", ""),
        told("", "20200101"),
    ]
    monkeypatch.setattr(patient, "_find_by_dimse", lambda *_: answer)
    source = Source(name="x", ae_title="X", host="127.0.0.1", port=104)
    found = find_patient_studies(source, "NODE", "P1", date(2024, 1, 1))

    assert [s.StudyInstanceUID for s in found] == ["1.2", "1.3", "1.1"]
    assert (found[0].instances, found[0].modalities, found[0].PatientSex) == (7, ("MR", "SR"), "F")
    assert found[1].instances is None


@pytest.mark.parametrize("patient_id", ["", "P*", "P?1", "A\\B"])
def test_an_id_that_would_match_others_is_not_asked_for(patient_id: str) -> None:
    source = Source(name="x", ae_title="X", host="127.0.0.1", port=9)
    with pytest.raises(PeerError, match="wildcard") as caught:
        find_patient_studies(source, "NODE", patient_id, date(2024, 1, 1))
    assert not caught.value.retryable
    assert patient_id == "" or patient_id not in str(caught.value)
