"""From a request for storage commitment to the requestor that has been told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from sqlalchemy.exc import OperationalError

from dicom_node import log
from dicom_node.deliver.commitment import tell
from dicom_node.deliver.retry import next_wait
from dicom_node.errors import OutOfResources, PeerError
from dicom_node.model.commitment import SAFE, Commitment
from dicom_node.receive.commitment import event_information
from dicom_node.settings import Settings
from dicom_node.settings_peers import PeerSettings
from dicom_node.store.commitments import Commitments

RETRY_FIRST_SECONDS: Final = 5.0
RETRY_LONGEST_SECONDS: Final = 900.0
GIVE_UP_SECONDS: Final = 72 * 3600.0
FORGET_SECONDS: Final = 30 * 86400.0
_LOOK_SECONDS: Final = 1.0
_AT_ONCE: Final = 4

_logger = log.get("workflow")


class Voucher(Protocol):
    """Finds out what the node can take responsibility for."""

    def vouch(self, wanted: tuple[tuple[str, str], ...]) -> list[int]:
        """A Failure Reason for each, 0 for none."""


class CommitmentReporter:
    """Finds out, and tells: over the association of the request, else over one of ours, until it is told.

    Requests stay in their rows until then: a restart goes on with them. One requestor is told one thing at a time,
    and one that cannot be reached holds up no other.
    """

    def __init__(self, settings: Settings, rows: Commitments, voucher: Voucher) -> None:
        self._settings = settings
        self._rows = rows
        self._voucher = voucher
        self._tell_here: Callable[[Commitment], bool] = lambda _: False
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._busy: set[str] = set()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "commitment")
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is a new request."""
        self._woken.set()

    def start(self, tell_here: Callable[[Commitment], bool]) -> None:
        """Begin, with what an earlier process left undone.

        Args:
            tell_here: tells a requestor over the association of its request; False where that is gone.
        """
        self._tell_here = tell_here
        self._rows.hurry()
        self._rows.forget(FORGET_SECONDS)
        self._thread = threading.Thread(target=self._run, name="commitments", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more; what is under way ends by its own time limits."""
        self._stopped.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            # What is under way now may be settled by the time that its row is looked at.
            under_way = set(self._busy)
            try:
                for commitment in self._rows.due():
                    if commitment.requestor not in under_way | self._busy:
                        self._busy.add(commitment.requestor)
                        self._threads.submit(self._attempt, commitment)
            except OperationalError as e:
                _logger.error("commitments_unreadable", error=type(e.orig).__name__)
            self._woken.wait(_LOOK_SECONDS)

    def _attempt(self, commitment: Commitment) -> None:
        try:
            self._settle(commitment)
        except OperationalError as e:
            # Its row is as it was: it is due again at the next look.
            _logger.error("commitment_not_written", requestor=commitment.requestor, error=type(e.orig).__name__)
        except Exception as e:  # noqa: BLE001 - the outermost border: one request must not stop the others
            _logger.error("commitment_broke", requestor=commitment.requestor, error=type(e).__name__)
            with contextlib.suppress(OperationalError):
                self._rows.postpone(commitment, RETRY_LONGEST_SECONDS, f"{type(e).__name__}: {e}")
        finally:
            self._busy.discard(commitment.requestor)
            self._woken.set()

    def _settle(self, commitment: Commitment) -> None:
        if commitment.report is None:
            try:
                report = tuple(self._voucher.vouch(commitment.wanted))
            except OutOfResources as e:
                self._postpone(commitment, PeerError(str(e)))
                return
            self._rows.set_report(commitment, report)
            commitment = replace(commitment, report=report)
        try:
            if not self._tell_here(commitment):
                destination = self._destination(commitment)
                tell(destination, self._settings.receive.ae_title, *event_information(commitment))
        except PeerError as e:
            self._postpone(commitment, e)
            return
        self._rows.done(commitment)
        failures = [reason for reason in commitment.report or () if reason != SAFE]
        _logger.info(
            "commitment_reported",
            requestor=commitment.requestor,
            safe=len(commitment.wanted) - len(failures),
            failed=len(failures),
            reasons=sorted({f"0x{reason:04X}" for reason in failures}),
        )

    def _postpone(self, commitment: Commitment, error: PeerError) -> None:
        waited = self._rows.clock() - commitment.created
        wait = RETRY_LONGEST_SECONDS
        if error.retryable:
            wait = next_wait(commitment.attempts + 1, RETRY_FIRST_SECONDS, RETRY_LONGEST_SECONDS)
        gives_up = waited + wait > GIVE_UP_SECONDS
        if gives_up:
            self._rows.give_up(commitment, str(error))
        else:
            self._rows.postpone(commitment, wait, str(error))
        _logger.warning(
            "commitment_not_reported",
            requestor=commitment.requestor,
            reason=str(error),
            **({"given_up": True} if gives_up else {"again_in": wait}),
        )

    def _destination(self, commitment: Commitment) -> PeerSettings:
        """Where the requestor listens.

        Raises:
            PeerError: nobody has said so.
        """
        for destination in self._settings.destinations:
            if destination.ae_title == commitment.requestor and destination.host and destination.port:
                return destination
        for peer in self._settings.receive.peers:
            if peer.ae_title == commitment.requestor:
                found = PeerSettings(name="requestor", **peer.model_dump())
                found._identity = peer.identity
                return found
        raise PeerError(
            f"nobody said where {commitment.requestor} listens: add {{ae_title: {commitment.requestor}, host: "
            f"{commitment.address}, port: ITS_PORT}} to receive.peers",
            retryable=False,
        )
