"""Storage commitment (PS3.4 Annex J): the node as SCP, pynetdicom as SCU."""

from __future__ import annotations

import contextlib
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_ECHO_RSP, C_STORE_RSP
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification
from structlog.testing import capture_logs

from dicom_node.errors import OutOfResources
from dicom_node.receive.vouch import Voucher
from dicom_node.settings import Destination, Peer, Settings
from dicom_node.testing.bytes_peer import c_store_rq, p_data
from dicom_node.testing.series import PLANES, plane_affine, slice_datasets
from dicom_node.workflow import commitment as workflow
from tests.certificates import Authority
from tests.interop.orthanc import free_port
from tests.listening import READERS, Listening, listening, wait_for

COUNT = 3


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def datasets() -> list[Dataset]:
    pixels = np.random.default_rng(0).integers(0, 4096, (COUNT, 64, 64), np.uint16)
    return slice_datasets(pixels, plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0)))


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is found out, and so told, before it is set: the requestor has gone by then."""
    event = threading.Event()
    real = Voucher.vouch

    def vouch(self: Voucher, wanted: Any) -> list[int]:
        assert event.wait(10)
        return real(self, wanted)

    monkeypatch.setattr(Voucher, "vouch", vouch)
    return event


@dataclass
class Scu:
    """A modality: it sends, asks for commitment, and hears the reports."""

    port: int
    answer: int = 0x0000
    """The status of its answers to reports."""
    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    """Every message that came over its own association, by class."""

    def hear(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return self.answer, None

    @contextlib.contextmanager
    def associated(self) -> Iterator[Any]:
        ae = AE("MODALITY")
        for uid in (MRImageStorage, Verification, StorageCommitmentPushModel):
            ae.add_requested_context(uid)
        handlers = [
            (evt.EVT_N_EVENT_REPORT, self.hear),
            (evt.EVT_DIMSE_RECV, lambda e: self.came.append(type(e.message).__name__)),
        ]
        association = ae.associate("127.0.0.1", self.port, evt_handlers=handlers)
        assert association.is_established
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    @contextlib.contextmanager
    def listening(self, port: int, context: ssl.SSLContext | None = None) -> Iterator[None]:
        """Where reports come that are sent later."""
        ae = AE("MODALITY")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.hear)], ssl_context=context
        )
        try:
            yield
        finally:
            server.shutdown()


def _request(wanted: list[tuple[str, str]], transaction_uid: str | None = None) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid or generate_uid()
    ds.ReferencedSOPSequence = []
    for sop_class, sop_instance in wanted:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_instance
        ds.ReferencedSOPSequence.append(item)
    return ds


def _ask(association: Any, request: Dataset, *, action: int = 1, instance: str = "", message_id: int = 1) -> int:
    status, _ = association.send_n_action(
        request,
        action,
        StorageCommitmentPushModel,
        instance or StorageCommitmentPushModelInstance,
        msg_id=message_id,
    )
    return int(status.Status)


def _refs(datasets: list[Dataset]) -> list[tuple[str, str]]:
    return [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in datasets]


def _safe(information: Dataset) -> list[tuple[str, str]]:
    items = information.get("ReferencedSOPSequence") or []
    return [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in items]


def _failed(information: Dataset) -> dict[str, int]:
    return {i.ReferencedSOPInstanceUID: i.FailureReason for i in information.get("FailedSOPSequence") or []}


def _send(association: Any, datasets: list[Dataset]) -> None:
    for ds in datasets:
        assert association.send_c_store(ds).Status == 0x0000


def _told(node: Listening, scu: Scu, count: int = 1) -> bool:
    return wait_for(lambda: len(scu.reports) >= count and not node.requests.open(), 30)


def _at(port: int, **more: Any) -> Destination:
    return Destination(name="modality", ae_title="MODALITY", host="127.0.0.1", port=port, timeout_seconds=5, **more)


def test_it_is_not_offered_where_it_is_not_served(tmp_path: Path) -> None:
    with listening(tmp_path) as node, Scu(node.port).associated() as association:
        assert [c.abstract_syntax for c in association.rejected_contexts] == [StorageCommitmentPushModel]


def test_over_the_same_association(tmp_path: Path, reader: str, datasets: list[Dataset]) -> None:
    with listening(tmp_path, reader=reader, destinations=()) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            _send(association, datasets)
            request = _request(_refs(datasets))
            assert _ask(association, request) == 0x0000
            assert _told(node, scu)
            # What comes behind it is not out of step.
            _send(association, datasets)
            assert association.send_c_echo().Status == 0x0000
        ((event_type, information),) = scu.reports
    assert event_type == 1
    assert information.TransactionUID == request.TransactionUID
    assert _safe(information) == _refs(datasets)
    assert "FailedSOPSequence" not in information
    told = [name for name in scu.came if name not in (C_STORE_RSP.__name__, C_ECHO_RSP.__name__)]
    assert told == ["N_ACTION_RSP", "N_EVENT_REPORT_RQ"]


def test_never_before_the_request_is_answered(
    tmp_path: Path, reader: str, datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DIMSEServiceProvider.send_msg

    def slow(self: Any, primitive: Any, context_id: int) -> None:
        if isinstance(primitive, N_ACTION) and primitive.MessageIDBeingRespondedTo is not None:
            threading.Event().wait(0.3)
        real(self, primitive, context_id)

    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", slow)
    with listening(tmp_path, reader=reader, destinations=()) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            assert _ask(association, _request(_refs(datasets))) == 0x0000
            assert _told(node, scu)
    assert scu.came == ["N_ACTION_RSP", "N_EVENT_REPORT_RQ"]


def _n_action(transaction_uid: str, wanted: list[tuple[str, str]]) -> bytes:
    """A request's PDUs, in context 3."""
    command = Dataset()
    command.RequestedSOPClassUID = StorageCommitmentPushModel
    command.CommandField = 0x0130
    command.MessageID = 99
    command.CommandDataSetType = 1
    command.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
    command.ActionTypeID = 1
    body, data = encode(command, True, True), encode(_request(wanted, transaction_uid), False, True)
    assert body
    assert data
    whole = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    return p_data(3, whole, command=True) + p_data(3, data)


