from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, RLELossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import _STORAGE_CLASSES, Verification
from pynetdicom.transport import AssociationSocket

from dicom_node.deliver.dimse import send
from dicom_node.errors import PeerError
from dicom_node.peer.association import associate
from dicom_node.settings import Destination
from dicom_node.testing.fake_pacs import FakePacs
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets

CALLER = "DICOMNODE"


@pytest.fixture(scope="module")
def pacs() -> Iterator[FakePacs]:
    with FakePacs() as running:
        yield running


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save(tmp_path, _datasets())


def _datasets(key: str = "deliver", count: int = 2) -> list[pydicom.Dataset]:
    pixels = np.zeros((count, 8, 8), np.uint16)
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)), key=key)


def _destination(port: int, *, ae_title: str = "FAKEPACS", timeout: float = 5, **more: Any) -> Destination:
    return Destination(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port, timeout_seconds=timeout, **more)


@contextlib.contextmanager
def _scp(contexts: dict[str, list[str]], stored: list[Any]) -> Iterator[int]:
    ae = AE()
    for abstract, transfer in contexts.items():
        ae.add_supported_context(abstract, transfer)

    def on_store(event: Any) -> int:
        stored.append((event.context.transfer_syntax, event.dataset, event.request.MessageID))
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        yield server.server_address[1]
    finally:
        ae.shutdown()


