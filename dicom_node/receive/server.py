"""Who may connect, and how: hosts that are listed, with TLS where it is asked for.

What it leans on of pynetdicom, a test checks: ``AssociationServer`` is a ``socketserver`` server whose
``finish_request`` makes the association, ``AE._servers`` are those that ``AE.shutdown`` stops, and an association's
thread waits at ``dul.to_user_queue`` for a request, and takes None for its absence.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node import log
from dicom_node.tls import TlsContext, tls_failure

_BACKLOG: Final = 128
_POLL_SECONDS: Final = 0.1
_SLACK: Final = 10
"""So many connections more than associations: who asks for one too many is told so, who floods is not."""

_logger = log.get("receive")


class Hosts:
    """The hosts that may connect; this machine always may.

    Args:
        networks: addresses or networks, IPv4 or IPv6.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(n) for n in networks]

    def admits(self, address: str) -> bool:
        """Whether the address may connect."""
        host = _host(address)
        return host.is_loopback or any(host.version == n.version and host in n for n in self._networks)


class Server(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is not read by mypy
    """Accepts connections at one address; each goes its way in threads of its own, the TLS handshake too.

    Args:
        contexts: copied for each association.
        most: associations that may be open at the same time.
        most_per_peer: likewise, from one address.
        tls: None: without TLS.
        handshake_seconds: so long a TLS handshake may take.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True
    request_queue_size = _BACKLOG

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        contexts: Sequence[PresentationContext],
        handlers: Sequence[Any],
        *,
        hosts: Hosts,
        most: int,
        most_per_peer: int,
        tls: TlsContext | None,
        handshake_seconds: float,
    ) -> None:
        self._hosts = hosts
        self._most = most + _SLACK
        self._most_per_peer = most_per_peer + _SLACK
        self._pending: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        super().__init__(ae, address, ae.ae_title, list(contexts), evt_handlers=list(handlers))

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    @property
    def is_tls(self) -> bool:
        """Whether connections are TLS."""
        return self._tls is not None

    def start(self) -> None:
        """Accept, in a thread, until the AE is shut down."""
        threading.Thread(
            target=self.serve_forever, args=(_POLL_SECONDS,), name=f"server-{self.port}", daemon=True
        ).start()
        self.ae._servers.append(self)

    def verify_request(self, _request: socket.socket, client_address: Any) -> bool:
        """Whether the host may connect at all: of others nothing is read."""
        address = str(client_address[0])
        if not self._hosts.admits(address):
            self._refuse(address, "the host is not listed", f'add "{_host(address)}" to receive.calling_hosts')
            return False
        with self._counting:
            open_ones = Counter(self._pending)
            open_ones.update(a.requestor.address for a in self.active_associations)
            if open_ones[address] >= self._most_per_peer:
                limit = "receive.maximum_associations_per_peer"
            elif open_ones.total() >= self._most:
                limit = "receive.maximum_associations"
            else:
                self._pending[address] += 1
                return True
        self._refuse(address, "there are too many connections", f"raise {limit}, or let it end some")
        return False

    def finish_request(self, request: socket.socket, client_address: Any) -> None:
        """Make an association of the connection, after the TLS handshake."""
        address = str(client_address[0])
        try:
            if self._tls is not None:
                try:
                    request.settimeout(self._handshake_seconds)
                    request = self._tls.get().wrap_socket(request, server_side=True)
                except OSError as e:
                    self.shutdown_request(request)
                    self._refuse(address, tls_failure(e))
                    return
            super().finish_request(request, client_address)
        finally:
            with self._counting:
                self._pending[address] -= 1

    def _refuse(self, address: str, reason: str, to_admit: str = "") -> None:
        hint = {"to_admit": to_admit} if to_admit else {}
        _logger.warning("connection_refused", address=address, port=self.port, reason=reason, **hint)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """A connection failed before there was an association: it ends, and the others go on."""
        _logger.warning("connection_failed", address=str(client_address[0]), port=self.port)


def on_connection_closed(event: Any) -> None:
    """Let go of a connection that was closed before it asked for an association (pynetdicom's ``EVT_CONN_CLOSE``).

    pynetdicom would wait for its request until the time for that is over, and it would count as open all that while.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def drop(association: Any) -> None:
    """End a connection that has not come to an association, which pynetdicom cannot abort."""
    association.dul.kill_dul()
    association.dul.socket._shutdown_socket()
    association.dul.to_user_queue.put(None)  # its thread waits for a request


def certificate_subject(connection: socket.socket) -> str:
    """The common name in a TLS peer's certificate; empty without TLS, or where it has none."""
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    subject: Any = (connection.getpeercert() or {}).get("subject", ())
    return next((value for part in subject for key, value in part if key == "commonName"), "")


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # A listener on "::" knows IPv4 peers as ::ffff:10.0.0.7; a link-local address carries its interface.
    host = ipaddress.ip_address(address.partition("%")[0])
    return getattr(host, "ipv4_mapped", None) or host
