"""A modality for tests: sends files as scanners do, misbehaviour included.

report = FakeModality("127.0.0.1", 11112, called="DICOMNODE", associations=3).send(files)
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context

from dicom_node import checkpoint
from dicom_node.errors import PeerError
from dicom_node.testing.bytes_peer import BytesPeer, c_store_rq, p_data

COMPRESSIONS = (RLELossless, JPEG2000Lossless, JPEGLSLossless)
TRANSFER_SYNTAXES = (*COMPRESSIONS, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""What ``transfer_syntax`` may ask for."""

_MOST_CONTEXTS = 128


@dataclass(frozen=True)
class Refusal:
    """An answer that was not Success."""

    status: int
    comment: str


@dataclass(frozen=True)
class SendReport:
    """What became of the files.

    Attributes:
        acknowledged: SOP Instance UIDs that were answered with Success (or a warning), each once, the first first.
        refused: by SOP Instance UID, what else was answered.
        unanswered: UIDs that no answer came for, for example because the association was lost.
        seconds: from the first association request to the last response.
        last_response: when that was, in seconds since the epoch.
    """

    acknowledged: tuple[str, ...]
    refused: Mapping[str, Refusal]
    unanswered: tuple[str, ...]
    seconds: float
    last_response: float


@dataclass
class _Progress:
    on_response: Callable[[], Any] | None
    acknowledged: dict[str, None] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    last: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, uid: str, answer: Any) -> None:
        with self.lock:
            self.last = time.time()
            if answer.Status == 0x0000 or 0xB000 <= answer.Status <= 0xBFFF:
                self.acknowledged[uid] = None
            else:
                self.refused[uid] = Refusal(answer.Status, str(answer.get("ErrorComment", "")))
            if self.on_response is not None:
                self.on_response()


