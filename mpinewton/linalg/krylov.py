"""Krylov solvers for symmetric matrices H that are given by products H v. Failure is a status, not an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import hypot, sqrt
from typing import Literal

import numpy as np

from mpinewton.arrays import Array

Product = Callable[[Array], Array]
Status = Literal["solved", "limit", "negative curvature", "not positive definite"]

# A Krylov space is exhausted when the new part of a product is rounding error: below this factor times sqrt(d), for the
# d roundings of a vector, times the largest norm of a product so far.
EXHAUSTED = 10 * np.finfo(np.float64).eps
# Curvature u'Hu / |u|^2 below this factor times |H| counts as zero, and no step is divided by it: sqrt(eps).
FLAT = float(np.sqrt(np.finfo(np.float64).eps))


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    Attributes
    ----------
    x : array, shape (d,)
        Solution.
    iterations : int
        Number of steps that x is made of.
    status : str
        "solved", "limit" (maximum number of steps reached), "negative curvature" or "not positive definite".
    """

    x: Array
    iterations: int
    status: Status


def cg(
    product: Product,
    b: Array,
    limit: int,
    tolerance: float,
    flat: float = 0.0,
    precondition: Product | None = None,
    enough: Callable[[int, Array, Array], bool] = lambda k, x, r: False,
) -> Solution:
    """Conjugate gradients for H x = b with symmetric H (d, d), until |H x - b| <= tolerance |b|.

    Parameters
    ----------
    product : function of v, shape (d,), that returns H v
    b : array, shape (d,)
    limit : int
        Maximum number of steps, one product each.
    tolerance : float
        Relative tolerance on the residual.
    flat : float
        A direction u counts as one of negative curvature if u'Hu <= flat |H| |u|^2, where |H| is estimated from the
        products so far. For singular H, the part of b outside its range lets u'Hu / |u|^2 fall to 0 from above and x
        grow without bound; `flat` = `FLAT` stops before that.
    precondition : function of r, shape (d,), that returns P^-1 r, P positive definite
    enough : function of the step number k, the iterate x and its residual r = b - H x
        Whether to stop after step k. Its status is "solved".

    Returns
    -------
    Solution
        With status "negative curvature", x is the iterate before that direction, and at the first step the direction
        itself. So <x, b> > 0 always.
    """
    x, r = np.zeros_like(b), b.copy()
    goal = tolerance * sqrt(b @ b)
    if not b.any():
        return Solution(x, 0, "solved")
    s = precondition(r) if precondition else r
    u, rs, largest, part = s.copy(), float(r @ s), 0.0, np.empty_like(b)  # fresh memory would cost as much as a sum
    for k in range(limit):
        Hu = product(u)
        curvature, square = float(u @ Hu), float(u @ u)
        largest = max(largest, sqrt((Hu @ Hu) / square))
        if curvature <= flat * largest * square:
            return Solution(x if k else u, k, "negative curvature")
        alpha = rs / curvature
        x += np.multiply(alpha, u, out=part)
        r -= np.multiply(alpha, Hu, out=part)
        if sqrt(r @ r) <= goal or enough(k + 1, x, r):
            return Solution(x, k + 1, "solved")
        s = precondition(r) if precondition else r
        before, rs = rs, float(r @ s)
        u *= rs / before
        u += s
    return Solution(x, limit, "limit")


def lsmr(product: Product, b: Array, damp: float, limit: int, tolerance: float) -> Solution:
    """argmin over x (d,) of |H x - b|^2 + damp^2 |x|^2 for symmetric H (d, d), by LSMR (Fong and Saunders 2011).

    Costs two products a step. Stops when |H(H x - b) + damp^2 x| <= tolerance |H b|; that norm decreases at every step.
    """
    x = np.zeros_like(b)
    beta, u = _normalise(b)
    if beta == 0:
        return Solution(x, 0, "solved")
    alpha, v = _normalise(product(u))
    first = zetabar = alpha * beta
    if first == 0:
        return Solution(x, 0, "solved")
    alphabar, rho, rhobar, cbar, sbar = alpha, 1.0, 1.0, 1.0, 0.0
    h, hbar = v.copy(), np.zeros_like(b)
    for k in range(limit):
        # The names are the paper's: rotations of (alphabar, damp), of that with beta, and of the bar quantities.
        beta, u = _normalise(product(v) - alpha * u)
        alpha, v = _normalise(product(u) - beta * v)
        alphahat = hypot(alphabar, damp)
        last_rho, rho = rho, hypot(alphahat, beta)
        c, s = alphahat / rho, beta / rho
        theta, alphabar = s * alpha, c * alpha
        last_rhobar, thetabar = rhobar, sbar * rho
        rhobar = hypot(cbar * rho, theta)
        cbar, sbar = cbar * rho / rhobar, theta / rhobar
        zeta, zetabar = cbar * zetabar, -sbar * zetabar
        hbar = h - (thetabar * rho / (last_rho * last_rhobar)) * hbar
        x += (zeta / (rho * rhobar)) * hbar
        h = v - (theta / rho) * h
        if abs(zetabar) <= tolerance * first:
            return Solution(x, k + 1, "solved")
    return Solution(x, limit, "limit")