def test_among_images_that_keep_coming(tmp_path: Path, reader: str, datasets: list[Dataset]) -> None:
    """The report's parts follow one another, whatever else is answered."""
    explicit = str(ExplicitVRLittleEndian)
    with listening(tmp_path, reader=reader, destinations=()) as node, node.connect() as peer:
        peer.associate([(1, str(MRImageStorage), explicit), (3, str(StorageCommitmentPushModel), explicit)])
        ds = datasets[0]
        data = encode(ds, False, True)
        assert data
        peer.send(_n_action("1.2.3", _refs(datasets)))
        came: list[tuple[int, int]] = []
        sent = answered = 0
        while len([c for c in came if c[0] == 3]) < 3 or answered < sent:
            while sent < 40 and sent - answered < 4:
                peer.send(
                    p_data(1, c_store_rq(sent, MRImageStorage, ds.SOPInstanceUID), command=True) + p_data(1, data)
                )
                sent += 1
            _, payload = peer.read_pdu()
            came.append((payload[4], payload[5]))
            answered += payload[4] == 1
        peer.release()
    at = came.index((3, 2))  # the only dataset that comes
    assert came[at - 1] == (3, 3)
    assert [c for c in came if c[0] == 3] == [(3, 3), (3, 3), (3, 2)]


