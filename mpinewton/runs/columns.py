"""Columns of very different units, or with a large offset: the run works in other variables, and its result is in w.

Where the columns of a linear model differ by more than a factor 1e3, they are divided by a power of 2 near their size,
and where an intercept is trained, columns, and labels of a regression, whose offset exceeds their spread by a factor 30
are centred. The objective is the same function: w_j = v_j / size_j, and the intercept takes what centring takes away.
In float64, the Hessian of a column with mean 1e9 and spread 1 does not tell it from a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.losses.linear import LinearLoss, LinearModel
from mpinewton.methods.support.method import AnyMethod

SPREAD = 1e3  # largest ratio of the sizes of columns that is left alone: that of entries of diag(H) is its square
OFFSET = 30.0  # largest ratio of offset and spread that is left alone: H has the square of it as condition number
SAMPLE = 1000  # rows of a worker that are looked at: orders of magnitude suffice


@dataclass(frozen=True, eq=False)
class Columns:
    """The variables of a run: v, in which the workers compute, in place of the weights w.

    Attributes
    ----------
    shift, factor : arrays, shape (p,), or None
        The workers' columns are (X - shift) * factor. None: X.
    label : float
        The workers' labels are those of the data less this.
    """

    shift: Array | None = None
    factor: Array | None = None
    label: float = 0.0

    def inside(self, w: Array) -> Array:
        """v, shape (d,), for weights w."""
        if self.shift is None or self.factor is None:
            return w
        W = w.reshape(len(self.shift), -1)
        V = W / self.factor[:, None]
        V[-1] += self.shift @ W - self.label
        return V.ravel()

    def outside(self, v: Array) -> Array:
        """w, shape (d,), for variables v."""
        if self.shift is None or self.factor is None:
            return v
        W = v.reshape(len(self.shift), -1) * self.factor[:, None]
        W[-1] -= self.shift @ W - self.label
        return W.ravel()

    def gradient(self, g: Array) -> Array:
        """The gradient with respect to w, shape (d,), from that with respect to v; another shape is left as it is."""
        if self.shift is None or self.factor is None or g.size % len(self.shift):
            return g
        G = g.reshape(len(self.shift), -1)
        return np.asarray(G / self.factor[:, None] + self.shift[:, None] * G[-1]).ravel()


def change_columns(fleet: Fleet, method: AnyMethod) -> Columns:
    """Centre and scale the columns on all workers, where the method allows it and they need it.

    What is found out about the columns is not charged, as the number of rows is not.
    """
    problem = fleet.problem
    if not method.any_units or not isinstance(problem.loss, LinearLoss):
        return Columns()
    with fleet.ledger.closed(), np.errstate(all="ignore"):
        seen = fleet.gather(describe)
        columns = choose_columns(problem, *(np.array(part) for part in zip(*seen, strict=True)))
        if columns.shift is not None and columns.factor is not None:
            fleet.send(change, columns.shift, columns.factor, columns.label)
            fleet.problem = replace(problem, factor=columns.factor)
    return columns


def choose_columns(
    problem: Problem, low: Array, high: Array, squares: Array, stored: Array, low_label: Array, high_label: Array
) -> Columns:
    """The variables for columns and labels with these facts of `describe`, shapes (m, p) and (m,)."""
    middle, half = middle_and_half(low, high)
    size = np.sqrt(squares.sum(axis=0) / stored.sum(axis=0))
    offset, label = np.zeros(len(size), dtype=bool), 0.0
    if problem.intercept and not problem.l2_vector.reshape(problem.features, -1)[-1].any():
        if problem.density == 1:
            offset[:-1] = (np.abs(middle) > OFFSET * half)[:-1]
        if isinstance(problem.loss, LinearLoss) and problem.loss.shifts:
            centre, spread = middle_and_half(low_label, high_label)
            label = float(centre) if abs(centre) > OFFSET * spread and abs(centre) < np.inf else 0.0
    size = np.where(offset & (half > 0), half, size)
    known = np.isfinite(size) & (size > 0)
    if known.any() and size[known].max() > SPREAD * size[known].min():
        size = np.hypot(np.where(known, size, 1.0), np.sqrt(problem.l2))
    else:
        size = np.ones_like(size)
    if problem.intercept:
        size[-1] = 1.0
    if not offset.any() and not label and (size == 1).all():
        return Columns()
    return Columns(np.where(offset, middle, 0.0), np.ldexp(1.0, -np.round(np.log2(size)).astype(int)), label)


def middle_and_half(low: Array, high: Array) -> tuple[Array, Array]:
    """Middle and half the width of the ranges of all workers, from their least and largest values."""
    least, largest = low.min(axis=0), high.max(axis=0)
    return least / 2 + largest / 2, largest / 2 - least / 2


def describe(worker: Worker) -> tuple[Array, Array, Array, Array, float, float]:
    """Of some rows: least and largest value, sum of squares and number of the entries that are not 0, (p,) each;
    least and largest label."""
    model = worker.model
    assert isinstance(model, LinearModel)
    t = np.asarray(model.t, dtype=np.float64)
    return *model.rows.facts(SAMPLE), t.min(initial=np.inf), t.max(initial=-np.inf)


def change(worker: Worker, shift: Array, factor: Array, label: float) -> None:
    """Centre and scale the columns, and l2 with them; the worker must be moved to weights again. No reply."""
    assert isinstance(worker.model, LinearModel)
    worker.change_model(worker.model.with_columns(shift, factor, label))
    worker.l2_vector = worker.l2_vector * np.repeat(factor, worker.model.outputs) ** 2
