"""What most methods ask of the workers."""

from __future__ import annotations

from mpinewton.data.shard import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.base import Iterate


def value_and_gradient(worker: Worker, w: Array) -> tuple[float, Array]:
    """Go to w: f_i and its gradient there, d + 1 floats."""
    worker.place(w)
    return worker.value(), worker.gradient()


def begun(fleet: Fleet, w: Array) -> Iterate:
    """The iterate at w, f and g known. 2 rounds."""
    f, g = fleet.mean(value_and_gradient, w)
    return Iterate(w, f, g)


def advance(worker: Worker, step: float) -> tuple[float, Array]:
    """Go the step along the direction that was searched: f_i and its gradient there, d + 1 floats."""
    worker.advance(step)
    return worker.value(), worker.gradient()


def hessian_product(worker: Worker, v: Array) -> Array:
    """The Hessian of f_i where the worker stands, times v: d floats."""
    return worker.hessian_product(v)