class _Entity(AE):  # type: ignore[misc]  # pynetdicom is not read by mypy
    """An AE that closes its connection: pynetdicom leaves that to the garbage collector where it was refused."""

    connection: socket.socket | None = None

    def _create_socket(self, *args: Any) -> Any:
        wrapped = super()._create_socket(*args)
        self.connection = wrapped.socket
        return wrapped

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class FakeModality:
    """A storage SCU.

    Args:
        called: the receiver's AE title.
        calling: our own.
        associations: how many run in parallel; the files are shared out among them.
        shuffle: send in another order than given, which ``seed`` decides.
        duplicates: so many files are sent a second time, somewhere later.
        pause: seconds to wait after each instance, on each association.
        abort: the first association aborts (A-ABORT) half-way; what is left of its files goes over a new one.
        drop: before anything else, an association's connection is cut in the middle of the first instance.
        transfer_syntax: one of ``TRANSFER_SYNTAXES``; None sends each file as it is. Lossless all of them.
        timeout: seconds to wait for any answer.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        called: str = "ANY-SCP",
        calling: str = "MODALITY",
        associations: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        duplicates: int = 0,
        pause: float = 0.0,
        abort: bool = False,
        drop: bool = False,
        transfer_syntax: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        if transfer_syntax is not None and transfer_syntax not in TRANSFER_SYNTAXES:
            raise ValueError(f"transfer_syntax must be one of {', '.join(TRANSFER_SYNTAXES)}, not {transfer_syntax}")
        self.host = host
        self.port = port
        self.called = called
        self.calling = calling
        self.associations = associations
        self.shuffle = shuffle
        self.seed = seed
        self.duplicates = duplicates
        self.pause = pause
        self.abort = abort
        self.drop = drop
        self.transfer_syntax = transfer_syntax
        self.timeout = timeout

    def send(self, files: Sequence[Path], on_response: Callable[[], Any] | None = None) -> SendReport:
        """Send DICOM files; ``on_response`` is called after each answer, on any thread, one call at a time.

        Raises:
            PeerError: an association was refused, or the host cannot be reached.
            ValueError: there is no file.
        """
        if not files:
            raise ValueError("no files to send")
        order = self._order(files)
        shares = [s for s in (order[n :: self.associations] for n in range(self.associations)) if s]
        progress = _Progress(on_response)
        started = time.time()
        if self.drop:
            self._drop(order[0])
        with ThreadPoolExecutor(len(shares)) as pool:
            sent = [pool.submit(self._send_share, s, n == 0, progress) for n, s in enumerate(shares)]
            uids = dict.fromkeys(uid for future in sent for uid in future.result())
        last = progress.last or time.time()
        answered = progress.acknowledged.keys() | progress.refused.keys()
        return SendReport(
            acknowledged=tuple(progress.acknowledged),
            refused=progress.refused,
            unanswered=tuple(uid for uid in uids if uid not in answered),
            seconds=last - started,
            last_response=last,
        )

    def _order(self, files: Sequence[Path]) -> list[Path]:
        chance = random.Random(self.seed)
        order = list(files)
        if self.shuffle:
            chance.shuffle(order)
        for again in chance.sample(list(files), min(self.duplicates, len(files))):
            order.insert(chance.randint(order.index(again) + 1, len(order)), again)
        return order

    def _send_share(self, files: Sequence[Path], first: bool, progress: _Progress) -> list[str]:
        """Send over one association, or two if the first is to be aborted; returns the SOP Instance UIDs."""
        if not (self.abort and first and len(files) > 1):
            return self._associate(files, progress, abort=False)
        half = len(files) // 2
        return [
            *self._associate(files[:half], progress, abort=True),
            *self._associate(files[half:], progress, abort=False),
        ]

    def _associate(self, files: Sequence[Path], progress: _Progress, *, abort: bool) -> list[str]:
        heads = [pydicom.dcmread(f, specific_tags=["SOPClassUID", "SOPInstanceUID"]) for f in files]
        uids = [str(h.SOPInstanceUID) for h in heads]
        pairs = dict.fromkeys(
            (str(h.SOPClassUID), self.transfer_syntax or str(h.file_meta.TransferSyntaxUID)) for h in heads
        )
        if len(pairs) > _MOST_CONTEXTS:
            raise ValueError(f"more than {_MOST_CONTEXTS} pairs of SOP Class and transfer syntax")
        ae = _Entity(ae_title=self.calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self.timeout
        with contextlib.closing(ae):
            association = ae.associate(
                self.host,
                self.port,
                contexts=[build_context(abstract, transfer) for abstract, transfer in pairs],
                ae_title=self.called,
                evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
            )
            if not association.is_established:
                how = "rejected" if association.is_rejected else "not accepted"
                raise PeerError(f"the association with {self.called}@{self.host}:{self.port} was {how}")
            checkpoint.guard(association)
            try:
                self._store(association, files, uids, progress)
            finally:
                if association.is_established and not abort:
                    association.release()
                else:
                    association.abort()
        return uids

    def _store(self, association: Any, files: Sequence[Path], uids: Sequence[str], progress: _Progress) -> None:
        for number, (file, uid) in enumerate(zip(files, uids, strict=True), start=1):
            ds = self._encoded(file)
            try:
                answer = association.send_c_store(ds, msg_id=number % 0x10000)
            except ValueError:
                # The receiver refused its context.
                answer = pydicom.Dataset()
                answer.Status, answer.ErrorComment = 0x0122, "SOP Class or transfer syntax not accepted"
            except RuntimeError:
                return  # the association is lost
            if "Status" not in answer:
                return
            progress.answered(uid, answer)
            if self.pause:
                time.sleep(self.pause)

    def _encoded(self, file: Path) -> pydicom.Dataset:
        ds = pydicom.dcmread(file)
        wanted = self.transfer_syntax
        if wanted is None or ds.file_meta.TransferSyntaxUID == wanted:
            return ds
        if ds.file_meta.TransferSyntaxUID.is_encapsulated:
            ds.decompress(generate_instance_uid=False)
        if wanted in COMPRESSIONS:
            ds.compress(wanted, generate_instance_uid=False)
            return ds
        ds.file_meta.TransferSyntaxUID = syntax = pydicom.uid.UID(wanted)
        written = BytesIO()
        pydicom.dcmwrite(written, ds, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        written.seek(0)
        return pydicom.dcmread(written)

    def _drop(self, file: Path) -> None:
        """Cut the connection in the middle of an instance."""
        ds = pydicom.dcmread(file)
        syntax = ds.file_meta.TransferSyntaxUID
        data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if data is None:
            raise ValueError(f"{file} cannot be encoded")
        uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
        with BytesPeer(self.host, self.port, self.timeout) as peer:
            context = (1, uids[0], str(syntax))
            try:
                peer.associate([context], called=self.called, calling=self.calling)
            except ConnectionError as e:
                raise PeerError(f"{self.called}@{self.host}:{self.port}: {e}") from e
            value = p_data(1, data, last=True)
            peer.send(p_data(1, c_store_rq(1, *uids), command=True) + value[: len(value) // 2])
            peer.drop()


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
