"""Logistic loss for two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mpinewton.arrays import Array
from mpinewton.losses.linear import BinaryLoss
from mpinewton.losses.loss import Targets
from mpinewton.losses.softplus import softplus


@dataclass(frozen=True)
class Logistic(BinaryLoss):
    """log(1 + exp(-t z)), t = -1 for the first of two classes and 1 for the second."""

    name = "logistic"
    convex = True

    def values(self, z: Array, t: Targets) -> Array:
        return softplus(-t * z)

    def derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(-t * expit(-t * z))

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(expit(z) * expit(-z))

    def hessian_bound(self, t: Targets) -> Array:
        return np.full(len(t), 0.25)

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.full(len(t), 1.0 / (6.0 * np.sqrt(3.0)))  # at s = 1/2 +- 1/sqrt(12)
