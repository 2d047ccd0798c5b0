"""A symmetric matrix to which low-rank terms are added: a dense part and the latest terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpinewton.arrays import Array


def outer_sum(e: Array, V: Array) -> Array:
    """sum_k e_k v_k v_k' = V' diag(e) V, shape (..., d, d), exactly symmetric, for e (..., k) and V (..., k, d)."""
    S = (np.matrix_transpose(V) * e[..., None, :]) @ V
    return np.asarray((S + np.matrix_transpose(S)) / 2)


@dataclass(frozen=True, eq=False)
class GrowingMatrix:
    """base + V' diag(e) V. A term takes d numbers and 2 d operations in a product; d / 2 terms are added to the base.

    With leading axes it is a stack of matrices.

    Attributes
    ----------
    e : array, shape (..., k)
    V : array, shape (..., n, d), n >= k
        The rows from k on are free, to be filled by `plus`.
    base : array, shape (..., d, d)
        Shape (..., 0, 0) stands for zeros: they are not formed before there are d / 2 terms.
    """

    e: Array
    V: Array
    base: Array

    def times(self, v: Array, some: Any = ...) -> Array:
        """The product with v (..., d, b), shape (..., d, b); `some` are the indices of the matrices of a stack."""
        V = self.V[..., : self.e.shape[-1], :][some]
        terms = np.matrix_transpose(V) @ (self.e[some][..., None] * (V @ v))
        return np.asarray(self.base[some] @ v + terms if self.base.size else terms)

    def plus(self, e: Array, V: Array) -> GrowingMatrix:
        """The sum of this matrix and V' diag(e) V, for e (..., k) and V (..., k, d); this one is not used any more."""
        n, k, d = self.e.shape[-1], e.shape[-1], V.shape[-1]
        if 2 * (n + k) >= d:
            base = self.base if self.base.size else np.zeros((*e.shape[:-1], d, d))
            e, V = np.concatenate([self.e, e], -1), np.concatenate([self.V[..., :n, :], V], -2)
            return GrowingMatrix(e[..., :0], self.V, base + outer_sum(e, V))
        rows = self.V
        if n + k > rows.shape[-2]:
            rows = np.zeros((*e.shape[:-1], min(2 * (n + k), d // 2), d))
            rows[..., :n, :] = self.V[..., :n, :]
        rows[..., n : n + k, :] = V
        return GrowingMatrix(np.concatenate([self.e, e], -1), rows, self.base)
