"""The record of a run: one row per iterate."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, get_type_hints

from mpinewton.arrays import NAN
from mpinewton.durable import open_regular
from mpinewton.errors import DataError


@dataclass(frozen=True)
class Row:
    """One iterate. NaN stands for a number that is not known.

    Rounds, floats, bits, bytes and seconds are cumulative. `floats_*` and `bits_*` count the link of the busiest
    worker, `*_total` all links. `seconds` is the time of the driver, without evaluation for the record.
    """

    iteration: int
    rounds: int
    floats_down: int
    floats_up: int
    bits_down: int
    bits_up: int
    wire_bytes: int
    seconds: float
    loss: float
    grad_norm: float
    step: float = NAN
    gap: float = NAN
    test_accuracy: float = NAN
    test_loss: float = NAN
    note: str = ""
    floats_down_total: int = 0
    floats_up_total: int = 0
    bits_down_total: int = 0
    bits_up_total: int = 0

    def cells(self, names: Iterable[str]) -> list[str]:
        """The fields of these names as text at full precision; "" where unknown."""
        return [_text(getattr(self, name)) for name in names]

    @classmethod
    def of(cls, cells: dict[str, str]) -> Row:
        """The row with these cells. Raises ValueError or KeyError if they do not form a row."""
        return cls(**{name: READERS[kind](cells[name]) for name, kind in TYPES.items()})


TYPES: dict[str, type] = get_type_hints(Row)
COLUMNS = tuple(TYPES)
READERS: dict[type, Callable[[str], Any]] = {int: int, float: lambda text: float(text or "nan"), str: str}
# The columns that depend on neither time nor number of ranks.
EXACT_COLUMNS = (
    "iteration", "rounds", "floats_down", "floats_up", "bits_down", "bits_up", "loss", "grad_norm", "step",
)  # fmt: skip


class HistoryDigest:
    """SHA-256 of `EXACT_COLUMNS` of the rows so far, at full precision."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._sha256 = hashlib.sha256()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add the next row."""
        self._sha256.update((",".join(row.cells(EXACT_COLUMNS)) + "\n").encode())

    def hexdigest(self) -> str:
        """The digest in hexadecimal digits."""
        return self._sha256.hexdigest()


def history_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 of `EXACT_COLUMNS` of all rows."""
    return HistoryDigest(rows).hexdigest()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a history.csv, one at a time. Raises DataError if it cannot be read."""
    try:
        with open_regular(path) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
            yield from map(Row.of, csv.DictReader(text))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a history.csv of this version ({error})") from None


def read_history(path: Path) -> list[Row]:
    """All rows of a history.csv. Raises DataError if it cannot be read."""
    return list(read_rows(path))


def _text(value: int | float | str) -> str:
    if isinstance(value, float):
        return "" if isnan(value) else repr(value)
    return str(value)
