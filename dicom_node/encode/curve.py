"""A course over time, drawn as a diagram."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.algorithm import Curve

_DPI = 100
_LINE, _MARK, _INK, _GRID = "#5ab4ff", "#ffcd50", "#ffffff", "#404040"


def draw_curve(curve: Curve, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The diagram, white on black, without a window or matplotlib's global state.

    Args:
        width, height: in pixels.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    # Half a second to import, and needed for few results.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="black")
    axes.plot(curve.times, curve.values, color=_LINE, marker="o", markersize=3, linewidth=1.5)
    for index, label in curve.marks:
        at = (curve.times[index], curve.values[index])
        axes.plot(*at, color=_MARK, marker="o", markersize=7)
        axes.annotate(label, at, xytext=(0, 7), textcoords="offset points", ha="center", color=_MARK)
    axes.margins(y=0.2)
    axes.set_title(curve.name, color=_INK, fontsize=11)
    axes.set_xlabel("ms", color=_INK)
    axes.set_ylabel(curve.unit, color=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.tick_params(colors=_INK)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    drawn: npt.NDArray[np.uint8] = np.asarray(_pixels(canvas))
    return np.ascontiguousarray(drawn[..., :3])


def _pixels(canvas: Any) -> Any:
    """Draw; matplotlib has no types for it."""
    canvas.draw()
    return canvas.buffer_rgba()
