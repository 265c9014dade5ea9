"""The settings of other systems: where results go, where studies are pulled from, how their HTTP is reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~][ -\[\]-~]*$")]

_DIMSE = ("ae_title", "host", "port")


class Section(BaseModel):
    """A part of the settings: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(Section):
    """Who the node is to its peers in DICOM TLS, and whom it believes; for what comes in and what goes out.

    The files are PEM. They are read again at the next connection after they changed.
    """

    certificate_file: Path | None = None
    """The node's certificate, followed by those between it and its authority."""
    private_key_file: Path | None = None
    """The certificate's key."""
    private_key_password_env: str | None = None
    """Environment variable that holds the key's password."""
    authorities_file: Path | None = None
    """Certificates of the authorities that peers' certificates must come from."""


class _Identified(Section):
    """To whom the node can show who it is."""

    _identity: TlsSettings = PrivateAttr(default_factory=TlsSettings)

    @property
    def identity(self) -> TlsSettings:
        """The node's own: the settings' section ``tls``."""
        return self._identity


class Peer(_Identified):
    """Where an application entity listens."""

    ae_title: AETitle
    host: str
    port: int = Field(ge=1, le=65535)
    tls: bool = False
    """Reach it by DICOM TLS, with the identity that ``tls`` says."""
    tls_check_host: bool = True
    """Its certificate must name ``host``. False where devices' certificates name none."""


class PeerSettings(_Identified):
    """Another system: by DIMSE at an AE title, host and port, by HTTP at a URL, or both."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    ae_title: AETitle | None = None
    host: str | None = None
    port: int | None = Field(None, ge=1, le=65535)
    tls: bool = False
    """Reach it by DICOM TLS, with the identity that ``tls`` says."""
    tls_check_host: bool = True
    """Its certificate must name ``host``. False where devices' certificates name none."""
    calling_ae_title: AETitle | None = None
    """None: the node's own AE title."""
    dicomweb_url: str | None = Field(None, pattern=r"^https?://")
    """What DICOMweb's resources are relative to, without /studies."""
    orthanc_url: str | None = Field(None, pattern=r"^https?://")
    """Orthanc's own REST API."""
    username_env: str | None = None
    """Environment variable that holds the HTTP user name."""
    password_env: str | None = None
    """Environment variable that holds the HTTP password."""
    token_url: str | None = Field(None, pattern=r"^https?://")
    """Where OAuth2 client credentials (RFC 6749 section 4.4) are given for a token."""
    client_id_env: str | None = None
    """Environment variable that holds the OAuth2 client id."""
    client_secret_env: str | None = None
    """Environment variable that holds the OAuth2 client secret."""
    scope: str = ""
    """OAuth2 scope to ask for."""
    ca_file: Path | None = None
    """PEM file of the authorities that the peer's certificate is checked with. None: the usual public ones."""
    client_certificate: Path | None = None
    """PEM file with the certificate that the node shows (mutual TLS)."""
    client_key: Path | None = None
    """PEM file with its key, unless that is in ``client_certificate`` too."""
    timeout_seconds: float = Field(30, gt=0)
    """For each network operation."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it) for all that one key alone does not show."""
        for key in ("username_env", "password_env", "client_id_env", "client_secret_env"):
            variable = getattr(self, key)
            if variable and variable not in os.environ:
                yield key, f"{variable} is not set"
        if self.token_url:
            yield from (
                (key, "needed for token_url")
                for key in ("client_id_env", "client_secret_env")
                if not getattr(self, key)
            )
        if self.client_key:
            yield from self.lacks("client_key", "client_certificate")
        if self.tls:
            yield from self.lacks("tls", *_DIMSE)
        for key in ("ca_file", "client_certificate", "client_key"):
            file = getattr(self, key)
            if file and not os.access(file, os.R_OK):
                yield key, f"{file} cannot be read"

    def lacks(self, what: str, *keys: str) -> Iterator[tuple[str, str]]:
        """Those of the keys that are not set, though ``what`` needs them."""
        return ((key, f"needed for {what}") for key in keys if getattr(self, key) is None)


