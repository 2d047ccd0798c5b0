"""Softmax loss (multinomial logistic) for two classes or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import Array
from mpinewton.kernels import Kernel
from mpinewton.linalg.rows import Rows
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Classes, Targets
from mpinewton.settings import setting


@dataclass(frozen=True)
class Softmax(LinearLoss):
    """log(sum_c exp(z_c)) - z_y, one logit per class.

    With C columns of weights the Hessian has p directions of curvature 0; set l2 > 0, or `reduced`, which removes the
    last column: the logit of the last class is then 0.
    """

    name = "softmax"
    convex = True
    classifies = True

    reduced: bool = setting(False, help="train C - 1 columns of weights instead of C, for C classes")

    def outputs(self, classes: Classes) -> int:
        """C, or C - 1 if `reduced`."""
        return len(classes or ()) - self.reduced

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Positions of the labels in `classes`, shape (n,). Raises DataError if they are not classes, or too few."""
        return self.class_numbers(y, classes, 2 + self.reduced)

    def values(self, z: Array, t: Targets) -> Array:
        return _values(self._logits(z), t)[0]

    def derivatives(self, z: Array, t: Targets) -> Array:
        return _less_one(self._probabilities(z), t)[..., : z.shape[-1]]

    def second_terms(self, z: Array, t: Targets) -> Array:
        """Probabilities of the classes that have a column, shape of z."""
        return self._probabilities(z)[..., : z.shape[-1]]

    def value_and_derivatives(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        values, e, total = _values(self._logits(z), t)
        if order == 0:
            return (values,)
        P, C = e / total[..., None], z.shape[-1]
        return (values, _less_one(P.copy(), t)[..., :C], P[..., :C])[: order + 1]

    def kernel(self, t: Targets) -> Kernel:
        return Kernel("softmax", float(self.reduced))

    def apply_second(self, second: Array, dz: Array) -> Array:
        P = second * dz
        return np.asarray(P - second * P.sum(axis=-1, keepdims=True))

    def hessian(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """Shape (p C, p C), by C (C + 1) / 2 products X'diag(.)X; weight j C + c is that of feature j and class c."""
        C = second.shape[-1]
        pairs = [(a, c) for a in range(C) for c in range(a + 1)]

        def terms(some: slice) -> Iterator[Array]:
            P, share = second[some].T, weight if isinstance(weight, float) else weight[some]
            for a, c in pairs:
                yield share * P[a] * (1.0 - P[a] if a == c else P[c])

        H = np.empty((rows.p, C, rows.p, C))
        for (a, c), product in zip(pairs, rows.grams(terms, len(pairs))):
            H[:, a, :, c] = H[:, c, :, a] = product if a == c else -product
        return H.reshape(rows.p * C, rows.p * C)

    def hessian_diagonal(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """sum_j weight_j p_jc (1 - p_jc) x_j.^2 for every class c, shape (p C,)."""
        share = (weight * (second * (1.0 - second)).T).T
        return rows.squares_transpose_times(share).ravel()

    def predictions(self, z: Array, classes: Classes) -> Array:
        """The class with the largest logit, shape (n,)."""
        return np.asarray(np.asarray(classes, dtype=np.float64)[self._logits(z).argmax(axis=-1)])

    def _logits(self, z: Array) -> Array:
        """Logits of all classes, minus the largest of the row: shape (..., n, C)."""
        if self.reduced:
            z = np.concatenate([z, np.zeros_like(z[..., :1])], axis=-1)
        return np.asarray(z - z.max(axis=-1, keepdims=True))

    def _probabilities(self, z: Array) -> Array:
        P = np.exp(self._logits(z))
        return np.asarray(P / P.sum(axis=-1, keepdims=True))


def _values(z: Array, t: Targets) -> tuple[Array, Array, Array]:
    """Values, exponentials and their sums from the logits, of which the largest of a row is 0."""
    e = np.exp(z)
    total = e.sum(axis=-1)
    return np.asarray(np.log(total) - z[..., np.arange(len(t)), t]), e, total


def _less_one(P: Array, t: Targets) -> Array:
    """P, minus 1 at the class of the row; P is written to."""
    P[..., np.arange(len(t)), t] -= 1.0
    return P
