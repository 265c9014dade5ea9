"""The listener for C-STORE, C-ECHO, storage commitment, MPPS and IAN (PS3.4 Annexes A, B, J, F and R)."""

from __future__ import annotations

import logging
import socket
import sys
import time
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    Verification,
)

from dicom_node import log
from dicom_node.errors import ConfigurationError, OutOfResources
from dicom_node.receive.announcements import AnnouncementScp
from dicom_node.receive.commitment import CommitmentScp
from dicom_node.receive.fast_store import PROTOCOL_ERROR, FastSocket
from dicom_node.receive.intake import Intake
from dicom_node.receive.limited_socket import LimitedSocket, Limits
from dicom_node.receive.negotiation import UNCOMPRESSED, on_common_negotiation, support_storage
from dicom_node.receive.server import Hosts, Server, certificate_subject, drop, on_connection_closed
from dicom_node.receive.store_scp import StoreScp
from dicom_node.settings import ReceiveSettings, TlsSettings
from dicom_node.tls import TlsContext

_STOP_SECONDS = 10.0
_SWITCH_SECONDS = 0.001
_LONGEST_UNUSUAL = 48 << 20

_logger = log.get("receive")


class Listener:
    """Takes every storage SOP Class, known or not, in every transfer syntax whose dataset can be read.

    pynetdicom keeps the network and the protocol; ``Intake`` keeps what came.

    Args:
        tls: needed for ``settings.tls_port``.
        commitment: takes requests for storage commitment; None: they are not offered.
        announcements: takes MPPS and IAN; None: they are not offered.
    """

    def __init__(
        self,
        settings: ReceiveSettings,
        intake: Intake,
        tls: TlsSettings | None = None,
        commitment: CommitmentScp | None = None,
        announcements: AnnouncementScp | None = None,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._tls = tls or TlsSettings()
        self._commitment = commitment
        self._announcements = announcements
        self._limits = Limits(
            artim_seconds=settings.artim_seconds,
            silence_seconds=settings.idle_seconds,
            message_seconds=settings.message_seconds,
            # What is a little too large is heard to the end, and told so. What the node does not read itself is held
            # in memory: of that no sender needs much.
            message_bytes=_LONGEST_UNUSUAL if settings.reader == "fast" else 2 * settings.largest_object_mb * 1_000_000,
        )
        self._storage = StoreScp(intake)
        self._servers: list[Server] = []
        self._stopping = False
        self._ae = AE(ae_title=settings.ae_title)
        self._ae.require_called_aet = settings.require_called_ae_title
        self._ae.require_calling_aet = list(settings.calling_ae_titles)
        # pynetdicom would count connections that never come to an association: the limits are kept here.
        self._ae.maximum_associations = 2 * settings.maximum_associations + 1000
        self._ae.maximum_pdu_size = settings.maximum_pdu_bytes
        self._ae.network_timeout = settings.idle_seconds
        self._ae.acse_timeout = settings.artim_seconds
        self._ae.dimse_timeout = settings.idle_seconds

    @property
    def port(self) -> int:
        """The port that is listened on without TLS; 0 if there is none."""
        return next((s.port for s in self._servers if not s.is_tls), 0)

    @property
    def tls_port(self) -> int:
        """The port that is listened on with TLS; 0 if there is none."""
        return next((s.port for s in self._servers if s.is_tls), 0)

    @property
    def associations(self) -> list[Any]:
        """The associations that are open, as pynetdicom knows them."""
        return [a for s in self._servers for a in s.active_associations]

    def start(self) -> None:
        """Listen, in threads of its own.

        Raises:
            ConfigurationError: the address or a port cannot be had, or a file of TLS is not sound.
        """
        settings = self._settings
        self._stopping = False
        tls = None if settings.tls_port is None else TlsContext(self._tls, server=True)
        # pynetdicom logs what peers send, names and all, below this level.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        # An echo passes three threads: at each it may wait so long for the interpreter behind those that store.
        sys.setswitchinterval(_SWITCH_SECONDS)
        handlers = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_CONN_CLOSE, on_connection_closed),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, on_common_negotiation),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_C_STORE, self._storage.on_store),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_RELEASED, self._storage.ended, ["released"]),
            (evt.EVT_ABORTED, self._storage.ended, ["aborted"]),
            *(self._commitment.handlers if self._commitment else ()),
            *(self._announcements.handlers if self._announcements else ()),
        ]
        if not _is_loopback(settings.host) and not settings.calling_hosts:
            _logger.warning("no_host_listed", host=settings.host, to_admit="add addresses to receive.calling_hosts")
        try:
            for key, port, secured in (("port", settings.port, None), ("tls_port", settings.tls_port, tls)):
                if port is not None:
                    self._listen(key, port, secured, handlers)
        except ConfigurationError:
            self.stop()
            raise

    def _listen(self, key: str, port: int, tls: TlsContext | None, handlers: list[Any]) -> None:
        try:
            server = Server(
                self._ae,
                (self._settings.host, port),
                # The storage contexts are added for each association, from what it proposes: pynetdicom copies this
                # list deeply at every connection.
                [build_context(service, list(UNCOMPRESSED[:3])) for service in self._services()],
                handlers,
                hosts=Hosts(self._settings.calling_hosts),
                most=self._settings.maximum_associations,
                most_per_peer=self._settings.maximum_associations_per_peer,
                tls=tls,
                handshake_seconds=self._settings.artim_seconds,
            )
        except OSError as e:
            where = f"{self._settings.host} port {port}"
            raise ConfigurationError(f"receive.{key}: cannot listen on {where}: {e.strerror or e}") from e
        server.start()
        self._servers.append(server)

    def _services(self) -> list[UID]:
        """What is offered beside storage."""
        announced = [ModalityPerformedProcedureStep, InstanceAvailabilityNotification]
        return [
            Verification,
            *([StorageCommitmentPushModel] if self._commitment else []),
            *(announced if self._announcements else []),
        ]

    def stop(self) -> None:
        """Stop listening, abort associations and wait for the instances that are being written."""
        if not self._servers:
            return
        # From here on none begins: one that is not in the list below has not got so far.
        self._stopping = True
        for server in self._servers:
            server.shutdown()
        associations = self.associations
        self._servers.clear()
        for association in associations:
            if association.is_established:
                association.abort()
            else:
                drop(association)
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
        dul = event.assoc.dul
        # pynetdicom reads a PDU without a limit of time: a peer that stops in its middle would hold the thread.
        if self._settings.reader == "fast":
            dul.socket = FastSocket(dul.socket, self._limits, self._storage)
        else:
            dul.socket = LimitedSocket(dul.socket, self._limits)

    def _on_requested(self, event: Any) -> None:
        if self._stopping:
            drop(event.assoc)
            return
        open_ones = self._storage.addresses()
        if open_ones.count(event.assoc.requestor.address) >= self._settings.maximum_associations_per_peer:
            reason, limit = "its host has too many associations", "receive.maximum_associations_per_peer"
        elif len(open_ones) >= self._settings.maximum_associations:
            reason, limit = "there are too many associations", "receive.maximum_associations"
        else:
            support_storage(event)
            return
        # Rejected for now: local limit exceeded (PS3.8 section 9.3.4).
        event.assoc.acse.send_reject(0x02, 0x03, 0x02)
        self._reject(event, reason, f"raise {limit}, or let it end some")
        event.assoc.kill()

    def _on_rejected(self, event: Any) -> None:
        request = event.assoc.requestor.primitive
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        # In the order of pynetdicom's own checks, the last of which decides.
        listed = self._settings.calling_ae_titles
        if self._settings.require_called_ae_title and called != self._settings.ae_title:
            to_admit = f'call "{self._settings.ae_title}" there, or set receive.require_called_ae_title: false'
            self._reject(event, "it calls another AE title", to_admit)
        elif listed and calling not in listed:
            to_admit = f'add "{calling}" to receive.calling_ae_titles'
            self._reject(event, "its AE title is not listed", to_admit)
        else:
            self._reject(event, "its request was not valid")

    def _reject(self, event: Any, reason: str, to_admit: str = "") -> None:
        """Say in the log who was rejected, why, and what an administrator can change."""
        requestor = event.assoc.requestor
        _logger.warning(
            "association_rejected",
            calling=requestor.primitive.calling_ae_title.strip(),
            called=requestor.primitive.called_ae_title.strip(),
            address=requestor.address,
            reason=reason,
            **({"to_admit": to_admit} if to_admit else {}),
        )

    def _on_accepted(self, event: Any) -> None:
        requestor = event.assoc.requestor
        calling, called = requestor.primitive.calling_ae_title.strip(), requestor.primitive.called_ae_title.strip()
        self._storage.opened(event.assoc, calling, called, requestor.address)
        connection = event.assoc.dul.socket
        connection.established()
        certificate = certificate_subject(connection.socket)
        _logger.debug(
            "association_opened",
            calling=calling,
            called=called,
            address=requestor.address,
            **({"certificate": certificate} if certificate else {}),
        )

    def _on_pdu(self, event: Any) -> None:
        """Make what came safe before the release is answered; if that fails, the association is aborted instead."""
        if isinstance(event.pdu, A_RELEASE_RQ) and not self._storage.settle(event.assoc):
            event.assoc.dul.event_queue.put(PROTOCOL_ERROR)


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost")
