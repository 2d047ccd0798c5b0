"""Logistic loss for two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mpinewton.arrays import Array
from mpinewton.errors import DataError
from mpinewton.losses.linear import TWICE_DIFFERENTIABLE, LinearLoss
from mpinewton.losses.loss import Classes, Targets
from mpinewton.losses.softplus import softplus


@dataclass(frozen=True)
class Logistic(LinearLoss):
    """log(1 + exp(-b z)), b = -1 for the first of two classes and 1 for the second."""

    name = "logistic"
    convex = True
    classifies = True
    provides = TWICE_DIFFERENTIABLE | {"hessian_bound", "hessian_lipschitz"}

    def targets(self, y: Array, classes: Classes) -> Targets:
        if classes is not None and len(classes) != 2:
            raise DataError(f"logistic needs labels of 2 classes; these have {len(classes)} classes. Use softmax")
        return np.array([-1.0, 1.0])[self.class_numbers(y, classes)]

    def values(self, z: Array, t: Targets) -> Array:
        return softplus(-t * z)

    def derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(-t * expit(-t * z))

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return np.asarray(expit(z) * expit(-z))

    def predictions(self, z: Array, classes: Classes) -> Array:
        return np.asarray(classes, dtype=np.float64)[(z > 0).astype(np.intp)]

    def hessian_bound(self, t: Targets) -> Array:
        return np.full(len(t), 0.25)

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.full(len(t), 1.0 / (6.0 * np.sqrt(3.0)))  # at s = 1/2 +- 1/sqrt(12)
