"""Nonlinear least squares with a softplus model. Not convex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mpinewton.arrays import Array
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Classes, Targets

# Bounds over all z, computed numerically and rounded up, of the second and third derivatives of softplus(z)^2. A label
# y adds 2 |y| times those of softplus.
SQUARE_SECOND = 2.0907
SQUARE_THIRD = 0.7804


def softplus(z: Array) -> Array:
    """log(1 + exp(z)) without overflow."""
    return np.asarray(np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))))


@dataclass(frozen=True)
class Softplus(LinearLoss):
    """(softplus(z) - y)^2, softplus(z) = log(1 + exp(z))."""

    name = "softplus"
    convex = False

    def values(self, z: Array, t: Targets) -> Array:
        return np.asarray((softplus(z) - t) ** 2)

    def derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(2.0 * (softplus(z) - t) * expit(z))

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        s = expit(z)
        return np.asarray(2.0 * s * (s + (softplus(z) - t) * expit(-z)))

    def predictions(self, z: Array, classes: Classes) -> Array:
        return softplus(z)

    def hessian_bound(self, t: Targets) -> Array:
        return np.asarray(SQUARE_SECOND + 0.5 * np.abs(t))  # |2 s (1 - s)| <= 1/2

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.asarray(SQUARE_THIRD + np.abs(t) / (3.0 * np.sqrt(3.0)))  # |2 s (1 - s) (1 - 2 s)| <= 1/(3 sqrt 3)
