"""Who is let in, what the log says of those who are not, and how long one may take."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from structlog.testing import capture_logs

from dicom_node.errors import ConfigurationError
from dicom_node.receive.server import Hosts
from dicom_node.settings import TlsSettings
from dicom_node.testing.bytes_peer import ASSOCIATE_RQ, BytesPeer, associate_rq, c_store_rq, p_data, pdu
from tests.certificates import Authority, Identity
from tests.listening import READERS, WAYS, Listening, listening, wait_for

MR = (1, str(MRImageStorage), str(ExplicitVRLittleEndian))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Iterator[Listening]:
    """A listener with a port of each kind."""
    tls = TlsSettings(**authority.issue("node").settings())
    with listening(tmp_path / "node", tls=tls, tls_port=0) as node:
        yield node


def _context(identity: Identity, *, shows: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=identity.authorities_file)
    if shows:
        context.load_cert_chain(identity.certificate_file, identity.private_key_file)
    return context


def _secured(port: int, context: ssl.SSLContext) -> BytesPeer:
    peer = BytesPeer("127.0.0.1", port)
    try:
        peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
    except OSError:
        peer.socket.close()
        raise
    return peer


def _refusals(logs: list[Any]) -> list[Any]:
    return [e for e in logs if e["event"] in ("connection_refused", "association_rejected")]


def _refusal(logs: list[Any]) -> Any:
    assert wait_for(lambda: bool(_refusals(logs)))
    (refusal,) = _refusals(logs)
    return refusal


@pytest.mark.parametrize(
    ("networks", "address", "admitted"),
    [
        ((), "127.0.0.1", True),
        ((), "::1", True),
        ((), "10.0.0.7", False),
        (("10.0.0.7",), "10.0.0.7", True),
        (("10.0.0.7",), "10.0.0.8", False),
        (("10.0.0.0/24",), "10.0.0.8", True),
        (("10.0.0.0/24",), "10.0.1.8", False),
        (("10.0.0.0/24",), "::ffff:10.0.0.8", True),
        (("10.0.0.0/24",), "127.0.0.1", True),
        (("0.0.0.0/0",), "fe80::1%eth0", False),
        (("fe80::/10",), "fe80::1%eth0", True),
    ],
)
def test_hosts(networks: tuple[str, ...], address: str, admitted: bool) -> None:
    assert Hosts(networks).admits(address) is admitted


def test_a_host_that_is_not_listed_is_not_listened_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", property(lambda _: False))
    with listening(tmp_path / "a", calling_hosts=("10.0.0.0/8",)) as node, capture_logs() as logs:
        with BytesPeer("127.0.0.1", node.port) as peer:
            assert peer.closed_by_peer()
        refusal = _refusal(logs)
    assert (refusal["address"], refusal["port"]) == ("127.0.0.1", node.listener.port or refusal["port"])
    assert refusal["to_admit"] == 'add "127.0.0.1" to receive.calling_hosts'
    with listening(tmp_path / "b", calling_hosts=("127.0.0.1",)) as node, node.connect() as peer:
        peer.associate([MR])


@pytest.mark.parametrize(
    ("called", "calling", "to_admit"),
    [
        ("NODE", "OTHER", 'add "OTHER" to receive.calling_ae_titles'),
        ("WRONG", "SCANNER", 'call "NODE" there, or set receive.require_called_ae_title: false'),
    ],
)
def test_a_refused_association_is_told_what_to_add(tmp_path: Path, called: str, calling: str, to_admit: str) -> None:
    settings = {"calling_ae_titles": ("SCANNER",), "require_called_ae_title": True, "ae_title": "NODE"}
    with listening(tmp_path, **settings) as node, node.connect() as peer, capture_logs() as logs:
        with pytest.raises(ConnectionError, match="type 3"):
            peer.associate([MR], called=called, calling=calling)
        refusal = _refusal(logs)
    assert (refusal["calling"], refusal["called"], refusal["to_admit"]) == (calling, called, to_admit)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"maximum_associations": 1}, "receive.maximum_associations,"),
        ({"maximum_associations_per_peer": 1}, "receive.maximum_associations_per_peer,"),
    ],
)
def test_a_limit_that_is_reached_is_named(tmp_path: Path, settings: dict[str, int], key: str) -> None:
    with listening(tmp_path, **settings) as node, node.connect() as first, node.connect() as second:
        first.associate([MR])
        with capture_logs() as logs:
            with pytest.raises(ConnectionError, match="type 3"):
                second.associate([MR])
            assert f"raise {key}" in _refusal(logs)["to_admit"]


def test_both_ports_at_once(secured: Listening, authority: Authority) -> None:
    with secured.connect() as plain, _secured(secured.listener.tls_port, _context(authority.issue("ct"))) as by_tls:
        plain.associate([MR])
        by_tls.associate([MR])
        assert len(secured.listener.associations) == 2


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("no certificate", "it showed no certificate"),
        ("another authority", "add its authority's certificate to tls.authorities_file"),
        ("expired", "certificate has expired"),
        ("TLS 1.1", "it offers neither TLS 1.2 nor TLS 1.3"),
        ("RSA key exchange", "it offers no cipher suite of BCP 195"),
        ("no TLS", "it does not speak TLS"),
    ],
)
def test_who_may_not_come_by_tls(
    secured: Listening, authority: Authority, who: str, reason: str, tmp_path: Path
) -> None:
    port = secured.listener.tls_port
    identity = authority.issue("client", days=-1 if who == "expired" else 5)
    if who == "another authority":
        other = Authority(tmp_path / "other", "other").issue("client")
        identity = Identity(other.certificate_file, other.private_key_file, authority.file)
    context = _context(identity, shows=who != "no certificate")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # later, the client hears of the refusal only when it reads
    if who == "TLS 1.1":
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    if who == "RSA key exchange":
        context.set_ciphers("AES128-GCM-SHA256")
    with capture_logs() as logs:
        if who == "no TLS":
            with BytesPeer("127.0.0.1", port) as peer, pytest.raises(OSError, match=r".*"):
                peer.associate([MR])
        else:
            with pytest.raises(OSError, match=r".*"):
                _secured(port, context).associate([MR])
        refusal = _refusal(logs)
    assert (refusal["port"], refusal["address"]) == (port, "127.0.0.1")
    assert reason in refusal["reason"]
    assert secured.listener.associations == []
    with _secured(port, _context(authority.issue("good"))) as peer:
        peer.associate([MR])


def test_a_tls_peer_at_the_plain_port_is_told_apart(secured: Listening, authority: Authority) -> None:
    with capture_logs() as logs:
        with pytest.raises(OSError, match=r".*"):
            _secured(secured.port, _context(authority.issue("ct")))
        refusal = _refusal(logs)
    assert (refusal["reason"], refusal["to_admit"]) == (
        "it speaks TLS, and this port does not",
        "call receive.tls_port there",
    )


def test_new_certificates_without_a_restart(secured: Listening, authority: Authority, tmp_path: Path) -> None:
    port = secured.listener.tls_port
    old = authority.issue("ct")

    def shown(identity: Identity) -> bytes:
        with _secured(port, _context(identity)) as peer:
            peer.associate([MR])
            certificate = peer.socket.getpeercert(True)  # type: ignore[attr-defined]
            assert certificate
            return bytes(certificate)

    before = shown(old)
    assert shown(old) == before
    key = authority.issue("node").private_key_file
    assert shown(old) != before

    # What is not sound leaves the one before in use.
    current = shown(old)
    good = key.read_bytes()
    key.write_text("half-writ")
    with capture_logs() as logs:
        assert shown(old) == current
        assert shown(old) == current
    assert [e["event"] for e in logs if e["event"].startswith("tls")] == ["tls_files_unusable"]
    key.write_bytes(good)

    # Another authority: who was believed is believed no longer.
    other = Authority(tmp_path / "new", "new")
    new, ct = other.issue("node"), other.issue("ct")
    for at in ("certificate_file", "private_key_file", "authorities_file"):
        os.replace(getattr(new, at), authority.folder / {"a": "authority.pem", "c": "node.crt", "p": "node.key"}[at[0]])
    with pytest.raises(OSError, match=r".*"):
        shown(old)
    assert shown(Identity(ct.certificate_file, ct.private_key_file, authority.file)) != current


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("absent", "tls.certificate_file: .* cannot be read: No such file"),
        (
            "not a certificate",
            "tls.certificate_file, tls.private_key_file: .* must be a certificate and its key in PEM",
        ),
        ("another key", "tls.private_key_file: .* is not the key of"),
        ("no authorities", "tls.authorities_file: .* must hold certificates in PEM"),
        ("password", "an encrypted key needs tls.private_key_password_env"),
    ],
)
def test_what_is_wrong_with_the_files_stops_the_start(
    tmp_path: Path, authority: Authority, wrong: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = authority.issue("node", password="secret" if wrong == "password" else "")
    files = identity.settings()
    spoilt: dict[str, Callable[[], Any]] = {
        "absent": files["certificate_file"].unlink,
        "not a certificate": lambda: files["certificate_file"].write_text("none"),
        "another key": lambda: files["private_key_file"].write_bytes(
            authority.issue("other").private_key_file.read_bytes()
        ),
        "no authorities": lambda: files["authorities_file"].write_text("none"),
        "password": lambda: None,
    }
    spoilt[wrong]()
    with (
        pytest.raises(ConfigurationError, match=words),
        listening(tmp_path / "node", tls=TlsSettings(**files), tls_port=0),
    ):
        pass
    if wrong == "password":
        monkeypatch.setenv("KEY_PASSWORD", "secret")
        with listening(
            tmp_path / "node", tls=TlsSettings(**files, private_key_password_env="KEY_PASSWORD"), tls_port=0
        ) as node:
            assert node.listener.tls_port


@pytest.mark.parametrize("reader", WAYS)
def test_a_message_that_trickles_is_cut_off(tmp_path: Path, reader: str) -> None:
    with listening(tmp_path, reader=reader, message_seconds=1) as node:
        with node.connect() as peer:
            peer.associate([MR])
            assert wait_for(lambda: any(a.is_established for a in node.listener.associations))
            head = p_data(1, c_store_rq(1, MR[1], "1.2.3"), command=True)
            trickle = b"".join(p_data(1, b"x", last=False) for _ in range(10_000))
            assert _ended_while_sending(peer, head, trickle) < 8
        assert wait_for(lambda: not node.listener.associations)
        assert node.is_clean()


@pytest.mark.parametrize("reader", READERS)
def test_a_pdu_that_trickles_is_cut_off(tmp_path: Path, reader: str) -> None:
    with listening(tmp_path, reader=reader, message_seconds=1) as node:
        with node.connect() as peer:
            peer.associate([MR])
            assert wait_for(lambda: any(a.is_established for a in node.listener.associations))
            head = p_data(1, c_store_rq(1, MR[1], "1.2.3"), command=True)
            assert _ended_while_sending(peer, head, p_data(1, bytes(1 << 20))) < 8
        assert wait_for(lambda: not node.listener.associations)


def _ended_while_sending(peer: BytesPeer, head: bytes, trickle: bytes) -> float:
    """Seconds until the peer ended the connection."""
    started = time.monotonic()
    peer.socket.settimeout(0.05)
    try:
        peer.send(head)
        for at in range(0, len(trickle), 7):
            peer.send(trickle[at : at + 7])
            try:
                if not peer.socket.recv(1):
                    break
            except TimeoutError:
                assert time.monotonic() - started < 30, "it is never cut off"
    except OSError:
        pass  # a reset: the end, too
    return time.monotonic() - started


@pytest.mark.parametrize("reader", WAYS)
@pytest.mark.parametrize("sent", [b"", b"\x01", associate_rq([MR])[:100]])
def test_who_does_not_come_to_the_point_is_cut_off(tmp_path: Path, reader: str, sent: bytes) -> None:
    with listening(tmp_path, reader=reader, artim_seconds=0.5) as node:
        with node.connect() as peer:
            peer.send(sent)
            assert peer.closed_by_peer()
        assert wait_for(lambda: not node.listener.associations)


def test_a_tls_handshake_that_is_not_begun_is_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path, reader="fast over TLS", artim_seconds=0.5) as node, capture_logs() as logs:
        with socket.create_connection(("127.0.0.1", node.port), 10) as silent, node.connect() as good:
            # Nobody waits for it.
            good.associate([MR])
            assert silent.recv(1) == b""
        assert _refusal(logs)["reason"] == "the handshake was not done in time"


@pytest.mark.parametrize("reader", READERS)
def test_a_request_that_claims_to_be_huge_takes_no_memory(tmp_path: Path, reader: str) -> None:
    with listening(tmp_path, reader=reader) as node, node.connect() as peer:
        peer.send(pdu(ASSOCIATE_RQ, b"")[:2] + (0xFFFFFFFF).to_bytes(4) + bytes(100))
        assert peer.closed_by_peer()


@pytest.mark.parametrize("reader", READERS)
def test_who_only_connects_keeps_nobody_out(tmp_path: Path, reader: str) -> None:
    """Connections beyond the limit are cut off; those that are let in take no association away."""
    with (
        listening(tmp_path, reader=reader, maximum_associations=2, maximum_associations_per_peer=2) as node,
        capture_logs() as logs,
        contextlib.ExitStack() as opened,
    ):
        idle = [opened.enter_context(BytesPeer("127.0.0.1", node.port)) for _ in range(5)]
        with node.connect() as good:
            good.associate([MR])
            good.release()
        idle += [opened.enter_context(BytesPeer("127.0.0.1", node.port)) for _ in range(20)]
        assert idle[-1].closed_by_peer()
        assert wait_for(lambda: len(_refusals(logs)) >= 13)
        assert {r["to_admit"] for r in _refusals(logs)} == {
            "raise receive.maximum_associations_per_peer, or let it end some"
        }
        for peer in idle:
            peer.socket.close()
        assert wait_for(lambda: not node.listener.associations, 20)
        with node.connect() as good:
            good.associate([MR])
