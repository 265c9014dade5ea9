"""C-STORE requests (PS3.7 section 9.3.1), read and answered by the thread that owns the connection.

pynetdicom keeps accepting, negotiation, release, abort and every other message. Between two messages of an
established association its connection is asked whether there is something to read; this one then looks itself. A
C-STORE request as nearly all senders write it is taken here: its dataset goes from the socket through one reused
buffer to its file, and the answer is packed by hand. Whatever else comes is handed back, unread, and goes the way
of all messages.

It leans on these parts of pynetdicom, whose presence a test checks, beside those of ``limited_socket.py``: the
reactor thread of ``dul`` processes what it finds in ``event_queue`` (PS3.8 section 9.2: Evt17 transport closed,
Evt19 invalid PDU); the association's own thread polls unless ``_reactor_checkpoint`` is cleared.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pynetdicom.transport import AssociationSocket

from dicom_node.receive.arrival import Arrival
from dicom_node.receive.limited_socket import LimitedSocket, Limits

_P_DATA: Final = b"\x04"
_COMMAND_AND_LAST: Final = 0x03
_LAST: Final = 0x02
_C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001
_NO_DATASET: Final = 0x0101

_BUFFER_BYTES: Final = 1 << 20
_LONGEST_COMMAND: Final = 4096
_LONGEST_ANSWER: Final = 512
_LINGER_MILLISECONDS: Final = 50
"""So long the next message is waited for before pynetdicom has its turn, which sleeps between two looks."""

_IDLE_SECONDS: Final = 1.0
_REST_MILLISECONDS: Final = 10
"""So much later does an idle association hear of what the node itself sends or ends."""

_ESTABLISHED: Final = "Sta6"
_TRANSPORT_CLOSED: Final = "Evt17"
PROTOCOL_ERROR: Final = "Evt19"
"""The state machine's event that ends an association with an A-ABORT of ours."""

_PDU = struct.Struct(">cxI")
_PDU_AND_PDV = struct.Struct(">cxIIBB")
_PDV = struct.Struct(">IBB")
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")


@dataclass(frozen=True)
class StoreRequest:
    """What the node reads of a C-STORE-RQ."""

    message_id: int
    SOPClassUID: str
    SOPInstanceUID: str


class Storage(Protocol):
    """Where requests go; never fails but with a status."""

    def begin(self, association: Any, request: StoreRequest, transfer_syntax: str) -> Arrival:
        """A request came; its dataset follows."""

    def finish(self, association: Any, request: StoreRequest, arrival: Arrival, last: memoryview) -> tuple[int, str]:
        """The dataset is all here; returns status and Error Comment."""

    def prepare(self, association: Any) -> None:
        """Do what makes this thread's next request shorter, while the sender prepares it."""

    def relax(self) -> None:
        """Undo that: no request came."""


class _Invalid(Exception):
    """The peer broke the upper layer protocol."""