def test_several_requests_over_one_association(tmp_path: Path, reader: str, datasets: list[Dataset]) -> None:
    with listening(tmp_path, reader=reader, destinations=()) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            _send(association, datasets)
            requests = [_request([ref]) for ref in _refs(datasets)]
            for n, request in enumerate(requests):
                assert _ask(association, request, message_id=n + 20) == 0x0000
                assert association.send_c_echo().Status == 0x0000
            assert _told(node, scu, COUNT)
    assert {i.TransactionUID for _, i in scu.reports} == {r.TransactionUID for r in requests}
    assert len(scu.reports) == COUNT


@pytest.mark.parametrize("listed_under", ["destinations", "peers"])
def test_over_an_association_of_the_nodes_own(
    tmp_path: Path, datasets: list[Dataset], listed_under: str, gone: threading.Event
) -> None:
    port = free_port()
    settings: dict[str, Any] = {"destinations": (_at(port),)}
    if listed_under == "peers":
        settings = {"destinations": (), "peers": (Peer(ae_title="MODALITY", host="127.0.0.1", port=port),)}
    with listening(tmp_path, **settings) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            _send(association, datasets)
        with scu.associated() as association:
            assert _ask(association, _request(_refs(datasets))) == 0x0000
        gone.set()
        assert wait_for(lambda: any(r["attempts"] for r in node.requests.open()))
        assert scu.reports == []
        node.requests.hurry()
        with scu.listening(port):
            assert _told(node, scu)
    ((event_type, information),) = scu.reports
    assert (event_type, _safe(information)) == (1, _refs(datasets))


def test_by_tls(tmp_path: Path, datasets: list[Dataset], gone: threading.Event) -> None:
    authority = Authority(tmp_path / "authority")
    modality = authority.issue("modality")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=modality.authorities_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(modality.certificate_file, modality.private_key_file)
    port = free_port()
    peer = Peer(ae_title="MODALITY", host="127.0.0.1", port=port, tls=True)
    tls = Settings(tls=authority.issue("node").settings()).tls  # type: ignore[arg-type]
    with listening(tmp_path / "node", tls=tls, destinations=(), peers=(peer,)) as node:
        scu = Scu(node.port)
        with scu.listening(port, context):
            with scu.associated() as association:
                assert _ask(association, _request(_refs(datasets))) == 0x0000
            gone.set()
            assert _told(node, scu)
    assert set(_failed(scu.reports[0][1]).values()) == {0x0112}


def test_only_what_is_here_and_whole(tmp_path: Path, datasets: list[Dataset]) -> None:
    (good, lost, damaged) = datasets
    other = generate_uid()
    with listening(tmp_path, destinations=()) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            _send(association, datasets)
            stored = node.instances()
            node.files.path(stored[lost.SOPInstanceUID].path).unlink()
            file = node.files.path(stored[damaged.SOPInstanceUID].path)
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
            wanted = [*_refs(datasets), (str(MRImageStorage), other)]
            assert _ask(association, _request(wanted)) == 0x0000
            assert _told(node, scu)
            assert _ask(association, _request([(str(CTImageStorage), str(good.SOPInstanceUID))])) == 0x0000
            assert _told(node, scu, 2)
    (first, second) = scu.reports
    assert first[0] == second[0] == 2
    assert _safe(first[1]) == _refs([good])
    assert _failed(first[1]) == {lost.SOPInstanceUID: 0x0112, damaged.SOPInstanceUID: 0x0110, other: 0x0112}
    assert _failed(second[1]) == {good.SOPInstanceUID: 0x0119}
    assert "ReferencedSOPSequence" not in second[1]


