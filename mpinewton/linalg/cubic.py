"""The cubic subproblem: the exact minimiser of a quadratic model with a cubic regulariser, M/6 |s|^3."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array

EPS = np.finfo(np.float64).eps
# Maximum number of Newton steps on the secular equation, which takes 5 to 8.
LIMIT = 100


@dataclass(frozen=True, eq=False)
class CubicStep:
    """A global minimiser s of <g, s> + s'H s / 2 + M/6 |s|^3, with the residuals of its optimality conditions.

    s is a global minimiser if and only if (H + t' I) s = -g with t' = M t / 2 and t = |s|, and H + t' I has no negative
    eigenvalue. The last condition holds by construction. `stationarity` and `mismatch` measure the other two; for a
    symmetric finite H they are rounding errors, at most 1e-12.

    Attributes
    ----------
    s : array, shape (d,)
    t : float
        Length of s according to the secular equation.
    model : float
        Value of the model at s, not positive.
    stationarity : float
        |(H + t' I) s + g| / (|g| + (|H| + t') |s|), |H| the spectral norm.
    mismatch : float
        ||s| - t| / t; 0 where t = 0.
    """

    s: Array
    t: float
    model: float
    stationarity: float
    mismatch: float


def cubic_step(H: Array, g: Array, M: float) -> CubicStep:
    """argmin over s (d,) of <g, s> + s'H s / 2 + M/6 |s|^3 for symmetric H (d, d), indefinite or not, g (d,), M > 0.

    In eigenvectors of H, with q = Q'g, the length t of s solves |q / (e + M t / 2)| = t (Nesterov and Polyak 2006).
    Newton's method on 1/|s(t)| - 1/t, which is increasing and concave, converges to t from below and needs no bracket.
    The unknown is t - t_0, where t_0 = -2 e_min / M is the least value of t, so that it is accurate where g is nearly
    orthogonal to the lowest eigenvector. Where g is exactly orthogonal to it (the hard case), a multiple of that
    eigenvector gives s the length t_0.
    """
    e, Q = np.linalg.eigh(H)
    q, half = Q.T @ g, 0.5 * M
    least = max(0.0, -float(e[0]) / half)  # the smallest t for which H + M t / 2 I has no negative eigenvalue
    gaps = e - min(float(e[0]), 0.0)  # e + M least / 2, the lowest without cancellation
    used = q != 0
    delta = _excess(gaps[used], np.abs(q[used]), half, least)
    y = np.zeros_like(q)
    y[used] = -q[used] / (gaps[used] + half * delta)
    t = least + delta
    if delta == 0 and t > 0:
        y[0] = np.sqrt(max(0.0, t * t - float(y @ y)))
    s = np.asarray(Q @ y)
    length, norm = float(np.sqrt(s @ s)), float(np.abs(e).max(initial=0.0))
    residual = H @ s + half * t * s + g
    size = float(np.sqrt(g @ g)) + (norm + half * t) * length
    return CubicStep(
        s,
        t,
        float(g @ s + 0.5 * (s @ (H @ s)) + M / 6.0 * length**3),
        float(np.sqrt(residual @ residual)) / size if size else 0.0,
        abs(length - t) / t if t else 0.0,
    )


def _excess(gaps: Array, q: Array, half: float, least: float) -> float:
    """delta >= 0 with |q / (gaps + half delta)| = least + delta, for q > 0; 0 in the hard case."""
    # Each component gives a lower bound, the root of (gap + half delta)(least + delta) = q.
    b, c = gaps + half * least, gaps * least - q
    bounds = -2.0 * c / (b + np.sqrt(np.maximum(b * b - 4.0 * half * c, 0.0)))
    delta = max(0.0, float(bounds.max(initial=0.0)))
    for _ in range(LIMIT):
        y = q / (gaps + half * delta)
        norm, t = float(np.sqrt(y @ y)), least + delta
        if norm <= t:  # converged, or the hard case
            break
        derivative = half * float(y @ (y / (gaps + half * delta))) / norm**3 + 1.0 / t**2
        before, delta = delta, delta + (1.0 / t - 1.0 / norm) / derivative
        if delta - before <= EPS * delta:
            break
    return delta
