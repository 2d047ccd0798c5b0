"""Squared loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Targets


@dataclass(frozen=True)
class Squared(LinearLoss):
    """(z - y)^2 / 2."""

    name = "squared"
    convex = True
    shifts = True

    def values(self, z: Array, t: Targets) -> Array:
        return np.asarray(0.5 * (z - t) ** 2)

    def derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(z - t)

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return np.ones_like(z)

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("squared")

    def location(self, t: Targets, weight: Array) -> float:
        return float(weight @ t)

    def hessian_bound(self, t: Targets) -> Array:
        return np.ones(len(t))

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.zeros(len(t))
