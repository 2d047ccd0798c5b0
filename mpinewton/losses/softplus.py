"""Nonlinear least squares with a softplus model. Not convex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
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
        return self._terms(z, t, 0)[0]

    def derivatives(self, z: Array, t: Targets) -> Array:
        return self._terms(z, t, 1)[1]

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return self._terms(z, t, 2)[2]

    def value_and_derivatives(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        return self._terms(z, t, order)

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("softplus")

    def predictions(self, z: Array, classes: Classes) -> Array:
        return softplus(z)

    def hessian_bound(self, t: Targets) -> Array:
        return np.asarray(SQUARE_SECOND + 0.5 * np.abs(t))  # |2 s (1 - s)| <= 1/2

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.asarray(SQUARE_THIRD + np.abs(t) / (3.0 * np.sqrt(3.0)))  # |2 s (1 - s) (1 - 2 s)| <= 1/(3 sqrt 3)

    def _terms(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        """Values and derivatives up to `order`, with one exponential for all."""
        e = np.exp(-np.abs(z))
        u = np.maximum(z, 0.0) + np.log1p(e) - t
        if order == 0:
            return (u * u,)
        d = 1.0 / (1.0 + e)
        s = np.where(z < 0.0, e, 1.0) * d  # the sigmoid, and 1 minus it
        rest = np.where(z < 0.0, 1.0, e) * d
        return (u * u, 2.0 * u * s, 2.0 * s * (s + u * rest))[: order + 1]
