"""Figures of several runs: one row of panels, the same quantity against rounds, bits and seconds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError, did_you_mean
from mpinewton.report.curves import AXES, Curve, Quantity, choose_quantity, curve, write_points
from mpinewton.report.provenance import file_metadata, settings_of
from mpinewton.report.reading import Ending, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL = (3.3, 2.7)  # inches, without the legend
# Told apart by colour-blind readers and in print: the palette of Okabe and Ito without its yellow, and three darker
# ones. 10 colours, 4 line styles and 7 markers repeat together only after 140 runs.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#882255", "#7A7A1F", "#777777")
LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("^", "D", "P", "*", "<", "p", "d")
# How a run ended: marker, filled or not, and the words of the key.
ENDINGS: dict[Ending, tuple[str, bool, str]] = {
    "converged": ("o", True, "\N{BLACK CIRCLE} converged"),
    "budget": ("s", False, "\N{WHITE SQUARE} budget used up"),
    "stalled": ("v", False, "\N{WHITE DOWN-POINTING TRIANGLE} comes no closer"),
    "failed": ("X", True, "\N{MULTIPLICATION X} failed"),
    "running": ("o", False, "\N{WHITE CIRCLE} still running"),
}
# On a log scale, a curve that rises beyond this factor over the largest start leaves the panel at its top.
HEADROOM = 100.0
# A curve that turns at more than every third of its points is drawn as so many medians, and the range around them.
WINDOWS = 25
# Where the longest run has more than this times the length of a short one, a linear axis would hide the short one.
UNEQUAL = 20.0


def draw(
    runs: Sequence[RunRecord],
    path: Path,
    axes: Sequence[str] = ("rounds", "bits", "seconds"),
    quantity: str | None = None,
    bits_per_float: int | None = None,
    title: str | None = None,
) -> list[Path]:
    """Draw the runs, one panel for each of `axes`, and write the plotted points beside the figure.

    Parameters
    ----------
    path : Path
        .png, .pdf or .svg; the points go to the same name with .csv. The file carries the settings of every run.
    quantity : str, optional
        A key of `curves.QUANTITIES`; by default what `curves.choose_quantity` finds fair.
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as metered.

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
    _need_matplotlib()
    metadata = file_metadata(path, settings_of(runs, options))
    shown = choose_quantity(runs, quantity)
    panels = [
        [curve(run, axis, shown, values, bits_per_float) for run, values in zip(runs, shown.values)]
        for axis in _known(axes)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with _house_style():
        _figure(panels, shown, bits_per_float, title).savefig(path, metadata=metadata)
    points = path.with_suffix(".csv")
    write_points([c for panel in panels for c in panel], points)
    return [path, points]


def _need_matplotlib() -> None:
    try:
        import matplotlib.style  # noqa: F401
    except ImportError:
        raise ConfigError("figures need matplotlib, which is not installed: pip install mpinewton[plot]") from None


@contextmanager
def _house_style() -> Iterator[None]:
    """Our style alone, whatever the user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.style.use(Path(__file__).with_name("house.mplstyle"))
        yield


def _known(axes: Sequence[str]) -> Sequence[str]:
    if not axes:
        raise ConfigError(f"no axis given; there are: {', '.join(AXES)}")
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(f"no axis is called {axis!r}{did_you_mean(axis, AXES)}")
    return axes


def _figure(panels: list[list[Curve]], quantity: Quantity, bits_per_float: int | None, title: str | None) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    runs = [c.run for c in panels[0]]
    # The legend adds its own height below the panels, and asks for some width.
    width = max(4.4, PANEL[0] * len(panels) + 0.3)
    columns = _legend_columns(width, [run.label for run in runs])
    height = PANEL[1] + 0.19 * (-(-len(runs) // columns) + 1) + (0.3 if title else 0.0)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08))
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    limits = _limits(panels[0], quantity)
    for ax, panel in zip(cells, panels):
        _panel(ax, panel, quantity, bits_per_float, limits)
    cells[0].set_ylabel(quantity.title)
    if title:
        cells[0].set_title(_plain(title))
    figure.legend(
        handles=[_handle(number, c, quantity) for number, c in enumerate(panels[0])],
        title=textwrap.fill(_key(panels, quantity), int(width * 15), break_long_words=False),
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
    ax.set_xlabel(AXES[axis] + restated)
    for number, c in enumerate(curves):
        if len(c.x):
            _mark_end(ax, number, c)


def _draw_curve(ax: Axes, number: int, c: Curve) -> None:
    x, y = c.x, c.y
    if _restless(y):
        windows = np.array_split(np.arange(len(y)), WINDOWS)
        low, high = (np.array([f(y[window]) for window in windows]) for f in (np.min, np.max))
        x, y = (np.array([np.median(values[window]) for window in windows]) for values in (x, y))
        ax.fill_between(x, low, high, color=COLORS[number % len(COLORS)], alpha=0.15, linewidth=0, zorder=1)
    # Sparse markers, begun at another place on each curve, so that curves which coincide show both.
    ax.plot(x, y, markevery=(0.03 + 0.17 * (number * 0.382 % 1), 0.17), **_look(number))
    if c.floored.any():
        first = int(np.argmax(c.floored))
        color = COLORS[number % len(COLORS)]
        ax.plot(c.x[first], c.y[first], "v", color=color, mfc="white", markersize=9, clip_on=False, zorder=4)


def _restless(y: Array) -> bool:
    """Whether the values go up and down too often to be followed as a line."""
    steps = np.diff(y)
    return len(y) > 4 * WINDOWS and bool(3 * np.count_nonzero(steps[1:] * steps[:-1] < 0) > len(y))


def _mark_end(ax: Axes, number: int, c: Curve) -> None:
    marker, filled, _ = ENDINGS[c.run.ending]
    color = COLORS[number % len(COLORS)]
    y = min(float(c.y[-1]), ax.get_ylim()[1])
    look: dict[str, Any] = (
        {"markersize": 7.5, "mfc": color, "mec": "white", "mew": 0.8}
        if filled
        else {"markersize": 6, "mfc": "white", "mec": color, "mew": 1.5}
    )
    ax.plot(c.x[-1], y, marker, clip_on=False, zorder=5, **look)


def _look(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markeredgewidth": 0,
    }


def _handle(number: int, c: Curve, quantity: Quantity) -> Line2D:
    from matplotlib.lines import Line2D

    label = c.run.label if len(c.x) else f"{c.run.label} (no {quantity.title})"
    return Line2D([], [], label=_plain(label), **_look(number))


def _plain(text: str) -> str:
    """The text as it stands: dollars are no mathematics, and a leading underscore does not hide it from the legend."""
    return text.replace("$", r"\$").replace("_", " _", text.startswith("_"))


def _key(panels: list[list[Curve]], quantity: Quantity) -> str:
    """The marks that occur in the figure, in words."""
    drawn = [c for panel in panels for c in panel if len(c.x)]
    words = [words for ending, (*_, words) in ENDINGS.items() if any(c.run.ending == ending for c in drawn)]
    if any(c.floored.any() for c in drawn):
        what = {
            "gap": f"below the rounding of the loss ({quantity.floor:.1e}), drawn there",
            "best-seen": "the best loss seen itself (0 by construction), drawn at the least difference",
        }.get(quantity.name, "0, drawn at the least positive value")
        words.append(f"\N{WHITE DOWN-POINTING TRIANGLE} {what}")
    if any(_restless(c.y) for c in drawn):
        words.append("shaded: the range of values around their medians")
    words += [f"\N{EN DASH} \N{EN DASH} target {target:.3g}" for target in _targets(panels[0], quantity)]
    return "     ".join(item.replace(" ", "\N{NO-BREAK SPACE}") for item in words)


def _targets(curves: list[Curve], quantity: Quantity) -> list[float]:
    return sorted({target for c in curves if (target := c.run.target(quantity.name))})


def _limits(curves: list[Curve], quantity: Quantity) -> tuple[float, float] | None:
    """Vertical limits, where a diverging run would squash all others."""
    drawn = [c.y for c in curves if len(c.y)]
    if not drawn:
        raise DataError("no run has both the quantity and the place to draw it: there is nothing to show")
    low, high = min(float(y.min()) for y in drawn), max(float(y.max()) for y in drawn)
    start = max(float(y[0]) for y in drawn)
    if quantity.log and high > (top := HEADROOM * start):
        return low * (low / top) ** 0.04, top
    if quantity.name == "loss" and high > (top := low + 2 * (start - low)) > low:
        return low - 0.04 * (top - low), top
    return None


def _scale_x(ax: Axes, curves: list[Curve]) -> None:
    """Linear, or logarithmic with 0 kept where the lengths of the runs differ widely; SI prefixes."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axis = curves[0].axis
    moved = [c for c in curves if len(c.x) and c.x[-1] > 0]
    ends = [float(c.x[-1]) for c in moved]
    whole = [float(c.x[-1]) for c in moved if c.run.ending != "failed"] or ends
    if whole and max(whole) > UNEQUAL * float(np.quantile(whole, 0.25, method="lower")):
        first = min(float(c.x[c.x > 0][0]) for c in moved)
        zero = [0.0] if any(c.x[0] == 0 for c in moved) else []
        # What happens before a hundredth of the shortest run, as the first gradient's milliseconds, needs no decades.
        left, right = max(first / 1.5, min(whole) / 100), max(ends) * 1.4
        decades = 10.0 ** np.arange(np.ceil(np.log10(left)), np.log10(right))
        ax.set_xscale("symlog", linthresh=left, linscale=1.0)
        ax.set_xticks([*zero, *decades[:: 1 + (len(decades) - 1) // 4]], minor=False)
        ax.set_xlim(0 if zero else left, right)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4 if axis == "bits" else 5, integer=axis == "rounds"))
        ax.set_xlim(0, max(ends, default=1.0) * 1.04)
    engineering = EngFormatter({"rounds": "", "bits": "bit", "seconds": "s"}[axis])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: engineering(x) if x else "0"))


def _legend_columns(width: float, labels: list[str]) -> int:
    widest = 0.075 * max(map(len, labels)) + 0.8
    columns = max(1, min(len(labels), int(width / widest)))
    return -(-len(labels) // -(-len(labels) // columns))  # rows as even as they go
