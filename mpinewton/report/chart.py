"""The figure of one problem as data for plotly.js: page.js draws it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.report.curves import Curve, axis_title, choose_quantity, curve, join_repeats
from mpinewton.report.figures import COLORS, ENDINGS, LINES, lengths_differ, vertical_limits
from mpinewton.report.reading import RunRecord

MOST_POINTS = 1000
DASHES = dict(zip(LINES, ("solid", "dash", "dashdot", "dot")))
SYMBOLS = {"o": "circle", "s": "square", "v": "triangle-down", "X": "x"}


def is_installed() -> bool:
    """Whether plotly is installed."""
    return importlib.util.find_spec("plotly") is not None


def library() -> str:
    """The text of plotly.js."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def chart(
    runs: Sequence[RunRecord], axes: Sequence[str], quantity: str | None = None, bits_per_float: int | None = None
) -> dict[str, Any]:
    """The curves of the runs, JSON-able; of several seeds, the median and the range.

    Parameters
    ----------
    runs : sequence of RunRecord
    axes : sequence of str
        Keys of `curves.AXES`, or "seconds:NETWORK"; the reader of the page chooses one.
    quantity : str, optional
        A key of `curves.QUANTITIES`; by default see `curves.choose_quantity`.
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.

    Raises
    ------
    ConfigError
        If an axis or the quantity is unknown.
    DataError
        If there is nothing to show.
    """
    shown = choose_quantity(runs, quantity)
    panels = {
        axis: join_repeats([curve(run, axis, shown, values, bits_per_float) for run, values in zip(runs, shown.values)])
        for axis in axes
    }
    restated = f" ({bits_per_float} per float)" if bits_per_float else ""
    first = next(iter(panels.values()))
    return {
        "title": shown.title, "log": shown.log, "limits": vertical_limits(first, shown),
        "targets": sorted({target for c in first if (target := c.run.target(shown.name))}),
        "runs": [_look(number, c.run) for number, c in enumerate(first)],
        "axes": [
            {
                "title": axis_title(axis) + (restated if axis == "bits" else ""),
                "unit": {"rounds": "", "bits": "bit"}.get(axis, "s"), "log": lengths_differ(panel),
                "curves": [_points(c) for c in panel],
            }
            for axis, panel in panels.items()
        ],
    }  # fmt: skip


def _look(number: int, run: RunRecord) -> dict[str, Any]:
    marker, filled, words = ENDINGS[run.ending]
    color = COLORS[number % len(COLORS)]
    return {
        "label": run.series, "color": None if color == "#000000" else color,  # black is invisible on a dark page
        "dash": DASHES[LINES[number % len(LINES)]],
        "symbol": SYMBOLS[marker] + ("" if filled else "-open"), "ending": words[2:],
    }  # fmt: skip


def _points(c: Curve) -> dict[str, Any]:
    kept = np.unique(np.linspace(0, max(len(c.x) - 1, 0), MOST_POINTS).astype(np.intp))[: len(c.x)]

    def numbers(values: Array) -> list[float]:
        return [float(f"{value:.7g}") for value in values[kept]]

    band = {} if c.low is None or c.high is None else {"low": numbers(c.low), "high": numbers(c.high)}
    return {"x": numbers(c.x), "y": numbers(c.y), **band}
