"""Huber's loss: quadratic near the label, linear far from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Targets
from mpinewton.settings import setting


@dataclass(frozen=True)
class Huber(LinearLoss):
    """r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2); r = z - y."""

    name = "huber"
    convex = True
    shifts = True

    delta: float = setting(
        1.0, gt=0, lt=float("inf"), help="largest residual with a quadratic loss", unit="that of the labels"
    )

    def values(self, z: Array, t: Targets) -> Array:
        r = np.abs(z - t)
        near = np.minimum(r, self.delta)
        return np.asarray(near * (r - 0.5 * near))

    def derivatives(self, z: Array, t: Targets) -> Array:
        return np.clip(z - t, -self.delta, self.delta)

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return (np.abs(z - t) <= self.delta).astype(np.float64)

    def majorants(self, z: Array, t: Targets) -> Array:
        """delta / max(|r|, delta), as in iteratively reweighted least squares (De Leeuw and Lange 2009)."""
        return np.asarray(self.delta / np.maximum(np.abs(z - t), self.delta))

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("huber", self.delta)

    def location(self, t: Targets, weight: Array) -> float:
        """The weighted median: near the minimiser for a small delta, where the second derivatives at 0 may all be 0."""
        order = np.argsort(t)
        middle = int(np.searchsorted(np.cumsum(weight[order]), 0.5))
        return float(t[order[min(middle, len(t) - 1)]]) if len(t) else 0.0

    def hessian_bound(self, t: Targets) -> Array:
        return np.ones(len(t))
