"""What is fuzzed: one input of bytes goes to one of the readers of what peers send.

The first byte chooses the reader, and in which transfer syntax a dataset is written. A reader may refuse with a
``ReceiveError``; anything else that escapes it is a defect.
"""

from __future__ import annotations

import queue
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
)

from dicom_node.errors import ReceiveError
from dicom_node.model.instance import Instance, valid_uid
from dicom_node.receive.arrival import Arrival
from dicom_node.receive.fast_store import FastSocket, StoreRequest, parse_store_request
from dicom_node.receive.header import make_instance, read_file_head, study_of
from dicom_node.receive.limited_socket import Limits
from dicom_node.store.files import FileStore, place

SYNTAXES: Final = tuple(
    map(
        str,
        (
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            JPEG2000Lossless,
        ),
    )
)
CONTEXTS: Final = {2 * n + 1: syntax for n, syntax in enumerate(SYNTAXES)}
"""The presentation contexts of ``read_connection``, all for MR Image Storage."""

DATASET, CONNECTION, COMMAND, FILE_HEAD = range(4)
LONGEST_INPUT: Final = 1 << 15
"""What the system's buffers of a connection take, with the answers."""
_MOST_PDUS = 1000


def read_one(data: bytes) -> None:
    """Read one input; what escapes is a defect."""
    if not data:
        return
    reader, syntax = data[0] % 4, SYNTAXES[data[0] // 4 % len(SYNTAXES)]
    rest = data[1:LONGEST_INPUT]
    if reader == DATASET:
        read_dataset(rest, syntax)
    elif reader == CONNECTION:
        read_connection(rest)
    elif reader == COMMAND:
        parse_store_request(rest)
    else:
        try:
            head = read_file_head(rest)
        except ReceiveError:
            return
        read_dataset(rest[head.dataset_at :], head.TransferSyntaxUID)


def read_dataset(data: bytes, syntax: str) -> None:
    """Both readers of a dataset; they must agree."""
    for part in (data, memoryview(data)):
        study = study_of(part, syntax)
        assert not study or valid_uid(study)
        try:
            instance = make_instance(part, TransferSyntaxUID=syntax, path=place)
        except ReceiveError:
            continue
        assert valid_uid(instance.SOPInstanceUID)
        assert ".." not in Path(instance.path).parts


class _Keeper:
    """What an arrival needs of the intake; keeps nothing."""

    largest_bytes = 1 << 20
    rows: Any = SimpleNamespace(check=lambda: None)

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.files = FileStore(Path(self._folder.name), durability="none")

    def keep(self, instance: Instance, head: bytes, last: Any, file: Any) -> Instance:
        return instance

    def note_refused(self, study_uid: str, sop_uid: str, why: Any) -> None:
        pass


class _Storage:
    """Takes requests as the listener does, but lets out what is no refusal."""

    def __init__(self) -> None:
        self._keeper = _Keeper()

    def begin(self, association: Any, request: StoreRequest, transfer_syntax: str) -> Arrival:
        return Arrival(self._keeper, transfer_syntax, request.SOPClassUID, request.SOPInstanceUID, "FUZZ", "NODE")

    def finish(self, association: Any, request: StoreRequest, arrival: Arrival, last: memoryview) -> tuple[int, str]:
        try:
            arrival.finish(last)
        except ReceiveError as e:
            return e.status, str(e).encode("ascii", "replace").decode("ascii")[:64]
        return 0, ""

    def prepare(self, association: Any) -> None:
        pass

    def relax(self) -> None:
        pass


_storage = _Storage()
_LIMITS: Final = Limits(artim_seconds=5, silence_seconds=5, message_seconds=5, message_bytes=1 << 20)


def read_connection(data: bytes) -> None:
    """What a peer sends in an established association, until it closes the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        connection = _connection(ours)
        for _ in range(_MOST_PDUS):
            if not connection.ready or not connection.event_queue.empty():
                break
            # As pynetdicom reads: a head, and what it says.
            try:
                head = connection.recv(6)
                if len(head) < 6:
                    break
                connection.recv(int.from_bytes(head[2:6], "big"))
            except OSError:
                break
        assert not list(_storage._keeper.files.folder.rglob("*.part"))


def _connection(ours: socket.socket) -> FastSocket:
    """The fast reader on a connection, with as much of an association as it asks for."""
    dul = SimpleNamespace(
        state_machine=SimpleNamespace(current_state="Sta6"),
        to_provider_queue=queue.Queue(),
        _idle_timer=SimpleNamespace(restart=lambda: None),
        event_queue=queue.Queue(),
    )
    association = SimpleNamespace(
        is_established=True,
        dul=dul,
        dimse=SimpleNamespace(message=None, msg_queue=queue.Queue()),
        requestor=SimpleNamespace(maximum_length=0),
        _accepted_cx={
            number: SimpleNamespace(abstract_syntax=MRImageStorage, transfer_syntax=[syntax], as_scp=True)
            for number, syntax in CONTEXTS.items()
        },
        _reactor_checkpoint=threading.Event(),
        _sent_abort=False,
        _kill=False,
    )
    plain: Any = SimpleNamespace(socket=_Quiet(ours), _assoc=association, _is_connected=True, _ready=threading.Event())
    plain._ready.set()
    return FastSocket(plain, _LIMITS, _storage)


class _Quiet:
    """A socket of the local family, which knows no options of TCP."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def setsockopt(self, level: int, *option: Any) -> None:
        if level == socket.SOL_SOCKET:
            self._real.setsockopt(level, *option)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