@pytest.mark.parametrize("durability", ["association", "none"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_not_synced_is_synced_before(
    tmp_path: Path, datasets: list[Dataset], durability: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path, durability=durability, destinations=()) as node:
        scu = Scu(node.port)
        synced: list[str] = []

        def sync(paths: Any) -> None:
            synced.extend(paths)
            if fails:
                raise OutOfResources("Input/output error")

        with scu.associated() as association:
            _send(association, datasets)
            monkeypatch.setattr(node.files, "sync", sync)
            assert _ask(association, _request(_refs(datasets))) == 0x0000
            assert _told(node, scu)
            assert sorted(synced) == sorted(i.path for i in node.instances().values())
            monkeypatch.undo()
    reasons = set(_failed(scu.reports[0][1]).values())
    assert reasons == ({0x0110} if fails else set())


@pytest.mark.parametrize(
    ("wrong", "status"),
    [("instance", 0x0112), ("action", 0x0123), ("transaction", 0x0115), ("nothing", 0x0115), ("reference", 0x0115)],
)
def test_requests_that_are_refused(tmp_path: Path, wrong: str, status: int) -> None:
    request = _request([(str(MRImageStorage), "1.2.3")])
    if wrong == "transaction":
        del request.TransactionUID
    if wrong == "nothing":
        request.ReferencedSOPSequence = []
    if wrong == "reference":
        del request.ReferencedSOPSequence[0].ReferencedSOPClassUID
    with listening(tmp_path, destinations=()) as node, Scu(node.port).associated() as association:
        how = {"instance": "1.2.3" if wrong == "instance" else "", "action": 2 if wrong == "action" else 1}
        assert _ask(association, request, **how) == status  # type: ignore[arg-type]
        assert node.requests.open() == []


def test_it_is_told_after_a_restart(
    tmp_path: Path, datasets: list[Dataset], gone: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "RETRY_FIRST_SECONDS", 3600.0)
    port = free_port()
    with listening(tmp_path, destinations=(_at(port),)) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            _send(association, datasets)
            assert _ask(association, _request(_refs(datasets))) == 0x0000
        gone.set()
        assert wait_for(lambda: any(r["attempts"] for r in node.requests.open()))
    with scu.listening(port), listening(tmp_path, destinations=(_at(port),)) as node:
        assert _told(node, scu)
    assert _safe(scu.reports[0][1]) == _refs(datasets)


def test_a_requestor_that_nobody_knows_is_named(tmp_path: Path, datasets: list[Dataset], gone: threading.Event) -> None:
    with listening(tmp_path, destinations=()) as node, capture_logs() as logs:
        with Scu(node.port).associated() as association:
            assert _ask(association, _request(_refs(datasets))) == 0x0000
        gone.set()
        assert wait_for(lambda: any(e["event"] == "commitment_not_reported" for e in logs))
        (row,) = node.requests.open()
    assert "add {ae_title: MODALITY, host: 127.0.0.1, port: ITS_PORT} to receive.peers" in row["error"]


def test_a_report_that_is_refused_is_tried_again_and_given_up_in_the_end(
    tmp_path: Path, datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "RETRY_FIRST_SECONDS", 0.05)
    port = free_port()
    with listening(tmp_path, destinations=(_at(port),)) as node, capture_logs() as logs:
        scu = Scu(node.port, answer=0x0110)
        with scu.listening(port), scu.associated() as association:
            assert _ask(association, _request(_refs(datasets))) == 0x0000
            assert wait_for(lambda: len(scu.reports) >= 3, 30)
            monkeypatch.setattr(workflow, "GIVE_UP_SECONDS", 0)
            node.requests.hurry()
            assert wait_for(lambda: any(r["given_up"] for r in node.requests.open()), 30)
    assert any("refused the report with 0x0110" in e.get("reason", "") for e in logs)
    assert len({str(i.TransactionUID) for _, i in scu.reports}) == 1


def test_the_same_transaction_again_begins_anew(tmp_path: Path, datasets: list[Dataset]) -> None:
    request = _request(_refs(datasets))
    with listening(tmp_path, destinations=()) as node:
        scu = Scu(node.port)
        with scu.associated() as association:
            assert _ask(association, request) == 0x0000
            assert _told(node, scu)
            _send(association, datasets)
            assert _ask(association, request) == 0x0000
            assert _told(node, scu, 2)
    assert [event_type for event_type, _ in scu.reports] == [2, 1]
