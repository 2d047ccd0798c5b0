"""Krylov spaces of a shard with fewer rows than features, in an orthonormal basis of the span of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from mpinewton.arrays import Array
from mpinewton.linalg.krylov import Lanczos, lanczos


@dataclass(frozen=True, eq=False)
class LiftedLanczos(Lanczos):
    """A Krylov space whose Q holds coordinates, shape (n + 1, k), in an orthonormal basis of n + 1 vectors of length d.

    Attributes
    ----------
    rows : array, shape (d, n)
        The first n vectors of the basis.
    out : array, shape (d,)
        The last one; 0 where the space lies in the span of the others.
    """

    rows: Array
    out: Array

    def _combine(self, y: Array) -> Array:
        x = super()._combine(y)
        return np.asarray(self.rows @ x[:-1] + x[-1] * self.out)


class Span:
    """An orthonormal basis of the span of the rows of X, shape (n, p), n < p: X' = Q R, computed once.

    X'diag(h)X + l2 I maps the span of the rows and of one more vector b into itself. So a Krylov space from b lies in
    n + 1 dimensions, where a product costs n^2 operations instead of n p.
    """

    def __init__(self, X: Array) -> None:
        self.Q, self.R = np.linalg.qr(X.T)

    def lanczos(self, h: Array, l2: float, b: Array, limit: int) -> Lanczos:
        """At most `limit` steps of Lanczos for X'diag(h)X + l2 I from b (p,), with h (n,) of any sign."""
        n = len(h)
        M = np.zeros((n + 1, n + 1))  # X is 0 on what is orthogonal to its rows: the last row has l2 alone
        M[:n, :n] = (self.R * h) @ self.R.T
        M[np.diag_indices_from(M)] += l2
        y, rest = np.zeros(n), b
        for _ in range(2):  # one pass leaves rounding errors of size eps |b| in the span, even where the rest is short
            part = self.Q.T @ rest
            y, rest = y + part, rest - self.Q @ part
        length = sqrt(rest @ rest)
        found = lanczos(M.__matmul__, np.append(y, length), limit)
        return LiftedLanczos(found.Q, found.T, found.beta, found.status, self.Q, rest / length if length else rest)
