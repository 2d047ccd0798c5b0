"""The points of a figure: which quantity, against which axis, and its floor on a logarithmic scale."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError, did_you_mean
from mpinewton.report.network import read_network
from mpinewton.report.reading import REQUIRED, RunRecord, by_series
from mpinewton.report.replay import replay

AXES = {"rounds": "rounds", "bits": "bits up per worker", "seconds": "time"}
ON = "seconds:"  # and a network: the time there
QUANTITIES = {
    "gap": "gap  P(w) \N{MINUS SIGN} P*",
    "grad_norm": "gradient norm",
    "loss": "loss",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
}
ENDINGS_BY_WORTH = ("converged", "stalled", "budget", "running", "failed")
BEST_SEEN = "loss \N{MINUS SIGN} best loss seen"
# A loss that decreases by more than this factor is shown on a logarithmic scale.
WIDE = 100.0


@dataclass(frozen=True)
class Quantity:
    """The quantity on the vertical axis.

    Attributes
    ----------
    name : str
        A key of `QUANTITIES`, or "best-seen": loss minus the smallest loss among the runs.
    title : str
        Label of the axis.
    values : list of array, shape (rows,)
        Its value in every row of every run.
    log : bool
        Whether the scale is logarithmic.
    floor : float
        Smaller values are drawn here on a logarithmic scale; 0 on a linear scale.
    """

    name: str
    title: str
    values: list[Array]
    log: bool
    floor: float


@dataclass(frozen=True)
class Curve:
    """The points of one run in one panel.

    Attributes
    ----------
    run : RunRecord
    axis : str
        A key of `AXES`.
    x, y : array, shape (points,)
    floored : array of bool, shape (points,)
        Which points are drawn at the floor.
    low, high : array, shape (points,), optional
        Least and largest value of several runs, of which y is the median.
    """

    run: RunRecord
    axis: str
    x: Array
    y: Array
    floored: np.ndarray[tuple[int], np.dtype[np.bool_]]
    low: Array | None = None
    high: Array | None = None


def axis_title(axis: str) -> str:
    """Label of an axis. Raises ConfigError if the name is unknown."""
    if axis.startswith(ON):
        read_network(axis.removeprefix(ON))
        return f"time on {axis.removeprefix(ON)}"
    if axis not in AXES:
        raise ConfigError(f"unknown axis {axis!r}{did_you_mean(axis, AXES)}; or {ON}NETWORK, such as {ON}ethernet")
    return AXES[axis]


def choose_quantity(runs: Sequence[RunRecord], name: str | None = None) -> Quantity:
    """The quantity of a figure.

    Parameters
    ----------
    runs : sequence of RunRecord
    name : str, optional
        A key of `QUANTITIES`. By default the gap if all runs have one, otherwise loss minus the smallest loss if the
        runs have the same objective, otherwise the gradient norm.

    Raises
    ------
    ConfigError
        If the name is unknown, or no run has recorded the quantity.
    DataError
        If no run has recorded an iterate.
    """
    if name is not None and name not in QUANTITIES:
        raise ConfigError(f"unknown quantity {name!r}{did_you_mean(name, QUANTITIES)}")
    if not any(run.rows for run in runs):
        raise DataError("no run has recorded an iterate yet: there is nothing to show")
    name = name or _default_name([run for run in runs if run.rows])
    if name == "best-seen":
        return _best_seen(runs)
    if not any(run.has(name) for run in runs):
        option = "--reference auto" if name == "gap" else "--test DATA"
        remedy = f"; record it with `mpinewton run {option}`" if name not in REQUIRED else ""
        raise ConfigError(f"no run has recorded a {QUANTITIES[name]}{remedy}")
    values = [run.columns[name] for run in runs]
    log = name in ("gap", "grad_norm") or (name == "loss" and _is_wide(values))
    return Quantity(name, QUANTITIES[name], values, log, _floor(name, runs, values) if log else 0.0)


def _default_name(runs: Sequence[RunRecord]) -> str:
    if all(run.has("gap") for run in runs):
        return "gap"
    same = len(runs) > 1 and len({run.objective for run in runs}) == 1
    known = all(run.result.get("data_sha256") and run.has("loss") for run in runs)
    return "best-seen" if same and known else "grad_norm"


def _is_wide(values: Sequence[Array]) -> bool:
    return bool(0 < WIDE * _finite(values).min() < _finite([v[:1] for v in values]).max(initial=0.0))


def _floor(name: str, runs: Sequence[RunRecord], values: Sequence[Array]) -> float:
    # A gap is the difference of two losses: below one unit in the last place of the loss it is rounding error.
    losses = _finite([run.columns["loss"] for run in runs])
    if name == "gap" and len(losses) and losses.min():
        return float(np.spacing(abs(losses.min())))
    return _least(_finite(values))


def curve(run: RunRecord, axis: str, quantity: Quantity, values: Array, bits_per_float: int | None = None) -> Curve:
    """The points of one run at which both coordinates are finite.

    Parameters
    ----------
    run : RunRecord
    axis : str
        A key of `AXES`, or "seconds:NETWORK".
    quantity : Quantity
    values : array, shape (rows,)
        The quantity in the rows of this run.
    bits_per_float : int, optional
        See `bits_up`.
    """
    if axis.startswith(ON):
        x = replay(run, read_network(axis.removeprefix(ON))).seconds
    else:
        x = bits_up(run, bits_per_float) if axis == "bits" else run.columns[axis]
    known = np.isfinite(x) & np.isfinite(values)
    x, y = x[known], values[known]
    floored = (y < quantity.floor) & quantity.log
    return Curve(run, axis, x, np.where(floored, quantity.floor, y), floored)


def median_curve(curves: Sequence[Curve]) -> Curve:
    """Median, least and largest value of curves that differ in the seed, over the abscissae of all of them.

    Between its points, and after its last one, a run counts with its last value. The curve ends as the worst run does.
    """
    drawn = [c for c in curves if len(c.x)]
    worst = max((c.run for c in curves), key=lambda run: ENDINGS_BY_WORTH.index(run.ending))
    run = replace(worst, label=worst.series)
    if len(drawn) < 2:
        return replace((drawn or list(curves))[0], run=run)
    x = np.unique(np.concatenate([c.x for c in drawn]))
    x = x[x >= max(c.x[0] for c in drawn)]
    values = np.array([c.y[np.searchsorted(c.x, x, side="right") - 1] for c in drawn])
    floored = np.median([c.floored[np.searchsorted(c.x, x, side="right") - 1] for c in drawn], axis=0) > 0.5
    low, high = values.min(axis=0), values.max(axis=0)
    return Curve(run, drawn[0].axis, x, np.median(values, axis=0), floored, low, high)


def join_repeats(panel: Sequence[Curve]) -> list[Curve]:
    """The curves of a panel, those of several seeds as one."""
    curves = {id(c.run): c for c in panel}
    groups = by_series(c.run for c in panel).values()
    return [median_curve([curves[id(run)] for run in group]) for group in groups]


def bits_up(run: RunRecord, bits_per_float: int | None = None) -> Array:
    """Bits from the busiest worker to the driver, shape (rows,).

    Parameters
    ----------
    run : RunRecord
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.

    Raises
    ------
    ConfigError
        If `bits_per_float` is less than 1.
    """
    bits, floats = run.columns["bits_up"], run.columns["floats_up"]
    if bits_per_float is None:
        return bits
    if bits_per_float < 1:
        raise ConfigError(f"bits per float = {bits_per_float}: expected at least 1 (the papers count 32)")
    width = 32 if run.config.get("dtype") == "float32" else 64
    return bits - (width - bits_per_float) * floats


def write_points(curves: Sequence[Curve], path: Path) -> None:
    """Write the plotted points as CSV with columns label, axis, x, y."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("label", "axis", "x", "y"))
        for c in curves:
            writer.writerows((c.run.label, c.axis, x, y) for x, y in zip(c.x.tolist(), c.y.tolist()))


def _best_seen(runs: Sequence[RunRecord]) -> Quantity:
    losses = [run.columns["loss"] for run in runs]
    best = _finite(losses).min()
    values = [loss - best for loss in losses]
    return Quantity("best-seen", BEST_SEEN, values, True, _least(_finite(values)))


def _finite(values: Sequence[Array]) -> Array:
    joined = np.concatenate(values)
    return joined[np.isfinite(joined)]


def _least(values: Array) -> float:
    """The least positive value, where zeros are drawn on a logarithmic scale."""
    return float(min(values[values > 0], default=1.0))
