"""Associations with a peer, as storage and query SCU."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext, build_context, build_role

from dicom_node import checkpoint
from dicom_node.errors import ConfigurationError, PeerError
from dicom_node.peer.outcomes import none_accepted, rejection
from dicom_node.settings_peers import PeerSettings
from dicom_node.tls import TlsContext, tls_failure

MAXIMUM_CONTEXTS = 128
"""Presentation context IDs are the odd numbers up to 255 (PS3.8 section 9.3.2.2)."""


def peer_name(peer: PeerSettings) -> str:
    """How messages name a peer: ``name (AET@host:port)``."""
    return f"{peer.name} ({peer.ae_title}@{peer.host}:{peer.port})"


class _TlsSocket(ssl.SSLSocket):
    """Remembers why it did not connect: pynetdicom only says that it did not."""

    failure: OSError | None = None

    def connect(self, address: Any) -> None:
        try:
            super().connect(address)
        except OSError as e:
            self.failure = e
            raise


class _Entity(AE):  # type: ignore[misc]  # pynetdicom is not read by mypy
    """An AE that closes its connections itself.

    pynetdicom shuts a socket down before it closes it, and skips the close where there is nothing to shut down: after
    a refused connection, or one that the peer ended. A node that waits for a PACS for days must not leave that
    to the garbage collector.
    """

    connection: socket.socket | None = None

    def _create_socket(self, *args: Any) -> Any:
        wrapped = super()._create_socket(*args)
        self.connection = wrapped.socket
        return wrapped

    def tls(self, peer: PeerSettings) -> tuple[Any, str | None]:
        """What pynetdicom wants for TLS: what wraps the socket, and the name to ask for."""
        tls = TlsContext(peer.identity, server=False, check_host=peer.tls_check_host)
        self._context = tls.get()
        self._context.sslsocket_class = _TlsSocket
        return self, peer.host

    def wrap_socket(self, plain: socket.socket, **how: Any) -> ssl.SSLSocket:
        """What pynetdicom asks of a TLS context."""
        secured = self._context.wrap_socket(plain, **how)
        self.connection = secured
        return secured

    @property
    def handshake_failure(self) -> str:
        """Why the TLS handshake failed; empty if it did not, or was not come to."""
        failure = getattr(self.connection, "failure", None)
        return tls_failure(failure) if isinstance(failure, ssl.SSLError | ConnectionResetError) else ""

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


@contextlib.contextmanager
def associate(
    peer: PeerSettings,
    calling_ae_title: str,
    contexts: Sequence[tuple[str, str]],
    *,
    as_scp: Sequence[str] = (),
    receives: Mapping[str, Sequence[str]] | None = None,
    on_store: Callable[[Any], Any] | None = None,
) -> Iterator[Any]:
    """An established pynetdicom Association; released at the end, aborted when the block raises.

    Args:
        contexts: (abstract syntax UID, transfer syntax UID) pairs, at most 128; each is proposed by itself,
            so that the peer accepts or refuses exactly that pair.
        as_scp: abstract syntaxes of which we are the SCP, though we request the association (PS3.7 section D.3.3.4).
        receives: Transfer Syntax UIDs by SOP Class UID for which we are storage SCP on this association, for C-GET
            (PS3.7 section D.3.3.4).
        on_store: takes what then comes: pynetdicom's handler of EVT_C_STORE.

    Raises:
        PeerError: no connection, rejected, aborted, timed out (retryable but for a permanent rejection),
            or none of the contexts accepted (not retryable).
    """
    ae = _Entity(ae_title=peer.calling_ae_title or calling_ae_title)
    try:
        receives = receives or {}
        association = _request(ae, peer, _proposed(contexts, receives), (*as_scp, *receives), on_store)
        with _ended(association):
            yield association
    finally:
        ae.close()


def _request(
    ae: _Entity,
    peer: PeerSettings,
    proposed: list[PresentationContext],
    as_scp: Iterable[str],
    on_store: Callable[[Any], Any] | None,
) -> Any:
    name, timeout = peer_name(peer), peer.timeout_seconds
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout
    # Every wait is bounded by these three; a fourth clock would only hide which of them ran out.
    ae.network_timeout = None
    opened: list[bool] = []
    rejections: list[A_ASSOCIATE_RJ] = []

    def on_open(event: Any) -> None:
        opened.append(True)
        connection = event.assoc.dul.socket.socket
        # Nagle's algorithm and the peer's delayed ACK cost 20 to 60 ms an object.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # pynetdicom sets none: a peer that stops reading would hold the sending thread for ever.
        connection.settimeout(timeout)

    def on_pdu(event: Any) -> None:
        # pynetdicom overlooks a rejection that has come, and closed the socket, before the thread that asked woke up.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    handlers = [(evt.EVT_CONN_OPEN, on_open), (evt.EVT_PDU_RECV, on_pdu)]
    started = time.monotonic()
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            contexts=proposed,
            ae_title=peer.ae_title,
            ext_neg=[build_role(uid, scp_role=True) for uid in as_scp],
            tls_args=ae.tls(peer) if peer.tls else None,
            evt_handlers=[*handlers, *([(evt.EVT_C_STORE, on_store)] if on_store else [])],
        )
    except socket.gaierror as e:
        raise PeerError(f"{name}: the host name cannot be resolved: {e.strerror}") from e
    except ConfigurationError as e:
        raise PeerError(f"{name}: {e}") from e
    if not association.is_established:
        if ae.handshake_failure:
            raise PeerError(f"{name}: TLS failed: {ae.handshake_failure}")
        if rejections:
            raise rejection(name, rejections[0].result, rejections[0].source, rejections[0].reason_diagnostic)
        late = time.monotonic() - started >= timeout
        error = _not_established(association, name, bool(opened), f"within {timeout:g} s" if late else "")
        if peer.tls and opened and error.retryable:
            # With TLS 1.3 a server says no to a certificate only when the client believes that all is well.
            raise PeerError(f"{error}; does it accept the certificate of tls.certificate_file?")
        raise error
    checkpoint.guard(association)
    return association


@contextlib.contextmanager
def _ended(association: Any) -> Iterator[None]:
    """Release at the end; abort when the block raises."""
    try:
        yield
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def _proposed(contexts: Sequence[tuple[str, str]], receives: Mapping[str, Sequence[str]]) -> list[PresentationContext]:
    proposed = [build_context(abstract, transfer) for abstract, transfer in contexts]
    proposed += [build_context(abstract, list(transfers)) for abstract, transfers in receives.items()]
    for index, context in enumerate(proposed):
        context.context_id = 2 * index + 1
    return proposed


def _not_established(association: Any, peer: str, opened: bool, waited: str) -> PeerError:
    if not opened:
        return PeerError(f"{peer}: no connection {waited}".rstrip() + ": is it running?")
    if association.rejected_contexts:
        refused = ((str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.rejected_contexts)
        return none_accepted(peer, refused)
    if waited:
        return PeerError(f"{peer} did not answer the association request {waited}")
    return PeerError(f"{peer} ended the connection before it accepted the association")
