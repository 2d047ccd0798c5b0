"""Symmetric matrices: packed triangles and positive definite systems."""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from mpinewton.data.shard import Array, Matrix
from mpinewton.linalg.krylov import Solved


def pack_triangle(H: Array) -> Array:
    """Upper triangle of H (d, d), row by row: shape (d (d + 1) / 2,)."""
    return H[_upper(len(H))]


def unpack_triangle(t: Array) -> Array:
    """The symmetric matrix (d, d) whose upper triangle, row by row, is t: bit by bit what `pack_triangle` was given.

    Raises
    ------
    ValueError
        If no triangle has len(t) numbers.
    """
    d = (isqrt(8 * len(t) + 1) - 1) // 2
    if d * (d + 1) // 2 != len(t):
        raise ValueError(f"{len(t)} numbers are no triangle: d (d + 1) / 2 are needed, {d * (d + 1) // 2} for d = {d}")
    H, upper = np.empty((d, d), dtype=t.dtype), _upper(d)
    H[upper] = t
    H.T[upper] = t
    return H


def solve_positive(H: Array, g: Array) -> Solved:
    """H^-1 g by Cholesky for symmetric H (d, d); where there is no factor, g and status "not positive definite"."""
    try:
        x = cho_solve(cho_factor(H, lower=True, check_finite=False), g, check_finite=False)
    except LinAlgError:
        x = np.full_like(g, np.nan)
    if not np.isfinite(x).all():  # not every LAPACK notices NaN in H
        return Solved(g.copy(), 0, "not positive definite")
    return Solved(x, 1, "solved")


def solve_diagonal_and_rows(e: Array, X: Matrix, h: Array, r: Array) -> Array:
    """(diag(e) + X'diag(h)X)^-1 r for e > 0, h >= 0 and fewer rows (n, d) than columns: shape (d,), n x n factored.

    NaN where the n x n matrix has no factor.
    """
    W = X * np.sqrt(h)[:, None]
    scaled = W * (1.0 / e)
    product: Any = scaled @ W.T
    K = np.asarray(product.toarray() if sparse.issparse(product) else product, dtype=np.float64)
    K[np.diag_indices_from(K)] += 1.0
    solved = solve_positive(K, np.asarray(scaled @ r))
    if solved.status != "solved":
        return np.full_like(r, np.nan)
    return np.asarray(r / e - scaled.T @ solved.x)


def solve_semidefinite(H: Array, g: Array) -> Solved:
    """H^-1 g for positive definite H (d, d); the shortest solution where H is singular to rounding.

    Status "not positive definite", and g, where an eigenvalue is negative by more than rounding.
    """
    solved = solve_positive(H, g)
    if solved.status == "solved" or not np.isfinite(H).all():
        return solved
    e, Q = np.linalg.eigh(H)
    zero = len(e) * np.finfo(np.float64).eps * np.abs(e).max()
    if e[0] < -zero:
        return solved
    seen = e > zero
    return Solved(Q[:, seen] @ (Q[:, seen].T @ g / e[seen]), 1, "solved")


def projected(H: Array, mu: float) -> Array:
    """[H]_mu, the nearest symmetric matrix without an eigenvalue below mu, for symmetric H (d, d): H where it has none.

    A Cholesky factor of H - mu I tells, at a tenth of what eigenvectors cost. LinAlgError where H is not finite.
    """
    shifted = H.copy()
    shifted[np.diag_indices_from(H)] -= mu
    try:
        cho_factor(shifted, lower=True, overwrite_a=True)
    except (LinAlgError, ValueError):  # ValueError: not finite
        e, Q = np.linalg.eigh(H)
        P = (Q * np.maximum(e, mu)) @ Q.T
        return np.asarray((P + P.T) / 2)
    return H


def _upper(d: int) -> NDArray[np.bool_]:
    return ~np.tri(d, k=-1, dtype=bool)
