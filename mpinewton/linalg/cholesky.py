"""A positive definite matrix that changes a little from one system to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular

from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.krylov import Solution, cg

# Below this size a Cholesky factor (0.7 ms at d = 300) costs less than the steps that would save it.
SMALL = 500
# A stale factor is given up when conjugate gradients need more steps with it; after 16 to 80 rank-one changes: 3 or 4.
STALE = 8
TOLERANCE = 1e-10


def solve_positive(H: Array, g: Array) -> Solution:
    """H^-1 g by Cholesky for symmetric H (d, d); where there is no factor, g and status "not positive definite"."""
    try:
        x = cho_solve(cho_factor(H, lower=True, check_finite=False), g, check_finite=False)
    except LinAlgError:
        x = np.full_like(g, np.nan)
    if not np.isfinite(x).all():  # not every LAPACK notices NaN in H
        return Solution(g.copy(), 0, "not positive definite")
    return Solution(x, 1, "solved")


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


def solve_semidefinite(H: Array, g: Array) -> Solution:
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
    return Solution(Q[:, seen] @ (Q[:, seen].T @ g / e[seen]), 1, "solved")


def project_spectrum(H: Array, mu: float) -> Array:
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


def with_rows(H: Array, X: sparse.csr_array, c: Array) -> Array:
    """H + sum_j c_j x_j x_j', shape (d, d), for the rows of X (k, d): only entries where features meet are touched."""
    outer = (X.T @ (X * c[:, None]).tocsr()).tocoo()
    H = H.copy()
    H[outer.row, outer.col] += outer.data
    return H


def solve_with_stale_factor(H: Array, g: Array, L: Array) -> tuple[Solution, Array]:
    """H^-1 g, and the factor to begin with next time; L is the one of the last time, (0, 0) at first.

    Small matrices are factored every time. For others L is the lower Cholesky factor of an earlier H, and conjugate
    gradients on L^-1 H L^-T come to a residual of 1e-10; where that takes more than 8 steps, H is factored anew.
    """
    if len(g) < SMALL:
        return solve_positive(H, g), L
    if L.size:
        solved = cg(lambda v: _down(L, H @ _up(L, v)), _down(L, g), STALE, TOLERANCE)
        if solved.status == "solved":
            return Solution(_up(L, solved.x), solved.iterations, "solved"), L
    try:
        L = np.ascontiguousarray(cholesky(H, lower=True))
    except (LinAlgError, ValueError):  # ValueError: not finite
        return Solution(g.copy(), 0, "not positive definite"), np.zeros((0, 0))
    return Solution(solve_factored(L, g), 0, "solved"), L


def solve_factored(L: Array, g: Array) -> Array:
    """(L L')^-1 g for lower triangular L (d, d); not finite where g is not."""
    return _up(L, _down(L, g))


def _down(L: Array, v: Array) -> Array:
    return np.asarray(solve_triangular(L, v, lower=True, check_finite=False))


def _up(L: Array, v: Array) -> Array:
    return np.asarray(solve_triangular(L, v, lower=True, trans=1, check_finite=False))
