"""A multilayer perceptron for classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.linalg.rows import Rows
from mpinewton.losses.loss import Classes, Loss, NonlinearPoint, Shape, Targets, row_weights, subset_weights
from mpinewton.losses.softmax import Softmax
from mpinewton.settings import setting

SOFTMAX = Softmax()


class Activation(NamedTuple):
    """A function of the pre-activations z, and its derivatives as functions of the value a."""

    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    second_derivative: Callable[[Array], Array]


ACTIVATIONS = {
    "relu": Activation(lambda z: np.maximum(z, 0.0), lambda a: (a > 0).astype(np.float64), np.zeros_like),
    "tanh": Activation(np.tanh, lambda a: 1.0 - a * a, lambda a: -2.0 * a * (1.0 - a * a)),
}


@dataclass(frozen=True)
class Mlp(Loss):
    """log(sum_c exp(z_c)) - z_y, with the logits z of a multilayer perceptron.

    Layer k has a matrix, shape (outputs, inputs), and biases, which l2 does not apply to.
    """

    name = "mlp"
    convex = False
    classifies = True
    provides = frozenset({"gradient", "hvp"})

    hidden: str = setting("64", help="widths of the hidden layers, as 64-32")
    activation: Literal["relu", "tanh"] = setting("relu", help="function between the layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = self.hidden.split("-")
        self.require(all(n.isdecimal() and int(n) > 0 for n in widths), "hidden", "widths of layers, as 64-32")
        self.require(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}")

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """W1 (width, p), b1 (width,), W2, b2, ..."""
        widths = [features, *map(int, self.hidden.split("-")), len(classes or ())]
        layers = enumerate(pairwise(widths), start=1)
        shapes = [(Shape(f"W{k}", (b, a), k < len(widths) - 1), Shape(f"b{k}", (b,))) for k, (a, b) in layers]
        return tuple(shape for pair in shapes for shape in pair)

    def l2_mask(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """The matrices, without the column of an intercept: shape (d,)."""
        parts = [np.full(shape.sizes, len(shape.sizes) == 2) for shape in self.shapes(features, classes)]
        if intercept:
            parts[0][:, -1] = False
        return np.concatenate([part.ravel() for part in parts])

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """Matrices with entries N(0, 2 / inputs) (He et al. 2015), biases 0: shape (d,)."""
        rng, shapes = np.random.default_rng([seed, *b"mlp"]), self.shapes(features, classes)
        parts = [
            rng.standard_normal(shape.size) * np.sqrt(2.0 / shape.sizes[1])
            if len(shape.sizes) == 2
            else np.zeros(shape.size)
            for shape in shapes
        ]
        return np.concatenate(parts)

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Positions of the labels in `classes`, shape (n,). Raises DataError if they are not classes."""
        return self.class_numbers(y, classes)

    def on_shard(self, shard: Shard, classes: Classes) -> MlpModel:
        """The mean loss of the rows of one shard, as a function of the weights."""
        return MlpModel(self, shard, classes)


class MlpModel:
    """Weighted mean of an `Mlp` over the rows of one shard; 0 on an empty shard."""

    def __init__(self, loss: Mlp, shard: Shard, classes: Classes) -> None:
        self.classes, self.activation = classes, ACTIVATIONS[loss.activation]
        self.rows, self.t = Rows(shard.X), loss.targets(shard.y, classes)
        self.row_weight = row_weights(shard)
        self.shapes = loss.shapes(shard.features, classes)
        self.dim = loss.dim(shard.features, classes)

    def subset(self, rows: NDArray[np.intp]) -> MlpModel:
        """The mean over some of the rows, whose numbers have shape (k,)."""
        part = copy.copy(self)
        part.rows, part.t = self.rows.take(rows), self.t[rows]
        part.row_weight = subset_weights(self.row_weight, rows)
        return part

    def layers(self, w: Array) -> list[tuple[Array, Array]]:
        """Matrix and biases of every layer, from w (d,)."""
        cuts = np.cumsum([shape.size for shape in self.shapes])[:-1]
        parts = [part.reshape(shape.sizes) for shape, part in zip(self.shapes, np.split(w, cuts))]
        return list(zip(parts[::2], parts[1::2]))

    def at(self, w: Array, **kept: Array) -> MlpPoint:
        """The mean loss at w, shape (d,)."""
        return MlpPoint(self, w)

    def predict(self, w: Array) -> Array:
        return SOFTMAX.predictions(MlpPoint(self, w).logits, self.classes)

    def class_losses(self, w: Array) -> Array:
        """The loss of every row if its label was c, for every class c: shape (n, C)."""
        z = MlpPoint(self, w).logits
        return np.column_stack([SOFTMAX.values(z, np.full(len(z), c)) for c in range(len(self.classes or ()))])


