"""Headers that are alike: from one image of a series to the next most elements stay as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dicom_node.receive.elements import Element, Encoding, outline

_LONGEST_REMEMBERED = 1 << 12
"""Of one element."""

_MOST_REMEMBERED = 1 << 17
_RUN = 16
"""So many elements are first taken together."""

Made = TypeVar("Made")
Elements = Sequence[tuple[int, memoryview]]
"""Tags, and the whole elements."""


@dataclass(frozen=True)
class _Run(Generic[Made]):
    """Elements that follow one another: tags and bytes, all bytes together (none: too many to remember), and what
    was made of them.
    """

    elements: tuple[tuple[int, bytes], ...]
    raw: bytes
    made: Made


class Alike(Generic[Made]):
    """Makes something of each dataset's elements, and keeps it for the next dataset. Thread-safe.

    Each thread remembers its last dataset. Where the next one has the same bytes, they are the same elements; only
    those that differ are looked at. A run of elements is split where one was seen to differ, so after a few images of
    a series what varies stands alone.

    Args:
        encoding: of all datasets.
        make: makes something of elements that follow one another.
    """

    def __init__(self, encoding: Encoding, make: Callable[[Elements], Made]) -> None:
        self._encoding = encoding
        self._make = make
        self._last = threading.local()

    def read(self, data: bytes | memoryview) -> Iterator[Made]:
        """What is made of the dataset's topmost elements, run by run in their order.

        Raises:
            InvalidInstance: as ``outline``; or what ``make`` raises.
        """
        old: list[_Run[Made]] = getattr(self._last, "runs", [])
        runs: list[_Run[Made]] = []
        # Who stops reading leaves the beginning, which is as good.
        self._last.runs = runs
        left = _MOST_REMEMBERED
        for run in self._runs(memoryview(data), old):
            yield run.made
            left -= len(run.raw)
            if left >= 0:
                runs.append(run)

    def _runs(self, data: memoryview, old: list[_Run[Made]]) -> Iterator[_Run[Made]]:
        walk = outline(data, self._encoding)
        first = next(walk, None)
        at = 0

        def element_there() -> Element | None:
            try:
                return walk.send(at) if at else first
            except StopIteration:
                return None

        for run in old:
            stop = at + len(run.raw)
            if run.raw and bytes(data[at:stop]) == run.raw:
                yield run
                at = stop
                continue
            same: list[tuple[int, memoryview]] = []
            alike = True
            for tag, raw in run.elements:
                element = element_there()
                alike = element is not None and element.tag == tag
                if element is None or not alike:
                    break
                value = data[at : element.stop]
                at = element.stop
                if len(value) == len(raw) and value == raw:
                    same.append((tag, value))
                    continue
                if same:
                    yield self._run(same)
                    same = []
                yield self._run([(tag, value)])
            if same:
                yield self._run(same)
            if not alike:
                break
        new: list[tuple[int, memoryview]] = []
        element = element_there()
        while element is not None:
            large = element.stop - element.start > _LONGEST_REMEMBERED
            if new and (large or len(new) == _RUN):
                yield self._run(new)
                new = []
            new.append((element.tag, data[element.start : element.stop]))
            if large:
                yield self._run(new)
                new = []
            element = next(walk, None)
        if new:
            yield self._run(new)

    def _run(self, elements: Elements) -> _Run[Made]:
        if len(elements[0][1]) > _LONGEST_REMEMBERED:
            return _Run(tuple((tag, b"") for tag, _ in elements), b"", self._make(elements))
        remembered = tuple((tag, bytes(value)) for tag, value in elements)
        return _Run(remembered, b"".join(value for _, value in remembered), self._make(elements))
