"""UPS-RS (PS3.18 section 11) as a client: the transactions of a performer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests
from pydicom import Dataset

from dicom_node.errors import PeerError
from dicom_node.model.instance import valid_uid
from dicom_node.model.workitem import Workitem
from dicom_node.peer.http import HttpPeer
from dicom_node.peer.qido import search_all
from dicom_node.peer.ups_datasets import read_workitem

WORKLIST_UID = "1.2.840.10008.5.1.4.34.5"
"""The well-known UID of the Worklist Subscription (PS3.18 Table 11.10.1-1)."""

_JSON = "application/dicom+json"
_NOT_FOUND = 404
REFUSALS = (400, 404, 409, 410)
"""Statuses that say of a workitem that it is not there, not ours, or in another state."""
_WARNINGS = (
    "The Transaction UID is missing",
    "The Transaction UID is incorrect",
    "The submitted request is inconsistent with the state of the UPS Instance",
    "The submitted request is inconsistent with the current state of the Workitem",
    "The target URI did not reference a claimed Workitem",
)
"""What a server's Warning header may say of a refusal (PS3.18 sections 11.6.3.2 and 11.7.3.2)."""


class WorkitemRefused(PeerError):
    """The origin server answered, and it cannot be: the workitem is not there, not ours, or in another state.

    Credentials that are refused are no such answer: whoever renews them lets the work go on.
    """

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message, retryable=False)


def search_workitems(web: HttpPeer, query: Mapping[str, str]) -> list[Workitem]:
    """The workitems that match; those without a UID are left out.

    Args:
        web: whose base is what ``/workitems`` is relative to.
        query: attributes by keyword, those in sequences dotted.

    Raises:
        PeerError: as ``HttpPeer.request``, or there is no worklist (404).
    """
    items = [read_workitem(ds) for ds in search_all(web, "/workitems", query, may_lack=False)]
    return [item for item in items if valid_uid(item.uid)]


def retrieve_workitem(web: HttpPeer, uid: str) -> Workitem:
    """One workitem as it is now.

    Raises:
        WorkitemRefused: it is not there, or, once it has ended, no longer.
        PeerError: as ``HttpPeer.request``.
    """
    answer = _ask(web, "GET", f"/workitems/{uid}", uid, headers={"Accept": _JSON, "Cache-Control": "no-cache"})
    said: Any = web.json(answer)
    try:
        # A JSON array, as PS3.18 section F.2 has it, though some servers give the one object.
        ds = Dataset.from_json(said[0] if isinstance(said, list) else said)
        item = read_workitem(ds)
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise PeerError(f"{web.name} did not answer in DICOM JSON") from e
    if not item.state:
        raise PeerError(f"{web.name} gave workitem {uid} without its Procedure Step State")
    return item


def change_state(web: HttpPeer, uid: str, state: str, transaction_uid: str, ae_title: str) -> None:
    """Change the state of a workitem (PS3.18 section 11.7): claim it, or end one that is ours.

    That it is in the requested final state already is success.

    Args:
        ae_title: ours. Some servers (dcm4chee) have the resource only with the requester's AE title behind it.

    Raises:
        WorkitemRefused: the state, the Transaction UID or the final state requirements forbid it.
        PeerError: as ``HttpPeer.request``.
    """
    change = Dataset()
    change.TransactionUID = transaction_uid
    change.ProcedureStepState = state
    path = f"/workitems/{uid}/state"
    try:
        _send(web, "PUT", path, uid, change)
    except WorkitemRefused as e:
        if e.status != _NOT_FOUND:
            raise
        _send(web, "PUT", f"{path}/{quote(ae_title)}", uid, change)


def update_workitem(web: HttpPeer, uid: str, transaction_uid: str, changes: Dataset) -> None:
    """Set attributes of a workitem that is ours (PS3.18 section 11.6).

    The Transaction UID goes as the query (PS3.18) and as an attribute (PS3.4 section CC.2.6.2): servers want the one,
    the other, or both.

    Raises:
        WorkitemRefused: it is not ours, has ended, or the attributes are not accepted.
        PeerError: as ``HttpPeer.request``.
    """
    whole = Dataset()
    whole.update(changes)
    whole.TransactionUID = transaction_uid
    _send(web, "POST", f"/workitems/{uid}?{transaction_uid}", uid, whole)


def subscribe(web: HttpPeer, uid: str, ae_title: str) -> str:
    """Ask for the events of a workitem, or of the whole worklist (``WORKLIST_UID``), without a deletion lock.

    Returns:
        Where the server says that the events come from: the URL of a WebSocket, or empty.

    Raises:
        WorkitemRefused: there is no such workitem, or the server has no such subscriptions.
        PeerError: as ``HttpPeer.request``.
    """
    path = f"/workitems/{uid}/subscribers/{quote(ae_title)}"
    answer = web.request("POST", path, headers={"Accept": _JSON}, accept=(200, 201, 403, *REFUSALS))
    answer.close()
    if answer.status_code >= 400:
        raise WorkitemRefused(f"{web.name} gives no subscription to {uid}: {_said(answer)}", answer.status_code)
    said = (answer.headers.get(name, "") for name in ("Content-Location", "Location"))
    return next((url for url in said if url.startswith(("ws://", "wss://"))), "")


def _send(web: HttpPeer, method: str, path: str, uid: str, ds: Dataset) -> None:
    if not ds.to_json().isascii():
        ds.SpecificCharacterSet = "ISO_IR 192"
    body = json.dumps([ds.to_json_dict()]).encode()
    answer = _ask(web, method, path, uid, body=lambda: body, headers={"Content-Type": _JSON, "Accept": _JSON})
    answer.close()


def _ask(web: HttpPeer, method: str, path: str, uid: str, **more: Any) -> requests.Response:
    accepted = (200, 201, 202, 204)
    answer = web.request(method, path, accept=(*accepted, *REFUSALS), **more)
    if answer.status_code in accepted:
        return answer
    answer.close()
    raise WorkitemRefused(f"{web.name} refused workitem {uid}: {_said(answer)}", answer.status_code)


def _said(answer: requests.Response) -> str:
    """The status, and the standard's own words for it: others' texts may hold what is nobody's business."""
    warning = answer.headers.get("Warning", "")
    known = [text for text in _WARNINGS if text.lower() in warning.lower()]
    return f"HTTP {answer.status_code}" + (f" ({known[0]})" if known else "")
