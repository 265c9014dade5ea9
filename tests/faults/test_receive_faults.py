"""What a broken or hostile peer may do to the listener."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage
from pynetdicom.dsutils import encode
from structlog.testing import capture_logs

from dicom_node.errors import ConfigurationError, PeerError
from dicom_node.testing.bytes_peer import ABORT, BytesPeer, associate_rq, c_store_rq, p_data, pdu
from dicom_node.testing.fake_modality import FakeModality
from dicom_node.testing.series import PLANES, plane_affine, save, slice_datasets
from tests.listening import READERS, Listening, listening, wait_for

PRIVATE_CLASS = "1.2.826.0.1.3680043.9.9999.1"
MR = (1, str(MRImageStorage), str(ExplicitVRLittleEndian))


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    """Every fault is told to both readers, and both must answer the same."""
    return str(request.param)


@pytest.fixture
def node(tmp_path: Path, reader: str) -> Iterator[Listening]:
    with listening(tmp_path, reader=reader) as running:
        yield running


def _datasets(count: int = 1, size: int = 8, **header: Any) -> list[Dataset]:
    affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
    pixels = np.random.default_rng(0).integers(0, 4096, (count, size, size), np.uint16)
    return slice_datasets(pixels, affine, header=header)


def _bytes(ds: Dataset) -> bytes:
    data = encode(ds, False, True)
    assert data is not None
    return data


def _peer(node: Listening, *contexts: tuple[int, str, str]) -> BytesPeer:
    peer = BytesPeer("127.0.0.1", node.port)
    peer.associate(contexts or (MR,))
    return peer


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
@pytest.mark.parametrize("cut", ["in the command", "before the dataset", "in a fragment", "between fragments"])
def test_an_association_that_dies_in_an_instance_leaves_nothing(node: Listening, how: str, cut: str) -> None:
    (ds,) = _datasets(size=64)
    data = _bytes(ds)
    command = p_data(1, c_store_rq(1, MRImageStorage, ds.SOPInstanceUID), command=True)
    first = p_data(1, data[:4000], last=False)
    sent = {
        "in the command": command[:30],
        "before the dataset": command,
        "in a fragment": command + first[:2000],
        "between fragments": command + first,
    }[cut]
    with capture_logs() as logs:
        with _peer(node) as peer:
            peer.send(sent)
            if how == "abort":
                peer.send(pdu(ABORT, bytes(4)))
            if how == "reset":
                peer.drop()
        assert wait_for(lambda: any(entry["event"] == "association_closed" for entry in logs))
    assert node.instances() == {}
    assert node.is_clean()
    with _peer(node) as peer:  # the next one is not disturbed
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, data) == (0, "")
        peer.release()
    assert list(node.instances()) == [ds.SOPInstanceUID]


def test_a_stalled_peer_is_aborted_after_the_idle_time(tmp_path: Path, reader: str) -> None:
    with listening(tmp_path, reader=reader, idle_seconds=0.4, artim_seconds=0.4) as node:
        with _peer(node) as idle, _peer(node) as half, BytesPeer("127.0.0.1", node.port) as silent:
            half.send(p_data(1, b"x" * 100, command=True)[:50])
            for peer in (idle, half, silent):
                while not peer.closed_by_peer():
                    pass  # the bytes of A-ABORT
        assert node.is_clean()


@pytest.mark.parametrize(
    ("uid", "status", "comment"),
    [("../../etc", 0xC000, "SOPInstanceUID '../../etc' is not a valid UID"), ("1.2.3", 0xC000, "command and dataset")],
)
def test_bad_uids_are_refused_with_a_comment(
    node: Listening, uid: str, status: int, comment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pynetdicom decodes the command set by pydicom's mode, which is not strict in production.
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    (ds,) = _datasets()
    with _peer(node) as peer, capture_logs() as logs:
        answer = peer.store(1, MRImageStorage, uid, _bytes(ds))
        assert answer[0] == status
        assert answer[1].startswith(comment)
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.release()
    refused = [entry for entry in logs if entry["event"] == "instance_refused"]
    assert [(entry["SOPInstanceUID"], entry["calling"]) for entry in refused] == [(uid, "BYTESPEER")]
    assert "Phantom" not in str(logs)
    assert node.is_clean()


def test_truncated_conflicting_and_missing_datasets(node: Listening) -> None:
    (ds,), (other,) = _datasets(), _datasets(EchoTime=5)
    with _peer(node) as peer:
        status, comment = peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)[:-9])
        assert (status, comment) == (0xC000, "the dataset is truncated in (7FE0,0010)")
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        status, comment = peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(other))
        assert status == 0xC001
        assert 0 < len(comment) <= 64
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.send(p_data(1, c_store_rq(9, MRImageStorage, ds.SOPInstanceUID, with_dataset=False), command=True))
        assert peer.read_status()[0] == 0xC000
        peer.release()
    assert node.is_clean()


def test_a_full_disk_is_told_and_ends(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    (ds,) = _datasets()
    with _peer(node) as peer:
        monkeypatch.setattr(node.files, "reserve_bytes", 1 << 62)
        status, comment = peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds))
        assert status == 0xA700
        assert "reserve" in comment
        monkeypatch.setattr(node.files, "reserve_bytes", 0)
        assert peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds)) == (0, "")


def test_an_error_of_our_own_is_answered_and_logged_without_its_text(
    node: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("Doe^John")

    monkeypatch.setattr(node.intake, "keep", fail)
    (ds,) = _datasets()
    with _peer(node) as peer, capture_logs() as logs:
        status, comment = peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds))
    assert (status, comment) == (0xC000, "internal error, see the node's log")
    (failed,) = [entry for entry in logs if entry["event"] == "instance_failed"]
    assert failed["error"] == "ZeroDivisionError"
    assert "Doe" not in str(logs)


def test_unknown_storage_classes_are_taken(node: Listening) -> None:
    (ds,) = _datasets(SOPClassUID=PRIVATE_CLASS)
    with _peer(node, (1, PRIVATE_CLASS, ExplicitVRLittleEndian), (3, MR[1], JPEG2000Lossless)) as peer:
        assert peer.store(1, PRIVATE_CLASS, ds.SOPInstanceUID, _bytes(ds)) == (0, "")
        peer.release()
    assert node.instances()[ds.SOPInstanceUID].SOPClassUID == PRIVATE_CLASS


def test_services_and_transfer_syntaxes_that_we_do_not_offer_are_not_accepted(node: Listening) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    with BytesPeer("127.0.0.1", node.port) as peer:
        contexts = [(1, find, ExplicitVRLittleEndian), (3, MR[1], "1.2.3.4"), (5, MR[1], MR[2])]
        peer.send(associate_rq(contexts))
        _, payload = peer.read_pdu()
        results = []
        at = 68
        while at < len(payload):
            kind, length = payload[at], int.from_bytes(payload[at + 2 : at + 4])
            if kind == 0x21:
                results.append((payload[at + 4], payload[at + 6]))
            at += 4 + length
    assert sorted(results) == [(1, 3), (3, 4), (5, 0)]


def test_only_known_peers_and_our_own_title(tmp_path: Path) -> None:
    settings = {"calling_ae_titles": ("SCANNER",), "require_called_ae_title": True, "ae_title": "NODE"}
    with listening(tmp_path, **settings) as node, BytesPeer("127.0.0.1", node.port) as peer:
        for called, calling in (("NODE", "OTHER"), ("WRONG", "SCANNER")):
            with BytesPeer("127.0.0.1", node.port) as refused, pytest.raises(ConnectionError, match="type 3"):
                refused.associate([MR], called=called, calling=calling)
        peer.associate([MR], called="NODE", calling="SCANNER")


def test_too_many_associations_are_rejected(tmp_path: Path) -> None:
    with (
        listening(tmp_path, maximum_associations=2) as node,
        _peer(node),
        _peer(node),
        BytesPeer("127.0.0.1", node.port) as third,
        pytest.raises(ConnectionError, match="type 3"),
    ):
        third.associate([MR])


def test_one_peer_gets_no_more_than_its_share(tmp_path: Path, reader: str) -> None:
    with listening(tmp_path, reader=reader, maximum_associations_per_peer=2) as node:
        with _peer(node) as first, _peer(node):
            with BytesPeer("127.0.0.1", node.port) as third, pytest.raises(ConnectionError, match="type 3"):
                third.associate([MR])
            first.release()
        assert wait_for(lambda: not node.listener.associations)
        with _peer(node) as again:
            again.release()


def test_an_object_that_is_too_large_is_refused_and_the_next_one_taken(tmp_path: Path, reader: str) -> None:
    (large,), (small,) = _datasets(size=2048), _datasets(SOPInstanceUID="1.2.3")
    with listening(tmp_path, reader=reader, largest_object_mb=8) as node, _peer(node) as peer:
        answer = peer.store(1, MRImageStorage, large.SOPInstanceUID, _bytes(large))
        assert answer == (0xA700, "the instance is larger than 8 MB")
        assert peer.store(1, MRImageStorage, small.SOPInstanceUID, _bytes(small)) == (0, "")
        peer.release()
        assert list(node.instances()) == ["1.2.3"]
        assert node.is_clean()


def test_a_taken_port_is_a_configuration_error(node: Listening, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"port {node.port}"), listening(tmp_path / "b", port=node.port):
        pass


def test_one_line_of_log_for_an_association(node: Listening) -> None:
    (ds,) = _datasets()
    with capture_logs() as logs:
        with _peer(node) as peer:
            peer.store(1, MRImageStorage, ds.SOPInstanceUID, _bytes(ds))
            peer.store(1, MRImageStorage, "1.2.3", _bytes(ds))
            peer.release()
        assert wait_for(lambda: any(entry["event"] == "association_closed" for entry in logs))
    (closed,) = [e for e in logs if e["event"].startswith("association") and e["log_level"] != "debug"]
    assert (closed["stored"], closed["refused"], closed["end"]) == (1, 1, "released")
    assert (closed["calling"], closed["called"]) == ("BYTESPEER", "ANY-SCP")


def test_stop_answers_nothing_it_did_not_keep(tmp_path: Path, reader: str) -> None:
    files = save(tmp_path / "in", _datasets(40))
    with listening(tmp_path / "node", reader=reader) as node:
        modality = FakeModality("127.0.0.1", node.port, associations=2)
        reports: list[Any] = []
        sending = threading.Thread(target=lambda: reports.append(modality.send(files, counted.release)))
        counted = threading.Semaphore(0)
        sending.start()
        # Each association has 20: of 21 answers, both had some.
        for _ in range(21):
            assert counted.acquire(timeout=10)
        node.listener.stop()
        sending.join(90)
        (report,) = reports
        assert set(report.acknowledged) <= set(node.instances())
        assert node.is_clean()


def test_a_modality_at_its_worst(node: Listening, tmp_path: Path) -> None:
    datasets = _datasets(24, size=32)
    files = save(tmp_path / "in", datasets)
    modality = FakeModality(
        "127.0.0.1", node.port, associations=3, shuffle=True, seed=4, duplicates=6, abort=True, drop=True, pause=0.001
    )
    report = modality.send(files)
    uids = {str(ds.SOPInstanceUID) for ds in datasets}
    assert set(report.acknowledged) == uids == set(node.instances())
    assert report.refused == {}
    assert report.unanswered == ()
    assert report.seconds > 0
    assert node.is_clean()
    for path, ds in zip(files, datasets, strict=True):
        stored = node.files.path(node.instances()[ds.SOPInstanceUID].path)
        assert pydicom.dcmread(stored) == pydicom.dcmread(path)


@pytest.mark.parametrize(
    "syntax",
    [
        "RLELossless",
        "JPEG2000Lossless",
        "JPEGLSLossless",
        "DeflatedExplicitVRLittleEndian",
        "ImplicitVRLittleEndian",
    ],
)
def test_a_modality_that_compresses(node: Listening, tmp_path: Path, syntax: str) -> None:
    wanted = getattr(pydicom.uid, syntax)
    datasets = _datasets(2, size=64)
    files = save(tmp_path / "in", datasets)
    report = FakeModality("127.0.0.1", node.port, transfer_syntax=wanted).send(files)
    assert len(report.acknowledged) == 2
    for ds in datasets:
        i = node.instances()[ds.SOPInstanceUID]
        assert i.TransferSyntaxUID == wanted
        stored = pydicom.dcmread(node.files.path(i.path))
        assert np.array_equal(stored.pixel_array, ds.pixel_array)


def test_the_modality_reports_refusals_and_no_listener(node: Listening, tmp_path: Path) -> None:
    (first,), (other,) = _datasets(), _datasets(EchoTime=9)
    files = [*save(tmp_path / "a", [first]), *save(tmp_path / "b", [other])]
    report = FakeModality("127.0.0.1", node.port).send(files)
    refusal = report.refused[first.SOPInstanceUID]
    assert refusal.status == 0xC001
    assert refusal.comment
    node.listener.stop()
    with pytest.raises(PeerError):
        FakeModality("127.0.0.1", node.port or 1, timeout=2).send(files)


def test_the_modality_sends_the_same_order_for_the_same_seed(tmp_path: Path) -> None:
    files = [Path(f"{n}.dcm") for n in range(20)]

    def order(seed: int) -> list[Path]:
        return FakeModality("127.0.0.1", 1, shuffle=True, duplicates=3, seed=seed)._order(files)

    assert order(1) == order(1) != order(2)
    assert len(order(1)) == 23
    assert set(order(1)) == set(files)
