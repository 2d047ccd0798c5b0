"""The cubic subproblem: a quadratic model and M/6 times the cube of the length, minimised exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array

EPS = np.finfo(np.float64).eps
# Newton's method on the secular equation takes 5-8 steps.
LIMIT = 100


@dataclass(frozen=True, eq=False)
class CubicStep:
    """A global minimiser of <g, s> + s'H s / 2 + M/6 |s|^3, and the proof of it.

    s is one if and only if (H + t' I) s = -g with t' = M t / 2, t = |s|, and H + t' I has no negative eigenvalue; the
    last holds by construction. Both numbers below are at rounding, 1e-12 at the most, for a symmetric finite H.

    Attributes
    ----------
    s : array, shape (d,)
    t : float
        Its length, as found from the secular equation.
    model : float
        The model at s; never positive.
    stationarity : float
        |(H + t' I) s + g| / (|g| + (|H| + t') |s|), |H| the spectral norm.
    mismatch : float
        ||s| - t| / t; 0 where t is.
    """

    s: Array
    t: float
    model: float
    stationarity: float
    mismatch: float


def cubic_step(H: Array, g: Array, M: float) -> CubicStep:
    """argmin over s of <g, s> + s'H s / 2 + M/6 |s|^3, H symmetric (d, d), indefinite or not, g (d,), M > 0.

    In eigenvectors of H, with q = Q'g, the length solves |q / (e + M t / 2)| = t (Nesterov and Polyak 2006). Newton's
    method on 1/|s(t)| - 1/t, which is increasing and concave, comes to t from below and needs no bracket. t is
    counted from its least value -2 e_min / M, so that it is found where g is (nearly) orthogonal to the lowest
    eigenvector; exactly so, the hard case, that eigenvector makes up what s lacks in length.
    """
    e, Q = np.linalg.eigh(H)
    q, half = Q.T @ g, 0.5 * M
    least = max(0.0, -float(e[0]) / half)  # the smallest t for which H + M t / 2 I has no negative eigenvalue
    gaps = e - min(float(e[0]), 0.0)  # e + M least / 2, the lowest without cancellation
    seen = q != 0
    delta = _excess(gaps[seen], np.abs(q[seen]), half, least)
    y = np.zeros_like(q)
    y[seen] = -q[seen] / (gaps[seen] + half * delta)
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
    """delta >= 0 with |q / (gaps + half delta)| = least + delta; 0 in the hard case. q > 0."""
    # Every component alone gives a lower bound, the root of (gap + half delta)(least + delta) = q.
    b, c = gaps + half * least, gaps * least - q
    bounds = -2.0 * c / (b + np.sqrt(np.maximum(b * b - 4.0 * half * c, 0.0)))
    delta = max(0.0, float(bounds.max(initial=0.0)))
    for _ in range(LIMIT):
        y = q / (gaps + half * delta)
        norm, t = float(np.sqrt(y @ y)), least + delta
        if norm <= t:  # there, or the hard case
            break
        slope = half * float(y @ (y / (gaps + half * delta))) / norm**3 + 1.0 / t**2
        before, delta = delta, delta + (1.0 / t - 1.0 / norm) / slope
        if delta - before <= EPS * delta:
            break
    return delta
