"""Losses of linear models: formulae in the logits z = X w of a row."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.linalg.rows import Rows
from mpinewton.losses.loss import Classes, Loss, Shape, Targets, row_weights, weights_of_part

# Row x step values of a line search are formed a block of rows at a time, about this many numbers in memory at once.
RAY_NUMBERS = 1 << 18
TWICE_DIFFERENTIABLE = frozenset({"gradient", "hvp", "hessian", "second_derivatives"})


@dataclass(frozen=True)
class LinearLoss(Loss):
    """A loss of a linear model, one formula per derivative; z = X w are the logits.

    Every formula works row by row: z has shape (..., n) or, with C outputs, (..., n, C); t has shape (n,); leading
    axes are trial steps. "second_derivatives", loss''(z_j), is provided by losses with one output.
    """

    provides = TWICE_DIFFERENTIABLE

    def outputs(self, classes: Classes) -> int:
        """Number of logits a row has: 1, unless the loss says otherwise."""
        return 1

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """One shape: (p,), or (p, C) with C outputs."""
        outputs = self.outputs(classes)
        return (Shape("w", (features,) if outputs == 1 else (features, outputs)),)

    def regularised(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """All but those of the intercept."""
        every = np.ones((features, self.outputs(classes)), dtype=bool)
        if intercept:
            every[-1] = False
        return every.ravel()

    @abstractmethod
    def values(self, z: Array, t: Targets) -> Array:
        """Loss of every row, shape (..., n)."""

    @abstractmethod
    def derivatives(self, z: Array, t: Targets) -> Array:
        """First derivative with respect to the logits, shape of z."""

    @abstractmethod
    def second_derivatives(self, z: Array, t: Targets) -> Array:
        """Second derivative with respect to the one logit, shape (n,)."""

    def hessian_bound(self, t: Targets) -> Array:
        """A bound of the modulus of the second derivative over all z, for every row, shape (n,)."""
        raise self._unbounded("second derivative")

    def hessian_lipschitz(self, t: Targets) -> Array:
        """A Lipschitz constant of the second derivative in z, for every row, shape (n,)."""
        raise self._unbounded("third derivative")

    def _unbounded(self, derivative: str) -> ConfigError:
        return ConfigError(f"the {derivative} of {self.name} has no bound; logistic, squared and softplus have one")

    def second_terms(self, z: Array, t: Targets) -> Array:
        """What the second derivative is made of, shape of z: found once a point, then used by `apply_second` and `hessian`."""
        return self.second_derivatives(z, t)

    def apply_second(self, second: Array, dz: Array) -> Array:
        """Second derivative with respect to the logits, applied to dz: shape of z."""
        return second * dz

    def hessian(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """sum_j weight_j x_j loss''(z_j) x_j', shape (d, d)."""
        return rows.gram(weight * second)

    def predictions(self, z: Array, classes: Classes) -> Array:
        """What a trained model says: the label nearest in meaning to the logits, shape (n,)."""
        return z

    def on_shard(self, shard: Shard, classes: Classes) -> LinearModel:
        """This loss on one shard."""
        return LinearModel(self, shard, classes)


