"""Authorities and certificates of one test's own."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """Files of one side, as the section ``tls`` of the settings wants them."""

    certificate_file: Path
    private_key_file: Path
    authorities_file: Path

    def settings(self) -> dict[str, Path]:
        return dict(vars(self))


class Authority:
    """A root that issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / f"{name}.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(self._name, self._name, self._key, days=10).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        _write(self.file, made.sign(self._key, hashes.SHA256()))

    def issue(
        self, name: str, *, host: str = "127.0.0.1", days: int = 5, is_rsa: bool = False, password: str = ""
    ) -> Identity:
        """A certificate for a host; ``days`` below 0: it has expired."""
        key: _Key
        key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        try:
            at: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            at = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _builder(subject, self._name, key, days=days).add_extension(
            x509.SubjectAlternativeName([at]), critical=False
        )
        files = Identity(self.folder / f"{name}.crt", self.folder / f"{name}.key", self.file)
        _write(files.certificate_file, made.sign(self._key, hashes.SHA256()))
        hidden = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        files.private_key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        )
        return files


def _builder(subject: x509.Name, issuer: x509.Name, key: _Key, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=20))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _write(file: Path, certificate: x509.Certificate) -> None:
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
