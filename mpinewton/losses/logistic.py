"""Logistic loss for two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit

from mpinewton.arrays import Array
from mpinewton.errors import DataError
from mpinewton.losses.linear import CURVED, LinearLoss
from mpinewton.losses.loss import Classes, Targets
from mpinewton.losses.softplus import softplus


@dataclass(frozen=True)
class Logistic(LinearLoss):
    """log(1 + exp(-b z)), b = -1 for the first of two classes and 1 for the second."""

    name: ClassVar[str] = "logistic"
    convex: ClassVar[bool] = True
    classifies: ClassVar[bool] = True
    provides: ClassVar[frozenset[str]] = CURVED | {"curvature_bound", "curvature_slope"}

    def targets(self, y: Array, classes: Classes) -> Targets:
        if classes is not None and len(classes) != 2:
            raise DataError(f"logistic needs labels of 2 classes; these have {len(classes)} classes. Use softmax")
        return np.array([-1.0, 1.0])[self.class_numbers(y, classes)]

    def values(self, z: Array, t: Targets) -> Array:
        return softplus(-t * z)

    def slopes(self, z: Array, t: Targets) -> Array:
        return np.asarray(-t * expit(-t * z))

    def curvatures(self, z: Array, t: Targets) -> Array:
        return np.asarray(expit(z) * expit(-z))

    def predictions(self, z: Array, classes: Classes) -> Array:
        return np.asarray(classes, dtype=np.float64)[(z > 0).astype(np.intp)]

    def gamma(self, t: Targets) -> Array:
        return np.full(len(t), 0.25)

    def nu(self, t: Targets) -> Array:
        return np.full(len(t), 1.0 / (6.0 * np.sqrt(3.0)))  # at s = 1/2 +- 1/sqrt(12)
