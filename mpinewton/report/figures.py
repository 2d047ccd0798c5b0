"""Figures of several runs: a row of panels with one quantity against rounds, bits and seconds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError
from mpinewton.report.curves import (
    AXES,
    Curve,
    Quantity,
    axis_title,
    choose_quantity,
    curve,
    join_repeats,
    write_points,
)
from mpinewton.report.provenance import file_metadata, settings_of
from mpinewton.report.reading import Ending, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL = (3.3, 2.7)  # inches, without the legend
# Readable for colour-blind people and in print: the palette of Okabe and Ito without yellow, and three darker colours.
# 10 colours, 4 line styles and 7 markers repeat together only after 140 runs.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#882255", "#7A7A1F", "#777777")
LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("^", "D", "P", "*", "<", "p", "d")
# How a run ended: marker, whether it is filled, and the text of the legend.
ENDINGS: dict[Ending, tuple[str, bool, str]] = {
    "converged": ("o", True, "\N{BLACK CIRCLE} converged"),
    "budget": ("s", False, "\N{WHITE SQUARE} budget exhausted"),
    "stalled": ("v", False, "\N{WHITE DOWN-POINTING TRIANGLE} no further progress"),
    "failed": ("X", True, "\N{MULTIPLICATION X} failed"),
    "running": ("o", False, "\N{WHITE CIRCLE} still running"),
}
# A logarithmic panel ends at this factor above the largest start; a curve that diverges leaves it there.
HEADROOM = 100.0
# A curve that oscillates is drawn as the median and the range of this many windows.
WINDOWS = 25
# The horizontal axis is logarithmic if the longest run is longer than a short one by more than this factor.
UNEQUAL = 20.0


def draw(
    runs: Sequence[RunRecord],
    path: Path,
    axes: Sequence[str] = ("rounds", "bits", "seconds"),
    quantity: str | None = None,
    bits_per_float: int | None = None,
    title: str | None = None,
) -> list[Path]:
    """Draw the runs and write the plotted points beside the figure. The figure contains the settings of every run.

    Parameters
    ----------
    runs : sequence of RunRecord
    path : Path
        .png, .pdf or .svg; the points are written under the same name with .csv.
    axes : sequence of str
        Keys of `curves.AXES`, or "seconds:NETWORK"; one panel each.
    quantity : str, optional
        A key of `curves.QUANTITIES`; by default see `curves.choose_quantity`.
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.
    title : str, optional

    Returns
    -------
    list of Path
        The figure and its points.

    Raises
    ------
    ConfigError
        If an axis, quantity or suffix is unknown, or matplotlib is not installed.
    DataError
        If there is nothing to show.
    """
    path = Path(path)
    options = {"axes": list(axes), "quantity": quantity, "bits_per_float": bits_per_float, "title": title}
    _require_matplotlib()
    metadata = file_metadata(path, settings_of(runs, options))
    shown = choose_quantity(runs, quantity)
    panels = [
        [curve(run, axis, shown, values, bits_per_float) for run, values in zip(runs, shown.values)]
        for axis in _check_axes(axes)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with _house_style():
        _figure([join_repeats(panel) for panel in panels], shown, bits_per_float, title).savefig(
            path, metadata=metadata
        )
    points = path.with_suffix(".csv")
    write_points([c for panel in panels for c in panel], points)
    return [path, points]


def _require_matplotlib() -> None:
    try:
        import matplotlib.style  # noqa: F401
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install mpinewton[plot]") from None


@contextmanager
def _house_style() -> Iterator[None]:
    """Context with our style, independent of the user's matplotlibrc."""
    import matplotlib.style

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.style.use(Path(__file__).with_name("house.mplstyle"))
        yield


def _check_axes(axes: Sequence[str]) -> Sequence[str]:
    if not axes:
        raise ConfigError(f"no axis given; choose from: {', '.join(AXES)}")
    for axis in axes:
        axis_title(axis)
    return axes


