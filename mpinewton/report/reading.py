"""Run folders, read for figures, tables and pages."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import DataError

Ending = Literal["converged", "budget", "stalled", "failed", "running"]

REQUIRED = ("iteration", "rounds", "floats_up", "bits_up", "seconds", "loss", "grad_norm")
OPTIONAL = ("gap", "test_accuracy", "test_loss")
CUMULATIVE = ("rounds", "floats_up", "bits_up", "seconds")
DEFAULT_STARTS = ("auto", "zero")
# `kind` of result.json -> ending.
ENDINGS: dict[str, Ending] = {
    "converged": "converged", "precision": "converged", "budget": "budget", "stalled": "stalled",
    "unbounded": "stalled", "interrupted": "running",
}  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder.

    Attributes
    ----------
    folder : Path
    label : str
        Name of the run in figures and tables.
    columns : dict of array, shape (rows,)
        The numeric columns of history.csv; NaN where a cell is empty.
    result : dict
        The content of result.json; empty while the run is in progress.
    config : dict
        The content of config.toml.
    """

    folder: Path
    label: str
    columns: dict[str, Array]
    result: dict[str, Any]
    config: dict[str, Any]

    @property
    def rows(self) -> int:
        """Number of rows of the history."""
        return len(self.columns["iteration"])

    @property
    def series(self) -> str:
        """The label without the seed: runs of one problem that agree here are repeats of each other."""
        return re.sub(r", seed \d+$", "", self.label)

    @property
    def ending(self) -> Ending:
        """How the run ended."""
        return ENDINGS.get(str(self.result.get("kind")), "failed") if self.result else "running"

    @property
    def rows_travel(self) -> bool:
        """Whether rows of the data left their workers."""
        return bool(self.result.get("rows_travel"))

    @property
    def reason(self) -> str:
        """Why the run stopped, in a sentence."""
        return " ".join(str(self.result.get("reason") or self.ending).split())

    @property
    def objective(self) -> tuple[str, ...]:
        """Data, loss, l2 and intercept: runs that agree here minimise the same function."""
        data = self.result.get("data_sha256") or self.config.get("data")
        loss, l2 = (self.result.get(key, self.config.get(key)) for key in ("loss", "l2"))
        return str(data), str(loss), str(l2), "intercept" if self.config.get("intercept") else ""

    @property
    def problem(self) -> tuple[str, ...]:
        """Objective, start, arithmetic and test data: runs that agree here can be compared iteration by iteration."""
        start, dtype = str(self.config.get("start", "auto")), str(self.config.get("dtype", "float64"))
        return *self.objective, start, dtype, str(self.config.get("test") or "")

    def has(self, quantity: str) -> bool:
        """Whether the history holds at least one number of the quantity."""
        return quantity in self.columns and bool(np.isfinite(self.columns[quantity]).any())

    def last(self, column: str) -> float:
        """Value in the last row; NaN if there are no rows."""
        values = self.columns[column]
        return float(values[-1]) if len(values) else np.nan

    def target(self, quantity: str) -> float | None:
        """The value at which the run was to stop: the options `gap` and `tol`."""
        value = self.config.get({"gap": "gap", "grad_norm": "tol"}.get(quantity, ""))
        return float(value) if isinstance(value, int | float) and value > 0 else None


def read_run(folder: Path) -> RunRecord:
    """Read a run folder. While the run is in progress, result.json and the end of history.csv may be missing.

    Raises
    ------
    DataError
        If the folder is not a run folder, or a file in it is malformed.
    """
    folder = Path(folder)
    if not (folder / "history.csv").is_file():
        raise DataError(
            f"{folder} is not a run folder: it has no history.csv; expected a folder written by `mpinewton run`"
        )
    config = _parsed(folder / "config.toml", tomllib.loads)
    result = read_result(folder)
    label = result.get("label") or config.get("label") or result.get("method") or config.get("method") or folder.name
    columns = _history(folder / "history.csv", finished=bool(result))
    _fill_last_row(columns, result)
    return RunRecord(folder, " ".join(str(label).split()), columns, result, config)


