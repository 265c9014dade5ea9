"""Requests for storage commitment (PS3.4 Annex J), and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SAFE: Final = 0
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
"""Failure Reasons (PS3.3 section C.14.1.1); ``SAFE`` is none."""


@dataclass(frozen=True)
class Commitment:
    """A request whose requestor is yet to be told.

    Attributes:
        requestor: its AE title.
        called: the AE title that it called.
        address: where it called from.
        wanted: (SOP Class UID, SOP Instance UID) each.
        report: Failure Reason for each of ``wanted``, ``SAFE`` where the node takes responsibility; None: not found
            out yet.
        created: seconds since the epoch.
        attempts: how often telling it has failed.
    """

    requestor: str
    transaction_uid: str
    called: str
    address: str
    wanted: tuple[tuple[str, str], ...]
    report: tuple[int, ...] | None
    created: float
    attempts: int
