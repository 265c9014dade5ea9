from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.find import answers
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets


def _datasets(key: str, count: int = 1, **header: object) -> list[Dataset]:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    return slice_datasets(np.zeros((count, 4, 4), np.uint16), affine, key=key, header=header)


def store(port: int, ds: Dataset) -> int:
    """Store one dataset by a plain SCU; the status, or -1 when none came."""
    ae = AE()
    ae.add_requested_context(MRImageStorage)
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    answer = association.send_c_store(ds)
    if association.is_established:
        association.release()
    return int(answer.Status) if "Status" in answer else -1


def test_wait_for_wakes_when_an_object_comes() -> None:
    (ds,) = _datasets("wait")
    with FakePacs() as pacs:
        sender = threading.Thread(target=store, args=(pacs.port, ds))
        sender.start()
        assert pacs.wait_for(lambda: pacs.stores[ds.SOPInstanceUID] == 1, timeout=10)
        sender.join()


def test_wait_for_gives_up() -> None:
    assert not FakePacs().wait_for(lambda: False, timeout=0.01)


def test_other_bytes_under_the_same_uid_are_told_apart() -> None:
    (ds,) = _datasets("bytes")
    with FakePacs() as pacs:
        assert store(pacs.port, ds) == store(pacs.port, ds) == 0x0000
        assert pacs.stores[ds.SOPInstanceUID] == 2
        assert len(pacs.digests[ds.SOPInstanceUID]) == 1
        ds.SeriesDescription = "changed"
        store(pacs.port, ds)
        assert len(pacs.digests[ds.SOPInstanceUID]) == 2
        assert pacs.received[ds.SOPInstanceUID].SeriesDescription == "changed"


def test_what_is_refused_is_not_stored_but_counted() -> None:
    (ds,) = _datasets("refused")
    with FakePacs() as pacs:
        pacs.refuse_with(0xA700)
        assert store(pacs.port, ds) == 0xA700
        assert (pacs.attempts, pacs.stores.total()) == (1, 0)
        pacs.refuse_with(0x0000)
        assert store(pacs.port, ds) == 0x0000
        assert (pacs.attempts, pacs.stores.total()) == (2, 1)


def test_dropping_ends_only_so_many_associations() -> None:
    (ds,) = _datasets("dropped")
    with FakePacs() as pacs:
        pacs.drop_associations(2)
        assert [store(pacs.port, ds) for _ in range(3)] == [-1, -1, 0x0000]
        assert pacs.stores.total() == 1


def test_going_down_stores_nothing_more() -> None:
    (ds,) = _datasets("down")
    with FakePacs() as pacs:
        pacs.delay = 60
        sender = threading.Thread(target=store, args=(pacs.port, ds))
        sender.start()
        assert pacs.wait_for(lambda: pacs.waiting == 1, timeout=10)
        pacs.down()
        sender.join(timeout=10)
        assert not sender.is_alive()
        assert pacs.stores.total() == 0


def test_a_uid_that_is_a_path_is_not_written(tmp_path: Path) -> None:
    (ds,) = _datasets("path")
    with FakePacs(tmp_path / "pacs") as pacs, pydicom.config.disable_value_validation():
        del ds.SOPInstanceUID  # an element keeps the validation that it was made with
        ds.SOPInstanceUID = "../escaped"
        assert store(pacs.port, ds) == 0xC000
    assert [p.name for p in tmp_path.rglob("*")] == ["pacs"]


def test_refused_classes_are_not_accepted() -> None:
    ae = AE()
    ae.add_requested_context(CTImageStorage)
    ae.add_requested_context(Verification)
    with FakePacs(refused_classes=[CTImageStorage]) as pacs:
        association = ae.associate("127.0.0.1", pacs.port)
        assert [c.abstract_syntax for c in association.accepted_contexts] == [Verification]
        assert association.send_c_echo().Status == 0x0000
        association.release()


def test_a_folder_is_remembered(tmp_path: Path) -> None:
    (ds,) = _datasets("folder")
    with FakePacs(tmp_path) as pacs:
        store(pacs.port, ds)
        store(pacs.port, ds)
        before = pacs.digests
    assert pydicom.dcmread(tmp_path / f"{ds.SOPInstanceUID}.dcm") == ds

    again = FakePacs(tmp_path)

    assert again.stores == {ds.SOPInstanceUID: 2}
    assert again.digests == before
    assert again.received == {ds.SOPInstanceUID: ds}


def test_as_its_own_process(tmp_path: Path) -> None:
    (ds,) = _datasets("process")
    command = [sys.executable, "-m", "dicom_node.testing.fake_pacs", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert store(json.loads(process.stdout.readline())["port"], ds) == 0x0000
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert FakePacs(tmp_path).stores == {ds.SOPInstanceUID: 1}


def _query(level: str, **keys: object) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def test_find_counts_by_level() -> None:
    held = [*_datasets("a", 3), *_datasets("b", 2)]
    series = list(answers(_query("SERIES", SeriesInstanceUID="", NumberOfSeriesRelatedInstances=None), held))
    assert [s.NumberOfSeriesRelatedInstances for s in series] == [3, 2]
    assert {s.SeriesInstanceUID for s in series} == {held[0].SeriesInstanceUID, held[3].SeriesInstanceUID}
    images = list(answers(_query("IMAGE", SOPInstanceUID=[held[1].SOPInstanceUID, held[4].SOPInstanceUID]), held))
    assert [i.SOPInstanceUID for i in images] == [held[1].SOPInstanceUID, held[4].SOPInstanceUID]
    studies = list(answers(_query("STUDY", StudyInstanceUID=held[0].StudyInstanceUID, ModalitiesInStudy=""), held))
    assert [s.ModalitiesInStudy for s in studies] == ["MR"]


@pytest.mark.parametrize(
    ("wanted", "count"), [("", 1), ("T1*", 1), ("T?_head", 1), ("T1", 0), ("t1*", 0), ("T1.head", 0), ("T1_head", 1)]
)
def test_find_matches_wildcards(wanted: str, count: int) -> None:
    held = _datasets("wild", SeriesDescription="T1_head")
    assert len(list(answers(_query("SERIES", SeriesDescription=wanted), held))) == count


def test_find_answers_a_key_that_is_not_held_empty() -> None:
    (answer,) = answers(_query("SERIES", AccessionNumber="", StudyComments=""), _datasets("empty"))
    assert answer["StudyComments"].is_empty
    assert list(answers(_query("SERIES", StudyComments="x"), _datasets("empty"))) == []
