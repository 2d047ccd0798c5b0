"""Base class of losses: formulas on one shard. Regularisation, workers and messages are elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.settings import Configured

Classes = Sequence[float] | None
Targets = NDArray[Any]  # labels in the form that a loss uses: floats, or positions of classes


class Ray(Protocol):
    """The mean loss of a shard on the line w + a p."""

    def losses(self, steps: Array) -> Array: ...  # (len(steps),)
    def at(self, step: float) -> Point: ...


class Point(Protocol):
    """The mean loss of a shard at w: value and derivatives; what was computed once is kept."""

    w: Array

    def value(self) -> float: ...
    def gradient(self) -> Array: ...  # (d,)
    def hvp(self, v: Array) -> Array: ...  # (d,)
    def hessian(self) -> Array: ...  # (d, d)
    def hessian_diagonal(self) -> Array: ...  # (d,)
    def second_derivatives(self) -> Array: ...  # (n,)
    def along(self, p: Array) -> Ray: ...
    def cache(self) -> dict[str, Array]: ...  # arrays from which Model.at makes the same point again, bit by bit


class Model(Protocol):
    """The mean loss of one shard as a function of the weights."""

    dim: int  # d, the number of weights
    row_weight: Array | float  # weight of every row in the mean, shape (n,); one number if all are equal

    def at(self, w: Array, **kept: Array) -> Point: ...
    def subset(self, rows: NDArray[np.intp]) -> Model: ...  # the mean over some of the rows, shape (k,)
    def predict(self, w: Array) -> Array: ...


class Shape(NamedTuple):
    """Name and shape of some of the weights; w holds them row by row, after those of the shapes before."""

    name: str
    sizes: tuple[int, ...]
    hidden: bool = False  # matrix of a hidden layer, (outputs, inputs): methods may orthogonalise its updates

    @property
    def size(self) -> int:
        return prod(self.sizes)


@dataclass(frozen=True)
class Loss(Configured, ABC):
    """Base class of all losses. Subclasses are frozen dataclasses; their fields are the settings of the loss.

    A loss of a linear model derives from `LinearLoss`, one of two classes from `BinaryLoss`; any other derives from
    this class and brings a `Model`.

    Attributes
    ----------
    name : str
        Name on the command line and in messages.
    convex : bool
        Whether the loss is convex in the weights.
    classifies : bool
        Whether labels and predictions are classes.
    provides : frozenset of str
        What methods may ask for:

        - "gradient": `Point.gradient`
        - "hvp": Hessian-vector products, `Point.hvp`
        - "hessian": the Hessian matrix, `Point.hessian`
        - "hessian_diagonal": its diagonal, `Point.hessian_diagonal`
        - "second_derivatives": coefficients h_j of a Hessian sum_j weight_j h_j x_j x_j', `Point.second_derivatives`
        - "rows": a `LinearModel`, with rows and logits
        - "hessian_bound": bounds of |h_j|, `LinearLoss.hessian_bound`
        - "hessian_lipschitz": Lipschitz constants of h_j in the logit, `LinearLoss.hessian_lipschitz`
        - "majorant": coefficients of a quadratic majorant in the logit, `LinearLoss.majorants`
    keeps_bytes : bool
        Whether `on_shard` takes features of dtype uint8 with a scale, as a shard may store them.
    """

    convex: ClassVar[bool]
    classifies: ClassVar[bool] = False
    provides: ClassVar[frozenset[str]]
    keeps_bytes: ClassVar[bool] = False

    @abstractmethod
    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """Names and shapes of the weights, in the order in which w (d,) holds them."""

    @abstractmethod
    def l2_mask(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """Which weights l2 applies to, shape (d,). With `intercept`, the last feature is 1 and its weights are free."""

    @abstractmethod
    def on_shard(self, shard: Shard, classes: Classes) -> Model:
        """The mean loss of the rows of one shard, as a function of the weights."""

    def dim(self, features: int, classes: Classes) -> int:
        """d, the number of weights."""
        return sum(shape.size for shape in self.shapes(features, classes))

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """Default initial weights, shape (d,): zeros, unless a subclass chooses others."""
        return np.zeros(self.dim(features, classes))

    def validate(self, features: int, classes: Classes, intercept: bool) -> None:
        """Check, before a run starts, that the loss can be trained on such data.

        Raises
        ------
        ConfigError, DataError
            If classes, features or an intercept do not fit the loss.
        """
        self.targets(np.zeros(0), classes)

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Convert labels to the form `t` that the formulas use.

        Parameters
        ----------
        y : array, shape (n,)
            Labels as the data have them.
        classes : sequence of float, or None
            The distinct labels of the data, increasing; None if the labels are real numbers.

        Returns
        -------
        array, shape (n,)
            Here: the labels, unchanged.

        Raises
        ------
        DataError
            If a label does not fit the loss. Here: if it is not finite.
        """
        self.refuse(y, ~np.isfinite(y), "finite labels")
        return y

    def class_numbers(self, y: Array, classes: Classes, at_least: int = 2) -> NDArray[np.intp]:
        """Position of every label in `classes`, shape (n,).

        Raises
        ------
        DataError
            If the labels are real numbers, there are fewer classes than `at_least`, or a label is not in `classes`.
        """
        if classes is None:
            raise DataError(f"{self.name}: expected class labels; found real numbers. Use squared or huber")
        if len(classes) < at_least:
            remedy = "Use logistic" if len(classes) == 2 else "Check the labels"
            raise DataError(f"{self.name}: expected at least {at_least} classes; found {len(classes)}. {remedy}")
        known = np.asarray(classes, dtype=np.float64)
        order = np.argsort(known)
        number: NDArray[np.intp] = order[np.searchsorted(known, y, sorter=order).clip(max=len(known) - 1)]
        self.refuse(y, known[number] != y, f"labels of the classes {', '.join(f'{c:g}' for c in known)}")
        return number

    def refuse(self, y: Array, wrong: NDArray[np.bool_], rule: str) -> None:
        """Raise a DataError that names the first label that is `wrong`, and the rule it breaks."""
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{self.name}: expected {rule}; row {row} has {y[row]:g}. Correct the data or use another loss"
            )