class Destination(PeerSettings):
    """One place that results go to."""

    kind: Literal["dimse", "stow", "orthanc"] = "dimse"
    """How objects are sent: C-STORE, STOW-RS to ``dicomweb_url``, or Orthanc's REST API at ``orthanc_url``."""
    confirm: Literal["none", "find", "qido", "orthanc"] = "none"
    """How arrival is confirmed: C-FIND, QIDO-RS at ``dicomweb_url``, or Orthanc's REST API at ``orthanc_url``."""
    results: tuple[Literal["seg", "sr", "contours", "sc", "pdf"], ...] = Field(("seg", "sr", "sc"), min_length=1)
    """Which objects go there: segmentation, measurement report, contour report, Secondary Capture, Encapsulated PDF."""
    seg_encoding: Literal["binary", "labelmap", "labelmap_rle", "labelmap_jls"] = "binary"
    """How the segmentation is written that goes there: BINARY, or as a label map, native or compressed."""
    batch_mb: float = Field(50, gt=0)
    """STOW-RS: a request holds no more, unless one object alone does."""
    orthanc_label: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """Label that the study gets with its results. An Orthanc before 1.12 knows none, and gets none."""
    orthanc_metadata: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """Metadata of the study (a number from 1024 on, or a name that Orthanc was told) that then names the results."""
    retry_first_seconds: float = Field(5, gt=0)
    """Wait before the second attempt; doubles each time."""
    retry_longest_seconds: float = Field(900, gt=0)
    """The wait never grows beyond this."""
    give_up_hours: float = Field(72, gt=0)
    """After so long without success the delivery has failed."""

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return {
            "dimse": f"{self.ae_title}@{self.host}:{self.port}",
            "stow": f"{self.dicomweb_url} (STOW-RS)",
            "orthanc": f"{self.orthanc_url} (Orthanc)",
        }[self.kind]

    def problems(self) -> Iterator[tuple[str, str]]:
        """As for each peer, and what the kind and the confirmation need."""
        yield from super().problems()
        needed = {"dimse": _DIMSE, "stow": ("dicomweb_url",), "orthanc": ("orthanc_url",)}
        yield from self.lacks(f"kind: {self.kind}", *needed[self.kind])
        asked = {"none": (), "find": _DIMSE, "qido": ("dicomweb_url",), "orthanc": ("orthanc_url",)}
        yield from self.lacks(f"confirm: {self.confirm}", *asked[self.confirm])


class Source(PeerSettings):
    """One archive that studies are pulled from."""

    kind: Literal["dimse", "dicomweb", "orthanc"] = "dimse"
    """How it is asked: C-FIND and ``retrieve``, QIDO-RS and WADO-RS at ``dicomweb_url``, or Orthanc's REST API."""
    retrieve: Literal["move", "get"] = "move"
    """dimse: C-MOVE, for which the archive must know the node's AE title and port, or C-GET."""
    follow: bool = False
    """orthanc: pull each study that becomes stable."""
    follow_from: Literal["now", "beginning"] = "now"
    """Where following starts the first time; later it goes on where it was."""
    query_days: int = Field(0, ge=0)
    """Pull the studies of so many days up to today, on a schedule. 0: none."""
    query_modalities: tuple[str, ...] = ()
    """Of these modalities only. Empty: of all."""
    every_seconds: float = Field(60, gt=0)
    """How often the archive is asked for what is new, where it is followed or queried on a schedule."""
    counts: bool = True
    """Ask it how many instances the studies have that come from it, to know when they are whole."""
    counts_for: tuple[AETitle, ...] = ()
    """Calling AE titles of others whose studies it has too, and is asked about."""
    priors: bool = True
    """Ask it for prior studies of a patient, where an algorithm wants them and the node has none."""
    retry_first_seconds: float = Field(30, gt=0)
    """Wait before a pull that failed is tried again; doubles each time."""
    retry_longest_seconds: float = Field(900, gt=0)
    """The wait never grows beyond this."""
    give_up_hours: float = Field(72, gt=0)
    """After so long without success the pull has failed."""

    @property
    def own_title(self) -> str:
        """The calling AE title that what is pulled from it is kept under."""
        return (self.ae_title or self.name)[:16]

    @property
    def senders(self) -> tuple[str, ...]:
        """The calling AE titles whose studies it is asked about."""
        return (self.own_title, *self.counts_for)

    def problems(self) -> Iterator[tuple[str, str]]:
        """As for each peer, and what the kind needs."""
        yield from super().problems()
        needed = {"dimse": _DIMSE, "dicomweb": ("dicomweb_url",), "orthanc": ("orthanc_url",)}
        yield from self.lacks(f"kind: {self.kind}", *needed[self.kind])
        if self.counts_for and not self.counts:
            yield "counts_for", "nothing is counted with counts: false; remove one of the two"
        if self.follow and self.kind != "orthanc":
            yield "follow", "only an Orthanc (kind: orthanc) can be followed; others are queried with query_days"
