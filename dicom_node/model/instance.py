"""Instances and series as the index knows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dicom_node.errors import InvalidInstance

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def valid_uid(value: str) -> bool:
    """Whether ``value`` is a UID (PS3.5 section 9.1): up to 64 characters, numbers with dots between.

    Leading zeros, which the standard forbids, are let through: old scanners write them.
    """
    return len(value) <= 64 and _is_uid(value)


# Most UIDs come again and again: of the study, the series, the class.
@lru_cache(maxsize=1024)
def _is_uid(value: str) -> bool:
    return _UID.fullmatch(value) is not None


@dataclass(frozen=True)
class Instance:
    """One stored SOP Instance.

    Attributes:
        digest: fingerprint (hex) of the dataset as received, without the file meta information
            (``store/fingerprint.py``).
        path: the Part 10 file, relative to the store's folder.
        size: bytes of that file.
        patient_key: SHA-256 (hex) of PatientID and IssuerOfPatientID, so that two patients can be
            told apart without a name in the index.
        tags: the header values that routing reads, by DICOM keyword (plain JSON types).
        own: True when this node made the instance: kept, never an input.
        source: calling AE title of the sender; empty for a folder.
        called: AE title that the sender called.
    """

    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    StudyInstanceUID: str
    TransferSyntaxUID: str
    digest: str
    path: str
    size: int
    patient_key: str
    tags: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False
    source: str = ""
    called: str = ""

    def __post_init__(self) -> None:
        for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID"):
            value = getattr(self, keyword)
            if not valid_uid(value):
                raise InvalidInstance(f"{keyword} {value[:80]!r} is not a valid UID")


@dataclass(frozen=True)
class Series:
    """The instances of one series, in the order of their SOP Instance UIDs."""

    SeriesInstanceUID: str
    StudyInstanceUID: str
    instances: tuple[Instance, ...]

    @property
    def tags(self) -> Mapping[str, Any]:
        """Routing tags of the first instance."""
        return self.instances[0].tags if self.instances else {}

    def paths(self, store: Path) -> list[Path]:
        """The files, absolute."""
        return [store / i.path for i in self.instances]
