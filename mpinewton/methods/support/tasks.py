"""Worker tasks that several methods use. A task runs on one worker; the docstring gives the floats of its reply."""

from __future__ import annotations

from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Problem, Worker, batched
from mpinewton.linalg.krylov import lanczos
from mpinewton.linalg.triangle import add_packed_diagonal
from mpinewton.losses.linear import LinearModel, LinearPoint
from mpinewton.methods.support.method import State

Sampling = Literal["fresh", "epochs"]


@batched
def move_to(worker: Worker, w: Array) -> None:
    """Move to w; no reply."""
    worker.move_to(w)


@batched
def value_and_gradient(worker: Worker, w: Array) -> tuple[float, Array]:
    """Move to w; f_i and its gradient there, shape (d,): d + 1 floats."""
    worker.move_to(w)
    g = worker.gradient()  # before the value, which comes with it
    return worker.value(), g


def rows_in_minibatch(rows: int, size: float | None) -> int:
    """Number of rows in a minibatch of a worker with so many rows; `size` as in `minibatch`."""
    return rows if size is None else int(min(size, rows)) if size >= 1 else max(1, round(size * rows))


def iterations_per_epoch(problem: Problem, size: float | None) -> int:
    """Iterations in which minibatches of `size` go through the rows of the largest worker once."""
    rows = max(problem.rows)
    return ceil(rows / max(1, rows_in_minibatch(rows, size)))


def minibatch(worker: Worker, size: float | None, sampling: Sampling = "fresh") -> Worker:
    """A copy of the worker on a minibatch of its rows, drawn without replacement; it must be moved to weights first.

    Parameters
    ----------
    worker : Worker
        The draw depends on (seed, worker, iteration).
    size : float or None
        From 1 on a number of rows; below 1 a share of the worker's rows; None, or more than the rows, for all rows.
    sampling : str
        `fresh` draws from all rows every time. `epochs` goes through a permutation of the rows and then draws another,
        so that every row is used regularly; the rows that are left at the end of a permutation, too few for a
        minibatch, are dropped.
    """
    k = rows_in_minibatch(worker.rows, size)
    if k >= worker.rows:
        return worker.subset()
    if sampling == "fresh":
        return worker.subset(worker.rng().choice(worker.rows, k, replace=False))
    left: Any = worker.memory.get("left")
    if left is None or len(left) < k:
        left = worker.rng().permutation(worker.rows)
    worker.memory["left"] = left[k:]
    return worker.subset(left[:k])


def initial_state(fleet: Fleet, w: Array) -> State:
    """The state at w (d,) with objective and gradient. 2 rounds."""
    f, g = fleet.mean(value_and_gradient, w)
    return State(w, f, g)


@batched
def advance(worker: Worker, step: float) -> tuple[float, Array]:
    """Take a step along the direction of the search; f_i and its gradient there, shape (d,): d + 1 floats."""
    worker.advance(step)
    g = worker.gradient()  # before the value, which comes with it
    return worker.value(), g


@batched
def gradient_at(worker: Worker, w: Array) -> Array:
    """Move to w; the gradient of f_i there, shape (d,): d floats."""
    worker.move_to(w)
    return worker.gradient()


@batched
def current_gradient(worker: Worker) -> Array:
    """The gradient of f_i at the worker's weights, shape (d,): d floats."""
    return worker.gradient()


@batched
def value_at(worker: Worker, w: Array) -> float:
    """Move to w; f_i there: 1 float."""
    worker.move_to(w)
    return worker.value()


@batched
def move(worker: Worker, step: float) -> None:
    """Take a step along the direction of the search; no reply."""
    worker.advance(step)


@batched
def hessian_triangle(worker: Worker, w: Array) -> Array:
    """Move to w; the upper triangle of the Hessian of f_i there: d (d + 1) / 2 floats."""
    worker.move_to(w)
    return worker.hessian_triangle()


@batched
def value_gradient_hessian(worker: Worker, w: Array) -> tuple[float, Array, Array]:
    """Move to w; f_i, its gradient and the upper triangle of its Hessian there: 1 + d + d (d + 1) / 2 floats."""
    worker.move_to(w)
    return derivatives(worker)


@batched
def derivatives(worker: Worker) -> tuple[float, Array, Array]:
    """f_i, its gradient and the upper triangle of its Hessian at the worker's weights: 1 + d + d (d + 1) / 2 floats."""
    H = worker.hessian_triangle()  # first, since the others come with it
    return worker.value(), worker.gradient(), H


def workers_with_rows(fleet: Fleet) -> NDArray[np.intp]:
    """Indices of the workers with a positive share."""
    return np.flatnonzero(fleet.worker_share)


def linear_model(worker: Worker) -> LinearModel:
    """The worker's rows and the loss on them, for methods that need "rows".

    Raises
    ------
    TypeError
        If the loss is not that of a linear model. Methods that declare the need "rows" refuse such a loss before.
    """
    if not isinstance(worker.model, LinearModel):
        raise TypeError(f"{type(worker.model).__name__} is not a linear model: the method must declare the need 'rows'")
    return worker.model


def linear_point(worker: Worker) -> LinearPoint:
    """The loss on the worker's rows at its weights, for methods that need "rows" or "majorant"."""
    assert isinstance(worker.point, LinearPoint)
    return worker.point


def smoothness_constant(worker: Worker) -> float:
    """L_i, the largest eigenvalue of sum_j weight_j gamma_j a_j a_j' over the rows, gamma_j a bound of loss'': 1 float.

    An upper bound up to rounding, by 50 steps of Lanczos.
    """
    model = linear_model(worker)
    gamma = model.loss.hessian_bound(model.t)
    start = worker.rng().standard_normal(model.dim)
    space = lanczos(lambda v: model.product(lambda rows, z: gamma[rows] * z, v), start, 50)
    e, Y = np.linalg.eigh(space.T[:-1])
    # The largest Ritz value is a lower bound; an eigenvalue is at most the norm of its residual away.
    return float(e[-1] + abs(space.T[-1, -1] * Y[-1, -1]))


@batched
def hvp(worker: Worker, v: Array) -> Array:
    """The Hessian of f_i at the worker's weights times v, shape (d,): d floats."""
    return worker.hvp(v)


def majorant_triangle(worker: Worker) -> Array:
    """Upper triangle of the Hessian of a majorant of f_i at the worker's weights: d (d + 1) / 2 floats."""
    T = linear_model(worker).rows.gram(linear_point(worker).majorants, packed=True)
    return add_packed_diagonal(T, worker.l2_vector)


def majorant_hessian(worker: Worker) -> Array:
    """The Hessian of a majorant of f_i without l2 at the worker's weights, shape (d, d)."""
    return linear_model(worker).rows.gram(linear_point(worker).majorants)


def majorant_product(worker: Worker, v: Array) -> Array:
    """The Hessian of a majorant of f_i at the worker's weights times v, shape (d,): d floats."""
    return linear_model(worker).rows.hvp(linear_point(worker).majorants, v) + worker.l2_vector * v
