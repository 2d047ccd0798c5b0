"""A symmetric matrix to which low-rank terms are added: a dense part and the latest terms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpinewton.arrays import Array


def outer_sum(e: Array, V: Array) -> Array:
    """sum_k e_k v_k v_k' = V' diag(e) V, shape (d, d), exactly symmetric, for e (k,) and V (k, d)."""
    S = (V.T * e) @ V
    return np.asarray((S + S.T) / 2)


@dataclass(frozen=True, eq=False)
class GrowingMatrix:
    """base + V' diag(e) V. A term takes d numbers and 2 d operations in a product; d / 2 terms are added to the base.

    Attributes
    ----------
    e : array, shape (k,)
    V : array, shape (k, d)
    base : array, shape (d, d)
        Shape (0, 0) stands for zeros: they are not formed before there are d / 2 terms.
    """

    e: Array
    V: Array
    base: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def times(self, v: Array) -> Array:
        """The product with v (d, b), shape (d, b)."""
        terms = self.V.T @ (self.e[:, None] * (self.V @ v))
        return np.asarray(self.base @ v + terms if self.base.size else terms)

    def plus(self, e: Array, V: Array) -> GrowingMatrix:
        """The sum of this matrix and V' diag(e) V, for e (k,) and V (k, d)."""
        e, V = np.concatenate([self.e, e]), np.concatenate([self.V, V])
        d = V.shape[1]
        if 2 * len(e) < d:
            return GrowingMatrix(e, V, self.base)
        return GrowingMatrix(e[:0], V[:0], (self.base if self.base.size else np.zeros((d, d))) + outer_sum(e, V))
