"""A4 pages in millimetres, from the top, that grow as they are filled, and the PDF they become.

Drawn with matplotlib, without a window or its global state. The same content gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from dicom_node.encode.glyphs import bold_font_file, font_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 210.0, 297.0
"""A4, in mm."""
MARGIN = 16.0
RIGHT = WIDTH - MARGIN
BOTTOM = HEIGHT - 24.0
"""Below it is the footer."""
MM = 25.4
POINT = MM / 72
LEADING = 1.36
"""Distance of lines, in font sizes."""

_MEASURED_AT = 100
_SETTINGS: Mapping[str, Any] = {
    # Whole fonts are embedded as TrueType, never as Type 3, and their texts can be searched and copied.
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "pdf.use14corefonts": False,
    "pdf.inheritcolor": False,
    "savefig.bbox": None,
    "text.usetex": False,
    "text.parse_math": False,
}
"""Whatever a matplotlibrc of this machine says."""
_ONE_AT_A_TIME = threading.Lock()
"""matplotlib's settings are the process's."""


class Paper:
    """Pages that are filled from the top; a new one begins where the next thing has no room."""

    def __init__(self, top: float) -> None:
        """``top``: where the content of each further page begins, below what :meth:`further` draws."""
        self._top = top
        self._pages: list[tuple[Figure, Axes]] = []
        self.y = 0.0
        self._begin()

    def _begin(self) -> None:
        # Half a second to import, and needed for few results.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / MM, HEIGHT / MM), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(HEIGHT, 0)
        self._pages.append((figure, axes))
        self.y = MARGIN

    def need(self, height: float) -> bool:
        """Turn to a new page if there is less room than this; returns whether it did."""
        if self.y + height <= BOTTOM or self.y <= self._top:
            return False
        self._begin()
        self.y = self._top
        return True

    @property
    def count(self) -> int:
        """Of pages."""
        return len(self._pages)

    def text(
        self, x: float, y: float, said: str, size: float, colour: str, *, bold: bool = False, align: str = "left",
        page: int = -1,
    ) -> None:  # fmt: skip
        """One line, whose top is at ``y``; ``align`` says which end of it is at ``x``."""
        axes = self._pages[page][1]
        # The capitals, 0.72 of the size high, stand in the middle of the line.
        base = y + (0.5 * LEADING + 0.36) * size * POINT
        axes.text(x, base, said, fontproperties=_properties(bold, size), color=colour, ha=align, va="baseline")

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str = "none", page: int = -1
    ) -> None:
        """A rectangle, behind what is drawn."""
        from matplotlib.patches import Rectangle

        axes = self._pages[page][1]
        axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=0.6, zorder=0.5))

    def rule(self, y: float, colour: str, width: float = 0.5, page: int = -1) -> None:
        """A line from margin to margin; its width in points."""
        self._pages[page][1].plot([MARGIN, RIGHT], [y, y], color=colour, linewidth=width, solid_capstyle="butt")

    def picture(self, x: float, y: float, side: float, pixels: npt.NDArray[np.uint8]) -> Axes:
        """A square picture; returns axes in its pixels, from the top left corner, that clip what is drawn on it."""
        axes = self.axes(x, y, side, side)
        rows, columns = pixels.shape[:2]
        # "none" keeps the pixels as they are.
        axes.imshow(pixels, extent=(0, columns, rows, 0), interpolation="none", aspect="auto")
        axes.set_axis_off()
        axes.set_autoscale_on(False)
        return axes

    def label(
        self, axes: Axes, said: str, at: tuple[float, float], across: str, down: str, size: float
    ) -> None:  # fmt: skip
        """White letters at a place of a picture (as shares of its axes), on black: on bright tissue too."""
        ground = {"facecolor": "black", "edgecolor": "none", "pad": 1.2}
        axes.text(
            *at, said, fontproperties=_properties(False, size), color="white", ha=across, va=down, bbox=ground,
            transform=axes.transAxes,
        )  # fmt: skip

    def mark(self, axes: Axes, said: str, at: tuple[float, float], size: float, colour: str) -> None:
        """A word above a point of a diagram."""
        font = _properties(True, size)
        axes.annotate(
            said, at, xytext=(0, 6), textcoords="offset points", ha="center", color=colour, fontproperties=font
        )

    def scale(self, axes: Axes, across: str, up: str, size: float, ink: str, grid: str) -> None:
        """The scales of a diagram, with their units."""
        font = _properties(False, size)
        axes.set_xlabel(across, color=ink, fontproperties=font)
        axes.set_ylabel(up, color=ink, fontproperties=font)
        axes.grid(color=grid, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(colors=ink, length=2)
        for word in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            word.set_fontproperties(font)
        for spine in axes.spines.values():
            spine.set_color(grid)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes of their own on the page."""
        figure = self._pages[-1][0]
        return figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))

    def pdf(self, when: datetime, about: Mapping[str, str]) -> bytes:
        """All pages as PDF.

        Args:
            when: Creation Date.
            about: further entries of the document's information dictionary.
        """
        from matplotlib.backends.backend_pdf import PdfPages

        written = io.BytesIO()
        with PdfPages(written, metadata={**about, "CreationDate": when}) as pages:
            for figure, _ in self._pages:
                figure.savefig(pages, format="pdf", dpi=72)
        return written.getvalue()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """While it lasts, matplotlib draws for paper, in this thread only."""
    import matplotlib

    settings: Any = dict(_SETTINGS)
    with _ONE_AT_A_TIME, matplotlib.rc_context(settings):
        yield


def width_of(said: str, size: float, *, bold: bool = False) -> float:
    """How wide a line is, in mm."""
    return float(_measure(bold).getlength(said)) / _MEASURED_AT * size * POINT


def wrap(said: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """The text in lines of at most ``width`` mm; what has no place to break is broken anywhere."""
    lines: list[str] = []
    line = ""
    for word in (part for w in said.split() for part in _parts(w, width, size, bold)):
        longer = f"{line} {word}" if line else word
        if line and width_of(longer, size, bold=bold) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines


def _parts(word: str, width: float, size: float, bold: bool) -> Iterator[str]:
    if width_of(word, size, bold=bold) <= width:
        yield word
        return
    most = max(1, int(len(word) * width / width_of(word, size, bold=bold) * 0.9))
    yield from textwrap.wrap(word, most)


def _properties(bold: bool, size: float) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=_file(bold), size=size)


def _file(bold: bool) -> Path:
    return bold_font_file() if bold else font_file()


@cache
def _measure(bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_file(bold), _MEASURED_AT)
