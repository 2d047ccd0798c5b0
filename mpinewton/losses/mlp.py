"""A multilayer perceptron for classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.linalg.rows import Rows
from mpinewton.losses.loss import Classes, Loss, PointRay, Shape, Targets, row_weights, weights_of_part
from mpinewton.losses.softmax import Softmax
from mpinewton.settings import setting

SOFTMAX = Softmax()


class Activation(NamedTuple):
    """A function of the pre-activations, and its two derivatives as functions of its own value a."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: Callable[[Array], Array]


ACTIVATIONS = {
    "relu": Activation(lambda z: np.maximum(z, 0.0), lambda a: (a > 0).astype(np.float64), np.zeros_like),
    "tanh": Activation(np.tanh, lambda a: 1.0 - a * a, lambda a: -2.0 * a * (1.0 - a * a)),
}


@dataclass(frozen=True)
class Mlp(Loss):
    """log(sum_c exp(z_c)) - z_y, z from layers of the widths `hidden`, as 64-64.

    Layer k has a matrix (outputs, inputs) and biases, which l2 leaves alone; all matrices but the last are hidden ones.
    """

    name = "mlp"
    convex = False
    classifies = True
    provides = frozenset({"gradient", "hvp"})

    hidden: str = setting("64", help="widths of the layers between, with - between them")
    activation: str = setting("relu", help="or tanh")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(width.isdecimal() and int(width) > 0 for width in self.hidden.split("-")):
            raise ConfigError(f"mlp: hidden = {self.hidden!r} must be widths of layers, as in mlp:hidden=64-32")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"mlp: activation = {self.activation!r} must be one of {', '.join(ACTIVATIONS)}")

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """W1 (width, p), b1 (width,), W2, b2, ..."""
        widths = [features, *map(int, self.hidden.split("-")), len(classes or ())]
        layers = enumerate(pairwise(widths), start=1)
        shapes = [(Shape(f"W{k}", (b, a), k < len(widths) - 1), Shape(f"b{k}", (b,))) for k, (a, b) in layers]
        return tuple(shape for pair in shapes for shape in pair)

    def regularised(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """The matrices, less the column of an intercept."""
        parts = [np.full(shape.sizes, len(shape.sizes) == 2) for shape in self.shapes(features, classes)]
        if intercept:
            parts[0][:, -1] = False
        return np.concatenate([part.ravel() for part in parts])

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """Matrices N(0, 2/inputs) (He et al. 2015), biases 0: shape (d,)."""
        rng, shapes = np.random.default_rng([seed, *b"mlp"]), self.shapes(features, classes)
        parts = [
            rng.standard_normal(shape.size) * np.sqrt(2.0 / shape.sizes[1])
            if len(shape.sizes) == 2
            else np.zeros(shape.size)
            for shape in shapes
        ]
        return np.concatenate(parts)

    def targets(self, y: Array, classes: Classes) -> Targets:
        return SOFTMAX.targets(y, classes)

    def on_shard(self, shard: Shard, classes: Classes) -> MlpModel:
        """This loss on one shard."""
        return MlpModel(self, shard, classes)


class MlpModel:
    """An `Mlp` on the rows of one shard: mean over the rows by weight; 0 on an empty shard."""

    def __init__(self, loss: Mlp, shard: Shard, classes: Classes) -> None:
        self.classes, self.activation = classes, ACTIVATIONS[loss.activation]
        self.rows, self.t = Rows(shard.X), loss.targets(shard.y, classes)
        self.row_weight = row_weights(shard)
        self.shapes = loss.shapes(shard.features, classes)
        self.dim = loss.dim(shard.features, classes)

    def subset(self, rows: NDArray[np.intp]) -> MlpModel:
        """The model on some of its rows, shape (k,): their mean."""
        part = copy.copy(self)
        part.rows, part.t = Rows(self.rows.X[rows]), self.t[rows]
        part.row_weight = weights_of_part(self.row_weight, rows)
        return part

    def layers(self, w: Array) -> list[tuple[Array, Array]]:
        """The matrices and biases that w (d,) holds."""
        cuts = np.cumsum([shape.size for shape in self.shapes])[:-1]
        parts = [part.reshape(shape.sizes) for shape, part in zip(self.shapes, np.split(w, cuts))]
        return list(zip(parts[::2], parts[1::2]))

    def at(self, w: Array, **kept: Array) -> MlpPoint:
        """The loss at w."""
        return MlpPoint(self, w)

    def predict(self, w: Array) -> Array:
        return SOFTMAX.predictions(MlpPoint(self, w).logits, self.classes)


class MlpPoint:
    """An `MlpModel` at w, the activations kept."""

    def __init__(self, model: MlpModel, w: Array) -> None:
        self.model, self.w = model, w
        self.layers = model.layers(w)

    @cached_property
    def activations(self) -> list[Array]:
        """What every hidden layer puts out, shapes (n, width)."""
        (first, bias), *others = self.layers[:-1]
        out = [self.model.activation.value(self.model.rows.times(first.T) + bias)]
        for W, b in others:
            out.append(self.model.activation.value(out[-1] @ W.T + b))
        return out

    @cached_property
    def logits(self) -> Array:
        """Shape (n, C)."""
        W, b = self.layers[-1]
        return np.asarray(self.activations[-1] @ W.T + b)

    def value(self) -> float:
        values, weight = SOFTMAX.values(self.logits, self.model.t), self.model.row_weight
        return float(values.sum() * weight if isinstance(weight, float) else values @ weight)

    @cached_property
    def pulls(self) -> list[Array]:
        """Derivatives of the value with respect to the pre-activations of every layer, the last first: (n, width)."""
        G, pulls = self.weighed(SOFTMAX.derivatives(self.logits, self.model.t)), []
        for (W, _), a in zip(self.layers[:0:-1], self.activations[::-1]):
            pulls.append(G)
            G = (G @ W) * self.model.activation.slope(a)
        return [*pulls, G]

    def gradient(self) -> Array:
        inputs = [*self.activations[::-1], None]
        return self.collected((self.entered(G, a), G.sum(axis=0)) for G, a in zip(self.pulls, inputs))

    def hvp(self, v: Array) -> Array:
        """Pearlmutter's R-operator: the derivative along v of all that `gradient` computes."""
        act, moves = self.model.activation, self.model.layers(v)
        (V, c), *others = moves
        along = [self.model.rows.times(V.T) + c]  # derivatives of the pre-activations along v
        changes = [act.slope(self.activations[0]) * along[0]]  # and of the activations
        for k, (V, c) in enumerate(others, start=1):
            along.append(changes[-1] @ self.layers[k][0].T + self.activations[k - 1] @ V.T + c)
            if k < len(self.activations):
                changes.append(act.slope(self.activations[k]) * along[-1])
        second = SOFTMAX.second_terms(self.logits, self.model.t)
        R, parts = self.weighed(SOFTMAX.apply_second(second, along[-1])), []
        for k in reversed(range(1, len(self.layers))):
            G, a = self.pulls[len(self.layers) - 1 - k], self.activations[k - 1]
            parts.append((R.T @ a + G.T @ changes[k - 1], R.sum(axis=0)))
            W, V = self.layers[k][0], moves[k][0]
            R = (R @ W + G @ V) * act.slope(a) + (G @ W) * act.bend(a) * along[k - 1]
        parts.append((self.entered(R, None), R.sum(axis=0)))
        return self.collected(iter(parts))

    def hessian(self) -> Array:
        raise ConfigError("mlp has no Hessian matrix, only its products; use dino, giant with negative=abs, or lbfgs")

    def second_derivatives(self) -> Array:
        raise ConfigError("mlp has no curvature coefficients, it is not linear in its weights; use a linear model")

    def along(self, p: Array) -> PointRay:
        return PointRay(self.model, self.w, p)

    def cache(self) -> dict[str, Array]:
        return {}

    def entered(self, G: Array, a: Array | None) -> Array:
        """G'a, a the input of the layer, None for the rows themselves: the shape of the layer's matrix."""
        return np.asarray(self.model.rows.transpose_times(G).T if a is None else G.T @ a)

    def weighed(self, values: Array) -> Array:
        """Values of the rows (n, C) times the rows' weights."""
        weight = self.model.row_weight
        return np.asarray(values * (weight if isinstance(weight, float) else weight[:, None]))

    def collected(self, parts: Iterator[tuple[Array, Array]]) -> Array:
        """Matrices and biases, the last layer first, as one vector (d,)."""
        return np.concatenate([part.ravel() for pair in reversed(list(parts)) for part in pair])
