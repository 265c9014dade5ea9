"""Every defect that the check must catch: one property of sound results is broken at a time.

The list holds those known from the field, those that no validator notices, and those of what the check says besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom import Dataset

from tests.unit.defects import codes, document, encodings, headers, moved, record, views

Results = dict[str, Dataset]
"""The result objects of a run by role. What a defect removes is a file that is missing."""


@dataclass(frozen=True)
class Defect:
    """``spoil`` changes the results; a line of the check matches ``said``.

    Attributes:
        encoded: it is one of results in several encodings.
    """

    name: str
    spoil: Callable[[Results], object]
    said: str
    encoded: bool = False


def _record(part: str, broken: record.Break, said: str) -> Defect:
    return Defect(f"{part}: {broken.__name__}", lambda r: broken(r["seg"], r["sr"]), said)


def _one(role: str, broken: views.BreakOne, said: str) -> Defect:
    return Defect(f"{role}: {broken.__name__.strip('_')}", lambda r: broken(r[role]), said)


def _all() -> Iterator[Defect]:
    for part, table in (("record", record.BREAKS), ("codes", codes.BREAKS), ("findings", moved.MOVED)):
        yield from (_record(part, broken, said) for broken, said in table.items())
    for role, views_of in (("contours", views.CONTOURS), ("sc", views.CAPTURE), ("pdf", document.PDF)):
        yield from (_one(role, broken, said) for broken, said in views_of.items())
    for spoil, said in headers.DEFECTS.items():
        yield Defect(f"all: {spoil.__name__.strip('_')}", spoil, said)
    for spoil, said in encodings.DEFECTS.items():
        yield Defect(f"encodings: {spoil.__name__.strip('_')}", spoil, said, encoded=True)


DEFECTS = tuple(_all())
