"""Tables of several runs: status and cost of each, and the cost to reach given gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.report.curves import bits_up, choose_quantity
from mpinewton.report.reading import RunRecord

GAPS = tuple(10.0**-k for k in range(1, 13))
NAMES = {"gap": "gap", "best-seen": "loss - best seen", "grad_norm": "gradient norm", "loss": "loss"}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    header : tuple of str
    rows : sequence of tuple of str
    words : int
        Number of leading columns that are aligned left; the others are aligned right.
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1

    def text(self) -> str:
        """The table with columns aligned by spaces."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join(self._line(cells, widths, "  ").rstrip() for cells in lines)

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [tuple(cell.replace("|", r"\|") for cell in cells) for cells in (self.header, *self.rows)]
        widths = [max(3, *map(len, column)) for column in zip(*lines)]
        rule = ["-" * width if n < self.words else "-" * (width - 1) + ":" for n, width in enumerate(widths)]
        return "\n".join(f"| {self._line(cells, widths, ' | ')} |" for cells in (lines[0], rule, *lines[1:]))

    def _line(self, cells: Iterable[str], widths: Sequence[int], between: str) -> str:
        placed = (cell.ljust(w) if n < self.words else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths)))
        return between.join(placed)


def summary(runs: Sequence[RunRecord], bits_per_float: int | None = None) -> Table:
    """Status and cost of each run, and the last value of the quantity that a figure of the runs shows.

    Parameters
    ----------
    runs : sequence of RunRecord
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.

    Returns
    -------
    Table
        Mbit are 1e6 bits from the busiest worker to the driver. With test data there are two more columns: the best
        accuracy and the last loss on them.
    """
    quantity = choose_quantity(runs)
    accuracy, test_loss = (any(run.has(name) for run in runs) for name in ("test_accuracy", "test_loss"))
    rows = [
        (
            run.label,
            "converged" if run.ending == "converged" else run.reason,
            _count(run.last("iteration")),
            _count(run.last("rounds")),
            _number(_last(bits_up(run, bits_per_float)) / 1e6, ".4g"),
            _number(run.last("seconds"), ".3g"),
            _number(_last(values[np.isfinite(values)]), ".2e"),
            *((_number(100 * _best(run.columns["test_accuracy"]), ".2f"),) if accuracy else ()),
            *((_number(run.last("test_loss"), ".4f"),) if test_loss else ()),
        )
        for run, values in zip(runs, quantity.values)
    ]
    mbit = "Mbit up" if bits_per_float is None else f"Mbit up ({bits_per_float} per float)"
    last = (NAMES[quantity.name], *(("best test %",) if accuracy else ()), *(("test loss",) if test_loss else ()))
    return Table(("method", "status", "iterations", "rounds", mbit, "seconds", *last), rows, 2)


def rounds_to(runs: Sequence[RunRecord], levels: Iterable[float] | None = None) -> Table:
    """Rounds until the quantity that a figure of the runs shows is at most each level; "-" if it never is.

    Parameters
    ----------
    runs : sequence of RunRecord
    levels : iterable of float, optional
        1e-1 to 1e-12 by default. Of differences to the best loss among the runs, only the levels that two runs reach:
        the best run reaches them all.
    """
    return _cost_to("rounds", [run.columns["rounds"] for run in runs], ".0f", runs, levels)


def kilobits_to(
    runs: Sequence[RunRecord], levels: Iterable[float] | None = None, bits_per_float: int | None = None
) -> Table:
    """As `rounds_to`, with kbit (1e3 bits) from the busiest worker to the driver."""
    return _cost_to("kbit up", [bits_up(run, bits_per_float) / 1e3 for run in runs], ".4g", runs, levels)


def _cost_to(
    what: str, costs: Sequence[Array], form: str, runs: Sequence[RunRecord], levels: Iterable[float] | None
) -> Table:
    quantity = choose_quantity(runs)
    if levels is None:
        least = [np.nanmin(values, initial=np.inf) for values in quantity.values]
        needed = 2 if quantity.name == "best-seen" and len(runs) > 1 else 0
        levels = [level for level in GAPS if sum(value <= level for value in least) >= needed]
    levels = tuple(levels)
    rows = [
        (run.label, *(_number(_first(cost, values, level), form) for level in levels))
        for run, cost, values in zip(runs, costs, quantity.values)
    ]
    header = (f"{what} to reach {NAMES[quantity.name]}", *(f"{level:.0e}".replace("e-0", "e-") for level in levels))
    return Table(header, rows)


def _first(cost: Array, values: Array, level: float) -> float:
    reached = np.flatnonzero(values <= level)  # NaN compares false
    return float(cost[reached[0]]) if len(reached) else np.nan


def _last(values: Array) -> float:
    return float(values[-1]) if len(values) else np.nan


def _best(values: Array) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else np.nan


def _count(value: float) -> str:
    return _number(value, ".0f")


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)