def read_result(folder: Path) -> dict[str, Any]:
    """The content of result.json; empty while the run is in progress. Raises DataError if it is malformed."""
    path = folder / "result.json"
    return _parsed(path, json.loads) if path.exists() else {}


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Read run folders, and folders that contain run folders at any depth; equal labels get the folder's name.

    Raises
    ------
    DataError
        If a path holds no run folder, or a run folder is malformed.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        inside = [path] if (path / "history.csv").is_file() else sorted(p.parent for p in path.rglob("history.csv"))
        if not inside:
            raise DataError(f"{path} contains no run: there is no history.csv in it or in a folder inside it")
        folders.update(dict.fromkeys(inside))
    runs = [read_run(folder) for folder in folders]
    labels = Counter(run.label for run in runs)
    return [run if labels[run.label] == 1 else replace(run, label=f"{run.label} ({run.folder.name})") for run in runs]


def by_problem(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by problem, with a name for each: data and objective, and whatever else tells two problems apart."""
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.problem, []).append(run)
    names = [_problem_name(group[0]) for group in found.values()]
    return {
        name if names.count(name) == 1 else f"{name}, data {problem[0][:12]}": group
        for name, (problem, group) in zip(names, found.items())
    }


def _problem_name(run: RunRecord) -> str:
    _, loss, l2, intercept, start, dtype, test = run.problem
    words = [Path(str(run.config.get("data", ""))).name, loss, f"l2 = {l2}", intercept]
    words += [f"start {Path(start).name}" if start not in DEFAULT_STARTS else ""]
    words += [dtype if dtype != "float64" else "", f"test data {Path(test).name}" if test else ""]
    return ", ".join(filter(None, words))


def by_series(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by label without the seed; one of them where the seed makes no difference."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.series, []).append(run)
    return {
        series: repeats[:1] if are_equal([run.result for run in repeats]) else repeats
        for series, repeats in found.items()
    }


def are_equal(results: Sequence[dict[str, Any]]) -> bool:
    """Whether runs that differ in the seed have the same history: the method draws no random numbers."""
    digests = {result.get("history_sha256") for result in results}
    return len(digests) == 1 and None not in digests


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the command again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; run again, or restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected named values, found a {type(content).__name__}; restore the file")
    return content


def _fill_last_row(columns: dict[str, Array], result: dict[str, Any]) -> None:
    """Fill the last row from the result: the history may leave it out (--measure-every)."""
    if not len(columns["iteration"]) or columns["iteration"][-1] != result.get("iterations"):
        return
    for name in ("loss", "grad_norm", "gap", "test_accuracy", "test_loss"):
        known = result.get("objective" if name == "loss" else name)
        if known is not None and name in columns and np.isnan(columns[name][-1]):
            columns[name][-1] = known


def _history(path: Path, finished: bool) -> dict[str, Array]:
    text = _text(path)
    if not finished and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]  # the run is writing this line
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; the first line must name all columns")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{path} line {number}: expected {len(header)} cells, found {len(row)}")
    columns = {name: np.full(len(rows), np.nan) for name in OPTIONAL}
    for name, cells in zip(header, zip(*rows) if rows else [()] * len(header)):
        if name != "note":
            columns[name] = _numbers(path, name, cells)
    for name in CUMULATIVE:
        seen = columns[name][np.isfinite(columns[name])]
        fall = np.flatnonzero(np.diff(seen) < 0)
        if len(fall):
            before, after = seen[fall[0]], seen[fall[0] + 1]
            raise DataError(f"{path}: column {name} decreases from {before:g} to {after:g}, but totals never do")
    return columns


def _numbers(path: Path, name: str, cells: tuple[str, ...]) -> Array:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError as error:
        # Truncated: a damaged file may contain a line of megabytes.
        raise DataError(f"{path}: column {name}: expected numbers or empty cells: {error!s:.200}") from error
