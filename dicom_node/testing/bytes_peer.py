"""A scripted peer that plays bytes: for faults that a DICOM library would never send.

    with BytesPeer("127.0.0.1", port) as peer:
        peer.associate([(1, MRImageStorage, ExplicitVRLittleEndian)])
        peer.send(p_data(1, c_store_rq(1, MRImageStorage, uid), command=True))
        peer.send(p_data(1, dataset)[:1000])
        peer.drop()

Encodings are those of PS3.8 section 9.3 (PDUs) and PS3.7 section 6.3 (command sets).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
ASSOCIATE_RJ: Final = 0x03
P_DATA: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_VERIFICATION = "1.2.840.10008.1.1"
_IMPLEMENTATION_CLASS_UID = "2.25.116427390871623908219034718726450918273"
_NO_DATASET = 0x0101
_DATASET = 0x0001


def pdu(kind: int, payload: bytes) -> bytes:
    """One protocol data unit."""
    return struct.pack(">BBI", kind, 0, len(payload)) + payload


def associate_rq(
    contexts: Sequence[tuple[int, str, str]],
    *,
    called: str = "ANY-SCP",
    calling: str = "BYTESPEER",
    maximum_pdu: int = 0,
) -> bytes:
    """A-ASSOCIATE-RQ with (context id, abstract syntax, transfer syntax) each; ``maximum_pdu`` 0 is no limit."""
    items = _item(0x10, _APPLICATION_CONTEXT.encode())
    for number, abstract, transfer in contexts:
        syntaxes = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        items += _item(0x20, bytes([number, 0, 0, 0]) + syntaxes)
    user = _item(0x51, struct.pack(">I", maximum_pdu)) + _item(0x52, _IMPLEMENTATION_CLASS_UID.encode())
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return pdu(ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + items + _item(0x50, user))


def pdv(context: int, data: bytes, *, command: bool = False, last: bool = True) -> bytes:
    """One presentation data value: a command set's or dataset's (last) fragment."""
    control = (1 if command else 0) | (2 if last else 0)
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(context: int, data: bytes, *, command: bool = False, last: bool = True) -> bytes:
    """P-DATA-TF with one presentation data value."""
    return pdu(P_DATA, pdv(context, data, command=command, last=last))


def c_echo_rq(message_id: int) -> bytes:
    """The command set of a C-ECHO request (PS3.7 section 9.3.5.1)."""
    return _command_set(
        (0x0002, _uid(_VERIFICATION)),
        (0x0100, struct.pack("<H", 0x0030)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0800, struct.pack("<H", _NO_DATASET)),
    )


def c_store_rq(message_id: int, sop_class: str, sop_instance: str, *, with_dataset: bool = True) -> bytes:
    """The command set of a C-STORE request (PS3.7 section 9.3.1.1)."""
    return _command_set(
        (0x0002, _uid(sop_class)),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", _DATASET if with_dataset else _NO_DATASET)),
        (0x1000, _uid(sop_instance)),
    )


class BytesPeer:
    """A TCP connection that reads PDUs and sends whatever bytes it is told.

    Args:
        source: our own address; of this machine there are many (127.0.0.1, 127.0.0.2, ...).

    Raises:
        OSError: on connecting and on every call, as sockets do; a wait ends after ``timeout`` seconds.
    """

    def __init__(self, host: str, port: int, timeout: float = 10, *, source: str = "") -> None:
        self.socket = socket.create_connection((host, port), timeout, (source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> BytesPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def drip(self, data: bytes, pause: float, until: threading.Event) -> None:
        """Send byte by byte with pauses of so many seconds, as a slow loris does, until it is stopped or cut off."""
        for at in range(len(data)):
            if until.wait(pause):
                return
            try:
                self.send(data[at : at + 1])
            except OSError:
                return

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU's type and payload.

        Raises:
            ConnectionError: the peer closed the connection.
        """
        kind, _, length = struct.unpack(">BBI", self._read(6))
        return kind, self._read(length)

    def closed_by_peer(self) -> bool:
        """Wait for the end of the connection; False if the peer sends something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def associate(
        self, contexts: Sequence[tuple[int, str, str]], *, called: str = "ANY-SCP", calling: str = "BYTESPEER"
    ) -> None:
        """Negotiate.

        Raises:
            ConnectionError: rejected, or no accepting answer.
        """
        self.send(associate_rq(contexts, called=called, calling=calling))
        kind, payload = self.read_pdu()
        if kind != ASSOCIATE_AC:
            raise ConnectionError(f"the association was answered with PDU type {kind}: {payload.hex()}")

    def store(self, context: int, sop_class: str, sop_instance: str, dataset: bytes) -> tuple[int, str]:
        """One whole C-STORE; its status and Error Comment."""
        self.send(p_data(context, c_store_rq(1, sop_class, sop_instance), command=True) + p_data(context, dataset))
        return self.read_status()

    def store_pieces(self, context: int, sop_class: str, sop_instance: str, pieces: Iterable[bytes]) -> tuple[int, str]:
        """One C-STORE whose dataset is sent as it is made, however large; its status and Error Comment."""
        self.send(p_data(context, c_store_rq(1, sop_class, sop_instance), command=True))
        for piece in pieces:
            self.send(p_data(context, piece, last=False))
        self.send(p_data(context, b""))
        return self.read_status()

    def read_status(self) -> tuple[int, str]:
        """Status and Error Comment of the response that comes next.

        Raises:
            ConnectionError: something else comes.
        """
        kind, payload = self.read_pdu()
        if kind != P_DATA:
            raise ConnectionError(f"a response was due, PDU type {kind} came")
        at, status, comment = 6, -1, ""
        while at + 8 <= len(payload):
            _, element, length = struct.unpack_from("<HHI", payload, at)
            value = payload[at + 8 : at + 8 + length]
            if element == 0x0900:
                (status,) = struct.unpack("<H", value)
            elif element == 0x0902:
                comment = value.decode("ascii", "replace").strip()
            at += 8 + length
        return status, comment

    def release(self) -> None:
        """Release, and wait for the answer."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        self.read_pdu()

    def drop(self) -> None:
        """End the connection at once, with a TCP reset, as a crashed machine's network does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the peer closed the connection")
            data += more
        return data


@contextlib.contextmanager
def flood(host: str, port: int, count: int, *, source: str = "") -> Iterator[list[socket.socket]]:
    """So many connections at once, which say nothing; gives their sockets, some of them perhaps refused already.

    Raises:
        OSError: this process may not open so many files.
    """
    with contextlib.ExitStack() as opened:
        sockets = []
        for _ in range(count):
            one = opened.enter_context(socket.socket())
            one.setblocking(False)
            if source:
                one.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                one.connect((host, port))
            sockets.append(one)
        yield sockets


def _item(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(payload)) + payload


def _uid(value: str) -> bytes:
    raw = value.encode()
    return raw + b"\0" * (len(raw) % 2)


def _command_set(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body
