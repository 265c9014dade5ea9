"""STOW-RS (PS3.18 section 10.5) as a client: objects to a DICOMweb server.

The files leave as the bytes that they are on disk, read piece by piece: a retry sends the same again, and no object
is ever in memory as a whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests
from pydicom import Dataset

from dicom_node import log
from dicom_node.deliver.files import FileBody, StoredFile, read_stored
from dicom_node.errors import PeerError
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.outcomes import STORED, Failure, store_outcome, store_warning
from dicom_node.settings import Destination

_log = log.get(__name__)
_ALL_STORED, _TOO_LARGE = 200, 413
# 202 and 409 say which objects failed; the others of these that the whole request did, and that it always will.
_ANSWERED = (_ALL_STORED, 202, 409)
_REFUSED = (400, 415, 422, _TOO_LARGE)


def multipart_body(files: Sequence[StoredFile], boundary: str) -> FileBody:
    """A multipart/related body (RFC 2387) of Part 10 files."""
    parts: list[bytes | Path] = []
    for file in files:
        # No transfer-syntax parameter: Orthanc 1.10 passes over a part that has one, with status 200.
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
        parts += [head.encode("ascii"), file.path, b"\r\n"]
    return FileBody([*parts, f"--{boundary}--\r\n".encode("ascii")])


def send_by_stow(destination: Destination, paths: Sequence[Path]) -> dict[str, Failure]:
    """Send Part 10 files by STOW-RS, in requests of at most ``destination.batch_mb``.

    Returns:
        By SOP Instance UID: ``""`` when stored, else why not.

    Raises:
        PeerError: nothing could be sent: the server is down, refuses who we are or fails, or a file is no DICOM file.
    """
    outcomes: dict[str, Failure] = {}
    waiting = _batches([read_stored(path) for path in paths], destination.batch_mb * 1e6)
    with HttpPeer(destination, str(destination.dicomweb_url)) as web:
        while waiting:
            batch = waiting.pop(0)
            try:
                answer = _post(web, batch)
            except PeerError as e:
                if not outcomes:
                    raise
                # What was stored before must not be lost, and a server in trouble is left alone for now.
                rest = [f.SOPInstanceUID for b in (batch, *waiting) for f in b]
                outcomes.update(dict.fromkeys(rest, Failure(str(e), retryable=e.retryable)))
                break
            if answer.status_code in _REFUSED and len(batch) > 1:
                # One object, or the size of all, is to blame: each goes by itself.
                waiting[:0] = [[file] for file in batch]
                continue
            outcomes.update(_outcomes(web, answer, batch))
    for uid, failure in outcomes.items():
        if failure:
            # Without the reason's text: a peer's comment may hold patient data.
            _log.warning(
                "instance_not_sent", destination=destination.name, SOPInstanceUID=uid, retryable=failure.retryable
            )
    return outcomes


def _batches(files: Sequence[StoredFile], largest: float) -> list[list[StoredFile]]:
    batches: list[list[StoredFile]] = []
    size = 0
    for file in files:
        own = file.path.stat().st_size
        if not batches or size + own > largest:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += own
    return batches


def _post(web: HttpPeer, batch: Sequence[StoredFile]) -> requests.Response:
    boundary = uuid.uuid4().hex
    content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    return web.request(
        "POST",
        "/studies",
        body=lambda: multipart_body(batch, boundary),
        headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
        accept=(*_ANSWERED, *_REFUSED),
    )


def _outcomes(web: HttpPeer, answer: requests.Response, batch: Sequence[StoredFile]) -> dict[str, Failure]:
    """What became of each object, by the Store Instances Response (PS3.18 section 10.5.3 and Annex I.2)."""
    uids = [file.SOPInstanceUID for file in batch]
    if answer.status_code in _REFUSED:
        return dict.fromkeys(uids, Failure(f"refused with HTTP {answer.status_code}", retryable=False))
    said = _answer(web, answer)
    if said is None:
        if answer.status_code == _ALL_STORED:
            return dict.fromkeys(uids, STORED)
        return dict.fromkeys(uids, Failure(f"HTTP {answer.status_code}, and no word of which failed", retryable=True))
    failed = {str(i.get("ReferencedSOPInstanceUID", "")): _reason(i) for i in said.get("FailedSOPSequence") or ()}
    stored = {str(i.get("ReferencedSOPInstanceUID", "")): i for i in said.get("ReferencedSOPSequence") or ()}
    for uid in set(uids) & set(stored):
        warning = stored[uid].get("WarningReason")
        if warning is not None:
            text = store_warning(int(warning)) or f"0x{int(warning):04X}"
            _log.warning("store_answer", destination=web.peer.name, SOPInstanceUID=uid, status=text)
    silent = Failure(f"HTTP {answer.status_code}, but the answer does not name it", retryable=True)
    return {uid: failed.get(uid, STORED if uid in stored else silent) for uid in uids}


def _answer(web: HttpPeer, answer: requests.Response) -> Dataset | None:
    """The response's dataset; None if it holds none that can be read."""
    if not answer.content:
        return None
    try:
        said: Any = web.json(answer)
        ds = Dataset.from_json(said[0] if isinstance(said, list) else said)
        return ds if "FailedSOPSequence" in ds or "ReferencedSOPSequence" in ds else None
    except (PeerError, ValueError, LookupError, TypeError, AttributeError):
        # XML, say, or a gateway's page: the status is all there is.
        _log.warning("stow_answer_unread", destination=web.peer.name, status=answer.status_code)
        return None


def _reason(item: Dataset) -> Failure:
    reason = item.get("FailureReason")
    if reason is None:
        return Failure("refused without a reason", retryable=True)
    # A warning in the place of a failure still says that the object is there (a duplicate, for one).
    return store_outcome(int(reason))