class LinearModel:
    """A `LinearLoss` on the rows of one shard: mean over the rows by weight; 0 on an empty shard.

    Weights are stored (p, C) row by row, flattened to d = p C numbers.
    """

    def __init__(self, loss: LinearLoss, shard: Shard, classes: Classes) -> None:
        self.loss, self.classes = loss, classes
        self.rows = Rows(shard.X)
        self.y, self.t = shard.y, loss.targets(shard.y, classes)
        self.outputs = loss.outputs(classes)
        self.dim = shard.features * self.outputs
        self.row_weight = row_weights(shard)

    def subset(self, rows: NDArray[np.intp]) -> LinearModel:
        """The model on some of its rows, shape (k,): their mean."""
        part = copy.copy(self)
        part.rows, part.y, part.t = Rows(self.rows.X[rows]), self.y[rows], self.t[rows]
        part.row_weight = weights_of_part(self.row_weight, rows)
        return part

    def logits(self, w: Array) -> Array:
        """X w, shape (n,) or (n, C)."""
        return self.rows.times(w if self.outputs == 1 else w.reshape(-1, self.outputs))

    def pull_back(self, r: Array) -> Array:
        """X'(weight r), shape (d,)."""
        if isinstance(self.row_weight, float):
            return self.rows.transpose_times(r).ravel() * self.row_weight
        return self.rows.transpose_times((self.row_weight * r.T).T).ravel()

    @property
    def row_weight_array(self) -> Array:
        """What every row counts in the mean, shape (n,)."""
        return np.full(self.rows.n, self.row_weight) if isinstance(self.row_weight, float) else self.row_weight

    def mean(self, values: Array, rows: slice = slice(None)) -> Array:
        """Weighted sum over (some of) the rows, shape (...) for values of shape (..., n)."""
        if isinstance(self.row_weight, float):
            return np.asarray(values.sum(axis=-1) * self.row_weight)
        return np.asarray(values @ self.row_weight[rows])

    def at(self, w: Array, **kept: Array) -> LinearPoint:
        """The loss at w; z, where given, are the logits there."""
        return LinearPoint(self, w, kept["z"] if kept else self.logits(w))

    def predict(self, w: Array) -> Array:
        return self.loss.predictions(self.logits(w), self.classes)


class LinearPoint:
    """A `LinearModel` at w, the logits kept."""

    def __init__(self, model: LinearModel, w: Array, z: Array) -> None:
        self.model, self.w, self.z = model, w, z

    def value(self) -> float:
        return float(self.model.mean(self.model.loss.values(self.z, self.model.t)))

    def gradient(self) -> Array:
        return self.model.pull_back(self.model.loss.derivatives(self.z, self.model.t))

    @cached_property
    def second(self) -> Array:
        return self.model.loss.second_terms(self.z, self.model.t)

    def hvp(self, v: Array) -> Array:
        return self.model.pull_back(self.model.loss.apply_second(self.second, self.model.logits(v)))

    def hvps(self, V: Array) -> Array:
        """The Hessian times the columns of V, shape (d, b)."""
        if self.model.outputs > 1:
            return np.column_stack([self.hvp(v) for v in V.T])
        h = (self.model.row_weight_array * self.second)[:, None]
        return self.model.rows.transpose_times(h * self.model.rows.times(V))

    def hessian(self) -> Array:
        return self.model.loss.hessian(self.model.rows, self.second, self.model.row_weight)

    def second_derivatives(self) -> Array:
        return self.model.loss.second_derivatives(self.z, self.model.t)

    def along(self, p: Array) -> LinearRay:
        return LinearRay(self, p, self.model.logits(p))

    def cache(self) -> dict[str, Array]:
        return {"z": self.z}


class LinearRay:
    """A `LinearPoint` seen along p: the logits are affine in the step, so no trial step touches the data."""

    def __init__(self, start: LinearPoint, p: Array, dz: Array) -> None:
        self.start, self.p, self.dz = start, p, dz

    def losses(self, steps: Array) -> Array:
        """Mean loss at w + a p for every a of `steps`, shape (len(steps),)."""
        model, z, dz = self.start.model, self.start.z, self.dz
        total = np.zeros(len(steps))
        size = max(1, RAY_NUMBERS // max(1, len(steps) * model.outputs))
        a = steps.reshape(-1, *[1] * z.ndim)
        for first in range(0, len(z), size):
            block = slice(first, first + size)
            total += model.mean(model.loss.values(z[block] + a * dz[block], model.t[block]), block)
        return total

    def at(self, step: float) -> LinearPoint:
        return LinearPoint(self.start.model, self.start.w + step * self.p, self.start.z + step * self.dz)
