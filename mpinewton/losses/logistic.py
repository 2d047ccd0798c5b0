"""Logistic loss for two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
from mpinewton.losses.linear import BinaryLoss
from mpinewton.losses.loss import Targets


@dataclass(frozen=True)
class Logistic(BinaryLoss):
    """log(1 + exp(-t z)), t = -1 for the first of two classes and 1 for the second."""

    name = "logistic"
    convex = True

    def values(self, z: Array, t: Targets) -> Array:
        return _value(t, *_margins(z, t))

    def derivatives(self, z: Array, t: Targets) -> Array:
        return _first(t, *_margins(z, t))

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        return _second(t, *_margins(z, t))

    def value_and_derivatives(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        m, e = _margins(z, t)
        return tuple(term(t, m, e) for term in (_value, _first, _second)[: order + 1])

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("logistic")

    def hessian_bound(self, t: Targets) -> Array:
        return np.full(len(t), 0.25)

    def hessian_lipschitz(self, t: Targets) -> Array:
        return np.full(len(t), 1.0 / (6.0 * np.sqrt(3.0)))  # at s = 1/2 +- 1/sqrt(12)


def _margins(z: Array, t: Targets) -> tuple[Array, Array]:
    """m = t z and exp(-|m|), from which all terms follow."""
    m = t * z
    return m, np.exp(-np.abs(m))


def _value(t: Targets, m: Array, e: Array) -> Array:
    return np.asarray(np.maximum(-m, 0.0) + np.log1p(e))


def _first(t: Targets, m: Array, e: Array) -> Array:
    return np.asarray(-t * (np.where(m < 0.0, 1.0, e) / (1.0 + e)))


def _second(t: Targets, m: Array, e: Array) -> Array:
    d = 1.0 / (1.0 + e)
    return np.asarray(e * d * d)
