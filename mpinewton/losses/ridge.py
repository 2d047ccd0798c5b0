"""Squared loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.losses.linear import CURVED, LinearLoss
from mpinewton.losses.loss import Targets


@dataclass(frozen=True)
class Ridge(LinearLoss):
    """(z - y)^2 / 2."""

    name: ClassVar[str] = "ridge"
    convex: ClassVar[bool] = True
    provides: ClassVar[frozenset[str]] = CURVED | {"curvature_bound", "curvature_slope"}

    def values(self, z: Array, t: Targets) -> Array:
        return np.asarray(0.5 * (z - t) ** 2)

    def slopes(self, z: Array, t: Targets) -> Array:
        return np.asarray(z - t)

    def curvatures(self, z: Array, t: Targets) -> Array:
        return np.ones_like(z)

    def gamma(self, t: Targets) -> Array:
        return np.ones(len(t))

    def nu(self, t: Targets) -> Array:
        return np.zeros(len(t))
