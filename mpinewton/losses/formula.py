"""The formulas of a linear loss on the rows of one shard, in numpy: what the compiled loops do for those they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.losses.loss import Targets

if TYPE_CHECKING:
    from mpinewton.losses.linear import LinearLoss

# A line search evaluates rows x steps in blocks of rows, with about this many numbers in memory at once.
RAY_NUMBERS = 1 << 18


class RowFormula:
    """The formulas of a loss on the rows of one shard, in numpy; see `mpinewton.linalg.rows.Formula`."""

    compiled = False

    def __init__(self, loss: LinearLoss, t: Targets, weight: Array | float) -> None:
        self.loss, self.t = loss, t
        self.scale = weight if isinstance(weight, float) else 1.0
        self.weight = None if isinstance(weight, float) else weight

    def terms(self, z: Array, part: slice, order: int) -> tuple[float, Any, Any]:
        values, *more = self.loss.value_and_derivatives(z, self.t[part], order)
        r, h = (*more, None, None)[:2]
        if self.weight is None:
            return float(values.sum()), r, None if h is None else self.scale * h
        weight = self.weight[part]
        return float(values @ weight), None if r is None else (weight * r.T).T, None if h is None else weight * h

    def second(self, z: Array) -> Array:
        return self.loss.second_terms(z, self.t)

    def line(self, z: Array, dz: Array, steps: Array) -> Array:
        total = np.zeros(len(steps))
        size = max(1, RAY_NUMBERS // max(1, len(steps) * z[:1].size))
        a = steps.reshape(-1, *[1] * z.ndim)
        for first in range(0, len(z), size):
            part = slice(first, first + size)
            values = self.loss.values(z[part] + a * dz[part], self.t[part])
            total += values.sum(axis=-1) if self.weight is None else values @ self.weight[part]
        return total
