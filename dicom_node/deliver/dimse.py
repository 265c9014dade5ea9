"""Sends objects by C-STORE (PS3.4 Annex B) to a destination."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node import log
from dicom_node.deliver.files import StoredFile, read_stored
from dicom_node.errors import PeerError
from dicom_node.peer.association import MAXIMUM_CONTEXTS, associate, peer_name
from dicom_node.peer.outcomes import Failure, not_accepted, store_outcome, store_warning
from dicom_node.settings import Destination

_log = log.get(__name__)

# A path that is given to send_c_store then leaves as the bytes that are on disk, never decoded nor encoded anew.
pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True


def _contexts(file: StoredFile) -> tuple[tuple[str, str], ...]:
    """The (SOP Class, Transfer Syntax) pairs to propose: the file's own first.

    Every peer must know Implicit VR Little Endian (PS3.5 section 10.1), and some know no other uncompressed one.
    """
    own = (file.SOPClassUID, file.TransferSyntaxUID)
    if file.TransferSyntaxUID == ExplicitVRLittleEndian:
        return own, (file.SOPClassUID, str(ImplicitVRLittleEndian))
    return (own,)


def send(destination: Destination, calling_ae_title: str, paths: Sequence[Path]) -> dict[str, Failure]:
    """Send Part 10 files by C-STORE, each as the bytes that it is on disk.

    Only a peer that takes uncompressed data as Implicit VR alone gets an Explicit VR file encoded anew.
    A warning status counts as stored, and is logged.

    Returns:
        By SOP Instance UID: ``""`` when stored, else why not (a text, whose ``retryable``
        says whether trying again can help).

    Raises:
        PeerError: nothing could be sent: the host is down, the association was rejected, aborted or not
            answered in time, no SOP Class is accepted, or a file is no DICOM file.
    """
    files = [read_stored(path) for path in paths]
    outcomes: dict[str, Failure] = {}
    for batch in _batches(files):
        contexts = list(dict.fromkeys(itertools.chain.from_iterable(_contexts(f) for f in batch)))
        try:
            with associate(destination, calling_ae_title, contexts) as association:
                outcomes.update(_store_all(destination, association, batch))
        except PeerError as e:
            if not outcomes:
                raise
            # An earlier association stored something: its outcomes must not be lost.
            outcomes.update({f.SOPInstanceUID: Failure(str(e), retryable=e.retryable) for f in batch})
    return outcomes


def _batches(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    """Groups of files that together need no more presentation contexts than an association has."""
    batch: list[StoredFile] = []
    contexts: set[tuple[str, str]] = set()
    for file in files:
        if len(contexts.union(_contexts(file))) > MAXIMUM_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(file)
        contexts.update(_contexts(file))
    if batch:
        yield batch


def _store_all(destination: Destination, association: Any, files: Sequence[StoredFile]) -> dict[str, Failure]:
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    outcomes: dict[str, Failure] = {}
    ended: Failure | None = None
    for number, file in enumerate(files, 1):
        context = next((c for c in _contexts(file) if c in accepted), None)
        if context is None:
            outcome = not_accepted(*_contexts(file)[0])
        elif ended is not None:
            outcome = ended
        else:
            own = context == _contexts(file)[0]
            status = _store(association, file.path if own else pydicom.dcmread(file.path), number)
            if isinstance(status, Failure):
                # pynetdicom may still call the association established for a moment, and would wait on it.
                outcome = ended = Failure(f"{peer_name(destination)} {status}", retryable=True)
            else:
                outcome = _answered(destination, *status)
        outcomes[file.SOPInstanceUID] = outcome
        if outcome:
            # Without the reason's text: a peer's error comment may hold patient data.
            ids = {"destination": destination.name, "SOPInstanceUID": file.SOPInstanceUID}
            _log.warning("instance_not_sent", **ids, retryable=outcome.retryable)
        else:
            _log.info("instance_sent", destination=destination.name, SOPInstanceUID=file.SOPInstanceUID)
    return outcomes


def _store(association: Any, what: Path | pydicom.Dataset, number: int) -> tuple[int, str] | Failure:
    """One C-STORE: the response's Status and Error Comment, or why none came."""
    started = time.monotonic()
    try:
        # Message IDs are 16 bits (PS3.7 section 9.3.1.1).
        answer = association.send_c_store(what, msg_id=number % 0x10000)
    except RuntimeError:
        # pynetdicom's word for an association that ended before the call.
        return Failure("ended the association", retryable=True)
    if "Status" in answer:
        return int(answer.Status), str(answer.get("ErrorComment", ""))
    timeout = association.dimse_timeout
    late = time.monotonic() - started >= timeout
    return Failure(f"did not answer within {timeout:g} s" if late else "ended the association", retryable=True)


def _answered(destination: Destination, status: int, comment: str) -> Failure:
    if status != 0x0000:
        said = store_warning(status) or f"0x{status:04X}"
        _log.warning("store_answer", destination=destination.name, status=said)
    return store_outcome(status, comment)
