"""Storage Commitment Push Model as SCP (PS3.4 Annex J): requests come in, and are answered where they came from.

It leans on these parts of pynetdicom, whose presence a test checks: what stands in ``dul.to_provider_queue`` is sent
in its order, before anything more is read; ``EVT_PDU_SENT`` and ``EVT_DIMSE_RECV`` tell of what was sent and came.
"""

from __future__ import annotations

import struct
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy.exc import OperationalError

from dicom_node import log
from dicom_node.model.commitment import SAFE, Commitment
from dicom_node.model.instance import valid_uid
from dicom_node.store.commitments import Commitments

SUCCESS: Final = 0x0000
NO_SUCH_SOP_INSTANCE: Final = 0x0112
INVALID_ARGUMENT_VALUE: Final = 0x0115
NO_SUCH_ACTION: Final = 0x0123
RESOURCE_LIMITATION: Final = 0x0213

_REQUEST_ACTION: Final = 1
_ALL_SAFE, _FAILURES_EXIST = 1, 2  # Event Type IDs
_ELEMENT: Final = struct.Struct("<HHIH")
_N_ACTION_RSP: Final = _ELEMENT.pack(0x0000, 0x0100, 2, 0x8130)
_ANSWER_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05

_logger = log.get("receive")


class InvalidRequest(Exception):
    """The request says not what PS3.4 section J.3.2.1 asks for."""


@dataclass
class _Live:
    """An association that a request came over."""

    association: Any
    context: Any
    message_id: int
    """Of the request, and of the report on it, which is a message of the other side."""
    answered: threading.Event = field(default_factory=threading.Event)
    """The request's response has been sent."""
    told: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    """Of the N-EVENT-REPORT response."""


class CommitmentScp:
    """Takes requests. Thread-safe.

    Args:
        rows: where they are kept until their requestors have been told.
        wake: called when there is a new one.
    """

    def __init__(self, rows: Commitments, wake: Callable[[], None]) -> None:
        self._rows = rows
        self._wake = wake
        self._live: dict[tuple[str, str], _Live] = {}
        self._by_association: weakref.WeakKeyDictionary[Any, list[_Live]] = weakref.WeakKeyDictionary()

    @property
    def handlers(self) -> list[Any]:
        """What pynetdicom is to call."""
        return [
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_PDU_SENT, self._on_sent),
            (evt.EVT_DIMSE_RECV, self._on_message),
        ]

    def _on_action(self, event: Any) -> tuple[Dataset, None]:
        """Take a request.

        Returns:
            The response's status (PS3.7 section 10.1.4.1.10): 0x0000 Success: it is kept, and will be answered;
            0x0110 (by pynetdicom) the dataset cannot be decoded; 0x0112 another SOP Instance than the well-known one;
            0x0115 Transaction UID or references are missing or none; 0x0123 another action; 0x0213 the database
            failed, and the requestor may try again.
        """
        request, association = event.request, event.assoc
        answer = Dataset()
        answer.Status = SUCCESS
        requestor = association.requestor
        calling = requestor.primitive.calling_ae_title.strip()
        try:
            if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
                answer.Status = NO_SUCH_SOP_INSTANCE
            elif request.ActionTypeID != _REQUEST_ACTION:
                answer.Status = NO_SUCH_ACTION
            else:
                transaction_uid, wanted = read_request(event.action_information)
                called = requestor.primitive.called_ae_title.strip()
                live = _Live(association, event.context, request.MessageID)
                self._by_association.setdefault(association, []).append(live)
                self._live[calling, transaction_uid] = live
                try:
                    self._rows.add(calling, transaction_uid, called, requestor.address, wanted)
                except OperationalError:
                    del self._live[calling, transaction_uid]
                    raise
                _logger.info("commitment_requested", calling=calling, instances=len(wanted))
                self._wake()
        except InvalidRequest as e:
            answer.Status, answer.ErrorComment = INVALID_ARGUMENT_VALUE, str(e)
        except OperationalError as e:
            _logger.error("commitment_not_kept", calling=calling, error=type(e.orig).__name__)
            answer.Status = RESOURCE_LIMITATION
        if answer.Status != SUCCESS:
            _logger.warning("commitment_refused", calling=calling, status=f"0x{answer.Status:04X}")
        return answer, None

    def tell_here(self, commitment: Commitment) -> bool:
        """Tell the requestor over the association that the request came by, if it is still open.

        Returns:
            Whether it has been told, and took it.
        """
        live = self._live.pop((commitment.requestor, commitment.transaction_uid), None)
        if live is None or not self._wait(live, live.answered):
            return False
        event_type, information = event_information(commitment)
        message = _event_report(live, event_type, information)
        queue = live.association.dul.to_provider_queue
        with queue.mutex:
            # All parts at once: an answer to another message must not come between them.
            queue.queue.extend(message)
        return self._wait(live, live.told) and live.status == SUCCESS

    def _wait(self, live: _Live, what: threading.Event) -> bool:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while live.association.is_established and time.monotonic() < deadline:
            if what.wait(_LOOK_SECONDS):
                break
        return what.is_set()

    def _on_sent(self, event: Any) -> None:
        for live in self._by_association.get(event.assoc, ()):
            for item in getattr(event.pdu, "presentation_data_value_items", ()):
                data = item.presentation_data_value
                if _N_ACTION_RSP in data and _ELEMENT.pack(0x0000, 0x0120, 2, live.message_id) in data:
                    live.answered.set()

    def _on_message(self, event: Any) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            answer = event.message.command_set
            for live in self._by_association.get(event.assoc, ()):
                if answer.get("MessageIDBeingRespondedTo") == live.message_id and not live.told.is_set():
                    live.status = int(answer.get("Status", -1))
                    live.told.set()


