"""MPPS and IAN (PS3.4 section F.7, Annex R): the node as SCP, pynetdicom as SCU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage, SegmentationStorage, generate_uid
from pynetdicom.sop_class import InstanceAvailabilityNotification, ModalityPerformedProcedureStep
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from dicom_node.model.completeness import Announced, By
from dicom_node.store.announcements import Announcements
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.announcing import associated, change, create, item, notification, performed, step
from tests.listening import READERS, Listening, listening

COUNT = 3


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images() -> list[Dataset]:
    pixels = np.random.default_rng(0).integers(0, 4096, (COUNT, 16, 16), np.uint16)
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)))


def said(node: Listening, study_uid: str) -> Announced | None:
    node.intake.rows.flush()
    found = node.announcements.of([study_uid]).get(study_uid)
    return None if found is None else node.announcements.weigh(study_uid, found)


def test_a_step_from_its_beginning_to_its_end(tmp_path: Path, reader: str, images: list[Dataset]) -> None:
    uid, study = generate_uid(), str(images[0].StudyInstanceUID)
    with listening(tmp_path, reader=reader) as node, associated(node.port) as association:
        assert said(node, study) is None
        assert create(association, step(study), uid).Status == 0x0000
        assert said(node, study) == Announced(By.MPPS, ("CT1",), 1, 0, {}, {}, 0)
        for ds in images[:2]:
            assert association.send_c_store(ds).Status == 0x0000
        listed = performed(images)
        assert change(association, uid, PerformedSeriesSequence=listed).Status == 0x0000
        ended = {"PerformedProcedureStepStatus": "COMPLETED"}
        assert change(association, uid, **ended).Status == 0x0000
        series = str(images[0].SeriesInstanceUID)
        assert said(node, study) == Announced(By.MPPS, ("CT1",), 0, 1, {series: COUNT}, {series: 1}, 0)
        assert association.send_c_store(images[2]).Status == 0x0000
        assert said(node, study) == Announced(By.MPPS, ("CT1",), 0, 1, {series: COUNT}, {}, 0)


def test_it_is_there_after_a_restart(tmp_path: Path, images: list[Dataset]) -> None:
    uid, study = generate_uid(), str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step(study), uid).Status == 0x0000
    with listening(tmp_path) as node, associated(node.port) as association:
        assert change(association, uid, PerformedProcedureStepStatus="DISCONTINUED").Status == 0x0000
        found = said(node, study)
    assert found is not None
    assert (found.in_progress, found.completed) == (0, 0)


def test_a_step_for_several_studies(tmp_path: Path, images: list[Dataset]) -> None:
    uid = generate_uid()
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step("1.2.3", "1.2.4"), uid).Status == 0x0000
        values = {"PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": performed(images)}
        assert change(association, uid, **values).Status == 0x0000
        for study in ("1.2.3", "1.2.4"):
            found = said(node, study)
            assert found is not None
            assert (found.completed, sum(found.missing.values())) == (1, COUNT)


def test_the_list_of_series_is_replaced_as_a_whole(tmp_path: Path, images: list[Dataset]) -> None:
    uid, study = generate_uid(), str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step(study, PerformedSeriesSequence=performed(images)), uid).Status == 0x0000
        assert change(association, uid, PerformedSeriesSequence=performed(images[:1])).Status == 0x0000
        found = said(node, study)
    assert found is not None
    assert sum(found.listed.values()) == 1


@pytest.mark.parametrize(
    ("attributes", "uid", "status"),
    [
        (step("1.2.3", PerformedProcedureStepStatus="COMPLETED"), "1.2.9", 0x0106),
        (step("1.2.3", PerformedProcedureStepStatus=""), "1.2.9", 0x0121),
        (step(), "1.2.9", 0x0121),
        (step(""), "1.2.9", 0x0121),
        (item(PerformedProcedureStepStatus="IN PROGRESS"), "1.2.9", 0x0120),
        (item(Modality="MR"), "1.2.9", 0x0120),
        (step("1.2.3", PerformedSeriesSequence=[item(SeriesDescription="x")]), "1.2.9", 0x0120),
    ],
)
def test_steps_that_are_refused(tmp_path: Path, attributes: Dataset, uid: str, status: int) -> None:
    with listening(tmp_path) as node, associated(node.port) as association, capture_logs() as logs:
        answer = create(association, attributes, uid)
        assert answer.Status == status
        assert answer.ErrorComment
        assert said(node, "1.2.3") is None
    assert [e["status"] for e in logs if e["event"] == "announcement_refused"] == [f"0x{status:04X}"]


def test_a_step_of_a_uid_that_is_there(tmp_path: Path) -> None:
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step("1.2.3"), "1.2.9").Status == 0x0000
        assert create(association, step("1.2.4"), "1.2.9").Status == 0x0111
        assert said(node, "1.2.4") is None


@pytest.mark.parametrize("ian", [False, True])
def test_who_leaves_the_uid_to_the_node_gets_one(tmp_path: Path, images: list[Dataset], ian: bool) -> None:
    study = str(images[0].StudyInstanceUID)
    sop_class = InstanceAvailabilityNotification if ian else ModalityPerformedProcedureStep
    with listening(tmp_path) as node, associated(node.port) as association:
        attributes = notification(images) if ian else step(study)
        answers = [association.send_n_create(attributes, sop_class, None)[0] for _ in range(2)]
        assert [a.Status for a in answers] == [0x0000, 0x0000]
        found = said(node, study)
    assert found is not None
    assert found.in_progress + found.completed == 2


@pytest.mark.parametrize("end", ["COMPLETED", "DISCONTINUED"])
def test_a_step_that_has_ended_may_no_longer_be_changed(tmp_path: Path, images: list[Dataset], end: str) -> None:
    uid, study = generate_uid(), str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step(study), uid).Status == 0x0000
        assert change(association, uid, PerformedProcedureStepStatus=end).Status == 0x0000
        for attributes in ({"PerformedProcedureStepStatus": "IN PROGRESS"}, {"PerformedSeriesSequence": []}):
            answer = change(association, uid, **attributes)
            assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        found = said(node, study)
    assert found is not None
    assert found.in_progress == 0


def test_changes_that_are_refused(tmp_path: Path) -> None:
    with listening(tmp_path) as node, associated(node.port) as association:
        assert change(association, "1.2.9", PerformedProcedureStepStatus="COMPLETED").Status == 0x0112
        assert create(association, step("1.2.3"), "1.2.9").Status == 0x0000
        assert change(association, "1.2.9", PerformedProcedureStepStatus="DONE").Status == 0x0106
        assert change(association, "1.2.9", PerformedSeriesSequence=[item(Modality="MR")]).Status == 0x0120
        assert create(association, notification_of_one(), "1.2.10", ian=True).Status == 0x0000
        assert change(association, "1.2.10", PerformedProcedureStepStatus="COMPLETED").Status == 0x0112
        found = said(node, "1.2.3")
    assert found is not None
    assert found.in_progress == 1


def notification_of_one() -> Dataset:
    image = item(StudyInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3.5", SOPInstanceUID="1.2.3.6")
    image.SOPClassUID = MRImageStorage
    return notification([image])


def test_a_notification(tmp_path: Path, reader: str, images: list[Dataset]) -> None:
    study, series = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    result = item(StudyInstanceUID=study, SeriesInstanceUID="1.2.5", SOPInstanceUID="1.2.6")
    result.SOPClassUID = SegmentationStorage
    with listening(tmp_path, reader=reader) as node, associated(node.port, "PACS") as association:
        assert create(association, notification([*images, result]), ian=True).Status == 0x0000
        assert said(node, study) == Announced(By.IAN, ("PACS",), 0, 1, {series: COUNT}, {series: COUNT}, 0)
        for ds in images:
            assert association.send_c_store(ds).Status == 0x0000
        assert said(node, study) == Announced(By.IAN, ("PACS",), 0, 1, {series: COUNT}, {}, 0)


def test_what_is_unavailable_is_not_waited_for(tmp_path: Path, images: list[Dataset]) -> None:
    study = str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, notification(images, "UNAVAILABLE"), ian=True).Status == 0x0000
        found = said(node, study)
    assert found is not None
    assert (found.listed, found.missing) == ({}, {})


def test_notifications_that_are_refused(tmp_path: Path, images: list[Dataset]) -> None:
    with listening(tmp_path) as node, associated(node.port) as association:
        for keyword, status in (("StudyInstanceUID", 0x0120), ("ReferencedSeriesSequence", 0x0120)):
            attributes = notification(images)
            del attributes[keyword]
            assert create(association, attributes, ian=True).Status == status
        attributes = notification(images)
        del attributes.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].InstanceAvailability
        assert create(association, attributes, ian=True).Status == 0x0120
        assert said(node, str(images[0].StudyInstanceUID)) is None


def test_images_that_nobody_listed_are_counted(tmp_path: Path, images: list[Dataset]) -> None:
    study = str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, notification(images[:1]), ian=True).Status == 0x0000
        for ds in images:
            assert association.send_c_store(ds).Status == 0x0000
        found = said(node, study)
    assert found is not None
    assert (found.missing, found.unlisted) == ({}, COUNT - 1)


def test_a_database_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("", {}, Exception("disk"))

    with listening(tmp_path) as node, associated(node.port) as association:
        monkeypatch.setattr(Announcements, "add", fail)
        monkeypatch.setattr(Announcements, "change", fail)
        assert create(association, step("1.2.3"), "1.2.9").Status == 0x0213
        assert change(association, "1.2.9", PerformedProcedureStepStatus="COMPLETED").Status == 0x0213


def test_an_error_of_the_node_is_answered_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with listening(tmp_path) as node, associated(node.port) as association, capture_logs() as logs:
        monkeypatch.setattr(Announcements, "add", fail)
        assert create(association, step("1.2.3"), "1.2.9").Status == 0x0110
    assert [e["error"] for e in logs if e["event"] == "announcement_failed"] == ["ZeroDivisionError"]


def test_more_than_a_node_can_hold_in_memory_is_refused(tmp_path: Path) -> None:
    many = [item(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", SOPInstanceUID=f"1.2.5.{n}") for n in range(4)]
    for ds in many:
        ds.SOPClassUID = MRImageStorage
    with listening(tmp_path) as node, associated(node.port) as association:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dicom_node.receive.announcements._LARGEST_BYTES", 100)
            assert create(association, notification(many), ian=True).Status == 0x0213
        assert create(association, notification(many), ian=True).Status == 0x0000


def test_what_was_announced_of_studies_that_never_came_is_forgotten(tmp_path: Path, images: list[Dataset]) -> None:
    study = str(images[0].StudyInstanceUID)
    with listening(tmp_path) as node, associated(node.port) as association:
        assert create(association, step("1.2.3"), "1.2.9").Status == 0x0000
        assert create(association, notification(images), ian=True).Status == 0x0000
        assert association.send_c_store(images[0]).Status == 0x0000
        node.intake.rows.flush()
        node.announcements.forget(3600)
        assert said(node, "1.2.3") is not None
        node.announcements.forget(0)
        assert said(node, "1.2.3") is None
        found = said(node, study)
    assert found is not None
    assert sum(found.listed.values()) == COUNT
