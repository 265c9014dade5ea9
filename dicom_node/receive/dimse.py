"""The C-STORE and C-ECHO listener (PS3.4 Annexes A and B)."""

from __future__ import annotations

import logging
import socket
import sys
import time
import traceback
import weakref
from dataclasses import dataclass, field
from typing import Any, Final

import pynetdicom.sop_class
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import _STORAGE_CLASSES, Verification

from dicom_node import log
from dicom_node.errors import ConfigurationError, InvalidInstance, OutOfResources, ReceiveError
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.elements import GE_PRIVATE_IMPLICIT
from dicom_node.receive.fast_store import PROTOCOL_ERROR, FastSocket, StoreRequest
from dicom_node.receive.intake import Intake
from dicom_node.settings import ReceiveSettings

SUCCESS: Final = 0x0000
CANNOT_UNDERSTAND: Final = 0xC000

_UNCOMPRESSED = (
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
    str(DeflatedExplicitVRLittleEndian),
)
TRANSFER_SYNTAXES: Final = (
    # Of several in one context the first here is taken: a sender must not be asked to compress what it has whole.
    *_UNCOMPRESSED,
    *(uid for uid in ALL_TRANSFER_SYNTAXES if uid not in _UNCOMPRESSED),
    GE_PRIVATE_IMPLICIT,
)
_STORAGE_SERVICE = "1.2.840.10008.4.2"
_STORAGE_UIDS = frozenset(str(uid) for uid in _STORAGE_CLASSES.values())
_OTHER_UIDS = frozenset(str(v) for v in vars(pynetdicom.sop_class).values() if isinstance(v, UID)) - _STORAGE_UIDS
_LONGEST_COMMENT = 64
_STOP_SECONDS = 10.0
_SWITCH_SECONDS = 0.001

_logger = log.get("receive")


@dataclass
class _Tally:
    """What came over one association."""

    calling: str
    called: str
    address: str
    opened: float
    unsynced: list[str] = field(default_factory=list)
    """Paths that are acknowledged, but safe only after a sync."""
    stored: int = 0
    refused: int = 0
    bytes: int = 0
    ended: bool = False


