"""Tables of several runs: status and cost of each, and the cost to reach given gaps."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from mpinewton.arrays import Array
from mpinewton.report.curves import bits_up, choose_quantity
from mpinewton.report.reading import RunRecord, by_series

GAPS = tuple(10.0**-k for k in range(1, 13))
HEADINGS = {
    False: "Rows stay with their workers",
    True: "Rows travel to the driver",
}
NAMES = {"gap": "gap", "best-seen": "loss - best seen", "grad_norm": "gradient norm", "loss": "loss"}

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


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

    def latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        lines = [" & ".join(map(_escape_latex, cells)) + r" \\" for cells in (self.header, *self.rows)]
        columns = "l" * self.words + "r" * (len(self.header) - self.words)
        body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        return "\n".join([*body, r"\bottomrule", r"\end{tabular}"])

    def _line(self, cells: Iterable[str], widths: Sequence[int], between: str) -> str:
        placed = (cell.ljust(w) if n < self.words else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths)))
        return between.join(placed)


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


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
        accuracy and the last loss on them. Of several seeds, the median and the range.
    """
    quantity = choose_quantity(runs)
    accuracy, test_loss = (any(run.has(name) for run in runs) for name in ("test_accuracy", "test_loss"))
    values = {id(run): v[np.isfinite(v)] for run, v in zip(runs, quantity.values)}
    rows = [
        (
            series,
            _status(group),
            _spread((run.last("iteration") for run in group), ".0f"),
            _spread((run.last("rounds") for run in group), ".0f"),
            _spread((_last(bits_up(run, bits_per_float)) / 1e6 for run in group), ".4g"),
            _spread((run.last("seconds") for run in group), ".3g"),
            _spread((_last(values[id(run)]) for run in group), ".2e"),
            *((_spread((100 * _best(run.columns["test_accuracy"]) for run in group), ".2f"),) if accuracy else ()),
            *((_spread((run.last("test_loss") for run in group), ".4f"),) if test_loss else ()),
        )
        for series, group in by_series(runs).items()
    ]
    mbit = "Mbit up" if bits_per_float is None else f"Mbit up ({bits_per_float} per float)"
    last = (NAMES[quantity.name], *(("best test %",) if accuracy else ()), *(("test loss",) if test_loss else ()))
    return Table(("method", "status", "iterations", "rounds", mbit, "seconds", *last), rows, 2)


def write_runs(problems: Mapping[str, Sequence[RunRecord]], file: TextIO, bits_per_float: int | None = None) -> None:
    """Write a row of CSV for every run, each seed on its own: numbers in full, of the last iterate."""
    columns = ("iteration", "rounds", "bits_up", "seconds", "loss", "grad_norm", "gap", "test_accuracy", "test_loss")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("problem", "method", "seed", "ending", "reason", *columns))
    for problem, runs in problems.items():
        for run in runs:
            last = {name: run.last(name) for name in columns} | {"bits_up": _last(bits_up(run, bits_per_float))}
            numbers = ("" if np.isnan(value) else repr(value) for value in last.values())
            writer.writerow((problem, run.series, run.config.get("seed", ""), run.ending, run.reason, *numbers))


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


def split_by_travel(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by heading: rows stay with their workers or travel; one empty heading if no rows travel."""
    if not any(run.rows_travel for run in runs):
        return {"": list(runs)}
    return {heading: [run for run in runs if run.rows_travel is travel] for travel, heading in HEADINGS.items()}


def tables(runs: Sequence[RunRecord], bits_per_float: int | None = None) -> dict[str, list[Table]]:
    """Tables of the runs of one problem, by heading: status and cost, rounds and bits to reach each level.

    Methods whose rows travel to the driver have tables of their own.
    """
    found = {}
    for heading, group in split_by_travel(runs).items():
        if group:
            costs = (rounds_to(group), kilobits_to(group, bits_per_float=bits_per_float))
            reached = [table for table in costs if len(table.header) > 1]  # some level is reached
            found[heading] = [summary(group, bits_per_float), *reached]
    return found


def _cost_to(
    what: str, costs: Sequence[Array], form: str, runs: Sequence[RunRecord], levels: Iterable[float] | None
) -> Table:
    quantity = choose_quantity(runs)
    if levels is None:
        least = [np.nanmin(values, initial=np.inf) for values in quantity.values]
        needed = 2 if quantity.name == "best-seen" and len(runs) > 1 else 0
        levels = [level for level in GAPS if sum(value <= level for value in least) >= needed]
    levels = tuple(levels)
    first = {
        id(run): [_first(cost, values, level) for level in levels]
        for run, cost, values in zip(runs, costs, quantity.values)
    }
    rows = [
        (series, *(_spread(column, form) for column in zip(*(first[id(run)] for run in group))))
        for series, group in by_series(runs).items()
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


def _status(runs: Sequence[RunRecord]) -> str:
    """How the runs of one row ended."""
    cut = ";" if len(runs) > 1 else "\0"  # what follows says which iterate is the result, another for each seed
    words = Counter("converged" if run.ending == "converged" else run.reason.partition(cut)[0] for run in runs)
    if len(words) == 1:
        return next(iter(words))
    return "; ".join(f"{count} of {len(runs)}: {word}" for word, count in words.items())


def _spread(values: Iterable[float], form: str) -> str:
    """The number; of several, the median and, in parentheses, the range. "-" stands for NaN, which is never reached."""
    known = sorted(np.where(np.isnan(many := np.fromiter(values, float)), np.inf, many))
    middle, least, largest = (_number(v, form) for v in (known[len(known) // 2], known[0], known[-1]))
    return middle if least == largest else f"{middle} ({least} to {largest})"


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"
