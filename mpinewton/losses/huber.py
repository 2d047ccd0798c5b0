"""Huber's loss: squares near the label, moduli far from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.losses.linear import CURVED, LinearLoss
from mpinewton.losses.loss import Targets


@dataclass(frozen=True)
class Huber(LinearLoss):
    """r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2); r = z - y."""

    name: ClassVar[str] = "huber"
    convex: ClassVar[bool] = True
    provides: ClassVar[frozenset[str]] = CURVED | {"curvature_bound"}

    delta: float = 1.0  # where squares end, in units of the labels

    def __post_init__(self) -> None:
        if not (self.delta > 0 and isfinite(self.delta)):
            raise ConfigError(f"huber: delta = {self.delta:g} must be a positive number; write huber:delta=1.5")

    def values(self, z: Array, t: Targets) -> Array:
        r = np.abs(z - t)
        near = np.minimum(r, self.delta)
        return np.asarray(near * (r - 0.5 * near))

    def slopes(self, z: Array, t: Targets) -> Array:
        return np.clip(z - t, -self.delta, self.delta)

    def curvatures(self, z: Array, t: Targets) -> Array:
        return (np.abs(z - t) <= self.delta).astype(np.float64)

    def gamma(self, t: Targets) -> Array:
        return np.ones(len(t))