class Listener:
    """Takes every storage SOP Class, known or not, in every transfer syntax whose dataset can be read.

    pynetdicom keeps the network and the protocol; ``Intake`` keeps what came.
    """

    def __init__(self, settings: ReceiveSettings, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._tallies: weakref.WeakKeyDictionary[Any, _Tally] = weakref.WeakKeyDictionary()
        self._server: Any = None
        self._ae = AE(ae_title=settings.ae_title)
        self._ae.require_called_aet = settings.require_called_ae_title
        self._ae.require_calling_aet = list(settings.calling_ae_titles)
        self._ae.maximum_associations = settings.maximum_associations
        self._ae.maximum_pdu_size = settings.maximum_pdu_bytes
        self._ae.network_timeout = settings.idle_seconds
        self._ae.acse_timeout = settings.idle_seconds
        self._ae.dimse_timeout = settings.idle_seconds

    @property
    def port(self) -> int:
        """The port that is listened on; the configured one while stopped."""
        return self._settings.port if self._server is None else int(self._server.server_address[1])

    @property
    def associations(self) -> list[Any]:
        """The associations that are open, as pynetdicom knows them."""
        return [] if self._server is None else list(self._server.active_associations)

    def start(self) -> None:
        """Listen, in threads of its own.

        Raises:
            ConfigurationError: the address or port cannot be had.
        """
        # pynetdicom logs what peers send, names and all, below this level.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        # An echo passes three threads: at each it may wait so long for the interpreter behind those that store.
        sys.setswitchinterval(_SWITCH_SECONDS)
        handlers = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, _on_common_negotiation),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_RELEASED, self._on_end, ["released"]),
            (evt.EVT_ABORTED, self._on_end, ["aborted"]),
        ]
        address = (self._settings.host, self._settings.port)
        try:
            # The storage contexts are added for each association, from what it proposes: pynetdicom copies this
            # list deeply at every connection.
            self._server = self._ae.start_server(
                address,
                block=False,
                evt_handlers=handlers,
                contexts=[build_context(Verification, list(_UNCOMPRESSED[:3]))],
            )
        except OSError as e:
            raise ConfigurationError(
                f"receive.port: cannot listen on {address[0]} port {address[1]}: {e.strerror or e}"
            ) from e

    def stop(self) -> None:
        """Stop listening, abort associations and wait for the instances that are being written."""
        if self._server is None:
            return
        associations = self.associations
        self._ae.shutdown()
        self._server = None
        deadline = time.monotonic() + _STOP_SECONDS
        for association in associations:
            association.join(max(0.0, deadline - time.monotonic()))
        try:
            self._intake.rows.flush()
        except OutOfResources as e:
            _logger.error("rows_missing", reason=f"{e}; they are made from the files at the next start")

    def _on_connection(self, event: Any) -> None:
        connection = event.assoc.dul.socket.socket
        # Nagle's algorithm and the peer's delayed ACK cost 20 to 60 ms an image.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # pynetdicom reads a PDU without a limit of time: a peer that stops in its middle would hold the thread.
        connection.settimeout(self._settings.idle_seconds)
        if self._settings.reader == "fast":
            dul = event.assoc.dul
            dul.socket = FastSocket(dul.socket, self, self._settings.idle_seconds)

    def _on_requested(self, event: Any) -> None:
        peer = event.assoc.requestor.address
        open_ones = sum(tally.address == peer and not tally.ended for tally in list(self._tallies.values()))
        if open_ones >= self._settings.maximum_associations_per_peer:
            # Rejected for now: local limit exceeded (PS3.8 section 9.3.4).
            event.assoc.acse.send_reject(0x02, 0x03, 0x02)
            self._on_rejected(event)
            event.assoc.kill()
            return
        _support_storage(event)

    def _on_rejected(self, event: Any) -> None:
        requestor = event.assoc.requestor
        _logger.warning(
            "association_rejected",
            calling=requestor.primitive.calling_ae_title.strip(),
            called=requestor.primitive.called_ae_title.strip(),
            address=requestor.address,
        )

    def _on_accepted(self, event: Any) -> None:
        requestor = event.assoc.requestor
        tally = _Tally(
            calling=requestor.primitive.calling_ae_title.strip(),
            called=requestor.primitive.called_ae_title.strip(),
            address=requestor.address,
            opened=time.monotonic(),
        )
        self._tallies[event.assoc] = tally
        _logger.debug("association_opened", calling=tally.calling, called=tally.called, address=tally.address)

    def _on_pdu(self, event: Any) -> None:
        """Make what came safe before the release is answered; if that fails, the association is aborted instead."""
        tally = self._tallies.get(event.assoc)
        if isinstance(event.pdu, A_RELEASE_RQ) and tally is not None and not self._sync(tally):
            event.assoc.dul.event_queue.put(PROTOCOL_ERROR)

    def _sync(self, tally: _Tally) -> bool:
        """Make safe what is not yet; False, and no second attempt, if the disk fails."""
        paths, tally.unsynced = tally.unsynced, []
        try:
            self._intake.files.sync(paths)
        except OutOfResources as e:
            _logger.error("association_not_safe", calling=tally.calling, address=tally.address, reason=str(e))
            return False
        return True

    def _on_end(self, event: Any, end: str) -> None:
        tally = self._tallies.get(event.assoc)
        if tally is None or tally.ended:
            return
        # It stays until the association is gone: an instance may still be on its way in.
        tally.ended = True
        self._sync(tally)
        _logger.info(
            "association_closed",
            end=end,
            calling=tally.calling,
            called=tally.called,
            address=tally.address,
            stored=tally.stored,
            refused=tally.refused,
            megabytes=round(tally.bytes / 1e6, 3),
            seconds=round(time.monotonic() - tally.opened, 3),
        )

    def _on_store(self, event: Any) -> Dataset:
        """Keep one instance that pynetdicom read."""
        request = event.request
        asked = StoreRequest(request.MessageID, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        arrival = self.begin(event.assoc, asked, str(event.context.transfer_syntax))
        # A view of pynetdicom's own memory, not another copy.
        dataset = None if request.DataSet is None else request.DataSet.getbuffer()
        answer = Dataset()
        answer.Status, comment = self.finish(event.assoc, asked, arrival, dataset)
        if comment:
            answer.ErrorComment = comment
        return answer

    def begin(self, association: Any, request: StoreRequest, transfer_syntax: str) -> Arrival:
        """A request came."""
        tally = self._tallies[association]
        return self._intake.begin(
            TransferSyntaxUID=transfer_syntax,
            SOPClassUID=request.SOPClassUID,
            SOPInstanceUID=request.SOPInstanceUID,
            source=tally.calling,
            called=tally.called,
        )

    def finish(
        self, association: Any, request: StoreRequest, arrival: Arrival, last: memoryview | None
    ) -> tuple[int, str]:
        """Keep the instance that came with a request.

        Args:
            last: the end of the dataset; None if the request came without one.

        Returns:
            Status, and an Error Comment for the sender unless it is Success (PS3.4 section B.2.3):
            0x0000 Success: as safe as ``receive.durability`` says, or there already with the same content.
            0xA700 Out of Resources: disk full, below the reserve or failing; the sender may try again.
            0xC000 Cannot Understand: no DICOM, truncated, a UID that is none, command and dataset differ,
            or an error of the node's own, which is logged.
            0xC001 Cannot Understand: the SOP Instance UID is here with other content, which is kept.
        """
        tally = self._tallies[association]
        try:
            if last is None:
                raise InvalidInstance("the command came without a dataset")
            instance = arrival.finish(last)
        except ReceiveError as e:
            return _refusal(tally, request, e.status, str(e))
        except Exception as e:  # noqa: BLE001  # the outermost border: the sender gets an answer, whatever happened
            # Of the exception only its kind and place: its text may hold header values.
            where = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)]
            _logger.error("instance_failed", error=type(e).__name__, where=where)
            return _refusal(tally, request, CANNOT_UNDERSTAND, "internal error, see the node's log")
        if self._intake.files.durability == "association":
            tally.unsynced.append(instance.path)
            if tally.ended:
                self._sync(tally)
        tally.stored += 1
        tally.bytes += instance.size
        return SUCCESS, ""


