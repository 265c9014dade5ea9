"""Studies and instances as rows: what opens a study, what ends a revision, what is never lost."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from dicom_node.errors import InstanceConflict, InvalidInstance
from dicom_node.model.instance import Instance
from dicom_node.model.states import StudyState
from dicom_node.store.index import Index, digest_of_inputs
from dicom_node.store.tables import open_engine


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def index(tmp_path, clock):
    engine = open_engine(f"sqlite:///{tmp_path / 'x.sqlite'}")
    yield Index(engine, clock)
    engine.dispose()


def instance(number: int, **changes: object) -> Instance:
    base = Instance(
        SOPInstanceUID=f"1.2.3.{number}",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        SeriesInstanceUID="1.2.30",
        StudyInstanceUID="1.2.40",
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        digest=f"{number:064x}",
        path=f"instances/{number}.dcm",
        size=10,
        patient_key="p",
        tags={"Modality": "MR"},
    )
    return replace(base, **changes)


def complete(index: Index, seconds: float = 10) -> list[bool]:
    done = []
    for row in index.quiet(seconds):
        with index.engine.begin() as c:
            done.append(index.finish(c, row, StudyState.COMPLETE, ""))
    return done


def test_a_study_is_quiet_only_after_the_time(index, clock):
    index.add(instance(1))
    clock.now += 9.9
    assert not index.quiet(10)
    clock.now += 0.1
    assert [r.study_uid for r in index.quiet(10)] == ["1.2.40"]


def test_the_same_content_again_changes_nothing(index, clock):
    assert index.add(instance(1))
    clock.now += 5
    assert not index.add(instance(1))
    row = index.study("1.2.40")
    assert row is not None
    assert row.last_arrival == 1000.0
    assert index.count("1.2.40") == 1


def test_other_content_under_the_same_uid_is_refused_and_noted(index):
    index.add(instance(1))
    with pytest.raises(InstanceConflict):
        index.add(instance(1, digest="f" * 64))
    assert index.known("1.2.3.1").digest == instance(1).digest
    assert "other content" in index.notes("1.2.40")[0]


def test_own_results_are_kept_but_open_no_study(index, clock):
    index.add(instance(1))
    clock.now += 10
    assert complete(index) == [True]
    assert index.add(instance(2, own=True))
    row = index.study("1.2.40")
    assert row is not None
    assert (row.state, row.revision) == (StudyState.COMPLETE, 1)
    assert index.count("1.2.40") == 1
    assert [len(s.instances) for s in index.series("1.2.40", own=True)] == [1]


def test_a_late_image_makes_a_new_revision(index, clock):
    index.add(instance(1))
    clock.now += 10
    complete(index)
    index.add(instance(2))
    clock.now += 10
    complete(index)
    row = index.study("1.2.40")
    assert row is not None
    assert row.revision == 2


def test_an_image_that_comes_between_reading_and_ending_wins(index, clock):
    index.add(instance(1))
    clock.now += 10
    (row,) = index.quiet(10)
    index.add(instance(2))
    with index.engine.begin() as c:
        assert not index.finish(c, row, StudyState.COMPLETE, "")
    now = index.study("1.2.40")
    assert now is not None
    assert now.state == StudyState.RECEIVING


def test_many_threads_add_each_instance_once(index):
    new: list[bool] = []
    lock = threading.Lock()

    def add_all() -> None:
        for n in range(30):
            answer = index.add(instance(n))
            with lock:
                new.append(answer)

    threads = [threading.Thread(target=add_all) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(new) == 30
    assert index.count("1.2.40") == 30


def test_the_digest_of_inputs_knows_no_order(index):
    some = [instance(n) for n in range(5)]
    assert digest_of_inputs(some) == digest_of_inputs(reversed(some))
    assert digest_of_inputs(some) != digest_of_inputs(some[:-1])


def test_a_study_is_forgotten_unless_an_image_came_meanwhile(index):
    index.add(instance(1))
    seen = index.study("1.2.40")
    index.clock = lambda: seen.last_arrival + 1
    index.add(instance(2))
    assert not index.remove_study(seen)
    assert len(list(index.paths())) == 2
    assert index.remove_study(index.study("1.2.40"))
    assert index.study("1.2.40") is None
    assert not list(index.paths())


@pytest.mark.parametrize("uid", ["", "../../etc", "1.2.", "1..2", "1.2/3", "1" * 65, "1.2.3\n"])
def test_what_is_no_uid_makes_no_instance(uid):
    with pytest.raises(InvalidInstance, match="StudyInstanceUID"):
        instance(1, StudyInstanceUID=uid)


def test_a_commit_is_on_the_disk(index):
    with index.engine.connect() as c:
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_the_sweep_looks_at_nothing_but_what_receives(index):
    """With ten thousand studies in the table it runs some times a second."""
    seen = []
    sa.event.listen(index.engine, "before_cursor_execute", lambda _c, _u, text, given, *_: seen.append((text, given)))
    index.quiet(10)
    index.has_work()
    for text, given in list(seen):
        with index.engine.connect() as c:
            plan = " ".join(str(row) for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given))
        assert "SEARCH" in plan
        assert "SCAN" not in plan
    assert "ix_studies_state_last_arrival (state=? AND last_arrival<?)" in str(_plan(index, seen[0]))


def _plan(index, statement):
    with index.engine.connect() as c:
        return list(c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1]))


def test_a_database_of_an_earlier_version_gets_the_new_index(tmp_path):
    url = f"sqlite:///{tmp_path / 'old.sqlite'}"
    old = open_engine(url)
    with old.begin() as c:
        c.exec_driver_sql("DROP INDEX ix_studies_state_last_arrival")
    old.dispose()
    names = {i["name"] for i in sa.inspect(open_engine(url)).get_indexes("studies")}
    assert "ix_studies_state_last_arrival" in names


def test_work_is_what_has_not_come_to_its_end(index):
    assert not index.has_work()
    index.add(instance(1))
    assert index.has_work()
    for state in (StudyState.COMPLETE, StudyState.UNWANTED):
        assert index.has_work()
        with index.engine.begin() as c:
            assert index.finish(c, index.study("1.2.40"), state, "")
    assert not index.has_work()


def test_all_studies_at_once(index):
    for n in range(3):
        index.add(instance(n))
    index.note("1.2.40", "a")
    index.note("1.2.41", "b")
    index.note("1.2.40", "c")
    assert index.counts() == {"1.2.40": 3}
    assert index.all_notes() == {"1.2.40": ["a", "c"], "1.2.41": ["b"]}
