"""Poisson loss for counts, whose logit is the logarithm of the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Classes, Targets

# Above this logit exp(z) is replaced by its second-order Taylor polynomial: it is still convex with two continuous
# derivatives, and values, gradients and their squares stay finite when a line search tries a very long step.
TAYLOR_FROM = 300.0


@dataclass(frozen=True)
class Poisson(LinearLoss):
    """exp(z) - y z + log(y!), y >= 0; predicts the mean exp(z)."""

    name = "poisson"
    convex = True

    def targets(self, y: Array, classes: Classes) -> Targets:
        self.refuse(y, ~(np.isfinite(y) & (y >= 0)), "labels that are finite and at least 0")
        return y

    def values(self, z: Array, t: Targets) -> Array:
        return np.asarray(_mean(z) - t * z + _log_factorial(t))

    def derivatives(self, z: Array, t: Targets) -> Array:
        base, beyond = _split(z)
        return np.asarray(base * (1.0 + beyond) - t)

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return _split(z)[0]

    def value_and_derivatives(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        base, beyond = _split(z)
        values = base * (1.0 + beyond + 0.5 * beyond**2) - t * z + _log_factorial(t)
        return (values, base * (1.0 + beyond) - t, base)[: order + 1]

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("poisson", TAYLOR_FROM, _log_factorial(t))

    def location(self, t: Targets, weight: Array) -> float:
        return float(weight @ t)

    def location_logit(self, location: float) -> float:
        return float(np.log(location)) if location > 0 else 0.0

    def predictions(self, z: Array, classes: Classes) -> Array:
        return _mean(z)


def _split(z: Array) -> tuple[Array, Array]:
    """exp(z) up to the limit, and how far z is beyond it."""
    near = np.minimum(z, TAYLOR_FROM)
    return np.exp(near), z - near


def _mean(z: Array) -> Array:
    base, beyond = _split(z)
    return base * (1.0 + beyond + 0.5 * beyond**2)


def _log_factorial(t: Array) -> Array:
    from scipy.special import gammaln  # takes a tenth of a second to import

    return np.asarray(gammaln(t + 1.0))
