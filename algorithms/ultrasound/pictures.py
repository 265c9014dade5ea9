"""What these algorithms take: clips of B-mode pictures, each with its tissue regions and their scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Frame


class Region(Protocol):
    """A part of the picture that shows tissue."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), the last two exclusive."""

    @property
    def spacing(self) -> tuple[float, float] | None:
        """mm between (rows, columns), or None."""


class Picture(Protocol):
    """One frame: ``gray`` (rows, columns) uint8."""

    @property
    def frame(self) -> Frame: ...
    @property
    def gray(self) -> npt.NDArray[np.uint8]: ...
    @property
    def regions(self) -> tuple[Any, ...]:
        """Of :class:`Region`."""


class Clip(Protocol):
    """The pictures of one instance; a single image is a clip of one."""

    @property
    def tags(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def pictures(self, left_out: list[str] | None = None) -> Iterator[Any]:
        """Each :class:`Picture`, decoded as it is asked for."""