class NonlinearPoint:
    """Base class of points of models that are not linear in the weights: they have no Hessian matrix."""

    def __init__(self, model: Model, w: Array, name: str) -> None:
        self._model, self.w, self._name = model, w, name

    def hessian(self) -> Array:
        raise ConfigError(
            f"{self._name} provides Hessian-vector products, no matrix; use dino, lbfgs, or giant with negative=abs"
        )

    def hessian_diagonal(self) -> Array:
        raise ConfigError(f"{self._name} provides no diagonal of the Hessian; use preconditioner=none")

    def second_derivatives(self) -> Array:
        raise ConfigError(
            f"{self._name} has no second derivative per row: it is not linear in its weights; use logistic"
        )

    def along(self, p: Array) -> PointRay:
        return PointRay(self._model, self.w, p, **self.cache())

    def cache(self) -> dict[str, Array]:
        return {}


class RandomModel:
    """Base class of models that may be random in training: every point, and its line, has random numbers of its own.

    Attributes
    ----------
    key : list of int or None
        Where the model is trained: seed, worker, iteration, and how many points it had before in this iteration, from
        which come the random numbers of the next point; shared with the worker. None: evaluation mode.
    """

    key: list[int] | None = None

    @property
    def is_random(self) -> bool:
        """Whether every point draws random numbers."""
        raise NotImplementedError


class PointRay:
    """The line w + a p of a model that is not linear in the weights: every trial step evaluates the model again."""

    def __init__(self, model: Model, w: Array, p: Array, **kept: Array) -> None:
        self.model, self.w, self.p, self.kept = model, w, p, kept

    def losses(self, steps: Array) -> Array:
        """Mean loss at w + a p for every a of `steps`, shape (len(steps),)."""
        return np.array([self.at(step).value() for step in steps], dtype=np.float64)

    def at(self, step: float) -> Point:
        return self.model.at(self.w + step * self.p, **self.kept)


def empty_logits(n: int, outputs: int, w: Array) -> tuple[Array, Array]:
    """Memory for the logits of n rows, shape (n,) or (n, C), and w (d,) as a factor of rows, shape (p,) or (p, C)."""
    more = () if outputs == 1 else (outputs,)
    return np.empty((n, *more)), w.reshape(-1, *more)


def row_weights(shard: Shard) -> Array | float:
    """Weights of the rows in the mean, with sum 1: shape (n,), or one number if all are equal."""
    total = shard.total_weight or 1.0
    return 1.0 / total if shard.sample_weight is None else shard.sample_weight / total


def subset_weights(weight: Array | float, rows: NDArray[np.intp]) -> Array | float:
    """Weights of some of the rows (k,) in their own mean, with sum 1: shape (k,), or one number if all are equal."""
    if isinstance(weight, float):
        return 1.0 / max(1, len(rows))
    part = weight[rows]
    return np.asarray(part / (part.sum() or 1.0))


def mean_weight_ratio(weight: Array | float, rows: NDArray[np.intp]) -> float:
    """Mean weight of some of the rows (k,), divided by the mean weight of all."""
    return 1.0 if isinstance(weight, float) else float(weight[rows].sum() * len(weight)) / max(1, len(rows))