def read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """The Transaction UID of a Storage Commitment Request (PS3.4 table J.3-1), and its (SOP Class UID, SOP Instance
    UID) pairs.

    Raises:
        InvalidRequest: something is missing, no UID, or cannot be read.
    """
    try:
        transaction_uid = str(information.get("TransactionUID") or "")
        items = list(information.get("ReferencedSOPSequence") or ())
        keywords = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
        wanted = [(str(i.get(keywords[0]) or ""), str(i.get(keywords[1]) or "")) for i in items]
    except (ValueError, EOFError, LookupError, TypeError, AttributeError, NotImplementedError, struct.error) as e:
        raise InvalidRequest("the Action Information cannot be read") from e
    if not transaction_uid or not valid_uid(transaction_uid):
        raise InvalidRequest("TransactionUID is missing or no UID")
    if not wanted:
        raise InvalidRequest("ReferencedSOPSequence is missing or empty")
    if not all(uid and valid_uid(uid) for pair in wanted for uid in pair):
        raise InvalidRequest("a UID in ReferencedSOPSequence is missing or none")
    return transaction_uid, wanted


def event_information(commitment: Commitment) -> tuple[int, Dataset]:
    """Event Type ID and Event Information that tell what was found out (PS3.4 table J.3-2).

    Raises:
        ValueError: nothing was, yet.
    """
    if commitment.report is None:
        raise ValueError("the commitment has no report yet")
    information = Dataset()
    information.TransactionUID = commitment.transaction_uid
    safe, failed = [], []
    for (sop_class, sop_instance), reason in zip(commitment.wanted, commitment.report, strict=True):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_instance
        if reason == SAFE:
            safe.append(item)
        else:
            item.FailureReason = reason
            failed.append(item)
    if safe:
        information.ReferencedSOPSequence = safe
    if failed:
        information.FailedSOPSequence = failed
    return (_FAILURES_EXIST if failed else _ALL_SAFE), information


def _event_report(live: _Live, event_type: int, information: Dataset) -> list[Any]:
    """The parts of an N-EVENT-REPORT request (PS3.7 section 10.3.1.1), in their order."""
    request = N_EVENT_REPORT()
    request.MessageID = live.message_id
    request.AffectedSOPClassUID = StorageCommitmentPushModel
    request.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    request.EventTypeID = event_type
    syntax = UID(live.context.transfer_syntax)
    data = encode(information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    request.EventInformation = BytesIO(data or b"")
    message = N_EVENT_REPORT_RQ()
    message.primitive_to_message(request)
    message.context_id = live.context.context_id
    return list(message.encode_msg(live.context.context_id, live.association.dimse.maximum_pdu_size))
