"""The loops over rows by numpy and scipy, where none are compiled. Losses have their twins in their own files."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array

Group: Any = None  # shards are evaluated one by one
readers: Any = None  # the readers of mpinewton.data are written in numpy


class SparseRows:
    """Products with the rows of a sparse matrix, as `mpinewton.kernels.compiled.SparseRows`.

    Parameters
    ----------
    X : csr_array, shape (n, p)
        In canonical form.
    """

    # Cost of a pair of stored entries in `gram`, in multiply-adds of BLAS: 5 ns and 0.06 ns (a9a, one core).
    PAIR_COST = 80

    def __init__(self, X: sparse.csr_array) -> None:
        self.X = X

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        return np.asarray(self.X @ v)

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        return np.asarray(self._transposed @ r)

    def squares_transpose_times(self, r: Array) -> Array:
        """X.^2'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        T = self._transposed
        return np.asarray(sparse.csr_array((T.data.astype(np.float64) ** 2, T.indices, T.indptr), T.shape) @ r)

    def gram(self, h: Array, packed: bool = False) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric; packed: its upper triangle."""
        # (sqrt|h| x_j)(sign h sqrt|h| x_k) rounds the same with j and k exchanged: exactly symmetric.
        X, T, root = self.X, self._transposed, np.sqrt(np.abs(h))
        left = sparse.csr_array((T.data * root[T.indices], T.indices, T.indptr), shape=T.shape)
        counts = np.diff(X.indptr)
        right = sparse.csr_array((X.data * np.repeat(np.copysign(root, h), counts), X.indices, X.indptr), X.shape)
        H = np.asarray((left @ right).toarray())
        return H[np.triu_indices(len(H))] if packed else H

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v, shape (p,) or (p, C) for v of shape (p,) or (p, C)."""
        return self.transpose_times((h * self.times(v).T).T)

    @cached_property
    def _transposed(self) -> sparse.csr_array:
        # X'r is three times faster with a stored transpose than with the column view of the same arrays.
        return self.X.T.tocsr()


def gram(X: Array, h: Array) -> Array:
    """X'diag(h)X, shape (p, p), exactly symmetric, for dense X (n, p) and h (n,) of any sign."""
    positive = h >= 0
    if positive.all():
        return _symmetric_product(X, h)
    return _symmetric_product(X[positive], h[positive]) - _symmetric_product(X[~positive], -h[~positive])


def _symmetric_product(X: Array, h: Array) -> Array:
    """X'diag(h)X for h >= 0, as W'W: the symmetric kernel of BLAS does half the work, exactly symmetric."""
    W = X * np.sqrt(h)[:, None]
    return np.asarray(W.T @ W)


def ritz(Q: Array, Y: Array, r: int) -> tuple[Array, Array, Array, Array]:
    """The Rayleigh-Ritz method for symmetric matrices D of which Y = D Q is known, Q with orthonormal columns.

    Parameters
    ----------
    Q, Y : arrays, shape (..., d, b)
        They may be overwritten.
    r : int

    Returns
    -------
    e : array, shape (..., b)
        Ritz values, largest moduli first; NaN where Q'Y is not finite, and then the rest has no meaning.
    V : array, shape (..., d, b)
        Ritz vectors.
    left : array, shape (..., d, b)
        D V, less V e in the first r columns.
    squares : array, shape (..., b)
        Squares of the columns of `left`.
    """
    T = np.matrix_transpose(Q) @ Y
    finite = np.asarray(np.isfinite(T).all((-2, -1), keepdims=True))
    e, Z = np.linalg.eigh(np.where(finite, T, 0.0))
    order = np.argsort(-np.abs(e), kind="stable")
    e, Z = np.take_along_axis(e, order, -1), np.take_along_axis(Z, order[..., None, :], -1)
    V, left = Q @ Z, Y @ Z
    left[..., :r] -= V[..., :r] * e[..., None, :r]
    squares = np.diagonal(np.matrix_transpose(left) @ left, axis1=-2, axis2=-1)
    return np.where(finite[..., 0], e, np.nan), V, left, squares
