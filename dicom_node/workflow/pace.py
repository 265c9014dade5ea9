"""How often the engine looks for work: often while there is some, seldom while there is none."""

from __future__ import annotations

from dbos import DBOS

from dicom_node.workflow.services import QUEUES, Services

POLL_SECONDS = 0.1
"""A queue that is looked at so often takes about 3% of a core."""
IDLE_POLL_SECONDS = 1.0


class Pace:
    """Sets how often the queues are looked at. What it decides by is in the database: all nodes on it agree.

    It must hear of a study before that is complete, so with a very short quiet time the queues are never let rest.
    """

    def __init__(self, services: Services) -> None:
        self._index = services.index
        self._may_rest = services.settings.complete.quiet_seconds >= 3 * IDLE_POLL_SECONDS
        self._seconds = POLL_SECONDS

    def adjust(self) -> None:
        """Look whether there is work, and set the pace if that has changed."""
        seconds = IDLE_POLL_SECONDS if self._may_rest and not self._index.has_work() else POLL_SECONDS
        if seconds == self._seconds:
            return
        for name in QUEUES.values():
            queue = DBOS.retrieve_queue(name)
            if queue is not None:
                queue.set_polling_interval_sec(seconds)
        self._seconds = seconds
