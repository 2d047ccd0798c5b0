"""Krylov solvers for symmetric systems known by their products. Trouble is a status, never an exception."""

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

# A Krylov space is exhausted when what a product adds to it is rounding: this many ulps of the largest product so far,
# times sqrt(d) for the d roundings of a vector.
EXHAUSTED = 10 * np.finfo(np.float64).eps
# Curvature below this part of the largest is none that a step should be divided by: what is left of it is rounding.
FLAT = float(np.sqrt(np.finfo(np.float64).eps))


@dataclass(frozen=True, eq=False)
class Solution:
    """A solution and how it was come by.

    Attributes
    ----------
    x : array, shape (d,)
    iterations : int
        Steps that went into x.
    status : str
        "solved", "limit" (steps used up), "negative curvature" or "not positive definite".
    """

    x: Array
    iterations: int
    status: Status


def cg(
    product: Product, b: Array, limit: int, tolerance: float, flat: float = 0.0, precondition: Product | None = None
) -> Solution:
    """Conjugate gradients for H x = b, until |H x - b| <= tolerance |b|; `precondition` is P^-1, P positive definite.

    On a direction u with u'Hu <= flat |H| |u|^2, |H| as far as it has been seen: the iterate before it, u itself at
    step one, so that <x, b> > 0 always. Where H is singular, the part of b outside its range drives u'Hu / |u|^2 to 0
    from above, and x to infinity: `flat` > 0 ends that in time.
    """
    x, r = np.zeros_like(b), b.copy()
    goal = tolerance * sqrt(b @ b)
    if not b.any():
        return Solution(x, 0, "solved")
    s = precondition(r) if precondition else r
    u, rs, largest = s.copy(), float(r @ s), 0.0
    for k in range(limit):
        Hu = product(u)
        curvature, square = float(u @ Hu), float(u @ u)
        largest = max(largest, sqrt((Hu @ Hu) / square))
        if curvature <= flat * largest * square:
            return Solution(x if k else u, k, "negative curvature")
        alpha = rs / curvature
        x += alpha * u
        r -= alpha * Hu
        if sqrt(r @ r) <= goal:
            return Solution(x, k + 1, "solved")
        s = precondition(r) if precondition else r
        before, rs = rs, float(r @ s)
        u = s + (rs / before) * u
    return Solution(x, limit, "limit")


def lsmr(product: Product, b: Array, damp: float, limit: int, tolerance: float) -> Solution:
    """argmin |H x - b|^2 + damp^2 |x|^2 for symmetric H, by LSMR (Fong and Saunders 2011); two products a step.

    Stops when the gradient |H(H x - b) + damp^2 x| <= tolerance |H b|; it falls at every step.
    """
    x = np.zeros_like(b)
    beta, u = _normed(b)
    if beta == 0:
        return Solution(x, 0, "solved")
    alpha, v = _normed(product(u))
    first = zetabar = alpha * beta
    if first == 0:
        return Solution(x, 0, "solved")
    alphabar, rho, rhobar, cbar, sbar = alpha, 1.0, 1.0, 1.0, 0.0
    h, hbar = v.copy(), np.zeros_like(b)
    for k in range(limit):
        # The names are the paper's: rotations of (alphabar, damp), of that with beta, and of the bar quantities.
        beta, u = _normed(product(v) - alpha * u)
        alpha, v = _normed(product(u) - beta * v)
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
    """k steps of Lanczos from b: H Q = Q' T with Q' = Q and one more column, b = beta Q e_1.

    Attributes
    ----------
    Q : array, shape (d, k)
        Orthonormal columns; one column of zeros where b is 0.
    T : array, shape (k + 1, k)
        Tridiagonal; its last row is 0 where the space is exhausted.
    beta : float
        |b|.
    status : str
        "solved" (exhausted, or the tolerance met) or "limit".
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
        """The shortest argmin over x = Q y of |H x - b|, shape (d,): singular values below cutoff |T| count as 0."""
        U, s, V = self._svd
        kept = s > cutoff * s.max(initial=0.0)
        return self._combine(V[kept].T @ (U[0, kept] / s[kept]))

    def solve_absolute(self, floor: float) -> Array:
        """|H|^-1 b in the space, shape (d,): eigenvalues by modulus, none below `floor` times the largest.

        Equal to the iterate of conjugate gradients where all are positive and above the floor; b where H is 0.
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


def lanczos(product: Product, b: Array, limit: int, tolerance: float) -> Lanczos:
    """At most `limit` >= 1 steps of Lanczos from b, fully reorthogonalised; one product a step, `limit` d numbers kept.

    Stops when the space is exhausted, or when its least-squares residual r had |H r| <= tolerance |H b| a step ago
    already: what `lsmr` stops on, without the damping.
    """
    d, limit = len(b), min(limit, len(b))
    beta, q = _normed(b)
    if beta == 0:
        return Lanczos(np.zeros((d, 1)), np.zeros((2, 1)), 0.0, "solved")
    T, basis = np.zeros((limit + 1, limit)), np.empty((limit, d))
    status: Status = "limit"
    largest, residual = 0.0, _Residual()
    for k in range(limit):
        basis[k] = q
        Hq = product(q)
        largest = max(largest, sqrt(Hq @ Hq))
        T[k, k] = q @ Hq
        space = basis[: k + 1]
        for _ in range(2):  # one pass loses orthogonality to cancellation; two keep it to rounding
            Hq = Hq - (space @ Hq) @ space
        norm, q = _normed(Hq)
        exhausted = k + 1 == d or norm <= EXHAUSTED * sqrt(d) * largest
        T[k + 1, k] = 0.0 if exhausted else norm
        if k + 1 < limit:
            T[k, k + 1] = T[k + 1, k]
        if exhausted or residual.gradient(T[k, k], norm) <= tolerance:
            status = "solved"
            break
    return Lanczos(basis[: k + 1].T, T[: k + 2, : k + 1], beta, status)


class _Residual:
    """The QR factors of T, a rotation a step, as in MINRES (Paige and Saunders 1975)."""

    def __init__(self) -> None:
        self.norm, self.first = 1.0, 0.0  # |r| / |b|; |H b| / |b|
        self.c, self.s, self.dbar = -1.0, 0.0, 0.0

    def gradient(self, alpha: float, beta: float) -> float:
        """|H r| / |H b| before the step that has found the next column (alpha, beta) of T."""
        gbar, self.dbar = self.s * self.dbar - self.c * alpha, -self.c * beta
        slope = self.norm * hypot(gbar, self.dbar)
        self.first = self.first or slope
        gamma = hypot(gbar, beta)
        self.c, self.s = gbar / gamma, beta / gamma
        self.norm *= self.s
        return slope / self.first


def _normed(v: Array) -> tuple[float, Array]:
    norm = sqrt(v @ v)
    return norm, v / norm if norm else v
