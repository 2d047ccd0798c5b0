"""A positive definite matrix that changes a little from one system to the next."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from mpinewton.data.shard import Array
from mpinewton.linalg.krylov import Solved, cg
from mpinewton.linalg.symmetric import solve_positive

# Below this size a Cholesky factor (0.7 ms at d = 300) costs less than the steps that would save it.
SMALL = 500
# A stale factor is given up when conjugate gradients need more steps with it; after 16 to 80 rank-one changes: 3 or 4.
STALE = 8
TOLERANCE = 1e-10


def with_rows(H: Array, X: sparse.csr_array, c: Array) -> Array:
    """H + sum_j c_j x_j x_j', shape (d, d), for the rows of X (k, d): only entries where features meet are touched."""
    outer = (X.T @ (X * c[:, None]).tocsr()).tocoo()
    H = H.copy()
    H[outer.row, outer.col] += outer.data
    return H


def solve_following(H: Array, g: Array, L: Array) -> tuple[Solved, Array]:
    """H^-1 g, and the factor to begin with next time; L is the one of the last time, (0, 0) at first.

    Small matrices are factored every time. For others L is the lower Cholesky factor of an earlier H, and conjugate
    gradients on L^-1 H L^-T come to a residual of 1e-10; where that takes more than 8 steps, H is factored anew.
    """
    if len(g) < SMALL:
        return solve_positive(H, g), L
    if L.size:
        solved = cg(lambda v: _down(L, H @ _up(L, v)), _down(L, g), STALE, TOLERANCE)
        if solved.status == "solved":
            return Solved(_up(L, solved.x), solved.iterations, "solved"), L
    try:
        L = np.ascontiguousarray(cholesky(H, lower=True))
    except (LinAlgError, ValueError):  # ValueError: not finite
        return Solved(g.copy(), 0, "not positive definite"), np.zeros((0, 0))
    return Solved(solve_factored(L, g), 0, "solved"), L


def solve_factored(L: Array, g: Array) -> Array:
    """(L L')^-1 g for lower triangular L (d, d); not finite where g is not."""
    return _up(L, _down(L, g))


def _down(L: Array, v: Array) -> Array:
    return np.asarray(solve_triangular(L, v, lower=True, check_finite=False))


def _up(L: Array, v: Array) -> Array:
    return np.asarray(solve_triangular(L, v, lower=True, trans=1, check_finite=False))
