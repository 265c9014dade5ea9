"""Statuses of N-CREATE and N-SET (PS3.7 Annex C), and reading attributes with them."""

from __future__ import annotations

from typing import Final

from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from dicom_node.model.instance import valid_uid

SUCCESS: Final = 0x0000
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
INVALID_OBJECT_INSTANCE: Final = 0x0117
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
RESOURCE_LIMITATION: Final = 0x0213
MAY_NO_LONGER_BE_UPDATED: Final = 0xA710
"""Error ID that goes with a Processing Failure (PS3.4 section F.7.2.2.3)."""


class Refused(Exception):
    """The request cannot be served.

    Args:
        status: for the response.
        words: its Error Comment; at most 64 characters.
        error_id: its Error ID; None: none.
    """

    def __init__(self, status: int, words: str, error_id: int | None = None) -> None:
        self.status = status
        self.error_id = error_id
        super().__init__(words)


def needed(ds: Dataset, keyword: str) -> str:
    """The value of an attribute of type 1.

    Raises:
        Refused: it is missing, or empty.
    """
    if keyword not in ds:
        raise Refused(MISSING_ATTRIBUTE, f"{keyword} is missing")
    value = str(ds.get(keyword) or "").strip()
    if not value:
        raise Refused(MISSING_ATTRIBUTE_VALUE, f"{keyword} is empty")
    return value


def needed_uid(ds: Dataset, keyword: str) -> str:
    """As :func:`needed`, and it is a UID.

    Raises:
        Refused: it is missing, empty, or none.
    """
    value = needed(ds, keyword)
    if not valid_uid(value):
        raise Refused(INVALID_ATTRIBUTE_VALUE, f"{keyword} is no UID")
    return value


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence that may be missing or empty.

    Raises:
        Refused: it is no sequence.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return []
    if not isinstance(value, Items):
        raise Refused(INVALID_ATTRIBUTE_VALUE, f"{keyword} is no sequence")
    return list(value)


def needed_items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence of type 1.

    Raises:
        Refused: it is missing, empty, or no sequence.
    """
    if keyword not in ds:
        raise Refused(MISSING_ATTRIBUTE, f"{keyword} is missing")
    found = items(ds, keyword)
    if not found:
        raise Refused(MISSING_ATTRIBUTE_VALUE, f"{keyword} is empty")
    return found
