"""What a step and a change of the gradient teach about the Hessian."""

from __future__ import annotations

import numpy as np

from mpinewton.data.shard import Array

# Pairs with <s, y> below this part of |s| |y| have no curvature to learn from.
FLAT = 1e-12


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
