"""Run folders as records: what the figures, tables and pages are made from."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import DataError

Ending = Literal["converged", "budget", "stalled", "failed", "running"]

NEEDED = ("iteration", "rounds", "floats_up", "bits_up", "seconds", "loss", "grad_norm")
OPTIONAL = ("gap", "test_accuracy", "test_loss")
GROWING = ("rounds", "floats_up", "bits_up", "seconds")
# `kind` of a result -> ending. Where a result has none, its reason tells a budget that was used up from a failure.
KINDS: dict[str, Ending] = {"budget": "budget", "stalled": "stalled", "trouble": "failed", "interrupted": "running"}
BUDGET = re.compile(r"asked for|allowed|budget|limit|max[-_ ](iterations|rounds|bits|seconds)", re.IGNORECASE)


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read.

    Attributes
    ----------
    label : str
        Name of the run in figures and tables.
    columns : dict of array, shape (rows,)
        The numeric columns of history.csv, NaN where the file is empty.
    result : dict
        result.json; empty while the run is in progress.
    config : dict
        config.toml.
    """

    folder: Path
    label: str
    columns: dict[str, Array]
    result: dict[str, Any]
    config: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(self.columns["iteration"])

    @property
    def ending(self) -> Ending:
        """How the run ended."""
        if not self.result:
            return "running"
        if self.result.get("converged"):
            return "converged"
        guess: Ending = "budget" if BUDGET.search(str(self.result.get("reason", ""))) else "failed"
        return KINDS.get(str(self.result.get("kind")), guess)

    @property
    def rows_travel(self) -> bool:
        """Whether rows of the data left their workers."""
        return bool(self.result.get("rows_travel"))

    @property
    def reason(self) -> str:
        """How the run ended, in its own words where it has some."""
        return " ".join(str(self.result.get("reason") or self.ending).split())

    @property
    def problem(self) -> tuple[Any, ...]:
        """Data, loss and l2: runs that agree here minimise one objective."""
        data = self.result.get("data_sha256") or self.config.get("data")
        return (str(data), *(str(self.result.get(key, self.config.get(key))) for key in ("loss", "l2")))

    def has(self, quantity: str) -> bool:
        """Whether the history holds a number for the quantity."""
        return quantity in self.columns and bool(np.isfinite(self.columns[quantity]).any())

    def last(self, column: str) -> float:
        """Value of the last row, NaN where there is none."""
        values = self.columns[column]
        return float(values[-1]) if len(values) else np.nan

    def target(self, quantity: str) -> float | None:
        """The value at which the run was asked to stop: the settings `gap` and `tol`."""
        key = {"gap": "gap", "grad_norm": "tol"}.get(quantity, "")
        for table in (self.config, *(self.config.get(name) for name in ("stop", "stops", "stopping"))):
            value = table.get(key) if isinstance(table, dict) else None
            if isinstance(value, int | float) and value > 0:
                return float(value)
        return None


def read_run(folder: Path) -> RunRecord:
    """Read a run folder; result.json and the last line of history.csv may be missing while the run is in progress.

    Raises
    ------
    DataError
        If the folder is not a run folder, or a file in it is malformed.
    """
    folder = Path(folder)
    if not (folder / "history.csv").is_file():
        raise DataError(
            f"{folder} is not a run folder: it has no history.csv; give a folder written by `mpinewton run`"
        )
    config = _parsed(folder / "config.toml", tomllib.loads)
    result = _parsed(folder / "result.json", json.loads) if (folder / "result.json").exists() else {}
    label = result.get("label") or config.get("label") or result.get("method") or config.get("method") or folder.name
    columns = _history(folder / "history.csv", finished=bool(result))
    _complete(columns, result)
    return RunRecord(folder, " ".join(str(label).split()), columns, result, config)


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Read run folders and folders of run folders, at any depth, in order; labels that repeat get the folder's name.

    Raises
    ------
    DataError
        If a path holds no run folder, or a run folder is malformed.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        inside = [path] if (path / "history.csv").is_file() else sorted(p.parent for p in path.rglob("history.csv"))
        if not inside:
            raise DataError(f"{path} holds no run: neither it nor a folder inside it has a history.csv")
        folders.update(dict.fromkeys(inside))
    runs = [read_run(folder) for folder in folders]
    labels = Counter(run.label for run in runs)
    return [run if labels[run.label] == 1 else replace(run, label=f"{run.label} ({run.folder.name})") for run in runs]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; every run folder has it from its start: run again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; run again, or restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not named values; run again, or restore the file")
    return content


def _complete(columns: dict[str, Array], result: dict[str, Any]) -> None:
    """What the history leaves out of the last iterate, where a run is measured now and then, is in the result."""
    if not len(columns["iteration"]) or columns["iteration"][-1] != result.get("iterations"):
        return
    for name in ("loss", "grad_norm", "gap", "test_accuracy", "test_loss"):
        known = result.get("objective" if name == "loss" else name)
        if known is not None and name in columns and np.isnan(columns[name][-1]):
            columns[name][-1] = known


def _history(path: Path, finished: bool) -> dict[str, Array]:
    text = _text(path)
    if not finished and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]  # the run is writing this very line
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; its first line must name the columns of a history")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path} line {number} has {len(row)} cells, but the first line names {len(header)} columns"
            )
    columns = {name: np.full(len(rows), np.nan) for name in OPTIONAL}
    for name, cells in zip(header, zip(*rows) if rows else [()] * len(header)):
        if name != "note":
            columns[name] = _numbers(path, name, cells)
    for name in GROWING:
        seen = columns[name][np.isfinite(columns[name])]
        fall = np.flatnonzero(np.diff(seen) < 0)
        if len(fall):
            before, after = seen[fall[0]], seen[fall[0] + 1]
            raise DataError(f"{path}: {name} falls from {before:g} to {after:g}, but totals only grow; is it two runs?")
    return columns


def _numbers(path: Path, name: str, cells: tuple[str, ...]) -> Array:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError as error:
        # Cut short: a file that lost a piece to a crash may hold a line of megabytes.
        raise DataError(f"{path}: column {name} must hold numbers or nothing; {error!s:.200}") from error
