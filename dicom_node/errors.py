"""Every error the node raises on purpose.

NodeError
├── ConfigurationError    a setting is wrong: names file, key and what is accepted
├── ReceiveError          an instance cannot be taken; carries the DIMSE status for the sender
│   ├── InvalidInstance       a UID that is no UID, not DICOM, dataset and command disagree
│   ├── InstanceConflict      the SOP Instance UID is already stored with other content
│   └── OutOfResources        the disk is full or failed to sync
├── NotAnalysed           the input is not fit for the algorithm: a reason a radiologist understands
├── AlgorithmError        the algorithm or its worker failed
│   ├── WorkerDied            the worker process ended, or ran out of memory
│   └── WorkerTimedOut        the manifest's time limit passed
├── EncodeError           findings cannot be written as DICOM
├── CheckFailed           a result object contradicts its sources; carries every problem
└── PeerError             another system cannot be reached, or refuses; says whether trying again can help
"""

from __future__ import annotations

from collections.abc import Sequence


class NodeError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(NodeError):
    """A setting is wrong. The message names file, key and the accepted values."""


class ReceiveError(NodeError):
    """An instance cannot be taken.

    ``status`` is the C-STORE status for the sender (PS3.4 Annex B.2.3, PS3.7 Annex C).
    """

    status: int = 0xC000


class InvalidInstance(ReceiveError):
    """Cannot understand (0xC000): not DICOM, a UID that is no UID, command and dataset disagree."""

    status = 0xC000


class InstanceConflict(ReceiveError):
    """The SOP Instance UID is already stored with other content (0xC001); the first content is kept."""

    status = 0xC001


class OutOfResources(ReceiveError):
    """The instance could not be made safe on disk (0xA700)."""

    status = 0xA700


class NotAnalysed(NodeError):
    """The input is not fit for the algorithm.

    The message completes the sentence "Not analysed, because ..." for a radiologist.
    """


class AlgorithmError(NodeError):
    """The algorithm failed on input that it accepted."""


class WorkerDied(AlgorithmError):
    """The worker process ended while it held a run."""


class WorkerTimedOut(AlgorithmError):
    """The run took longer than the manifest's time limit; the worker was replaced."""


class EncodeError(NodeError):
    """Findings cannot be written as DICOM objects."""


class CheckFailed(NodeError):
    """A result contradicts its sources and must not leave the node."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class PeerError(NodeError):
    """Another system, a destination or a source, cannot be reached, or did not do what it was asked.

    ``retryable``: False when trying again cannot help (for example the SOP Class is refused).
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        self.retryable = retryable
        super().__init__(message)
