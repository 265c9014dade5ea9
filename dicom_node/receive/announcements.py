"""Modality Performed Procedure Step (PS3.4 section F.7) and Instance Availability Notification (Annex R) as SCP: what
they say of studies is kept, as evidence of when these are whole.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import InstanceAvailabilityNotification
from sqlalchemy.exc import OperationalError

from dicom_node import log
from dicom_node.model.completeness import By, StepState
from dicom_node.model.instance import valid_uid
from dicom_node.receive.ian import read_notification
from dicom_node.receive.mpps import read_change, read_step
from dicom_node.receive.refusal import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_OBJECT_INSTANCE,
    MAY_NO_LONGER_BE_UPDATED,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Refused,
)
from dicom_node.receive.tags import UNREADABLE
from dicom_node.store.announcements import Announcements, EndedStep, UnknownStep

_LARGEST_BYTES: Final = 8 << 20
"""Sixty thousand images. What is decoded takes twenty times as much memory."""

_logger = log.get("receive")


class AnnouncementScp:
    """Takes procedure steps and notifications. Thread-safe.

    Args:
        new_uid: makes a SOP Instance UID for who leaves that to the SCP (PS3.7 section 10.1.5.1.4).
    """

    def __init__(self, rows: Announcements, new_uid: Callable[[], str] = generate_uid) -> None:
        self._rows = rows
        self._new_uid = new_uid

    @property
    def handlers(self) -> list[Any]:
        """What pynetdicom is to call."""
        return [(evt.EVT_N_CREATE, self._on_create), (evt.EVT_N_SET, self._on_set)]

    def _on_create(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """Take a new procedure step, or a notification.

        Returns:
            The response's status (PS3.7 section 10.1.5.1.6, PS3.4 sections F.7.2.1.3 and R.3.2): 0x0000 Success: it is
            kept; 0x0106 a value is none that is allowed; 0x0110 it cannot be decoded, or an error of the node's own;
            0x0111 there is one of this SOP Instance UID; 0x0117 this UID is none; 0x0120 an attribute is missing;
            0x0121 its value is; 0x0213 it is too large, or the database failed, and may be sent again.
        """
        request = event.request
        uid = str(request.AffectedSOPInstanceUID or "")
        given = Dataset()
        if not uid:
            uid = given.AffectedSOPInstanceUID = self._new_uid()
        is_notification = event.context.abstract_syntax == InstanceAvailabilityNotification

        def take() -> None:
            _check_uid(uid)
            _check_size(request.AttributeList)
            read = read_notification if is_notification else read_step
            announced = read(event.attribute_list)
            kind, state = (By.IAN, StepState.COMPLETED) if is_notification else (By.MPPS, StepState.IN_PROGRESS)
            if not self._rows.add(uid, kind, state, _calling(event), announced):
                raise Refused(DUPLICATE_SOP_INSTANCE, "there is one of this SOP Instance UID")
            for study_uid in announced.studies:
                ids = {"StudyInstanceUID": study_uid, "calling": _calling(event)}
                _logger.info("images_announced", **ids, kind=str(kind), state=str(state), images=len(announced.images))

        return self._answer(event, take), given or None

    def _on_set(self, event: Any) -> tuple[Dataset, None]:
        """Change a procedure step.

        Returns:
            The response's status (PS3.7 section 10.1.3.1.9, PS3.4 section F.7.2.2.3): 0x0000 Success: the change is
            kept; 0x0106 a value is none that is allowed; 0x0110 with Error ID 0xA710 the step has ended and may no
            longer be changed, 0x0110 without it cannot be decoded, or an error of the node's own; 0x0112 there is none
            of this SOP Instance UID; 0x0120 an attribute of its series is missing; 0x0121 its value is; 0x0213 it is
            too large, or the database failed, and may be sent again.
        """
        uid = str(event.request.RequestedSOPInstanceUID or "")

        def take() -> None:
            _check_size(event.request.ModificationList)
            change = read_change(event.modification_list)
            try:
                self._rows.change(uid, change.state, change.images)
            except UnknownStep as e:
                raise Refused(NO_SUCH_SOP_INSTANCE, "there is no procedure step of this SOP Instance UID") from e
            except EndedStep as e:
                words = "the procedure step has ended: it may no longer be updated"
                raise Refused(PROCESSING_FAILURE, words, MAY_NO_LONGER_BE_UPDATED) from e
            images = None if change.images is None else len(change.images)
            state = str(change.state) if change.state else None
            _logger.info("step_changed", step=uid, calling=_calling(event), state=state, images=images)

        return self._answer(event, take), None

    def _answer(self, event: Any, take: Callable[[], None]) -> Dataset:
        answer = Dataset()
        answer.Status = SUCCESS
        try:
            take()
        except Refused as e:
            answer.Status, answer.ErrorComment = e.status, str(e)[:64]
            if e.error_id is not None:
                answer.ErrorID = e.error_id
        except OperationalError as e:
            _logger.error("announcement_not_kept", calling=_calling(event), error=type(e.orig).__name__)
            answer.Status = RESOURCE_LIMITATION
        except UNREADABLE:
            answer.Status, answer.ErrorComment = PROCESSING_FAILURE, "the dataset cannot be decoded"
        except Exception as e:  # noqa: BLE001  # the outermost border: the peer gets an answer, whatever happened
            where = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)]
            _logger.error("announcement_failed", error=type(e).__name__, where=where)
            answer.Status, answer.ErrorComment = PROCESSING_FAILURE, "internal error, see the node's log"
        if answer.Status != SUCCESS:
            reason = str(answer.get("ErrorComment", ""))
            status = f"0x{answer.Status:04X}"
            _logger.warning("announcement_refused", calling=_calling(event), status=status, reason=reason)
        return answer


def _calling(event: Any) -> str:
    return str(event.assoc.requestor.primitive.calling_ae_title.strip())


def _check_uid(uid: str) -> None:
    if not valid_uid(uid):
        raise Refused(INVALID_OBJECT_INSTANCE, "the SOP Instance UID is none")


def _check_size(attributes: Any) -> None:
    if attributes is not None and attributes.getbuffer().nbytes > _LARGEST_BYTES:
        raise Refused(RESOURCE_LIMITATION, f"more than {_LARGEST_BYTES >> 20} MB")
