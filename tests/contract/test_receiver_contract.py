"""What both readers of C-STORE requests take, and how they answer: the node's own and pynetdicom's."""

from __future__ import annotations

import inspect
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import encode
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from dicom_node.receive.fast_store import StoreRequest, pack_store_response, parse_store_request
from dicom_node.receive.store_scp import StoreScp
from dicom_node.testing.bytes_peer import (
    ABORT,
    P_DATA,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    p_data,
    pdu,
    pdv,
)
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from tests.listening import READERS, WAYS, Listening, listening, wait_for

MR = (1, str(MRImageStorage), str(ExplicitVRLittleEndian))
ECHO = (3, str(Verification), str(ExplicitVRLittleEndian))


@pytest.fixture(params=WAYS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(tmp_path: Path, reader: str) -> Iterator[Listening]:
    with listening(tmp_path, reader=reader) as running:
        yield running


def _dataset(size: int = 16, **header: Any) -> Dataset:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    pixels = np.random.default_rng(0).integers(0, 4096, (1, size, size), np.uint16)
    (ds,) = slice_datasets(pixels, affine, header=header)
    return ds


def _bytes(ds: Dataset) -> bytes:
    data = encode(ds, False, True)
    assert data is not None
    return data


def _fragments(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _command(ds: Dataset, message_id: int = 7) -> bytes:
    return c_store_rq(message_id, ds.SOPClassUID, ds.SOPInstanceUID)


def _shapes(ds: Dataset) -> dict[str, bytes]:
    """One C-STORE in the shapes that the standard leaves open (PS3.8 Annex E)."""
    command, data = _command(ds), _bytes(ds)
    whole = p_data(1, command, command=True)
    small = _fragments(data, 100)
    items = [pdv(1, part, last=part is small[-1]) for part in small]
    return {
        "one fragment": whole + p_data(1, data),
        "many PDUs": whole + b"".join(p_data(1, part, last=part is small[-1]) for part in small),
        "many fragments in a PDU": whole + pdu(P_DATA, b"".join(items)),
        "several fragments in each PDU": whole
        + b"".join(pdu(P_DATA, b"".join(items[n : n + 3])) for n in range(0, len(items), 3)),
        "an empty last fragment": whole + p_data(1, data, last=False) + p_data(1, b""),
        "an empty first fragment": whole + p_data(1, b"", last=False) + p_data(1, data),
        "command in two PDUs": p_data(1, command[:50], command=True, last=False)
        + p_data(1, command[50:], command=True)
        + p_data(1, data),
        "command and dataset in one PDU": pdu(P_DATA, pdv(1, command, command=True) + pdv(1, data)),
        "a command group length that lies": p_data(1, command[:8] + b"\xff\0\0\0" + command[12:], command=True)
        + p_data(1, data),
    }


@pytest.mark.parametrize("shape", _shapes(_dataset()))
def test_every_shape_of_a_request_is_taken(node: Listening, shape: str) -> None:
    ds = _dataset()
    with node.connect() as peer:
        peer.associate([MR])
        peer.send(_shapes(ds)[shape])
        assert peer.read_status() == (0, "")
        # And what comes behind it is not out of step.
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.release()
    i = node.instances()[ds.SOPInstanceUID]
    stored = node.files.path(i.path)
    assert stored.read_bytes().endswith(_bytes(ds))
    assert pydicom.dcmread(stored) == ds
    assert stored.stat().st_size == i.size
    assert (i.source, i.called) == ("BYTESPEER", "ANY-SCP")
    assert node.is_clean()


def test_byte_by_byte(node: Listening) -> None:
    ds = _dataset(size=4)
    with node.connect() as peer:
        peer.associate([MR])
        for byte in _shapes(ds)["one fragment"]:
            peer.send(bytes([byte]))
        assert peer.read_status() == (0, "")


def test_all_at_once(node: Listening) -> None:
    """Requests, an echo and the release in one go, which no sender may do without negotiation, but some do."""
    (ds, other) = _dataset(), _dataset(SOPInstanceUID="1.2.3.4")
    with node.connect() as peer:
        peer.associate([MR, ECHO])
        shapes = [_shapes(d)["one fragment"] for d in (ds, other)]
        peer.send(b"".join(shapes))
        assert [peer.read_status(), peer.read_status()] == [(0, "")] * 2
        peer.release()
    assert set(node.instances()) == {ds.SOPInstanceUID, "1.2.3.4"}


def test_echo_and_store_in_turn(node: Listening) -> None:
    with node.connect() as peer:
        peer.associate([MR, ECHO])
        for n in range(5):
            peer.send(p_data(3, c_echo_rq(n), command=True))
            assert peer.read_status() == (0, "")
            ds = _dataset(SOPInstanceUID=f"1.2.3.{n}")
            assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.release()
    assert len(node.instances()) == 5


def test_the_same_answer_to_the_byte(tmp_path: Path) -> None:
    """Responses of both readers, refusals too, are the same PDUs."""
    ds = _dataset()
    requests = [
        _shapes(ds)["one fragment"],
        p_data(1, c_store_rq(9, ds.SOPClassUID, "1.2.3"), command=True) + p_data(1, _bytes(ds)),
        p_data(1, _command(ds, 65535), command=True) + p_data(1, _bytes(ds)[:-9]),
    ]
    answers: dict[str, list[Any]] = {}
    for name in READERS:
        with listening(tmp_path / name, reader=name) as node, node.connect() as peer:
            peer.associate([MR])
            for request in requests:
                peer.send(request)
                answers.setdefault(name, []).append(_elements(peer.read_pdu()[1]))
            peer.release()
    assert answers["fast"] == answers["stock"]


def _elements(payload: bytes) -> dict[int, bytes]:
    found = {}
    at = 6
    while at < len(payload):
        number, length = (
            int.from_bytes(payload[at + 2 : at + 4], "little"),
            int.from_bytes(payload[at + 4 : at + 8], "little"),
        )
        found[number] = payload[at + 8 : at + 8 + length]
        at += 8 + length
    return found


@pytest.mark.parametrize(
    "wrong",
    {
        "another context": p_data(3, b"x" * 100),
        "a command within": p_data(1, b"x" * 100, command=True),
        "a length beyond its PDU": pdu(P_DATA, b"\0\0\xff\xff\x01\x00" + b"x" * 100),
        "an unknown PDU": pdu(0x42, bytes(4)),
        "a second association": associate_rq([MR]),
    }.items(),
    ids=lambda w: w[0],
)
def test_who_breaks_the_protocol_is_cut_off(node: Listening, reader: str, wrong: tuple[str, bytes]) -> None:
    ds = _dataset()
    with node.connect() as peer:
        peer.associate([MR, ECHO])
        assert wait_for(lambda: any(a.is_established for a in node.listener.associations))
        peer.send(p_data(1, _command(ds), command=True) + p_data(1, _bytes(ds)[:100], last=False) + wrong[1])
        # pynetdicom overlooks the first two until the connection ends.
        if reader.startswith("fast") or ("context" not in wrong[0] and "command" not in wrong[0]):
            peer.socket.settimeout(5)
            assert peer.read_pdu()[0] == ABORT
    assert wait_for(lambda: not node.listener.associations)
    assert node.instances() == {}
    assert node.is_clean()
    with node.connect() as peer:
        peer.associate([MR])
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")


def test_an_abort_in_an_instance_ends_the_connection(node: Listening) -> None:
    with node.connect(timeout=5) as peer:
        peer.associate([MR])
        ds = _dataset()
        peer.send(
            p_data(1, _command(ds), command=True) + p_data(1, _bytes(ds)[:100], last=False) + pdu(ABORT, bytes(4))
        )
        assert peer.closed_by_peer()
    assert node.is_clean()


@pytest.mark.parametrize("before", [b"", p_data(1, _command(_dataset()), command=True)])
@pytest.mark.parametrize("wrong", [pdu(P_DATA, b""), pdu(P_DATA, b"\0\0\0\x01\x01")])
def test_data_without_an_item_is_cut_off(tmp_path: Path, before: bytes, wrong: bytes) -> None:
    # pynetdicom's own thread dies of it.
    with listening(tmp_path) as node:
        with node.connect(timeout=5) as peer:
            peer.associate([MR])
            assert wait_for(lambda: any(a.is_established for a in node.listener.associations))
            peer.send(before + wrong)
            assert peer.read_pdu()[0] == ABORT
        assert wait_for(lambda: not node.listener.associations)
        assert node.is_clean()


def test_a_class_that_the_context_is_not_for(node: Listening) -> None:
    ds = _dataset()
    with node.connect() as peer:
        peer.associate([MR])
        status, comment = peer.store(1, CTImageStorage, ds.SOPInstanceUID, _bytes(ds))
        assert (status, comment) == (0xC000, "command and dataset differ in SOPClassUID")


def test_large_objects_go_through_a_small_memory(tmp_path: Path) -> None:
    size = 40 << 20
    ds = _dataset()
    ds.Rows, ds.Columns, ds.NumberOfFrames = 1024, 1024, 20
    ds.PixelData = b""
    head = _bytes(ds)[:-4]
    with listening(tmp_path) as node, node.connect() as peer:
        peer.associate([MR])
        assert peer.store(1, MRImageStorage, "1.2.3", b"") == (0xC000, "SOPInstanceUID is missing or cannot be read")
        piece = bytes(64 << 10)
        tracemalloc.start()
        try:
            peer.send(p_data(1, _command(ds), command=True) + p_data(1, head + size.to_bytes(4, "little"), last=False))
            for n in range(size // len(piece)):
                peer.send(p_data(1, piece, last=n == size // len(piece) - 1))
            assert peer.read_status() == (0, "")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        peer.release()
        assert peak < 8 << 20
        i = node.instances()[ds.SOPInstanceUID]
        assert i.size == node.files.path(i.path).stat().st_size > size
        assert i.tags["NumberOfFrames"] == 20


def test_a_large_object_again_and_with_other_content(node: Listening) -> None:
    ds = _dataset(size=1024)
    data = _bytes(ds)
    changed = bytearray(data)
    changed[-1] ^= 1
    with node.connect() as peer:
        peer.associate([MR])
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, data) == (0, "")
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, data) == (0, "")
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, bytes(changed))[0] == 0xC001
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, data[:-2])[0] == 0xC000
        peer.release()
    assert node.files.path(node.instances()[ds.SOPInstanceUID].path).read_bytes().endswith(data)
    assert node.is_clean()


def test_equal_fingerprints_do_not_hide_other_content(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.store.fingerprint.Fingerprint.hexdigest", lambda _: "0" * 64)
    ds, other = _dataset(), _dataset(EchoTime=5)
    with node.connect() as peer:
        peer.associate([MR])
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(other))[0] == 0xC001


@pytest.mark.parametrize(("name", "through_pynetdicom"), [("fast", 0), ("stock", 1), ("fast over TLS", 0)])
def test_the_setting_chooses_the_reader(
    tmp_path: Path, name: str, through_pynetdicom: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(Association, "_serve_request", _spy(Association._serve_request, lambda *_: taken.append(None)))
    ds = _dataset()
    with listening(tmp_path, reader=name) as node, node.connect() as peer:
        peer.associate([MR])
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.release()
    assert len(taken) == through_pynetdicom


def test_a_large_object_may_come_before_the_association_is_called_established(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pynetdicom, which would read it whole, calls it so some moments after it was accepted."""
    monkeypatch.setattr("dicom_node.receive.dimse._LONGEST_UNUSUAL", 1 << 20)
    opened, pause = StoreScp.opened, threading.Event()

    def opened_late(*args: Any) -> None:
        opened(*args)
        pause.wait(0.3)

    monkeypatch.setattr(StoreScp, "opened", opened_late)
    ds = _dataset(size=1024)
    with listening(tmp_path) as node, node.connect() as peer:
        peer.associate([MR])
        *first, last = _fragments(_bytes(ds), 64 << 10)
        pieces = [p_data(1, piece, last=False) for piece in first]
        peer.send(b"".join([p_data(1, _command(ds), command=True), *pieces, p_data(1, last)]))
        assert peer.read_status() == (0, "")
        peer.release()
        assert node.instances().keys() == {ds.SOPInstanceUID}


def _spy(real: Any, seen: Any) -> Any:
    def spied(*args: Any, **more: Any) -> Any:
        seen(*args)
        return real(*args, **more)

    return spied


def test_an_echo_is_answered_while_others_send(node: Listening) -> None:
    ds = _dataset(size=512)
    stop = threading.Event()

    def send(worker: int) -> None:
        with node.connect() as peer:
            peer.associate([MR])
            while not stop.is_set():
                assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
            peer.release()

    threads = [threading.Thread(target=send, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    try:
        with node.connect() as peer:
            peer.associate([ECHO])
            for n in range(5):
                peer.send(p_data(3, c_echo_rq(n), command=True))
                assert peer.read_status() == (0, "")
            peer.release()
    finally:
        stop.set()
        for t in threads:
            t.join(10)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (AssociationSocket, ("ready", "recv", "event_queue", "close", "_shutdown_socket")),
        (ThreadedAssociationServer, ("verify_request", "finish_request", "handle_error", "shutdown_request")),
        (DULServiceProvider, ("_is_transport_event", "_read_pdu_data", "run_reactor", "_process_recv_primitive")),
        (DIMSEServiceProvider, ("receive_primitive",)),
        (Association, ("_run_reactor", "_serve_request", "abort", "kill")),
    ],
)
def test_what_the_fast_reader_leans_on_is_there(part: Any, names: tuple[str, ...]) -> None:
    """If this fails after an upgrade of pynetdicom: read ``fast_store.py``, or choose ``receive.reader: stock``."""
    assert [n for n in names if not hasattr(part, n)] == []


def test_what_the_fast_reader_relies_on_is_done() -> None:
    """If this fails after an upgrade of pynetdicom: read ``fast_store.py``, or choose ``receive.reader: stock``."""

    def uses(function: Any, *words: str) -> list[str]:
        source = inspect.getsource(function)
        return [w for w in words if w not in source]

    assert uses(DULServiceProvider._is_transport_event, "self.socket.ready", "self._read_pdu_data()") == []
    assert uses(DULServiceProvider._read_pdu_data, "self.socket.recv(6)", "self.socket.recv(pdu_length)") == []
    assert uses(DULServiceProvider.run_reactor, "_is_transport_event", "self.event_queue.get", "_idle_timer") == []
    assert uses(DULServiceProvider.__init__, "self.to_provider_queue", "self.event_queue", "self._idle_timer") == []
    assert uses(Association._run_reactor, "self._reactor_checkpoint.wait()", "self._kill") == []
    assert uses(Association.__init__, "self._accepted_cx", "self._sent_abort", "self._reactor_checkpoint.set()") == []
    assert uses(Association.kill, "self._reactor_checkpoint.set()") == []
    assert uses(DIMSEServiceProvider.__init__, "self.message", "self.msg_queue") == []
    assert uses(AE.shutdown, "self._servers") == []
    assert uses(DULServiceProvider.kill_dul, "self._kill_thread = True") == []
    assert uses(Association.run_reactor, "self.dul.receive_pdu(wait=True", "primitive is None") == []
    assert {("Evt17", "Sta6"), ("Evt19", "Sta6"), ("Evt12", "Sta6")} <= set(TRANSITION_TABLE)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\0" * 7,
        c_echo_rq(1),
        c_store_rq(1, "1.2", "1.3", with_dataset=False),
        c_store_rq(1, "1.2", ""),
        c_store_rq(1, "1.2", "1.3")[:-1],
        c_store_rq(1, "1.2", "1.3") * 2,
        c_store_rq(1, "1.2", "1.\xe9"),
        c_store_rq(1, "1.2", "1.3").replace(b"\0\0\x10\x01", b"\x08\0\x10\x01"),
    ],
)
def test_commands_that_are_left_to_pynetdicom(command: bytes) -> None:
    assert parse_store_request(command) is None


def test_a_request_is_read_as_written_and_answered() -> None:
    request = parse_store_request(c_store_rq(65535, "1.2.840.1", "1.2.3"))
    assert request == StoreRequest(65535, "1.2.840.1", "1.2.3")
    answer = pack_store_response(5, request, 0xA700, "disk full")
    assert answer[0] == 4
    assert int.from_bytes(answer[2:6]) == len(answer) - 6
    assert answer[10] == 5
    found = _elements(answer[6:])
    assert int.from_bytes(found[0], "little") == len(answer) - 12 - 12
    assert (found[0x0900], found[0x0902], found[0x1000]) == (b"\x00\xa7", b"disk full ", b"1.2.3\0")
    assert list(found) == sorted(found)