def _refusal(tally: _Tally, request: StoreRequest, status: int, reason: str) -> tuple[int, str]:
    tally.refused += 1
    _logger.warning(
        "instance_refused",
        reason=reason,
        status=f"0x{status:04X}",
        SOPInstanceUID=request.SOPInstanceUID[:80],
        SOPClassUID=request.SOPClassUID[:80],
        calling=tally.calling,
    )
    # Error Comment is an LO: no backslash, at most 64 characters (PS3.7 section C.4). The sender knows the UID.
    comment = (
        reason.removeprefix(f"{request.SOPInstanceUID} ").replace("\\", "/").encode("ascii", "replace").decode("ascii")
    )
    return status, comment[:_LONGEST_COMMENT]


def _support_storage(event: Any) -> None:
    """Support what this association proposes, as far as it is storage."""
    acceptor = event.assoc.acceptor
    supported = {str(c.abstract_syntax): c for c in acceptor.supported_contexts}
    wanted: dict[str, set[str]] = {}
    for proposed in event.assoc.requestor.primitive.presentation_context_definition_list:
        uid = str(proposed.abstract_syntax)
        if uid not in supported and _is_storage(uid):
            wanted.setdefault(uid, set()).update(str(t) for t in proposed.transfer_syntax)
    contexts = list(supported.values())
    for uid, proposed_syntaxes in wanted.items():
        syntaxes = [t for t in TRANSFER_SYNTAXES if t in proposed_syntaxes]
        if syntaxes:
            contexts.append(build_context(uid, syntaxes))
    acceptor.supported_contexts = contexts


def _on_common_negotiation(event: Any) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Tell pynetdicom that the SOP Classes it does not know belong to the storage service.

    Nothing of this is sent: SOP Class Common Extended Negotiation has no answer (PS3.7 section D.3.3.6).
    """
    known = {}
    for context in event.assoc.acceptor.supported_contexts:
        uid = context.abstract_syntax
        if uid not in _STORAGE_UIDS and uid != Verification:
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = uid
            item.service_class_uid = _STORAGE_SERVICE
            known[uid] = item
    return known


def _is_storage(uid: str) -> bool:
    """Whether the SOP Class is a storage class, or is taken for one because nothing else knows it."""
    return uid not in _OTHER_UIDS
