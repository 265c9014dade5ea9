"""Rows of instances that came, written many at a time behind the answers to their senders."""

from __future__ import annotations

import threading

from sqlalchemy.exc import DBAPIError, OperationalError

from dicom_node import log
from dicom_node.errors import OutOfResources
from dicom_node.model.instance import Instance
from dicom_node.store.index import Index, Known

_GATHER_SECONDS = 0.2
_RETRY_SECONDS = 0.5
_IDLE_SECONDS = 1.0
_FLUSH_SECONDS = 60.0
_MOST_PENDING = 5000

_logger = log.get("store")


class RowWriter:
    """Gives instances their rows within moments, one transaction for all that came meanwhile. Thread-safe.

    A commit costs a flush of the disk and most of a millisecond: one for each image would halve what the node can
    take. What is pending when the process dies is indexed from its file at the next start. While the database fails
    nothing new is taken, and what is pending is tried again.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._changed = threading.Condition()
        self._pending: dict[str, tuple[Instance, float]] = {}
        self._added = 0
        self._written = 0
        self._failures = 0
        self._failing = False
        self._hurry = False
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """See that rows can be written.

        Raises:
            OutOfResources: the database fails, or is too slow.
        """
        if self._failing or len(self._pending) >= _MOST_PENDING:
            raise OutOfResources("the index could not be written")

    def add(self, instance: Instance) -> None:
        """Write the row soon. The file must be in its place."""
        with self._changed:
            idle = not self._pending
            self._pending[instance.SOPInstanceUID] = (instance, self._index.clock())
            self._added += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="row-writer", daemon=True)
                self._thread.start()
            elif idle:
                self._changed.notify_all()

    def known(self, sop_uid: str) -> Known:
        """What is known about a UID, pending rows included.

        Raises:
            OutOfResources: the database cannot be read.
        """
        # In this order: a row that is committed between the two is in one of them.
        pending = self._pending.get(sop_uid)
        known = self._index.known(sop_uid)
        return known if pending is None else Known(pending[0].digest, known.is_result)

    def hurry(self) -> None:
        """Write at once what was added before: nothing more comes for the moment."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all that was added before has its row.

        Raises:
            OutOfResources: the database failed; what is pending is tried again.
        """
        with self._changed:
            wanted, failures = self._added, self._failures
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= wanted or self._failures > failures, _FLUSH_SECONDS)
            if self._written < wanted:
                raise OutOfResources("the index could not be written")

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._pending), _IDLE_SECONDS):
                    self._thread = None
                    return
                self._changed.wait_for(lambda: self._hurry, _RETRY_SECONDS if self._failing else _GATHER_SECONDS)
                self._hurry = False
                batch, through = list(self._pending.values()), self._added
            written = self._write(batch)
            with self._changed:
                self._failing = not written
                self._failures += int(not written)
                if written:
                    self._written = through
                    for entry in batch:
                        if self._pending[entry[0].SOPInstanceUID] is entry:
                            del self._pending[entry[0].SOPInstanceUID]
                self._changed.notify_all()

    def _write(self, batch: list[tuple[Instance, float]]) -> bool:
        """Write rows; False if the database fails."""
        try:
            for instance in self._index.add_many(batch):
                # Only another node on the same database can have been first.
                _logger.error("instance_conflict", SOPInstanceUID=instance.SOPInstanceUID)
        except OperationalError as e:
            _logger.error("index_failed", error=type(e.orig).__name__, pending=len(batch))
            return False
        except DBAPIError as e:
            if len(batch) > 1:
                return all([self._write([entry]) for entry in batch])
            # The database will never take this one: the others must not wait for it. Its file is reported at the start.
            _logger.error("row_refused", error=type(e.orig).__name__, SOPInstanceUID=batch[0][0].SOPInstanceUID)
        return True
