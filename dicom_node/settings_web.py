"""The settings of the node's own HTTP services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from dicom_node.settings_peers import Section

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DicomwebSettings(Section):
    """The STOW-RS service; it runs only when it is enabled."""

    enabled: bool = False
    host: str = "127.0.0.1"
    """Address to listen on. Loopback until opened on purpose, and then only with authentication."""
    port: int = Field(11180, ge=0, le=65535)
    """0 lets the system choose; the chosen port is logged."""
    username_env: str | None = None
    """Environment variable that holds the user name that senders must give."""
    password_env: str | None = None
    """Environment variable that holds their password."""
    token_env: str | None = None
    """Environment variable that holds the bearer token that senders may give instead."""
    certificate: Path | None = None
    """PEM file with the service's certificate. None: no TLS."""
    key: Path | None = None
    """PEM file with its key, unless that is in ``certificate`` too."""
    client_ca_file: Path | None = None
    """PEM file of the authorities whose certificates senders must show (mutual TLS)."""
    maximum_requests: int = Field(20, ge=1, le=1000)
    """More at a time are answered 503."""
    idle_seconds: float = Field(60, gt=0)
    """A request of which nothing comes for so long is ended."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in _LOOPBACK

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it) for all that one key alone does not show."""
        for key in ("username_env", "password_env", "token_env"):
            variable = getattr(self, key)
            if variable and not os.environ.get(variable):
                yield key, f"{variable} is not set"
        for one, other in (("username_env", "password_env"), ("password_env", "username_env")):
            if getattr(self, one) and not getattr(self, other):
                yield other, f"needed for {one}"
        for key in ("key", "client_ca_file"):
            if getattr(self, key) and not self.certificate:
                yield "certificate", f"needed for {key}"
        for key in ("certificate", "key", "client_ca_file"):
            file = getattr(self, key)
            if file and not os.access(file, os.R_OK):
                yield key, f"{file} cannot be read"
        if not (self.on_loopback or self.username_env or self.token_env or self.client_ca_file):
            yield (
                "username_env",
                f"set it with password_env, or token_env, or client_ca_file: dicomweb.host {self.host} is reachable "
                "from other machines",
            )
