"""Systems with positive definite and semidefinite matrices, by Cholesky factors."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, eigh
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtrs  # without 10 microseconds of checks in each

from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.krylov import Solution, cg
from mpinewton.linalg.lowrank import outer_sum

# Below this size a new Cholesky factor (0.7 ms at d = 300) costs less than the conjugate gradient steps that save it.
SMALL = 500
# A stale factor is replaced when conjugate gradients need more steps with it. After 16 to 80 rank-one changes they were
# measured to need 3 or 4.
STALE = 8
TOLERANCE = 1e-10  # relative tolerance of these conjugate gradients
# An eigenvalue of a d x d matrix with unit diagonal, or a pivot of its factor, is rounding error up to d times this.
SINGULAR = 10 * np.finfo(np.float64).eps
# In those units a gradient g has |g|^2 in the unit of the objective f, and |g| <= 1e-12 sqrt(f) is rounding error: a
# sum of terms of about sqrt(f) loses some 1e-15 of them, and a step along that would lead far away.
GRADIENT_NOISE = 1e-12
FLAT = 1e-6  # steps of |H|^-1 are limited where the curvature is this part of the largest


def solve_positive(H: Array, g: Array) -> Solution:
    """H^-1 g by Cholesky for symmetric H (d, d) and g (d,).

    Returns
    -------
    Solution
        With status "not positive definite", and x = g, where H has no factor or is not finite.
    """
    return _solve_by_cholesky(H, g)[0]


def _solve_by_cholesky(H: Array, g: Array) -> tuple[Solution, bool]:
    """`solve_positive`, and whether H is singular to rounding: a pivot vanishes beside its diagonal entry."""
    L = _factor(H)
    if L is not None:
        x = dpotrs(L, g, lower=1)[0] if len(g) else g  # LAPACK takes no empty matrix
        if np.isfinite(x).all():
            return Solution(x, 1, "solved"), _has_vanishing_pivot(L, H)
    return Solution(g.copy(), 0, "not positive definite"), True


def _factor(H: Array, clean: bool = False) -> Array | None:
    """`cholesky_factor` in the order of Fortran; the upper triangle of the result is that of H, or 0 with `clean`."""
    L, failed = dpotrf(H, lower=1, clean=clean)
    return np.asarray(L) if not failed and np.isfinite(np.diagonal(L)).all() else None  # not every LAPACK detects NaN


def _has_vanishing_pivot(L: Array, H: Array) -> bool:
    """Whether a pivot of the factor L vanishes beside the diagonal entry of H: H is singular to rounding."""
    return bool((np.diagonal(L) ** 2 <= SINGULAR * len(H) * np.diagonal(H)).any())


def _spectrum_of_unit_diagonal(H: Array) -> tuple[Array, Array, Array]:
    """Scale of the variables (d,), and eigenvalues (d,) and eigenvectors (d, d) of H scaled to a unit diagonal."""
    root = np.sqrt(np.diagonal(H).clip(min=0.0))
    root[root == 0] = 1.0
    e, Q = np.linalg.eigh(H / root[:, None] / root)
    return root, e, Q


def solve_diagonal_and_rows(e: Array, X: Matrix, h: Array, r: Array) -> Array:
    """(diag(e) + X'diag(h)X)^-1 r, shape (d,), by a factor of an n x n matrix (Woodbury); NaN where it has none.

    Parameters
    ----------
    e : array, shape (d,), e > 0
    X : array or sparse matrix, shape (n, d), n < d
    h : array, shape (n,), h >= 0
    r : array, shape (d,)
    """
    W = X * np.sqrt(h)[:, None]
    We = W * (1.0 / e)
    product: Any = We @ W.T
    K = np.asarray(product.toarray() if sparse.issparse(product) else product, dtype=np.float64)
    K[np.diag_indices_from(K)] += 1.0
    solved = solve_positive(K, np.asarray(We @ r))
    if solved.status != "solved":
        return np.full_like(r, np.nan)
    return np.asarray(r / e - We.T @ solved.x)


def solve_semidefinite(H: Array, g: Array, f: float = 0.0, convex: bool = False) -> Solution:
    """H^-1 g for positive semidefinite H (d, d) and g (d,); the shortest solution where H is singular to rounding.

    Rounding and length are judged after H is scaled to a unit diagonal, so that the units of the variables do not
    matter.

    Parameters
    ----------
    H : array, shape (d, d)
    g : array, shape (d,)
    f : float
        Where g is the gradient of an objective and H its Hessian: the objective. If H is singular and most of g lies
        outside its range, x gets this part of g too, by the step after which the linear model is f - |f| (Polyak's).
    convex : bool
        Whether H is known to be semidefinite, so that a negative eigenvalue shows the size of the rounding errors.

    Returns
    -------
    Solution
        With status "not positive definite", and x = g, where an eigenvalue is negative by more than rounding error.
    """
    solved, outside, inside_square = split_semidefinite(H, g, convex)
    if f and (square := float(outside @ g)) > max(inside_square, GRADIENT_NOISE**2 * abs(f)):
        return Solution(solved.x + outside * (abs(f) / square), 1, "solved")
    return solved


def split_semidefinite(H: Array, g: Array, convex: bool = False) -> tuple[Solution, Array, float]:
    """The solution of `solve_semidefinite` for f = 0, and what it leaves out.

    Returns
    -------
    solved : Solution
    outside : array, shape (d,)
        The part of g outside the range of H in the units in which H has a unit diagonal, as a direction; 0 where H is
        not singular. Its square in these units is <outside, g>.
    inside_square : float
        The square of the rest of g, in these units; inf where H is not singular.
    """
    solved, singular = _solve_by_cholesky(H, g)
    if not singular or not np.isfinite(H).all():
        return solved, np.zeros_like(g), np.inf
    root, e, Q = _spectrum_of_unit_diagonal(H)
    zero = SINGULAR * len(e) * max(np.abs(e).max(), 1e-300)
    if e[0] < -zero and not convex:
        return Solution(g.copy(), 0, "not positive definite"), np.zeros_like(g), np.inf
    b, positive = Q.T @ (g / root), e > max(zero, -e[0])
    x = Q[:, positive] @ (b[positive] / e[positive]) / root
    outside = Q[:, ~positive] @ b[~positive] / root
    return Solution(x, 1, "solved"), outside, float(b[positive] @ b[positive])


def solve_absolute(H: Array, g: Array) -> Array:
    """|H|^-1 g, shape (d,), for symmetric H (d, d): a descent direction where H has negative eigenvalues.

    Eigenvalues are those of H scaled by its diagonal; moduli below `FLAT` times the largest count as that. NaN where H
    is not finite.
    """
    if not np.isfinite(H).all():
        return np.full_like(g, np.nan)
    root = np.sqrt(np.abs(np.diagonal(H)))
    root[root == 0] = 1.0
    e, Q = np.linalg.eigh(H / root[:, None] / root)
    return np.asarray(Q @ (Q.T @ (g / root) / np.maximum(np.abs(e), FLAT * np.abs(e).max())) / root)


def project_spectrum(H: Array, mu: float) -> Array:
    """[H]_mu, the symmetric matrix (d, d) nearest to H with no eigenvalue below mu; H itself where that holds already.

    A Cholesky factor of H - mu I decides, at a tenth of the cost of eigenvectors. Only the eigenvectors below mu are
    computed.

    Raises
    ------
    ValueError
        If H is not finite.
    """
    shifted = H.copy()
    shifted[np.diag_indices_from(H)] -= mu
    if _factor(shifted) is not None:
        return H
    e, Q = eigh(H, subset_by_value=(-np.inf, mu))
    return H + outer_sum(mu - e, Q.T)


def add_outer_products(H: Array, X: sparse.csr_array, c: Array) -> Array:
    """H + sum_j c_j x_j x_j', shape (d, d), for the rows x_j of X (k, d). Touches only entries where features meet."""
    outer = (X.T @ (X * c[:, None]).tocsr()).tocoo()
    H = H.copy()
    H[outer.row, outer.col] += outer.data
    return H


def cholesky_factor(H: Array) -> Array | None:
    """The lower Cholesky factor of symmetric H (d, d); None where H has none or is not finite."""
    L = _factor(H, clean=True)
    return None if L is None else np.ascontiguousarray(L)


def factor_semidefinite(H: Array) -> Array | None:
    """The lower Cholesky factor of positive semidefinite H (d, d), where eigenvalues of 0 count as 1.

    The eigenvalues are those of H with a unit diagonal, so that units do not matter. With the factor `solve_factored`
    gives H^-1 g for g in the range of H, and a gradient step for the rest of g. None where an eigenvalue is negative by
    more than rounding error, or H is not finite.
    """
    L = cholesky_factor(H)
    if (L is not None and not _has_vanishing_pivot(L, H)) or not np.isfinite(H).all():
        return L
    root, e, Q = _spectrum_of_unit_diagonal(H)
    zero = SINGULAR * len(H) * np.abs(e).max()
    return None if e[0] < -zero else cholesky_factor(((Q * np.where(e > zero, e, 1.0)) @ Q.T) * root[:, None] * root)


def solve_with_stale_factor(H: Array, g: Array, L: Array | None) -> tuple[Solution, Array | None]:
    """H^-1 g for positive definite H (d, d) that changes a little between calls, and the factor for the next call.

    A small H is factored every time. For a larger one, L is the lower Cholesky factor of an earlier H, None at first,
    and conjugate gradients on L^-1 H L^-T are run to a relative residual of 1e-10. Where these need more than 8 steps,
    H is factored again.

    Returns
    -------
    solution : Solution
        With status "not positive definite", and x = g, where H has no factor.
    L : array, shape (d, d), or None
    """
    if len(g) < SMALL:
        return solve_positive(H, g), L
    if L is not None:
        solved = cg(lambda v: forward_substitute(L, H @ _up(L, v)), forward_substitute(L, g), STALE, TOLERANCE)
        if solved.status == "solved":
            return Solution(_up(L, solved.x), solved.iterations, "solved"), L
    new = cholesky_factor(H)
    if new is None:
        return Solution(g.copy(), 0, "not positive definite"), None
    return Solution(solve_factored(new, g), 0, "solved"), new


def solve_factored(L: Array, g: Array) -> Array:
    """(L L')^-1 g, shape (d,), for lower triangular L (d, d); not finite where g is not."""
    return _up(L, forward_substitute(L, g))


def forward_substitute(L: Array, v: Array) -> Array:
    """L^-1 v, shape (d,), for lower triangular L (d, d)."""
    return _substitute(L, v, 1)


def _up(L: Array, v: Array) -> Array:
    return _substitute(L, v, 0)


def _substitute(L: Array, v: Array, transposed: int) -> Array:
    # L.T, in the order of Fortran, is not copied.
    x, failed = dtrtrs(L.T, v, lower=0, trans=transposed)
    if failed:
        raise LinAlgError("the factor is singular")
    return np.asarray(x)
