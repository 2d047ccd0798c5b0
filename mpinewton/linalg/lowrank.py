"""A symmetric matrix that grows by low-rank terms: a dense part, and the terms that came since."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpinewton.arrays import Array


def combined(e: Array, V: Array) -> Array:
    """V' diag(e) V, shape (d, d), exactly symmetric, for e (k,) and V (k, d)."""
    S = (V.T * e) @ V
    return np.asarray((S + S.T) / 2)


@dataclass(frozen=True, eq=False)
class GrowingMatrix:
    """base + V' diag(e) V. A term costs d to keep and 2 d in a product; d / 2 of them are folded into the base.

    Attributes
    ----------
    e : array, shape (k,)
    V : array, shape (k, d)
    base : array, shape (d, d)
        Or empty, for zeros: it is then not formed before there are d / 2 terms.
    """

    e: Array
    V: Array
    base: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def times(self, v: Array) -> Array:
        """The product with the columns of v, shape (d, b)."""
        terms = self.V.T @ (self.e[:, None] * (self.V @ v))
        return np.asarray(self.base @ v + terms if self.base.size else terms)

    def plus(self, e: Array, V: Array) -> GrowingMatrix:
        """The matrix and V' diag(e) V, of any number of terms."""
        e, V = np.concatenate([self.e, e]), np.concatenate([self.V, V])
        d = V.shape[1]
        if 2 * len(e) < d:
            return GrowingMatrix(e, V, self.base)
        return GrowingMatrix(e[:0], V[:0], (self.base if self.base.size else np.zeros((d, d))) + combined(e, V))
