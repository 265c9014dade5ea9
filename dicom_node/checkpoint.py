"""A checkpoint at which pynetdicom's association thread really waits while another thread asks something of the peer.

pynetdicom 3.0 sets its flag ``_is_paused`` before that thread waits and clears it after: a thread that asks may find it
set when the association's thread has just passed. That one then takes the answer out of the queue and drops it, and
who asked waits for nothing until ``dimse_timeout``. It happens on busy machines.
"""

from __future__ import annotations

import threading
from typing import Any

_LOOK_SECONDS = 0.05
"""So often it is seen whether the association's thread has ended."""


class Checkpoint:
    """In place of the ``threading.Event`` that is ``Association._reactor_checkpoint``.

    Args:
        association: pynetdicom's.
    """

    def __init__(self, association: Any) -> None:
        self._association = association
        self._change = threading.Condition()
        self._open = True
        self._stands = False

    def wait(self) -> None:
        """Pass if it is open, else stand until it is: for the association's thread."""
        with self._change:
            while not self._open:
                self._stands = True
                self._change.notify_all()
                self._change.wait()

    def set(self) -> None:
        """Let the association's thread pass."""
        with self._change:
            self._open, self._stands = True, False
            self._change.notify_all()

    def clear(self) -> None:
        """Stop the association's thread; when this returns it stands, or has ended.

        If it has ended, it may have taken with it the word that there will be no answer, and the flag that it stands,
        for which who asks would wait.
        """
        with self._change:
            self._open = False
            if threading.current_thread() is self._association:
                return
            while not self._stands and self._association.is_alive():
                self._change.wait(_LOOK_SECONDS)
            if not self._stands:
                self._association._is_paused = True
                self._association.dimse.msg_queue.put((None, None))


def guard(association: Any) -> None:
    """Give an association that we requested this checkpoint."""
    association._reactor_checkpoint = Checkpoint(association)
