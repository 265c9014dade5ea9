"""DICOM TLS with mutual authentication (PS3.15 section B.12: BCP 195 with RFC 8996 and RFC 9325).

TLS 1.2 with ephemeral elliptic curves and AES-GCM, TLS 1.3 where the peer knows it; nothing older, no renegotiation,
no resumption, so that each connection proves its certificate.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Final

from dicom_node import log
from dicom_node.errors import ConfigurationError
from dicom_node.settings import TlsSettings

CIPHER_SUITES: Final = "ECDHE+AESGCM:!aNULL:@SECLEVEL=2"
"""For TLS 1.2; those of TLS 1.3 are OpenSSL's. Level 2 refuses RSA keys under 2048 bits and SHA-1 signatures."""

_FILES = ("certificate_file", "private_key_file", "authorities_file")

# OpenSSL's reasons, and what an administrator can do about them.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; is it to call the port without TLS?",
    "HTTP_REQUEST": "it speaks HTTP",
    "NO_SHARED_CIPHER": "it offers no cipher suite of BCP 195",
    "UNSUPPORTED_PROTOCOL": "it offers neither TLS 1.2 nor TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "it offers neither TLS 1.2 nor TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks neither TLS 1.2 nor TLS 1.3",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refused the handshake: does it ask for another cipher suite, or certificate?",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of the node's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refused the node's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the node's certificate has expired, it says",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refused the node's certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the node's certificate is not for this use, it says",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it got no certificate of the node's",
    "UNEXPECTED_EOF_WHILE_READING": "it ended the connection within the handshake; does it speak TLS?",
}
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
"""OpenSSL's verification errors where no known authority stands behind a certificate."""
_ANOTHER_NAME = (62, 64)

_logger = log.get("tls")


class TlsContext:
    """The TLS context of one side, made from files, and made anew once they changed. Thread-safe.

    Args:
        settings: the three files must be named.
        server: for connections that come in; else for those that go out.
        check_host: a server's certificate must name the host that was called.

    Raises:
        ConfigurationError: a file cannot be read, or is not what it should be.
    """

    def __init__(self, settings: TlsSettings, *, server: bool, check_host: bool = True) -> None:
        self._settings = settings
        self._server = server
        self._check_host = check_host
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._context = self._make()

    def get(self) -> ssl.SSLContext:
        """The context for a new connection. Files that changed and are not sound leave the one before in use."""
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._context = self._make()
                    _logger.info("tls_files_reloaded", server=self._server)
                except ConfigurationError as e:
                    _logger.error("tls_files_unusable", reason=str(e), server=self._server)
            return self._context

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(getattr(self._settings, key)) for key in _FILES)

    def _make(self) -> ssl.SSLContext:
        paths = [_readable(key, getattr(self._settings, key)) for key in _FILES]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHER_SUITES)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        if self._server:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
            context.num_tickets = 0
        else:
            context.check_hostname = self._check_host
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            # Never by asking on the terminal, as OpenSSL would.
            context.load_cert_chain(paths[0], paths[1], password=self._password)
        except ssl.SSLError as e:
            if e.reason == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(f"tls.private_key_file: {paths[1]} is not the key of {paths[0]}") from e
            raise ConfigurationError(
                f"tls.certificate_file, tls.private_key_file: {paths[0]} and {paths[1]} must be a certificate and its "
                f"key in PEM; an encrypted key needs tls.private_key_password_env ({e.reason or 'not PEM'})"
            ) from e
        try:
            context.load_verify_locations(paths[2])
        except ssl.SSLError as e:
            raise ConfigurationError(f"tls.authorities_file: {paths[2]} must hold certificates in PEM") from e
        return context

    def _password(self) -> str:
        variable = self._settings.private_key_password_env
        return os.environ.get(variable, "") if variable else ""


def tls_failure(error: OSError) -> str:
    """Why a handshake failed, for the administrator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = ""
        if error.verify_code in _UNKNOWN_AUTHORITY:
            hint = "; if it is to be believed, add its authority's certificate to tls.authorities_file"
        elif error.verify_code in _ANOTHER_NAME:
            hint = "; if it is the right one, set tls_check_host: false"
        return f"its certificate is refused: {error.verify_message.rstrip('.')}{hint}"
    if isinstance(error, TimeoutError):
        return "the handshake was not done in time"
    if isinstance(error, ssl.SSLError):
        # An end without TLS's own farewell comes without a reason.
        reason = error.reason or ("UNEXPECTED_EOF_WHILE_READING" if isinstance(error, ssl.SSLEOFError) else "")
        return _REASONS.get(reason, "") or f"TLS failed: {reason or type(error).__name__}"
    return (
        f"it ended the connection within the handshake ({error.strerror or type(error).__name__}); does it speak TLS?"
    )


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _readable(key: str, path: Path | None) -> Path:
    if path is None:
        raise ConfigurationError(f"tls.{key}: name a PEM file")
    try:
        with path.open("rb"):
            return path
    except OSError as e:
        raise ConfigurationError(f"tls.{key}: {path} cannot be read: {e.strerror}") from e
