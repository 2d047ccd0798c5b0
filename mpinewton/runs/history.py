"""The record of a run: one row per iterate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from math import isnan
from typing import Any

from mpinewton.arrays import NAN


@dataclass(frozen=True)
class Row:
    """One iterate. Floats and bits are cumulative, of the busiest worker's link; `*_total` is summed over the workers.

    `seconds` is the driver's time without evaluation for the record. NaN where a number is not known.
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
        """Values as text at full precision; empty where unknown."""
        return [_text(getattr(self, name)) for name in names]

    @classmethod
    def of(cls, cells: dict[str, str]) -> Row:
        """The row again. Raises ValueError or KeyError where it is none."""
        kinds: dict[str, Callable[[str], Any]] = {
            "int": int,
            "float": lambda text: float(text) if text else NAN,
            "str": str,
        }
        return cls(**{field.name: kinds[str(field.type)](cells[field.name]) for field in fields(cls)})


COLUMNS = tuple(field.name for field in fields(Row))
# The columns that depend on neither time nor layout.
EXACT_COLUMNS = (
    "iteration", "rounds", "floats_down", "floats_up", "bits_down", "bits_up", "loss", "grad_norm", "step",
)  # fmt: skip


def history_sha256(rows: Iterable[Row]) -> str:
    """Digest of a history: of every row the columns that depend on neither time nor layout, at full precision."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update((",".join(row.cells(EXACT_COLUMNS)) + "\n").encode())
    return digest.hexdigest()


def _text(value: int | float | str) -> str:
    if isinstance(value, float):
        return "" if isnan(value) else repr(value)
    return str(value)
