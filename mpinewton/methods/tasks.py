"""What most methods ask of the workers."""

from __future__ import annotations

from typing import Any, Literal

from mpinewton.data.shard import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.base import Iterate

Sampling = Literal["fresh", "epochs"]
RUNAWAY = 1e6


def value_and_gradient(worker: Worker, w: Array) -> tuple[float, Array]:
    """Go to w: f_i and its gradient there, d + 1 floats."""
    worker.place(w)
    return worker.value(), worker.gradient()


def drawn(worker: Worker, batch: float | None, sampling: Sampling = "fresh") -> Worker:
    """The worker on a minibatch of (seed, worker, iteration), placed nowhere: rows without replacement.

    `batch` is a number of rows from 1 on, a share of the worker's rows below 1, and None, or more than there are, all.
    `fresh` draws from all rows every time; `epochs` goes through a permutation of them, and then draws another, so that
    none is left out for long; the few rows that are left at its end are dropped.
    """
    size = worker.rows if batch is None else int(batch) if batch >= 1 else max(1, round(batch * worker.rows))
    if size >= worker.rows:
        return worker.part()
    if sampling == "fresh":
        return worker.part(worker.rng().choice(worker.rows, size, replace=False))
    left: Any = worker.memory.get("left")
    if left is None or len(left) < size:
        left = worker.rng().permutation(worker.rows)
    worker.memory["left"] = left[size:]
    return worker.part(left[:size])


def runaway(length: float, first: float) -> bool:
    """Whether a gradient or a way of this length, after a first one, means that the step size is too large."""
    return not length <= RUNAWAY * first if first == first else length != length


def begun(fleet: Fleet, w: Array) -> Iterate:
    """The iterate at w, f and g known. 2 rounds."""
    f, g = fleet.mean(value_and_gradient, w)
    return Iterate(w, f, g)


def advance(worker: Worker, step: float) -> tuple[float, Array]:
    """Go the step along the direction that was searched: f_i and its gradient there, d + 1 floats."""
    worker.advance(step)
    return worker.value(), worker.gradient()