@contextlib.contextmanager
def _mute_peer(*, holds: bool) -> Iterator[int]:
    """Takes one connection, and never says a word: holds it (``holds``), or closes it at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if holds:
                    done.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


def test_each_object_is_stored_once(pacs: FakePacs, tmp_path: Path) -> None:
    datasets = _datasets("once")

    outcome = send(_destination(pacs.port), CALLER, save(tmp_path, datasets))

    for ds in datasets:
        assert outcome[ds.SOPInstanceUID] == ""
        assert pacs.stores[ds.SOPInstanceUID] == 1
        assert pacs.received[ds.SOPInstanceUID] == ds


def test_nothing_to_send_needs_no_association() -> None:
    assert send(_destination(1), CALLER, []) == {}


@pytest.mark.parametrize(("status", "retryable"), [(0xA700, True), (0xA900, False), (0xC001, False), (0x0122, False)])
def test_a_refusal_is_the_instances_own_outcome(
    pacs: FakePacs, paths: list[Path], status: int, retryable: bool
) -> None:
    pacs.refuse_with(status)
    try:
        outcome = send(_destination(pacs.port), CALLER, paths)
    finally:
        pacs.refuse_with(0x0000)

    assert len(outcome) == 2
    assert all(f"0x{status:04X}" in failure for failure in outcome.values())
    assert {failure.retryable for failure in outcome.values()} == {retryable}


def test_a_warning_counts_as_stored_and_is_logged(
    pacs: FakePacs, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pacs.refuse_with(0xB000)
    try:
        outcome = send(_destination(pacs.port), CALLER, paths)
    finally:
        pacs.refuse_with(0x0000)

    assert set(outcome.values()) == {""}
    assert set(outcome) <= set(pacs.stores)
    assert "0xB000 coercion of data elements" in capsys.readouterr().out


def test_an_association_that_dies_leaves_the_rest_for_another_attempt(pacs: FakePacs, tmp_path: Path) -> None:
    datasets = _datasets("drop", 3)
    pacs.drop_associations(1)

    outcome = send(_destination(pacs.port), CALLER, save(tmp_path, datasets))

    assert [outcome[ds.SOPInstanceUID].retryable for ds in datasets] == [True] * 3
    assert all("ended the association" in failure for failure in outcome.values())
    assert not set(outcome) & set(pacs.stores)


def test_a_pacs_that_is_too_slow_is_a_time_out(paths: list[Path]) -> None:
    with FakePacs() as slow:
        slow.delay = 30
        outcome = send(_destination(slow.port, timeout=0.5), CALLER, paths)

    assert all("did not answer within 0.5 s" in failure for failure in outcome.values())
    assert all(failure.retryable for failure in outcome.values())


def test_a_pacs_that_comes_up_again_is_at_the_same_port(paths: list[Path]) -> None:
    with FakePacs() as pacs:
        destination = _destination(pacs.port)
        pacs.down()
        with pytest.raises(PeerError, match="no connection") as caught:
            send(destination, CALLER, paths)
        assert caught.value.retryable
        pacs.up()
        assert set(send(destination, CALLER, paths).values()) == {""}


def test_an_ae_title_that_the_peer_does_not_know_is_final(paths: list[Path]) -> None:
    with FakePacs(calling_ae_titles=["SOMEONE"]) as pacs:
        with pytest.raises(PeerError, match="does not know our AE title") as caught:
            send(_destination(pacs.port), CALLER, paths)
        assert not caught.value.retryable
        assert set(send(_destination(pacs.port, calling_ae_title="SOMEONE"), CALLER, paths).values()) == {""}


def test_calling_another_ae_title_than_the_peers_is_final(paths: list[Path]) -> None:
    another = pytest.raises(PeerError, match="its AE title is another one")
    with FakePacs(require_called_ae_title=True) as pacs, another as caught:
        send(_destination(pacs.port, ae_title="OTHER"), CALLER, paths)
    assert not caught.value.retryable


def test_a_rejection_that_comes_before_the_sender_wakes_up_is_one_all_the_same(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    create, closed = AssociationSocket._create_socket, threading.Event()

    def create_slow(self: Any, *args: Any) -> Any:
        self._ready.wait = lambda: closed.wait(5)
        return create(self, *args)

    shut_down = AssociationSocket.close

    def close(self: Any) -> None:
        shut_down(self)
        closed.set()

    monkeypatch.setattr(AssociationSocket, "_create_socket", create_slow)
    monkeypatch.setattr(AssociationSocket, "close", close)
    another = pytest.raises(PeerError, match="its AE title is another one")
    with FakePacs(require_called_ae_title=True) as pacs, another as caught:
        send(_destination(pacs.port, ae_title="OTHER"), CALLER, paths)
    assert not caught.value.retryable


def test_a_busy_peer_is_worth_another_attempt(paths: list[Path]) -> None:
    context = [(str(MRImageStorage), str(ExplicitVRLittleEndian))]
    too_many = pytest.raises(PeerError, match="too many associations")
    with (
        FakePacs(maximum_associations=1) as pacs,
        associate(_destination(pacs.port), CALLER, context),
        too_many as caught,
    ):
        send(_destination(pacs.port), CALLER, paths)
    assert caught.value.retryable


def test_a_peer_that_never_answers_the_request_is_a_time_out(paths: list[Path]) -> None:
    late = pytest.raises(PeerError, match=r"did not answer the association request within 0\.3 s")
    with _mute_peer(holds=True) as port, late as caught:
        send(_destination(port, timeout=0.3), CALLER, paths)
    assert caught.value.retryable


def test_a_peer_that_hangs_up_is_worth_another_attempt(paths: list[Path]) -> None:
    with _mute_peer(holds=False) as port, pytest.raises(PeerError, match="ended the connection") as caught:
        send(_destination(port), CALLER, paths)
    assert caught.value.retryable


def test_a_peer_that_stops_reading_does_not_hold_the_sender(tmp_path: Path) -> None:
    (ds,) = _datasets("large", 1)
    ds.PixelData = bytes(32 << 20)  # more than the sockets' buffers take
    done = threading.Event()
    ae = AE()
    ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian)
    stall = (evt.EVT_DATA_RECV, lambda event: done.wait(30) if len(event.data) > 4096 else None)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[stall])
    try:
        outcome = send(_destination(server.server_address[1], timeout=0.5), CALLER, save(tmp_path, [ds]))
    finally:
        done.set()
        ae.shutdown()

    assert outcome[ds.SOPInstanceUID].retryable


def test_a_host_name_that_does_not_resolve_is_worth_another_attempt(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(PeerError, match="cannot be resolved") as caught:
        send(_destination(104), CALLER, paths)
    assert caught.value.retryable


def test_a_file_that_is_no_dicom_file_is_final(pacs: FakePacs, tmp_path: Path) -> None:
    fruit = tmp_path / "fruit.dcm"
    fruit.write_bytes(b"banana" * 100)
    for path in (fruit, tmp_path / "absent.dcm"):
        with pytest.raises(PeerError, match=path.name) as caught:
            send(_destination(pacs.port), CALLER, [path])
        assert not caught.value.retryable


def test_a_compressed_file_leaves_as_it_is(pacs: FakePacs, tmp_path: Path) -> None:
    (ds,) = _datasets("rle", 1)
    ds.compress(RLELossless, generate_instance_uid=False)

    send(_destination(pacs.port), CALLER, save(tmp_path, [ds]))

    received = pacs.received[ds.SOPInstanceUID]
    assert received.file_meta.TransferSyntaxUID == RLELossless
    assert received.PixelData == ds.PixelData


def test_a_compressed_file_is_not_decoded_for_a_peer_that_cannot_take_it(tmp_path: Path) -> None:
    (ds,) = _datasets("rle2", 1)
    ds.compress(RLELossless, generate_instance_uid=False)
    contexts = {str(MRImageStorage): [str(ExplicitVRLittleEndian), str(JPEG2000Lossless)]}
    with _scp(contexts, []) as port, pytest.raises(PeerError, match="RLE Lossless is not accepted") as caught:
        send(_destination(port), CALLER, save(tmp_path, [ds]))
    assert not caught.value.retryable


def test_only_a_peer_that_takes_nothing_else_gets_implicit_vr(tmp_path: Path) -> None:
    stored: list[Any] = []
    (ds,) = _datasets("implicit", 1)
    path = save(tmp_path, [ds])[0]
    with _scp({str(MRImageStorage): [str(ImplicitVRLittleEndian)]}, stored) as port:
        assert send(_destination(port), CALLER, [path]) == {ds.SOPInstanceUID: ""}

    ((syntax, received, _),) = stored
    assert syntax == ImplicitVRLittleEndian
    assert received == pydicom.dcmread(path)


def test_more_sop_classes_than_an_association_has_contexts(pacs: FakePacs, tmp_path: Path) -> None:
    datasets = _datasets("many", 100)
    for ds, sop_class in zip(datasets, list(_STORAGE_CLASSES.values())[:100], strict=True):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class

    outcome = send(_destination(pacs.port), CALLER, save(tmp_path, datasets))

    assert outcome == {ds.SOPInstanceUID: "" for ds in datasets}


def test_nagle_is_off(pacs: FakePacs) -> None:
    with associate(_destination(pacs.port), CALLER, [(str(MRImageStorage), str(ExplicitVRLittleEndian))]) as a:
        assert a.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_answer_is_not_taken_by_the_association_s_own_thread(pacs: FakePacs) -> None:
    """Both threads lose the processor where it hurts: the one after its checkpoint, the other before it listens."""
    pause = threading.Event()
    with associate(_destination(pacs.port, timeout=2), CALLER, [(str(Verification), ImplicitVRLittleEndian)]) as opened:
        checkpoint, take = opened._reactor_checkpoint, opened.dimse.get_msg
        passes = checkpoint.wait

        def pass_late() -> None:
            passes()
            pause.wait(0.02)

        def take_late(block: bool = False) -> Any:
            if block:
                pause.wait(0.05)
            return take(block)

        checkpoint.wait, opened.dimse.get_msg = pass_late, take_late
        assert [opened.send_c_echo().get("Status") for _ in range(5)] == [0] * 5


def test_an_association_that_has_ended_holds_nobody_at_the_checkpoint(pacs: FakePacs) -> None:
    with associate(_destination(pacs.port), CALLER, [(str(Verification), ImplicitVRLittleEndian)]) as opened:
        opened.abort()
        opened.join(5)
        opened._reactor_checkpoint.clear()


def test_who_asks_the_moment_an_abort_comes_does_not_wait(pacs: FakePacs) -> None:
    context = [(str(Verification), ImplicitVRLittleEndian)]
    answers: list[Any] = []
    with associate(_destination(pacs.port, timeout=60), CALLER, context) as opened:
        opened.abort()
        opened.join(5)
        # The association's thread may have taken what was there, and have been between two flags.
        while not opened.dimse.msg_queue.empty():
            opened.dimse.msg_queue.get()
        opened._is_paused = False
        opened.is_established = True  # as it was when it was looked at
        asking = threading.Thread(target=lambda: answers.append(opened.send_c_echo()), daemon=True)
        asking.start()
        asking.join(20)
        opened.is_established = False
    assert [len(answer) for answer in answers] == [0]
