"""Logistic loss for two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mpinewton.data.shard import Array
from mpinewton.errors import DataError
from mpinewton.losses.base import Classes, Loss


@dataclass(frozen=True)
class Logistic(Loss):
    """log(1 + exp(-b z)), b = -1 for the first class and +1 for the second, whatever the labels were called."""

    name: ClassVar[str] = "logistic"
    convex: ClassVar[bool] = True

    def targets(self, y: Array, classes: Classes) -> NDArray[np.generic]:
        if classes is None or len(classes) != 2:
            found = "are not classes" if classes is None else f"have {len(classes)} classes"
            raise DataError(f"logistic needs labels of 2 classes; these {found}. Use softmax, or ridge for real labels")
        return np.where(y == classes[1], 1.0, -1.0)

    def values(self, z: Array, t: NDArray[np.generic]) -> Array:
        u = -t * z
        return np.asarray(np.maximum(u, 0.0) + np.log1p(np.exp(-np.abs(u))))

    def slopes(self, z: Array, t: NDArray[np.generic]) -> Array:
        return np.asarray(-t * expit(-t * z))

    def curvatures(self, z: Array, t: NDArray[np.generic]) -> Array:
        s = expit(z)
        return np.asarray(s * (1.0 - s))

    def predictions(self, z: Array, classes: Classes) -> Array:
        return np.where(z > 0, *(np.asarray(classes, dtype=np.float64)[[1, 0]]))
