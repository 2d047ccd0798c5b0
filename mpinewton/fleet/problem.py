"""What is minimised, as far as it can be told without looking at the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import DataError
from mpinewton.losses.loss import Classes, Loss, Shape


@dataclass(frozen=True)
class Problem:
    """P(w) = (1/N) sum_j loss_j(w) + (l2/2)|w|^2 over the rows of all workers; an intercept is not regularised.

    Attributes
    ----------
    rows : tuple of int
        Number of rows of every worker.
    total_weights : tuple of float
        Sum of their weights: what a worker counts.
    features : int
        Columns of the data, the intercept's included.
    seed : int
        Of all random numbers.
    partition : str
        How the rows were dealt out, as `pack` names it; empty if that is not known.
    entries : int or None
        Stored entries of the rows of all workers, the intercept's included; None: of dense rows.
    factor : array, shape (p,), or None
        What the columns were multiplied by for the run: see `mpinewton.runs.columns`.
    """

    loss: Loss
    classes: Classes
    rows: tuple[int, ...]
    total_weights: tuple[float, ...]
    features: int
    l2: float
    intercept: bool = False
    seed: int = 0
    partition: str = ""
    entries: int | None = None
    factor: Array | None = field(default=None, compare=False)

    @property
    def density(self) -> float:
        """Share of the entries of the rows that is stored."""
        return 1.0 if self.entries is None else self.entries / max(1, sum(self.rows) * self.features)

    @property
    def n_workers(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """d, the number of weights."""
        return self.loss.dim(self.features, self.classes)

    @cached_property
    def worker_share(self) -> Array:
        """omega_i, every worker's share of the whole, shape (m,); they sum to 1. Raises DataError for no rows."""
        total = float(np.sum(self.total_weights))
        if not total > 0:
            raise DataError("the shards hold no rows (or only rows of weight 0): there is nothing to train on")
        return np.asarray(self.total_weights, dtype=np.float64) / total

    @cached_property
    def l2_vector(self) -> Array:
        """l2 for every weight, shape (d,): 0 for those that are not regularised, as the intercept's."""
        l2 = np.where(self.loss.l2_mask(self.features, self.classes, self.intercept), self.l2, 0.0)
        return l2 if self.factor is None else l2 * np.repeat(self.factor, len(l2) // len(self.factor)) ** 2

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What the weights are, in the order in which w (d,) holds them."""
        return self.loss.shapes(self.features, self.classes)

    def initial_weights(self) -> Array:
        """The weights the loss proposes to start from, shape (d,): the same in every layout."""
        return self.loss.initial_weights(self.features, self.classes, self.seed)
