"""The UIDs of results: one method for each role, all derived from the run's key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dicom_node.model.uids import derive_uid

__all__ = ["ResultUids", "derive_uid"]


@dataclass(frozen=True)
class ResultUids:
    """``key`` is what a run's result UIDs derive from: the same key gives the same UIDs."""

    key: str

    def series(self, role: str) -> str:
        """Series Instance UID; ``role`` is that of the object, since viewers load one object a series."""
        return derive_uid(self.key, role, "series")

    def instance(self, role: str, *content: str) -> str:
        """SOP Instance UID; ``content`` is what else tells this object from others of the role."""
        return derive_uid(self.key, role, "instance", *content)

    def dimension_organization(self, role: str = "seg") -> str:
        """Dimension Organization UID of the SEG of that role."""
        return derive_uid(self.key, role, "dimension organization")

    def segment(self, number: int) -> str:
        """Tracking UID of a segment, in the SEG and in the SR."""
        return derive_uid(self.key, "tracking", "segment", str(number))

    def region(self, numbers: Iterable[int]) -> str:
        """Tracking UID of what several segments make up together."""
        return derive_uid(self.key, "tracking", "region", *map(str, numbers))

    def measurement(self, name: str) -> str:
        """Tracking Unique Identifier of one measurement."""
        return derive_uid(self.key, "tracking", "measurement", name)
