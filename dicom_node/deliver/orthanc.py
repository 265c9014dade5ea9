"""Objects into Orthanc through its REST API, and what Orthanc is told about their study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicom_node import log
from dicom_node.deliver.files import FileBody, StoredFile, read_stored
from dicom_node.errors import PeerError
from dicom_node.model.result import ResultObject
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.outcomes import STORED, Failure
from dicom_node.settings import Destination

_log = log.get(__name__)


def send_to_orthanc(destination: Destination, paths: Sequence[Path]) -> dict[str, Failure]:
    """Upload Part 10 files, each as the bytes that it is on disk; then set what the destination's settings ask for.

    Label and metadata are a help to people: that they could not be set is logged, and fails no object.

    Returns:
        By SOP Instance UID: ``""`` when stored, else why not.

    Raises:
        PeerError: the first object could not be sent at all, or a file is no DICOM file.
    """
    files = [read_stored(path) for path in paths]
    outcomes: dict[str, Failure] = {}
    parents: set[str] = set()
    with HttpPeer(destination, str(destination.orthanc_url)) as web:
        for file in files:
            try:
                outcomes[file.SOPInstanceUID] = _upload(web, file, parents)
            except PeerError as e:
                if not outcomes:
                    raise
                # What was stored before must not be lost, and what follows would fail alike.
                rest = [f.SOPInstanceUID for f in files if f.SOPInstanceUID not in outcomes]
                outcomes.update(dict.fromkeys(rest, Failure(str(e), retryable=e.retryable)))
                break
        stored = sorted(uid for uid, failure in outcomes.items() if not failure)
        for study in parents:
            _mark(web, destination, study, stored)
    return outcomes


def _upload(web: HttpPeer, file: StoredFile, parents: set[str]) -> Failure:
    answer = web.request(
        "POST",
        "/instances",
        body=lambda: FileBody([file.path]),
        headers={"Content-Type": "application/dicom"},
        accept=(200, 400, 409, 413, 415, 422),
    )
    if answer.status_code != 200:
        return Failure(f"refused with HTTP {answer.status_code}", retryable=False)
    said = web.json(answer)
    status = said.get("Status") if isinstance(said, dict) else None
    # Our UIDs are derived from the content's origin: what is there already is our object.
    if status not in ("Success", "AlreadyStored"):
        return Failure(f"answered {str(status)[:40]} instead of Success", retryable=status != "FilteredOut")
    if said.get("ParentStudy"):
        parents.add(str(said["ParentStudy"]))
    return STORED


def _mark(web: HttpPeer, destination: Destination, study: str, stored: Sequence[str]) -> None:
    try:
        if destination.orthanc_label and has_labels(web):
            web.request("PUT", f"/studies/{study}/labels/{destination.orthanc_label}")
        if destination.orthanc_metadata:
            _set_metadata(web, f"/studies/{study}/metadata/{destination.orthanc_metadata}", stored)
    except PeerError as e:
        _log.warning("study_not_marked", destination=destination.name, reason=str(e))


def _set_metadata(web: HttpPeer, path: str, stored: Sequence[str]) -> None:
    """Add the objects to those that the metadata names."""
    there = web.request("GET", path, accept=(200, 404))
    named = set(there.text.split("\\")) if there.status_code == 200 else set()
    value = "\\".join(sorted({*named, *stored} - {""})).encode("ascii")
    # Since 1.11.2 a value that is there is only replaced when its revision is named.
    revision = {"If-Match": there.headers["ETag"]} if "ETag" in there.headers else {}
    web.request("PUT", path, body=lambda: value, headers={"Content-Type": "text/plain", **revision})


def has_labels(web: HttpPeer) -> bool:
    """Whether this Orthanc knows labels: since 1.12.0, if its database does."""
    said: Any = web.json(web.request("GET", "/system"))
    return isinstance(said, dict) and bool(said.get("HasLabels"))


def held_by_orthanc(destination: Destination, objects: Sequence[ResultObject]) -> set[str]:
    """The SOP Instance UIDs among ``objects`` that Orthanc finds when it is asked for them.

    Raises:
        PeerError: as ``HttpPeer.request``.
    """
    with HttpPeer(destination, str(destination.orthanc_url)) as web:
        return {o.SOPInstanceUID for o in objects if _held(web, o.SOPInstanceUID)}


def _held(web: HttpPeer, uid: str) -> bool:
    found: Any = web.json(web.request("POST", "/tools/lookup", body=lambda: uid.encode("ascii")))
    return any(isinstance(item, dict) and item.get("Type") == "Instance" for item in found)
