"""BFGS updates of an inverse Hessian, dense or in the limited-memory form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg.blas import daxpy  # y += a x in place, in one pass

from mpinewton.arrays import Array, Vectors

# A pair (s, y) with <s, y> <= FLAT |s| |y| is left out: its curvature is zero to rounding, or negative.
FLAT = 1e-12


def apply_inverse(S: Vectors, Y: Vectors, g: Array, initial: Callable[[Array], Array] | None = None) -> Array:
    """The L-BFGS inverse Hessian times g, shape (d,), by the two-loop recursion (Nocedal 1980).

    Parameters
    ----------
    S, Y : tuples of k arrays, shape (d,)
        Changes of the weights and of the gradient, oldest first, each pair with s'y > 0.
    g : array, shape (d,)
    initial : function of q, shape (d,), that returns B_0 q
        B_0 is the inverse Hessian before the first pair, positive definite. Default: s'y/y'y I with the last pair;
        without a pair, the multiple of I, at most 1, for which the result has a length of at most 1.
    """
    q = g.copy()
    sy, a = [0.0] * len(S), [0.0] * len(S)
    for k in reversed(range(len(S))):
        sy[k] = float(S[k] @ Y[k])
        a[k] = float(S[k] @ q) / sy[k]
        daxpy(Y[k], q, a=-a[k])
    if initial:
        q = initial(q).copy()
    elif S:
        q *= sy[-1] / float(Y[-1] @ Y[-1])
    else:
        q /= max(1.0, float(np.sqrt(q @ q)))
    for k in range(len(S)):
        daxpy(S[k], q, a=a[k] - float(Y[k] @ q) / sy[k])
    return q


def has_curvature(s: Array, y: Array) -> bool:
    """Whether <s, y> is positive by more than rounding, for s and y of shape (d,)."""
    return bool(s @ y > FLAT * np.sqrt((s @ s) * (y @ y)))


def append_pair(S: Vectors, Y: Vectors, s: Array, y: Array, memory: int) -> tuple[Vectors, Vectors]:
    """S and Y with one more pair, the last `memory` of them; unchanged for a pair without curvature."""
    if not has_curvature(s, y):
        return S, Y
    return (*S, s)[-memory:], (*Y, y)[-memory:]


def bfgs_inverse(B: Array, s: Array, y: Array) -> Array:
    """The BFGS update of the inverse Hessian B (d, d), which maps y to s; B itself for a pair without curvature.

    (I - s y'/<s, y>) B (I - y s'/<s, y>) + s s'/<s, y>, multiplied out.
    """
    if not has_curvature(s, y):
        return B
    curvature, By = float(s @ y), B @ y
    side = np.outer(s, By) / curvature
    return np.asarray(B - (side + side.T) + ((y @ By) / curvature + 1.0) / curvature * np.outer(s, s))