@dataclass(frozen=True, eq=False)
class Lanczos:
    """Result of k steps of Lanczos from b: H Q = Q+ T, where Q+ is Q with one more column, and b = beta Q e_1.

    Attributes
    ----------
    Q : array, shape (d, k)
        Orthonormal columns; one column of zeros where b is 0.
    T : array, shape (k + 1, k)
        Tridiagonal; its last row is 0 where the space is exhausted.
    beta : float
        |b|.
    status : str
        "solved" (the space is exhausted) or "limit".
    """

    Q: Array
    T: Array
    beta: float
    status: Status

    def solve_damped(self, damp: float) -> Array:
        """argmin over x = Q y of |H x - b|^2 + damp^2 |x|^2, shape (d,); damp > 0."""
        U, s, V = self._svd
        return self._combine(V.T @ (s / (s**2 + damp**2) * U[0]))

    def solve_squared(self, damp: float) -> Array:
        """(H^2 + damp^2 I)^-1 b in the space, beta Q (T'T + damp^2 I)^-1 e_1, shape (d,); damp > 0."""
        _, s, V = self._svd
        return self._combine(V.T @ (V[:, 0] / (s**2 + damp**2)))

    def solve_shortest(self, cutoff: float = 1e-10) -> Array:
        """The shortest argmin over x = Q y of |H x - b|, shape (d,); singular values below cutoff |T| count as 0."""
        U, s, V = self._svd
        kept = s > cutoff * s.max(initial=0.0)
        return self._combine(V[kept].T @ (U[0, kept] / s[kept]))

    def solve_absolute(self, floor: float) -> Array:
        """|H|^-1 b in the space, shape (d,): eigenvalues by modulus, and none below `floor` times the largest.

        Where all eigenvalues are positive and above the floor this is the iterate of conjugate gradients; where H is
        0 it is b.
        """
        e, S = np.linalg.eigh(self.T[:-1])
        size = np.abs(e)
        largest = size.max(initial=0.0)
        if largest == 0:
            size, largest = np.ones_like(size), 1.0
        return self._combine(S @ (S[0] / np.maximum(size, floor * largest)))

    def _combine(self, y: Array) -> Array:
        return np.asarray(self.beta * (self.Q @ y))

    @cached_property
    def _svd(self) -> tuple[Array, Array, Array]:
        return np.linalg.svd(self.T, full_matrices=False)


def lanczos(product: Product, b: Array, limit: int) -> Lanczos:
    """At most `limit` >= 1 steps of Lanczos from b, with full reorthogonalisation.

    Costs one product a step, and memory for `limit` d numbers. Stops early where the space is exhausted.
    """
    d, limit = len(b), min(limit, len(b))
    beta, q = _normalise(b)
    if beta == 0:
        return Lanczos(np.zeros((d, 1)), np.zeros((2, 1)), 0.0, "solved")
    T, basis = np.zeros((limit + 1, limit)), np.empty((limit, d))
    status: Status = "limit"
    largest = 0.0
    for k in range(limit):
        basis[k] = q
        Hq = product(q)
        largest = max(largest, sqrt(Hq @ Hq))
        T[k, k] = q @ Hq
        space = basis[: k + 1]
        for _ in range(2):  # one pass loses orthogonality to cancellation; two keep it to rounding
            Hq = Hq - (space @ Hq) @ space
        norm, q = _normalise(Hq)
        if k + 1 == d or norm <= EXHAUSTED * sqrt(d) * largest:
            status = "solved"
            break
        T[k + 1, k] = norm
        if k + 1 < limit:
            T[k, k + 1] = norm
    return Lanczos(basis[: k + 1].T, T[: k + 2, : k + 1], beta, status)


def _normalise(v: Array) -> tuple[float, Array]:
    """|v| and v / |v|; v itself where it is 0."""
    norm = sqrt(v @ v)
    return norm, v / norm if norm else v
