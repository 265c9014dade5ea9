"""HTTP to another system: who we are, whom we trust, and what its refusals mean."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from dicom_node.errors import PeerError
from dicom_node.settings_peers import PeerSettings

_PIECE_BYTES = 1 << 16
_TRY_AGAIN = (408, 425, 429, 507)
_TOKEN_MARGIN_SECONDS = 30.0


class HttpPeer:
    """A session with one system's HTTP services; a context manager, for one thread.

    Credentials are read from the environment (basic, or OAuth2 client credentials), certificates from the files that
    the peer's settings name. Redirects are not followed: they would take credentials and patients elsewhere.

    Args:
        base: the URL that paths are relative to.

    Raises:
        PeerError: on construction: a credential is not in the environment (not retryable).
    """

    def __init__(self, peer: PeerSettings, base: str) -> None:
        self.peer = peer
        self.base = base.rstrip("/")
        self.name = f"{peer.name} ({self.base})"
        self._token = ""
        self._token_until = 0.0
        self._session = requests.Session()
        # A site's proxy knows no way to our own host.
        self._session.trust_env = not _is_loopback(self.base)
        if peer.ca_file:
            self._session.verify = str(peer.ca_file)
            self._session.trust_env = False  # or REQUESTS_CA_BUNDLE would go before it
        if peer.client_certificate:
            certificate = str(peer.client_certificate)
            self._session.cert = (certificate, str(peer.client_key)) if peer.client_key else certificate
        if peer.username_env and not peer.token_url:
            self._session.auth = (self._secret(peer.username_env), self._secret(peer.password_env))

    def __enter__(self) -> HttpPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Callable[[], Any] | None = None,
        accept: Collection[int] = (200,),
        **more: Any,
    ) -> requests.Response:
        """One request; the answer's status is one of ``accept``.

        Args:
            body: makes the request's body, anew should it be sent twice.
            more: as for ``requests.request``: params, headers, json, stream.

        Raises:
            PeerError: no connection, time-out, TLS trouble, a server's error or a status that passes (retryable);
                any other refusal, for example of the credentials (not retryable).
        """
        answer = self._send(method, path, body, more)
        if answer.status_code == 401 and self.peer.token_url:
            # It may have been withdrawn before its time.
            self._token = ""
            answer.close()
            answer = self._send(method, path, body, more)
        if answer.status_code in accept:
            return answer
        answer.close()
        raise PeerError(
            f"{self.name} refused {method} {_anonymous(path)} with HTTP {answer.status_code}"
            + (" (a redirect: set the URL that it leads to)" if answer.is_redirect else ""),
            retryable=answer.status_code >= 500 or answer.status_code in _TRY_AGAIN,
        )

    def json(self, answer: requests.Response) -> Any:
        """The JSON in an answer.

        Raises:
            PeerError: it holds none.
        """
        try:
            with self.translated():
                return answer.json()
        except ValueError as e:
            # A gateway's "please wait" page comes with status 200, too.
            raise PeerError(f"{self.name} did not answer in JSON") from e

    def pieces(self, answer: requests.Response) -> Iterator[bytes]:
        """The body of an answer that was asked for with ``stream=True``, piece by piece.

        Raises:
            PeerError: the connection breaks, or is silent for too long (retryable).
        """
        with answer, self.translated():
            yield from answer.iter_content(_PIECE_BYTES)

    def websocket(self, path: str, said: str = "") -> tuple[str, dict[str, str], ssl.SSLContext | None]:
        """What a WebSocket (RFC 6455) to this system is opened with: URL, headers with the credentials, TLS.

        Args:
            path: relative to the base.
            said: where the system itself says that it is. It is believed only if it is on the same host, and does
                not leave TLS: credentials go there.

        Raises:
            PeerError: no token is given, or a file with certificates holds none.
        """
        url = f"ws{self.base.removeprefix('http')}{path}"
        if said.startswith(url.partition(":")[0] + ":") and urlsplit(said).hostname == urlsplit(url).hostname:
            url = said
        headers = self._bearer()
        if isinstance(self._session.auth, tuple):
            user, password = self._session.auth
            given = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            headers = {"Authorization": f"Basic {given}"}
        if not url.startswith("wss:"):
            return url, headers, None
        peer = self.peer
        with self.translated():
            context = ssl.create_default_context(cafile=str(peer.ca_file or DEFAULT_CA_BUNDLE_PATH))
            if peer.client_certificate:
                context.load_cert_chain(peer.client_certificate, peer.client_key)
        return url, headers, context

    @property
    def is_local(self) -> bool:
        """Whether the system is on this machine: no proxy knows a way there."""
        return not self._session.trust_env and _is_loopback(self.base)

    def translated(self) -> _Translated:
        """A context in which what requests raises becomes a PeerError."""
        return _Translated(self.name, self.peer.timeout_seconds)

    def _send(
        self, method: str, path: str, body: Callable[[], Any] | None, more: Mapping[str, Any]
    ) -> requests.Response:
        arguments = {**more, "headers": {**more.get("headers", {}), **self._bearer()}}
        with self.translated():
            return self._session.request(
                method,
                f"{self.base}{path}",
                data=body() if body else None,
                timeout=self.peer.timeout_seconds,
                allow_redirects=False,
                **arguments,
            )

    def _bearer(self) -> dict[str, str]:
        """The header with the token of OAuth2 client credentials (RFC 6749 section 4.4), asked for when it is due."""
        peer = self.peer
        if not peer.token_url:
            return {}
        if not self._token or time.monotonic() >= self._token_until:
            where = f"{peer.name} ({peer.token_url})"
            form = {"grant_type": "client_credentials"} | ({"scope": peer.scope} if peer.scope else {})
            client = (self._secret(peer.client_id_env), self._secret(peer.client_secret_env))
            with _Translated(where, peer.timeout_seconds):
                answer = self._session.post(
                    peer.token_url, data=form, auth=client, timeout=peer.timeout_seconds, allow_redirects=False
                )
            if answer.status_code != 200:
                again = answer.status_code >= 500 or answer.status_code in _TRY_AGAIN
                raise PeerError(f"{where} gave no token: HTTP {answer.status_code}", retryable=again)
            try:
                given = answer.json()
                self._token = str(given["access_token"])
                lasts = float(given.get("expires_in", 300))
            except (ValueError, LookupError, TypeError, AttributeError) as e:
                raise PeerError(f"{where} gave no token: its answer is none of OAuth2") from e
            self._token_until = time.monotonic() + lasts - min(_TOKEN_MARGIN_SECONDS, lasts / 2)
        return {"Authorization": f"Bearer {self._token}"}

    def _secret(self, variable: str | None) -> str:
        if variable is None:
            return ""
        if variable not in os.environ:
            raise PeerError(f"{self.name}: {variable} is not set", retryable=False)
        return os.environ[variable]


class _Translated:
    """The one place where the exceptions of requests become ours. Their own texts may hold what was asked for."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):  # as all exceptions of requests are
            return
        if isinstance(error, requests.exceptions.SSLError):
            raise PeerError(f"{self._name}: no trusted connection: {tls_reason(error)}") from error
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            raise PeerError(f"{self._name} did not answer within {self._timeout:g} s") from error
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            raise PeerError(f"{self._name} broke off in the middle of its answer") from error
        if isinstance(error, requests.ConnectionError):
            raise PeerError(f"{self._name}: no connection: is it running?") from error
        if not isinstance(error, requests.exceptions.JSONDecodeError):
            # Settings are to blame: a URL that is none, a file with certificates that holds none.
            raise PeerError(f"{self._name} cannot be asked: {type(error).__name__}", retryable=False) from error


def tls_reason(error: BaseException) -> str:
    """What OpenSSL says, without the address and the objects that requests wraps it in."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return str(seen.reason or "TLS failed").replace("_", " ").lower()
        following = [a for a in seen.args if isinstance(a, BaseException)]
        if isinstance(seen, urllib3.exceptions.MaxRetryError) and seen.reason is not None:
            following.append(seen.reason)
        seen = seen.__cause__ or (following[0] if following else None)
    return "TLS failed"


def _anonymous(path: str) -> str:
    """A path without its query, which may name a patient."""
    return path.partition("?")[0] or "/"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
