"""What a figure shows: which quantity, against what, and where rounding ends its meaning."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError, did_you_mean
from mpinewton.report.reading import RunRecord

AXES = {"rounds": "rounds", "bits": "bits up per worker", "seconds": "time"}
QUANTITIES = {
    "gap": "gap  P(w) \N{MINUS SIGN} P*",
    "grad_norm": "gradient norm",
    "loss": "loss",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
}
BEST_SEEN = "loss \N{MINUS SIGN} best loss seen"
# A loss that falls by more than this factor is shown on a log scale.
WIDE = 100.0


@dataclass(frozen=True)
class Quantity:
    """The quantity on the vertical axis.

    Attributes
    ----------
    name : str
        A key of `QUANTITIES`, or "best-seen": loss minus the best loss seen among the runs.
    values : list of array, shape (rows,)
        Its value at every row of every run.
    floor : float
        On a log scale, what is below this is drawn there; 0 on a linear scale.
    """

    name: str
    title: str
    values: list[Array]
    log: bool
    floor: float


@dataclass(frozen=True)
class Curve:
    """The points of one run in one panel, shape (points,) each; `floored` tells those drawn at the floor."""

    run: RunRecord
    axis: str
    x: Array
    y: Array
    floored: np.ndarray[tuple[int], np.dtype[np.bool_]]


def choose_quantity(runs: Sequence[RunRecord], name: str | None = None) -> Quantity:
    """The quantity called `name`; by default the gap where all runs have it, else loss minus the best loss seen where
    the runs share their problem, else the gradient norm.

    Raises
    ------
    ConfigError
        If the name is unknown or no run recorded the quantity.
    """
    if name is not None and name not in QUANTITIES:
        raise ConfigError(f"no quantity is called {name!r}{did_you_mean(name, QUANTITIES)}")
    started = [run for run in runs if run.rows]
    if not started:
        raise DataError("none of the runs has recorded an iterate yet: there is nothing to show")
    if name is None:
        if all(run.has("gap") for run in started):
            name = "gap"
        elif _one_problem(started):
            return _best_seen(runs)
        else:
            name = "grad_norm"
    if not any(run.has(name) for run in started):
        tests = "; `--test DATA` records it"
        remedy = {"gap": "; `mpinewton run --reference auto` records it", "test_accuracy": tests, "test_loss": tests}
        raise ConfigError(f"no run has recorded a {QUANTITIES[name]}{remedy.get(name, '')}")
    values = [run.columns[name] for run in runs]
    seen = _finite(values)
    wide = 0 < WIDE * seen.min() < _finite([v[:1] for v in values]).max(initial=0.0)
    log = name in ("gap", "grad_norm") or (name == "loss" and bool(wide))
    # A gap is the difference of two losses: below one unit in the last place of the loss it means nothing.
    losses = _finite([run.columns["loss"] for run in runs])
    floor = float(np.spacing(abs(losses.min()))) if name == "gap" and len(losses) and losses.min() else _least(seen)
    return Quantity(name, QUANTITIES[name], values, log, floor if log else 0.0)


def curve(run: RunRecord, axis: str, quantity: Quantity, values: Array, bits_per_float: int | None = None) -> Curve:
    """The points of one run, those that have both numbers."""
    x = {"rounds": run.columns["rounds"], "seconds": run.columns["seconds"]}.get(axis)
    x = bits_up(run, bits_per_float) if x is None else x
    known = np.isfinite(x) & np.isfinite(values)
    x, y = x[known], values[known]
    floored = (y < quantity.floor) & quantity.log
    return Curve(run, axis, x, np.where(floored, quantity.floor, y), floored)


def bits_up(run: RunRecord, bits_per_float: int | None = None) -> Array:
    """Bits up per worker as metered, or restated as if every float had `bits_per_float` bits; shape (rows,)."""
    bits, floats = run.columns["bits_up"], run.columns["floats_up"]
    if bits_per_float is None:
        return bits
    if bits_per_float < 1:
        raise ConfigError(f"bits per float is {bits_per_float}; it must be 1 or more (the papers count 32)")
    metered = 32 if run.config.get("dtype") == "float32" else 64
    return bits - (metered - bits_per_float) * floats


def write_points(curves: Sequence[Curve], path: Path) -> None:
    """Write exactly the plotted points as CSV: label, axis, x, y."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("label", "axis", "x", "y"))
        for c in curves:
            writer.writerows((c.run.label, c.axis, x, y) for x, y in zip(c.x.tolist(), c.y.tolist()))


def _one_problem(runs: Sequence[RunRecord]) -> bool:
    known = all(run.result.get("data_sha256") and run.has("loss") for run in runs)
    return known and len(runs) > 1 and len({run.problem for run in runs}) == 1


def _best_seen(runs: Sequence[RunRecord]) -> Quantity:
    losses = [run.columns["loss"] for run in runs]
    best = _finite(losses).min()
    values = [loss - best for loss in losses]
    return Quantity("best-seen", BEST_SEEN, values, True, _least(_finite(values)))


def _finite(values: Sequence[Array]) -> Array:
    joined = np.concatenate(values)
    return joined[np.isfinite(joined)]


def _least(values: Array) -> float:
    """The least positive value: where zeros, which a log scale does not have, are drawn."""
    return float(min(values[values > 0], default=1.0))