class MlpPoint(NonlinearPoint):
    """An `MlpModel` at w, with its activations."""

    def __init__(self, model: MlpModel, w: Array) -> None:
        super().__init__(model, w, Mlp.name)
        self.model, self.layers = model, model.layers(w)

    @cached_property
    def activations(self) -> list[Array]:
        """Outputs of the hidden layers, shapes (n, width)."""
        (first, bias), *others = self.layers[:-1]
        out = [self.model.activation.value(self.model.rows.times(first.T) + bias)]
        for W, b in others:
            out.append(self.model.activation.value(out[-1] @ W.T + b))
        return out

    @cached_property
    def logits(self) -> Array:
        """Outputs of the last layer, shape (n, C)."""
        W, b = self.layers[-1]
        return np.asarray(self.activations[-1] @ W.T + b)

    def value(self) -> float:
        values, weight = SOFTMAX.values(self.logits, self.model.t), self.model.row_weight
        return float(values.sum() * weight if isinstance(weight, float) else values @ weight)

    @cached_property
    def backward(self) -> list[Array]:
        """Derivatives with respect to the pre-activations of every layer, last layer first: shapes (n, width)."""
        G, found = self.weight_rows(SOFTMAX.derivatives(self.logits, self.model.t)), []
        for (W, _), a in zip(self.layers[:0:-1], self.activations[::-1]):
            found.append(G)
            G = (G @ W) * self.model.activation.derivative(a)
        return [*found, G]

    def gradient(self) -> Array:
        inputs = [*self.activations[::-1], None]
        return self.flatten((self.outer(G, a), G.sum(axis=0)) for G, a in zip(self.backward, inputs))

    def hvp(self, v: Array) -> Array:
        """Hessian times v, shape (d,): every quantity of `gradient` is differentiated along v (Pearlmutter 1994)."""
        act, moves = self.model.activation, self.model.layers(v)
        (V, c), *others = moves
        along = [self.model.rows.times(V.T) + c]  # derivatives of the pre-activations along v
        changes = [act.derivative(self.activations[0]) * along[0]]  # and of the activations
        for k, (V, c) in enumerate(others, start=1):
            along.append(changes[-1] @ self.layers[k][0].T + self.activations[k - 1] @ V.T + c)
            if k < len(self.activations):
                changes.append(act.derivative(self.activations[k]) * along[-1])
        second = SOFTMAX.second_terms(self.logits, self.model.t)
        R, parts = self.weight_rows(SOFTMAX.apply_second(second, along[-1])), []
        for k in reversed(range(1, len(self.layers))):
            G, a = self.backward[len(self.layers) - 1 - k], self.activations[k - 1]
            parts.append((R.T @ a + G.T @ changes[k - 1], R.sum(axis=0)))
            W, V = self.layers[k][0], moves[k][0]
            R = (R @ W + G @ V) * act.derivative(a) + (G @ W) * act.second_derivative(a) * along[k - 1]
        parts.append((self.outer(R, None), R.sum(axis=0)))
        return self.flatten(iter(parts))

    def outer(self, G: Array, a: Array | None) -> Array:
        """G'a, the shape of the matrix of a layer with input a; None stands for the rows of the shard."""
        return np.asarray(self.model.rows.transpose_times(G).T if a is None else G.T @ a)

    def weight_rows(self, values: Array) -> Array:
        """Values of the rows, shape (n, C), times the weights of the rows."""
        weight = self.model.row_weight
        return np.asarray(values * (weight if isinstance(weight, float) else weight[:, None]))

    def flatten(self, parts: Iterator[tuple[Array, Array]]) -> Array:
        """One vector (d,) of the matrices and biases, which are given last layer first."""
        return np.concatenate([part.ravel() for pair in reversed(list(parts)) for part in pair])
