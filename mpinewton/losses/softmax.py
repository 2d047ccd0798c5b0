"""Softmax loss (multinomial logistic) for two classes or more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError
from mpinewton.linalg.rows import Rows
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Classes, Targets
from mpinewton.settings import setting


@dataclass(frozen=True)
class Softmax(LinearLoss):
    """log(sum_c exp(z_c)) - z_y, one logit a class.

    With C columns of weights the Hessian has p directions of curvature 0, so that l2 > 0 is wanted; `reduced` leaves
    out the last column, whose logit is then 0.
    """

    name = "softmax"
    convex = True
    classifies = True
    provides = frozenset({"gradient", "hvp", "hessian"})

    reduced: bool = setting(False, help="C - 1 columns of weights instead of C")

    def outputs(self, classes: Classes) -> int:
        return len(classes or ()) - self.reduced

    def targets(self, y: Array, classes: Classes) -> Targets:
        if classes is not None and self.outputs(classes) < 2:
            remedy = ", which is logistic: use logistic" if len(classes) == 2 else "; it needs 2. Check the labels"
            raise DataError(f"softmax has {self.outputs(classes)} logits for {len(classes)} classes{remedy}")
        return self.class_numbers(y, classes)

    def values(self, z: Array, t: Targets) -> Array:
        z = self._logits(z)
        return np.asarray(np.log(np.exp(z).sum(axis=-1)) - z[..., np.arange(len(t)), t])

    def derivatives(self, z: Array, t: Targets) -> Array:
        P = self._probabilities(z)
        P[..., np.arange(len(t)), t] -= 1.0
        return P[..., : z.shape[-1]]

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        raise ConfigError(
            "softmax has no curvature coefficients, a row has several logits; use another method or logistic"
        )

    def second_terms(self, z: Array, t: Targets) -> Array:
        """Probabilities of the classes that have columns."""
        return self._probabilities(z)[..., : z.shape[-1]]

    def apply_second(self, second: Array, dz: Array) -> Array:
        P = second * dz
        return np.asarray(P - second * P.sum(axis=-1, keepdims=True))

    def hessian(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """Shape (p C, p C); weight c of feature j is number j C + c. C (C + 1) / 2 products X'diag(.)X."""
        C = second.shape[-1]
        H = np.empty((rows.p, C, rows.p, C))
        for a in range(C):
            share = weight * second[:, a]
            H[:, a, :, a] = rows.gram(share * (1.0 - second[:, a]))
            for c in range(a):
                H[:, a, :, c] = H[:, c, :, a] = -rows.gram(share * second[:, c])
        return H.reshape(rows.p * C, rows.p * C)

    def predictions(self, z: Array, classes: Classes) -> Array:
        return np.asarray(np.asarray(classes, dtype=np.float64)[self._logits(z).argmax(axis=-1)])

    def _logits(self, z: Array) -> Array:
        """Logits of all classes, the largest of a row shifted to 0: shape (..., n, C)."""
        if self.reduced:
            z = np.concatenate([z, np.zeros_like(z[..., :1])], axis=-1)
        return np.asarray(z - z.max(axis=-1, keepdims=True))

    def _probabilities(self, z: Array) -> Array:
        P = np.exp(self._logits(z))
        return np.asarray(P / P.sum(axis=-1, keepdims=True))
