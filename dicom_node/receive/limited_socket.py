"""A connection that a peer cannot hold for ever, nor fill the memory through.

It leans on these parts of pynetdicom, whose presence a test checks: the reactor thread of ``dul`` asks
``AssociationSocket.ready`` once a turn and then reads a PDU with ``AssociationSocket.recv``, its header first;
``dimse.message`` is what has come of a message that is not whole.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Final

from pynetdicom.transport import AssociationSocket

from dicom_node import log

_PIECE: Final = 1 << 16
_LONGEST_REQUEST: Final = 1 << 20
"""An association request with all contexts in all syntaxes is half of it."""
_AWAITS_REQUEST: Final = "Sta2"
_REST_MILLISECONDS: Final = 50
_TLS_HANDSHAKE: Final = b"\x16\x03"

_logger = log.get("receive")


@dataclass(frozen=True)
class Limits:
    """What a connection may take.

    Attributes:
        artim_seconds: for one PDU while the association is not established (PS3.8 section 9.1.5).
        silence_seconds: without a byte where one is due.
        message_seconds: for a whole message.
        message_bytes: of one message that pynetdicom holds in memory.
    """

    artim_seconds: float
    silence_seconds: float
    message_seconds: float
    message_bytes: int


class LimitedSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom is not read by mypy
    """An accepted connection with limits.

    Args:
        plain: the connection as pynetdicom made it; it must not be used any more.
    """

    def __init__(self, plain: AssociationSocket, limits: Limits) -> None:
        # The state is taken over: making it anew would announce the connection a second time.
        self.__dict__.update(plain.__dict__)
        self._limits = limits
        self._deadline = 0.0
        """When what is under way must be whole, by the monotonic clock; 0: nothing is."""
        self._taken = 0
        self._tls = isinstance(self.socket, ssl.SSLSocket)
        self._limit_silence(limits.artim_seconds)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def established(self) -> None:
        """The association is: from now on the limits of messages hold."""
        self._limit_silence(min(self._limits.silence_seconds, self._limits.message_seconds))

    def _limit_silence(self, seconds: float) -> None:
        if self._tls:
            # OpenSSL's reads would be begun again by Python when the kernel's time is over.
            self.socket.settimeout(seconds)
        else:
            # The kernel keeps the time: Python's own would cost a system call more for each read.
            limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
            self.socket.settimeout(None)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    @property
    def ready(self) -> bool:
        """Whether pynetdicom has something to read. It stands between two PDUs when it asks."""
        if self._assoc.dimse.message is None:
            self._deadline = 0.0
        there: bool = super().ready
        awaits = self._assoc.dul.state_machine.current_state == _AWAITS_REQUEST and self._is_connected
        # The request may have been read before the state machine heard of the connection: then it lies in the queue.
        if there or not awaits or not self.event_queue.empty():
            return there
        # Nothing else can happen now, and pynetdicom would look a thousand times a second.
        return bool(self._poll.poll(_REST_MILLISECONDS))

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, or what came until the peer closed the connection.

        Raises:
            OSError: the connection is lost, silent for too long, or brings more or slower than it may.
        """
        limits = self._limits
        established = self._assoc.is_established
        if not self._deadline:
            self.begin_message(limits.message_seconds if established else limits.artim_seconds)
        self._taken += nr_bytes
        # Before anything is read: the length that a PDU claims is believed no further.
        if self._taken > (limits.message_bytes if established else _LONGEST_REQUEST):
            self._shutdown_socket()
            raise ConnectionError("the peer sends more than it may")
        data = bytearray()
        while len(data) < nr_bytes:
            piece = self.socket.recv(min(_PIECE, nr_bytes - len(data)))
            if not piece:
                break
            data += piece
            self.check_time()
        if not established and data.startswith(_TLS_HANDSHAKE):
            address = str(self.socket.getpeername()[0])
            _logger.warning(
                "connection_refused",
                address=address,
                reason="it speaks TLS, and this port does not",
                to_admit="call receive.tls_port there",
            )
        return data

    def begin_message(self, seconds: float) -> None:
        """From now on, what comes must be whole in so many seconds."""
        self._taken = 0
        self._deadline = time.monotonic() + seconds

    def check_time(self) -> None:
        """See that what is under way is not late.

        Raises:
            TimeoutError: it is.
        """
        if time.monotonic() > self._deadline:
            raise TimeoutError("the peer is too slow")
