"""Krylov spaces of a shard with fewer rows than features, in coordinates of the span of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from mpinewton.arrays import Array
from mpinewton.linalg.krylov import Lanczos, lanczos


@dataclass(frozen=True, eq=False)
class LiftedLanczos(Lanczos):
    """A Krylov space in coordinates: Q of the n orthonormal columns of `rows` and of one more, `out`."""

    rows: Array  # shape (d, n)
    out: Array  # shape (d,)

    def _combine(self, y: Array) -> Array:
        x = super()._combine(y)
        return np.asarray(self.rows @ x[:-1] + x[-1] * self.out)


class Span:
    """An orthonormal basis of the span of the rows of X, shape (n, p), n < p: X' = Q R, found once.

    X'diag(h)X + ridge I maps the span of the rows and of one more vector b into itself: a Krylov space from b lies in
    n + 1 dimensions, and there a product costs n^2 and not n p.
    """

    def __init__(self, X: Array) -> None:
        self.Q, self.R = np.linalg.qr(X.T)

    def lanczos(self, h: Array, ridge: float, b: Array, limit: int) -> Lanczos:
        """At most `limit` steps of Lanczos for X'diag(h)X + ridge I from b, h of any sign, shape (n,)."""
        n = len(h)
        M = np.zeros((n + 1, n + 1))  # X is 0 on what is orthogonal to its rows: the last column is the ridge's alone
        M[:n, :n] = (self.R * h) @ self.R.T
        M[np.diag_indices_from(M)] += ridge
        y, rest = np.zeros(n), b
        for _ in range(2):  # one pass leaves rounding of the size of b in the span, however short the rest is
            part = self.Q.T @ rest
            y, rest = y + part, rest - self.Q @ part
        length = sqrt(rest @ rest)
        found = lanczos(M.__matmul__, np.append(y, length), limit, 0.0)
        return LiftedLanczos(found.Q, found.T, found.beta, found.status, self.Q, rest / length if length else rest)
