"""What others say of a study: the images that belong to it, and what was found whole by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pydicom.uid import UID


class StepState(StrEnum):
    """Performed Procedure Step Status (PS3.3 section C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


@dataclass(frozen=True)
class Image:
    """An image that somebody lists."""

    SeriesInstanceUID: str
    SOPInstanceUID: str


@dataclass(frozen=True)
class Announcement:
    """What a new procedure step, or a notification, says.

    Attributes:
        studies: Study Instance UIDs that it is about.
        images: all that it lists; of a procedure step they may come later.
    """

    studies: tuple[str, ...]
    images: tuple[Image, ...]


class By(StrEnum):
    """What decided that a study is whole."""

    MPPS = "MPPS"
    """A modality's procedure steps have ended, and every image that they list is here."""
    IAN = "IAN"
    """Every image that an archive announced as available is here."""
    COUNT = "count"
    """An archive has as many images as are here, and its count stood still."""
    QUIET = "quiet time"
    """Nothing came for a while: no evidence was had, or it was waited for in vain."""


@dataclass(frozen=True)
class Announced:
    """What MPPS and IAN say of a study, beside what is here. Only images count, the node's own results do not.

    Attributes:
        by: MPPS, if any of it is; else IAN.
        callers: AE titles that announced.
        in_progress: procedure steps that have not ended.
        completed: procedure steps that were completed, and IANs; what is left were discontinued.
        listed: images by Series Instance UID.
        missing: of these, how many are not here.
        unlisted: how many images are here that nobody announced.
    """

    by: By
    callers: tuple[str, ...]
    in_progress: int
    completed: int
    listed: Mapping[str, int]
    missing: Mapping[str, int]
    unlisted: int


@dataclass(frozen=True)
class Count:
    """What an archive said of how many instances a study has. Times are seconds since the epoch.

    Attributes:
        source: the archive's name in the settings.
        series: instances by Series Instance UID, without the node's own results.
        others: likewise, of series that hold no images (reports, presentation states): they count where any is here.
        left_out: how many of ``series`` are neither images nor here, where that was looked into.
        since: when the first of the answers came that all said the same.
        asked: when the last question was asked that was answered; None: none was.
        failed: when the last question failed; None: the last one was answered.
        error: why it failed.
        refused: it failed in a way that asking again cannot help.
    """

    source: str
    series: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)
    since: float | None = None
    asked: float | None = None
    failed: float | None = None
    error: str = ""
    refused: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def answered(self, series: Mapping[str, int], others: Mapping[str, int], asked: float, now: float) -> Count:
        """The archive was asked at ``asked``, and its answer came ``now``."""
        same = self.asked is not None and dict(series) == dict(self.series)
        since = self.since if same else now
        return Count(self.source, dict(series), dict(others), since, asked, left_out=self.left_out)

    def not_answered(self, now: float, error: str, *, refused: bool) -> Count:
        """A question failed; what was answered before stays."""
        return replace(self, failed=now, error=error, refused=refused)


@dataclass(frozen=True)
class Verdict:
    """Whether a study is whole, and why.

    Attributes:
        by: what decided; None: it is not whole yet.
        words: for the administrator: why it is whole, or what it waits for.
    """

    by: By | None
    words: str

    @property
    def whole(self) -> bool:
        return self.by is not None


def is_image_class(sop_class: str) -> bool:
    """Whether instances of a SOP Class are images; of one that nobody knows it is supposed."""
    name = UID(sop_class).name
    return name == sop_class or "Image Storage" in name
