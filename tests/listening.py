"""A listener on a free port of 127.0.0.1, with a store of its own."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.model.instance import Instance
from dicom_node.receive.commitment import CommitmentScp
from dicom_node.receive.dimse import Listener
from dicom_node.receive.intake import Intake
from dicom_node.receive.vouch import Voucher
from dicom_node.receive.web import WebListener
from dicom_node.settings import Destination, DicomwebSettings, ReceiveSettings, Settings, TlsSettings
from dicom_node.store.commitments import Commitments
from dicom_node.store.files import FileStore
from dicom_node.store.index import Index
from dicom_node.store.tables import open_engine
from dicom_node.testing.bytes_peer import BytesPeer
from dicom_node.workflow.commitment import CommitmentReporter
from tests.certificates import Authority, Identity

READERS = ("fast", "stock")
WAYS = (*READERS, "fast over TLS")
"""Of sending to it: what the listener is told under ``reader``."""


@dataclass(frozen=True)
class Listening:
    listener: Listener
    intake: Intake
    files: FileStore
    index: Index
    requests: Commitments
    client: Identity | None = None
    """Who may connect by TLS, where the listener takes nothing else."""

    @property
    def port(self) -> int:
        return self.listener.port or self.listener.tls_port

    def connect(self, timeout: float = 10) -> BytesPeer:
        """A peer that is connected, by TLS if the listener takes nothing else."""
        peer = BytesPeer("127.0.0.1", self.port, timeout)
        if self.client:
            context = ssl.create_default_context(cafile=self.client.authorities_file)
            context.load_cert_chain(self.client.certificate_file, self.client.private_key_file)
            peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
        return peer

    def instances(self) -> dict[str, Instance]:
        """Everything stored, by SOP Instance UID."""
        self.intake.rows.flush()
        studies = [s.study_uid for s in self.index.studies()]
        return {i.SOPInstanceUID: i for uid in studies for s in self.index.series(uid) for i in s.instances}

    def is_clean(self) -> bool:
        """Whether files and rows agree and nothing is half-written."""
        self.intake.rows.flush()
        # What a connection made ready for its next image is gone a moment after the last.
        if not wait_for(lambda: not list(self.files.folder.rglob("*.part"))):
            return False
        return list(self.files.walk()) == list(self.index.paths())


@contextlib.contextmanager
def web_listening(there: Listening, **settings: Any) -> Iterator[WebListener]:
    """A STOW-RS service, on a free port too, that keeps what comes in the same store."""
    service = WebListener(DicomwebSettings(**{"enabled": True, "port": 0, **settings}), there.intake, "DICOMNODE")
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def listening(
    folder: Path,
    *,
    reader: str = "fast",
    tls: TlsSettings | None = None,
    destinations: Sequence[Destination] | None = None,
    **settings: Any,
) -> Iterator[Listening]:
    """A listener.

    Args:
        reader: one of ``WAYS``.
        tls: the node's identity, where ``settings`` open a port for it.
        destinations: offers storage commitment, and knows these.
        settings: of the section ``receive``.
    """
    files = FileStore(folder / "store", durability=settings.get("durability", "instance"))
    engine = open_engine(f"sqlite:///{folder / 'node.sqlite'}")
    index = Index(engine)
    intake = Intake(files, index, settings.get("largest_object_mb", 4096) * 1_000_000)
    reader, _, by_tls = reader.partition(" over ")
    values = {"port": 0, "disk_reserve_mb": 0, "reader": reader, **settings}
    client = None
    if by_tls:
        authority = Authority(folder / "certificates")
        client = authority.issue("client")
        tls = TlsSettings(**authority.issue("node").settings())
        values |= {"port": None, "tls_port": 0}
    whole = Settings(
        receive=ReceiveSettings(**values), tls=tls or TlsSettings(), destinations=tuple(destinations or ())
    )
    requests = Commitments(engine)
    reporter = CommitmentReporter(whole, requests, Voucher(intake, index))
    scp = None if destinations is None else CommitmentScp(requests, reporter.wake)
    listener = Listener(whole.receive, intake, whole.tls, scp)
    with contextlib.ExitStack() as started:
        started.callback(engine.dispose)
        if scp:
            started.callback(reporter.stop)
            reporter.start(scp.tell_here)
        started.callback(listener.stop)
        listener.start()
        yield Listening(listener, intake, files, index, requests, client)


def wait_for(predicate: Callable[[], bool], timeout: float = 10) -> bool:
    """Poll until it holds; False if it does not in time."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
