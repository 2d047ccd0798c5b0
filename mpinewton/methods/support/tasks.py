"""What most methods ask of the workers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import lanczos
from mpinewton.linalg.triangle import pack_triangle
from mpinewton.losses.linear import LinearModel
from mpinewton.methods.support.method import State

Sampling = Literal["fresh", "epochs"]
RUNAWAY = 1e6


def value_and_gradient(worker: Worker, w: Array) -> tuple[float, Array]:
    """Go to w: f_i and its gradient there, d + 1 floats."""
    worker.move_to(w)
    return worker.value(), worker.gradient()


def minibatch(worker: Worker, batch: float | None, sampling: Sampling = "fresh") -> Worker:
    """The worker on a minibatch of (seed, worker, iteration), placed nowhere: rows without replacement.

    `batch` is a number of rows from 1 on, a share of the worker's rows below 1, and None, or more than there are, all.
    `fresh` draws from all rows every time; `epochs` goes through a permutation of them, and then draws another, so that
    none is left out for long; the few rows that are left at its end are dropped.
    """
    size = worker.rows if batch is None else int(batch) if batch >= 1 else max(1, round(batch * worker.rows))
    if size >= worker.rows:
        return worker.subset()
    if sampling == "fresh":
        return worker.subset(worker.rng().choice(worker.rows, size, replace=False))
    left: Any = worker.memory.get("left")
    if left is None or len(left) < size:
        left = worker.rng().permutation(worker.rows)
    worker.memory["left"] = left[size:]
    return worker.subset(left[:size])


def is_diverging(length: float, first: float) -> bool:
    """Whether a gradient or a way of this length, after a first one, means that the step size is too large."""
    return not length <= RUNAWAY * first if first == first else length != length


def initial_state(fleet: Fleet, w: Array) -> State:
    """The iterate at w, f and g known. 2 rounds."""
    f, g = fleet.mean(value_and_gradient, w)
    return State(w, f, g)


def advance(worker: Worker, step: float) -> tuple[float, Array]:
    """Go the step along the direction that was searched: f_i and its gradient there, d + 1 floats."""
    worker.advance(step)
    return worker.value(), worker.gradient()


def gradient_at(worker: Worker, w: Array) -> Array:
    """Go to w: the gradient of f_i there, d floats."""
    worker.move_to(w)
    return worker.gradient()


def current_gradient(worker: Worker) -> Array:
    """The gradient of f_i where the worker stands, d floats."""
    return worker.gradient()


def value_at(worker: Worker, w: Array) -> float:
    """Go to w: f_i there, 1 float."""
    worker.move_to(w)
    return worker.value()


def move(worker: Worker, step: float) -> None:
    """Go the step along the direction that was searched."""
    worker.advance(step)


def hessian_triangle(worker: Worker, w: Array) -> Array:
    """Go to w: the upper triangle of the Hessian of f_i there, d (d + 1) / 2 floats."""
    worker.move_to(w)
    return pack_triangle(worker.hessian())


def value_gradient_hessian(worker: Worker, w: Array) -> tuple[float, Array, Array]:
    """Go to w: f_i, its gradient and the upper triangle of its Hessian there, 1 + d + d (d + 1) / 2 floats."""
    worker.move_to(w)
    return worker.value(), worker.gradient(), pack_triangle(worker.hessian())


def linear_model(worker: Worker) -> LinearModel:
    """The rows of the worker and the loss on them. TypeError where its model is not one of rows and logits."""
    if not isinstance(worker.model, LinearModel):
        raise TypeError(f"{type(worker.model).__name__} has no rows: only losses with a formula per row have")
    return worker.model


def smoothness_constant(worker: Worker) -> float:
    """L_i: the largest eigenvalue of sum_j weight_j gamma_j a_j a_j' over the rows, gamma a bound of loss''."""
    model = linear_model(worker)
    gamma = model.loss.hessian_bound(model.t)
    start = worker.rng().standard_normal(model.dim)
    space = lanczos(lambda v: model.pull_back(gamma * model.logits(v)), start, 50, 0.0)
    e, Y = np.linalg.eigh(space.T[:-1])
    # Of a Krylov space comes a lower bound; an eigenvalue is no further from it than its residual is long.
    return float(e[-1] + abs(space.T[-1, -1] * Y[-1, -1]))


def hvp(worker: Worker, v: Array) -> Array:
    """The Hessian of f_i where the worker stands, times v: d floats."""
    return worker.hvp(v)
