"""Workitems: the instances of the Unified Procedure Step (PS3.3 section B.26), as far as a performer needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple


class Coded(NamedTuple):
    """A coded entry (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str

    @property
    def same(self) -> tuple[str, str]:
        """What two entries of one concept share: the meaning is for people."""
        return self.value, self.scheme


SCHEDULED: Final = "SCHEDULED"
IN_PROGRESS: Final = "IN PROGRESS"
COMPLETED: Final = "COMPLETED"
CANCELED: Final = "CANCELED"
"""The values of Procedure Step State (PS3.4 Table CC.1.1-1)."""

UNSPECIFIED: Final = Coded("110513", "DCM", "Discontinued for unspecified reason")
OBJECTS_MISSING: Final = Coded("110523", "DCM", "Object Set incomplete")
TYPES_NOT_SUPPORTED: Final = Coded("110522", "DCM", "Object Types not supported")
EQUIPMENT_FAILURE: Final = Coded("110501", "DCM", "Equipment failure")
"""Why a step was discontinued (PS3.16 CID 9300)."""


@dataclass(frozen=True)
class InputSeries:
    """Instances that a workitem names as its input, and where it says they are.

    Attributes:
        ae_titles: Retrieve AE Titles.
        urls: Retrieve URLs of WADO-RS.
    """

    study_uid: str
    instances: tuple[str, ...]
    ae_titles: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workitem:
    """A workitem as its origin server gives it.

    Attributes:
        codes: Scheduled Workitem Code Sequence.
        stations: Scheduled Station Name Code Sequence; empty: any may do it.
        study_uid: the study that it is about, or empty.
    """

    uid: str
    state: str
    readiness: str
    priority: str
    start: str
    codes: tuple[Coded, ...]
    stations: tuple[Coded, ...]
    study_uid: str
    inputs: tuple[InputSeries, ...]

    @property
    def order(self) -> tuple[int, str, str]:
        """Smaller goes first: by priority, then by the time it was scheduled for."""
        ranks = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}
        return ranks.get(self.priority, 1), self.start, self.uid


@dataclass(frozen=True)
class CancelRequest:
    """What somebody who wants a workitem to be canceled says of it; all of it may be empty."""

    requester: str = ""
    reason: str = ""
    codes: tuple[Coded, ...] = ()