def parse_store_request(command: bytes) -> StoreRequest | None:
    """A command set (PS3.7 section 6.3) as a C-STORE request; None if it is anything else, or unusual."""
    values: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(command):
        group, element, length = _ELEMENT.unpack_from(command, at)
        if group != 0 or element in values:
            return None
        values[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    if at != len(command):
        return None
    try:
        (field,) = _US.unpack(values[0x0100])
        (message_id,) = _US.unpack(values[0x0110])
        (dataset,) = _US.unpack(values[0x0800])
        sop_class = values[0x0002].decode("ascii").rstrip(" \0")
        sop_instance = values[0x1000].decode("ascii").rstrip(" \0")
    except (KeyError, struct.error, UnicodeDecodeError):
        return None
    if field != _C_STORE_RQ or dataset == _NO_DATASET or not sop_class or not sop_instance:
        return None
    return StoreRequest(message_id, sop_class, sop_instance)


def pack_store_response(context_id: int, request: StoreRequest, status: int, comment: str) -> bytes:
    """A P-DATA-TF PDU with the C-STORE-RSP to a request (PS3.7 section 9.3.1.2, PS3.8 section 9.3.5)."""
    elements = [
        (0x0002, _even(request.SOPClassUID, b"\0")),
        (0x0100, _US.pack(_C_STORE_RSP)),
        (0x0120, _US.pack(request.message_id)),
        (0x0800, _US.pack(_NO_DATASET)),
        (0x0900, _US.pack(status)),
    ]
    if comment:
        elements.append((0x0902, _even(comment, b" ")))
    elements.append((0x1000, _even(request.SOPInstanceUID, b"\0")))
    body = b"".join(_ELEMENT.pack(0, number, len(value)) + value for number, value in elements)
    command = _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body
    return _PDU_AND_PDV.pack(_P_DATA, len(command) + 6, len(command) + 2, context_id, _COMMAND_AND_LAST) + command


def _even(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii")
    return raw + padding * (len(raw) % 2)


class FastSocket(LimitedSocket):
    """An accepted connection that serves C-STORE requests itself, with or without TLS.

    Args:
        plain: the connection as pynetdicom made it; it must not be used any more.
        storage: where requests go.
    """

    def __init__(self, plain: AssociationSocket, limits: Limits, storage: Storage) -> None:
        super().__init__(plain, limits)
        self._storage = storage
        self._unread = b""
        self._buffer = memoryview(b"")
        # A TLS connection gives a record at a time and knows no flags.
        self._flags = 0 if self._tls else socket.MSG_WAITALL
        self._last_came = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether pynetdicom has something to read; what need not concern it is served before this returns."""
        if self._unread:
            return True
        there = super().ready
        now = time.monotonic()
        if there:
            self._last_came = now
        elif now - self._last_came > _IDLE_SECONDS and self._may_serve():
            there = self._rest()
        if there and self._is_between_messages():
            # Until pynetdicom has done what came before, the message stays where it is: it reads whole messages into
            # memory, of which a large object is refused.
            return self._may_serve() and self._serve()
        return there

    def recv(self, nr_bytes: int) -> bytearray:
        """What was handed back, then what comes."""
        first, self._unread = self._unread[:nr_bytes], self._unread[nr_bytes:]
        rest = nr_bytes - len(first)
        return bytearray(first) + super().recv(rest) if rest else bytearray(first)

    def _is_between_messages(self) -> bool:
        """Whether what comes next may be a request to be served here."""
        assoc = self._assoc
        return (
            assoc.dul.state_machine.current_state == _ESTABLISHED
            and assoc.dimse.message is None
            and not self._ends()
            # An answer is one PDU: a peer that takes only smaller ones is left to pynetdicom.
            and not 0 < assoc.requestor.maximum_length < _LONGEST_ANSWER
        )

    def _may_serve(self) -> bool:
        """Whether moreover nothing of pynetdicom's is under way.

        It sends the acceptance, and calls the association established some moments later: a quick sender's first
        request is there before.
        """
        assoc = self._assoc
        return (
            assoc.is_established
            and self._is_between_messages()
            and assoc.dimse.msg_queue.empty()
            and self.event_queue.empty()
            and not self._is_wanted()
        )

    def _is_wanted(self) -> bool:
        """Whether pynetdicom has something to send, or to end."""
        return bool(self._assoc.dul.to_provider_queue.queue) or self._ends()

    def _ends(self) -> bool:
        return bool(self._assoc._sent_abort or self._assoc._kill)

    def _comes_more(self) -> bool:
        """Whether the next message comes soon. What OpenSSL has read already, poll does not see."""
        return bool((self._tls and self.socket.pending()) or self._poll.poll(_LINGER_MILLISECONDS))

    def _rest(self) -> bool:
        """Wait for moments where nothing came for long; returns whether something has come.

        Two threads of pynetdicom would look a thousand times a second: fifty idle associations would take most of a
        core.
        """
        self._assoc._reactor_checkpoint.clear()
        try:
            return bool(self._poll.poll(_REST_MILLISECONDS))
        finally:
            self._assoc._reactor_checkpoint.set()

    def _serve(self) -> bool:
        """Take requests as long as they come; returns whether there is something for pynetdicom to read."""
        assoc = self._assoc
        # The association's own thread would wake a thousand times a second to look for messages.
        assoc._reactor_checkpoint.clear()
        try:
            while self._take():
                assoc.dul._idle_timer.restart()
                if self._is_wanted():
                    return False
                self._storage.prepare(assoc)
                if not self._comes_more():
                    return False
            return True
        except OSError:
            self.event_queue.put(_TRANSPORT_CLOSED)
        except _Invalid:
            self.event_queue.put(PROTOCOL_ERROR)
        finally:
            self._storage.relax()
            assoc._reactor_checkpoint.set()
        return False

    def _take(self) -> bool:
        """Take one request and answer it; False if what comes is for pynetdicom."""
        self.begin_message(self._limits.message_seconds)
        head = self._read_head()
        if head[:1] != _P_DATA:
            self._unread = head
            return False
        _, pdu_left, length, context_id, control = _PDU_AND_PDV.unpack(head)
        if control != _COMMAND_AND_LAST or not 2 <= length == pdu_left - 4 <= _LONGEST_COMMAND:
            self._unread = head
            return False
        command = bytearray(length - 2)
        self._fill(memoryview(command))
        request = parse_store_request(bytes(command))
        context = self._assoc._accepted_cx.get(context_id)
        if request is None or context is None or context.abstract_syntax != request.SOPClassUID or not context.as_scp:
            self._unread = head + command
            return False
        arrival = self._storage.begin(self._assoc, request, str(context.transfer_syntax[0]))
        try:
            last = self._read_dataset(context_id, arrival.write)
            if last is None:
                return False
            status, comment = self._storage.finish(self._assoc, request, arrival, last)
        finally:
            arrival.discard()
        self.socket.sendall(pack_store_response(context_id, request, status, comment))
        return True

    def _read_dataset(self, context_id: int, write: Callable[[memoryview], None]) -> memoryview | None:
        """Read a dataset's fragments; returns the last piece, which is not written, or None if the message breaks off.

        Raises:
            _Invalid: something else comes than fragments of this dataset.
        """
        buffer = self._buffer or memoryview(bytearray(_BUFFER_BYTES))
        self._buffer = buffer
        filled = 0
        control = 0
        while control != _LAST:
            self.check_time()
            head = self._read_head()
            if head[:1] != _P_DATA:
                # An abort, most likely.
                self._unread = head
                return None
            _, pdu_left, length, context, control = _PDU_AND_PDV.unpack(head)
            while True:
                pdu_left -= length + 4
                if context != context_id or control not in (0, _LAST) or length < 2 or pdu_left < 0:
                    raise _Invalid
                length -= 2
                while length:
                    if filled == _BUFFER_BYTES:
                        write(buffer)
                        filled = 0
                    step = min(length, _BUFFER_BYTES - filled)
                    self._fill(buffer[filled : filled + step])
                    filled += step
                    length -= step
                if not pdu_left:
                    break
                if control == _LAST or pdu_left < _PDV.size:
                    raise _Invalid
                item = bytearray(_PDV.size)
                self._fill(memoryview(item))
                length, context, control = _PDV.unpack(item)
        return buffer[:filled]

    def _read_head(self) -> bytes:
        """The next PDU's first bytes: of a P-DATA-TF its header and that of its first item, of others no more than
        they have; nothing if the connection was closed.
        """
        # Without this the kernel holds back acknowledgements, and a sender with Nagle's algorithm its last packet.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        # All other PDUs that may come now are shorter than this, so nothing is waited for that may never come.
        head: bytes = self.socket.recv(_PDU_AND_PDV.size)
        for wanted in (_PDU.size, _PDU_AND_PDV.size):
            if head[:1] == _P_DATA and len(head) < wanted:
                more = bytearray(wanted - len(head))
                self._fill(memoryview(more))
                head += more
            if head[:1] == _P_DATA and _PDU.unpack_from(head)[1] < _PDV.size:
                raise _Invalid
        return head

    def _fill(self, view: memoryview) -> None:
        """Read so many bytes.

        Raises:
            OSError: the connection is lost, silent for too long, or too slow.
        """
        left = len(view)
        while left:
            count = self.socket.recv_into(view[-left:], left, self._flags)
            if not count:
                raise ConnectionError("the peer closed the connection")
            left -= count
            if left:
                self.check_time()
