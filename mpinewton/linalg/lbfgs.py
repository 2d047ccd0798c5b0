"""Limited-memory BFGS: a matrix known by pairs of changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpinewton.arrays import Array

# Pairs with <s, y> below this part of |s| |y| have no curvature to learn from.
FLAT = 1e-12


def scaled(S: Array, Y: Array, g: Array, initial: Callable[[Array], Array] | None = None) -> Array:
    """The inverse Hessian that the pairs stand for, times g: the two-loop recursion (Nocedal 1980), shape (d,).

    Parameters
    ----------
    S, Y : arrays, shape (k, d)
        Changes of the weights and of the gradient, oldest first, each pair with s'y > 0.
    g : array, shape (d,)
    initial : callable
        Product with the inverse Hessian before any pair, positive definite. If not given: a multiple of I, s'y/y'y of
        the last pair; without a pair, one that makes the result no longer than 1.
    """
    q = g.copy()
    rho = 1.0 / np.einsum("kd,kd->k", S, Y)
    a = np.zeros(len(rho))
    for k in reversed(range(len(rho))):
        a[k] = rho[k] * (S[k] @ q)
        q -= a[k] * Y[k]
    if initial:
        q = initial(q).copy()
    elif len(rho):
        q *= 1.0 / (rho[-1] * (Y[-1] @ Y[-1]))
    else:
        q /= max(1.0, float(np.sqrt(q @ q)))
    for k in range(len(rho)):
        q += (a[k] - rho[k] * (Y[k] @ q)) * S[k]
    return q


def append_pair(S: Array, Y: Array, s: Array, y: Array, memory: int) -> tuple[Array, Array]:
    """The pairs and one more, the last `memory` of them; without it where s shows no curvature to learn from."""
    if s @ y <= FLAT * np.sqrt((s @ s) * (y @ y)):
        return S, Y
    return np.vstack([S, s])[-memory:], np.vstack([Y, y])[-memory:]


def bfgs_inverse(B: Array, s: Array, y: Array) -> Array:
    """The inverse Hessian (d, d) nearest to B that takes y to s (BFGS); B itself where the pair has no curvature.

    An empty B becomes that of the multiple of I which the pair tells.
    """
    curved = float(s @ y)
    if curved <= FLAT * np.sqrt((s @ s) * (y @ y)):
        return B
    if not B.size:
        B = curved / (y @ y) * np.eye(len(s))
    # (I - s y'/<s, y>) B (I - y s'/<s, y>) + s s'/<s, y>, multiplied out.
    By = B @ y
    side = np.outer(s, By) / curved
    return np.asarray(B - (side + side.T) + ((y @ By) / curved + 1.0) / curved * np.outer(s, s))
