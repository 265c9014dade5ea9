"""Events of a worklist over a WebSocket (PS3.18 sections 8.10 and 11.13)."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pydicom import Dataset
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from dicom_node import log
from dicom_node.deliver.retry import next_wait
from dicom_node.errors import PeerError
from dicom_node.model.instance import valid_uid
from dicom_node.model.workitem import CancelRequest
from dicom_node.peer.http import HttpPeer, tls_reason
from dicom_node.peer.ups import WORKLIST_UID, WorkitemRefused, subscribe
from dicom_node.peer.ups_datasets import read_codes
from dicom_node.settings import Worklist

_STATE_REPORT: Final = 1
_CANCEL_REQUESTED: Final = 2
_LARGEST_EVENT_BYTES = 1 << 20
_STOP_SECONDS = 5.0

_logger = log.get("workflow")


@dataclass(frozen=True)
class Event:
    """What a worklist reports (PS3.4 Table CC.2.4-1), as far as a performer acts on it.

    Attributes:
        state: the Procedure Step State of a state report; else empty.
        cancel: what a request to cancel says; else None.
    """

    uid: str
    state: str = ""
    cancel: CancelRequest | None = None


def read_event(text: str | bytes) -> Event | None:
    """An event in DICOM JSON; None if it is none, or one that a performer does nothing with."""
    try:
        said: Any = json.loads(text)
        said = said[0] if isinstance(said, list) else said
        uid, kind = str(_value(said, "00001000")), int(_value(said, "00001002"))
        # The command group is no part of a dataset.
        ds = Dataset.from_json({tag: element for tag, element in said.items() if not tag.startswith("0000")})
        if not valid_uid(uid):
            return None
        if kind == _STATE_REPORT:
            return Event(uid, state=str(ds.get("ProcedureStepState", "")))
        if kind == _CANCEL_REQUESTED:
            codes = read_codes(ds, "ProcedureStepDiscontinuationReasonCodeSequence")
            request = CancelRequest(str(ds.get("RequestingAE", "")), str(ds.get("ReasonForCancellation", "")), codes)
            return Event(uid, cancel=request)
    except (ValueError, TypeError, LookupError, AttributeError) as e:
        _logger.warning("event_not_understood", error=type(e).__name__)
    return None


def _why(error: BaseException) -> str:
    """What interrupted the events, without what others' texts may hold."""
    if isinstance(error, InvalidStatus):
        return f"the server refused the WebSocket with HTTP {error.response.status_code}"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"no trusted connection: {tls_reason(error)}"
    if isinstance(error, OSError):
        return "no connection: is the server running?"
    if isinstance(error, ConnectionClosed):
        return "the connection broke"
    return str(error) if isinstance(error, PeerError) else type(error).__name__


def _value(said: Mapping[str, Any], tag: str) -> Any:
    return said[tag]["Value"][0]


class EventListener:
    """Holds a notification connection open, in a thread of its own; when it breaks, it is opened again, with waits.

    Args:
        on_event: called with each event.
        on_open: called when a connection is open: what happened before is to be asked for.
    """

    def __init__(
        self, worklist: Worklist, ae_title: str, on_event: Callable[[Event], None], on_open: Callable[[], None]
    ) -> None:
        self._worklist = worklist
        self._ae_title = ae_title
        self._on_event = on_event
        self._on_open = on_open
        self._stopped = threading.Event()
        self._connection: ClientConnection | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name=f"events-{self._worklist.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        attempt = 0
        while not self._stopped.is_set():
            try:
                for event in self._events():
                    attempt = 0
                    self._on_event(event)
                reason = "the server ended the connection"
            except (PeerError, OSError, WebSocketException) as e:
                reason = _why(e)
            except Exception as e:  # noqa: BLE001 - the thread's border: whatever goes wrong, events go on coming
                reason = f"{type(e).__name__}"
            if self._stopped.is_set():
                return
            attempt += 1
            wait = next_wait(attempt, self._worklist.retry_first_seconds, self._worklist.retry_longest_seconds)
            _logger.warning("events_interrupted", worklist=self._worklist.name, reason=reason, seconds=wait)
            self._stopped.wait(wait)

    def _events(self) -> Iterator[Event]:
        """The events of one connection."""
        worklist = self._worklist
        with contextlib.ExitStack() as stack:
            web = stack.enter_context(HttpPeer(worklist, str(worklist.dicomweb_url)))
            said = ""
            try:
                said = subscribe(web, WORKLIST_UID, self._ae_title)
            except WorkitemRefused as e:
                # It may give events of single workitems all the same.
                _logger.info("worklist_gives_no_subscription", worklist=worklist.name, reason=str(e))
            url, headers, tls = web.websocket(f"/subscribers/{quote(self._ae_title)}", said)
            connection = stack.enter_context(
                connect(
                    url,
                    ssl=tls,
                    additional_headers=headers,
                    open_timeout=worklist.timeout_seconds,
                    close_timeout=1,
                    max_size=_LARGEST_EVENT_BYTES,
                    proxy=None if web.is_local else True,
                )
            )
            self._connection = connection
            stack.callback(setattr, self, "_connection", None)
            if self._stopped.is_set():
                return
            _logger.info("events_connected", worklist=worklist.name)
            self._on_open()
            for message in connection:
                event = read_event(message)
                if event is not None:
                    yield event
