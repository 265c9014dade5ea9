"""Syncs of folders, shared among the threads that need one at the same time."""

from __future__ import annotations

import os
import threading

_STRIPES = 64


class _Turn:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: OSError | None = None


class FolderSync:
    """Makes entries of folders survive a power failure. Thread-safe.

    A sync costs a flush of the disk, however many entries are new: who comes while one is under way waits for the
    next, which one thread makes for all that wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, _Turn] = {}
        self._running = [threading.Lock() for _ in range(_STRIPES)]

    def sync(self, folder: str) -> None:
        """Sync the folder once after this call began.

        Raises:
            OSError: the disk failed; each thread that shared the sync gets it.
        """
        with self._lock:
            turn = self._waiting.get(folder)
            leads = turn is None
            if turn is None:
                turn = self._waiting[folder] = _Turn()
        if leads:
            self._lead(folder, turn)
        else:
            turn.done.wait()
        if turn.error is not None:
            raise OSError(turn.error.errno, turn.error.strerror)

    def _lead(self, folder: str, turn: _Turn) -> None:
        try:
            with self._running[hash(folder) % _STRIPES]:
                with self._lock:
                    # What is renamed from here on may come too late for this sync.
                    del self._waiting[folder]
                sync_path(folder)
        except OSError as e:
            turn.error = e
        finally:
            turn.done.set()


def sync_path(path: str) -> None:
    """Sync a file's content or a folder's entries.

    Raises:
        OSError: it is not there, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