def _figure(panels: list[list[Curve]], quantity: Quantity, bits_per_float: int | None, title: str | None) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    runs = [c.run for c in panels[0]]
    # The legend adds its own height below the panels, and needs some width.
    width = max(4.4, PANEL[0] * len(panels) + 0.3)
    columns = _legend_columns(width, [run.label for run in runs])
    height = PANEL[1] + 0.19 * (-(-len(runs) // columns) + 1) + (0.3 if title else 0.0)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08))
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    limits = vertical_limits(panels[0], quantity)
    for ax, panel in zip(cells, panels):
        _panel(ax, panel, quantity, bits_per_float, limits)
    cells[0].set_ylabel(quantity.title)
    if title:
        cells[0].set_title(_escape_text(title))
    figure.legend(
        handles=[_handle(number, c, quantity) for number, c in enumerate(panels[0])],
        title=textwrap.fill(_legend_title(panels, quantity), int(width * 15), break_long_words=False),
        ncols=columns,
        loc="outside lower center",
    )
    return figure


def _panel(
    ax: Axes, curves: list[Curve], quantity: Quantity, bits_per_float: int | None, limits: tuple[float, float] | None
) -> None:
    if quantity.log:
        ax.set_yscale("log")
    for number, c in enumerate(curves):
        if len(c.x):
            _draw_curve(ax, number, c)
    for target in _targets(curves, quantity):
        ax.axhline(target, color="#555555", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)
    if any(c.floored.any() for c in curves):
        ax.axhline(quantity.floor, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    if limits is not None:
        ax.set_ylim(*limits)
    _scale_x(ax, curves)
    axis = curves[0].axis
    restated = f" ({bits_per_float} per float)" if axis == "bits" and bits_per_float else ""
    ax.set_xlabel(axis_title(axis) + restated)
    for number, c in enumerate(curves):
        if len(c.x):
            _mark_end(ax, number, c)


def _draw_curve(ax: Axes, number: int, c: Curve) -> None:
    x, y, low, high = c.x, c.y, c.low, c.high
    if low is None and _oscillates(y):
        windows = np.array_split(np.arange(len(y)), WINDOWS)
        low, high = (np.array([f(y[window]) for window in windows]) for f in (np.min, np.max))
        x, y = (np.array([np.median(values[window]) for window in windows]) for values in (x, y))
    if low is not None and high is not None:
        ax.fill_between(x, low, high, color=COLORS[number % len(COLORS)], alpha=0.15, linewidth=0, zorder=1)
    # Sparse markers with another offset on each curve, so that curves which coincide are both visible.
    ax.plot(x, y, markevery=(0.03 + 0.17 * (number * 0.382 % 1), 0.17), **_line_style(number))
    if c.floored.any():
        first = int(np.argmax(c.floored))
        color = COLORS[number % len(COLORS)]
        ax.plot(c.x[first], c.y[first], "v", color=color, mfc="white", markersize=9, clip_on=False, zorder=4)


def _oscillates(y: Array) -> bool:
    """Whether more than a third of the points are turning points, on a curve of many points."""
    steps = np.diff(y)
    return len(y) > 4 * WINDOWS and bool(3 * np.count_nonzero(steps[1:] * steps[:-1] < 0) > len(y))


def _mark_end(ax: Axes, number: int, c: Curve) -> None:
    marker, filled, _ = ENDINGS[c.run.ending]
    color = COLORS[number % len(COLORS)]
    y = min(float(c.y[-1]), ax.get_ylim()[1])
    style: dict[str, Any] = (
        {"markersize": 7.5, "mfc": color, "mec": "white", "mew": 0.8}
        if filled
        else {"markersize": 6, "mfc": "white", "mec": color, "mew": 1.5}
    )
    ax.plot(c.x[-1], y, marker, clip_on=False, zorder=5, **style)


def _line_style(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markeredgewidth": 0,
    }


def _handle(number: int, c: Curve, quantity: Quantity) -> Line2D:
    from matplotlib.lines import Line2D

    label = c.run.label if len(c.x) else f"{c.run.label} (no {quantity.title})"
    return Line2D([], [], label=_escape_text(label), **_line_style(number))


def _escape_text(text: str) -> str:
    """The text for matplotlib: no mathematics between dollars, no leading underscore, which hides legend entries."""
    return text.replace("$", r"\$").replace("_", " _", text.startswith("_"))


def _legend_title(panels: list[list[Curve]], quantity: Quantity) -> str:
    """Explanation of the marks that occur in the figure."""
    drawn = [c for panel in panels for c in panel if len(c.x)]
    words = [words for ending, (*_, words) in ENDINGS.items() if any(c.run.ending == ending for c in drawn)]
    if any(c.floored.any() for c in drawn):
        what = {
            "gap": f"below the rounding error of the loss ({quantity.floor:.1e}), drawn there",
            "best-seen": "the best loss itself (difference 0), drawn at the least positive difference",
        }.get(quantity.name, "0, drawn at the least positive value")
        words.append(f"\N{WHITE DOWN-POINTING TRIANGLE} {what}")
    if any(c.low is not None for c in drawn):
        words.append("lines and shades: median and range over the seeds")
    if any(c.low is None and _oscillates(c.y) for c in drawn):
        words.append("shaded: range of the values around their median")
    words += [f"\N{EN DASH} \N{EN DASH} target {target:.3g}" for target in _targets(panels[0], quantity)]
    return "     ".join(item.replace(" ", "\N{NO-BREAK SPACE}") for item in words)


def _targets(curves: list[Curve], quantity: Quantity) -> list[float]:
    return sorted({target for c in curves if (target := c.run.target(quantity.name))})


def vertical_limits(curves: list[Curve], quantity: Quantity) -> tuple[float, float] | None:
    """Vertical limits if a diverging run would compress all others, else None."""
    drawn = [c.y for c in curves if len(c.y)]
    if not drawn:
        raise DataError("no run has finite values on both axes: there is nothing to show")
    low, high = min(float(y.min()) for y in drawn), max(float(y.max()) for y in drawn)
    start = max(float(y[0]) for y in drawn)
    if quantity.log:
        top = HEADROOM * start
        return (low * (low / top) ** 0.04, top) if high > top else None
    top = low + 2 * (start - low)
    return (low - 0.04 * (top - low), top) if quantity.name == "loss" and high > top > low else None


def _scale_x(ax: Axes, curves: list[Curve]) -> None:
    """Horizontal scale and ticks: linear, or logarithmic with 0 if the lengths of the runs differ widely."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axis = curves[0].axis
    moved = [c for c in curves if len(c.x) and c.x[-1] > 0]
    ends = [float(c.x[-1]) for c in moved]
    if lengths_differ(curves):
        _log_scale_x(ax, moved)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4 if axis == "bits" else 5, integer=axis == "rounds"))
        ax.set_xlim(0, max(ends, default=1.0) * 1.04)
    engineering = EngFormatter({"rounds": "", "bits": "bit"}.get(axis, "s"))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: engineering(x) if x else "0"))


def lengths_differ(curves: Sequence[Curve]) -> bool:
    """Whether the longest run is so much longer than the others that the horizontal scale should be logarithmic."""
    lengths = _lengths(curves)
    return bool(lengths and max(lengths) > UNEQUAL * float(np.quantile(lengths, 0.25, method="lower")))


def _lengths(curves: Sequence[Curve]) -> list[float]:
    moved = [c for c in curves if len(c.x) and c.x[-1] > 0]
    return [float(c.x[-1]) for c in moved if c.run.ending != "failed"] or [float(c.x[-1]) for c in moved]


def _log_scale_x(ax: Axes, curves: list[Curve]) -> None:
    shortest, end = min(_lengths(curves)), max(float(c.x[-1]) for c in curves)
    first = min(float(c.x[c.x > 0][0]) for c in curves)
    zero = [0.0] if any(c.x[0] == 0 for c in curves) else []
    # The scale begins at a hundredth of the shortest run: the milliseconds of a first gradient need no decades.
    left, right = max(first / 1.5, shortest / 100), end * 1.4
    decades = 10.0 ** np.arange(np.ceil(np.log10(left)), np.log10(right))
    ax.set_xscale("symlog", linthresh=left, linscale=1.0)
    ax.set_xticks([*zero, *decades[:: 1 + (len(decades) - 1) // 4]], minor=False)
    ax.set_xlim(0 if zero else left, right)


def _legend_columns(width: float, labels: list[str]) -> int:
    widest = 0.075 * max(map(len, labels)) + 0.8
    columns = max(1, min(len(labels), int(width / widest)))
    return -(-len(labels) // -(-len(labels) // columns))  # rows as even as they go
