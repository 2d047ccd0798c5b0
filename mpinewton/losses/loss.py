"""What a loss is: formulae on one shard. Regularisation, workers and messages are elsewhere."""

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
from mpinewton.errors import DataError
from mpinewton.settings import Configured

Classes = Sequence[float] | None
Targets = NDArray[Any]  # labels in the form a loss wants: floats, or numbers of classes


class Ray(Protocol):
    """The mean loss of a shard on the line w + a p."""

    def losses(self, steps: Array) -> Array: ...  # (len(steps),)
    def at(self, step: float) -> Point: ...


class Point(Protocol):
    """The mean loss of a shard at w: value, derivatives, and whatever was computed once and is kept."""

    w: Array

    def value(self) -> float: ...
    def gradient(self) -> Array: ...  # (d,)
    def hvp(self, v: Array) -> Array: ...  # (d,)
    def hessian(self) -> Array: ...  # (d, d)
    def second_derivatives(self) -> Array: ...  # (n,)
    def along(self, p: Array) -> Ray: ...
    def cache(self) -> dict[str, Array]: ...  # what Model.at needs to make this very point again, bit by bit


class Model(Protocol):
    """A loss on one shard: a function of the weights alone."""

    dim: int  # d, the number of weights
    row_weight: Array | float  # what every row counts in the mean, shape (n,); one number where all count alike

    def at(self, w: Array, **kept: Array) -> Point: ...
    def subset(self, rows: NDArray[np.intp]) -> Model: ...  # the mean over some of the rows, shape (k,)
    def predict(self, w: Array) -> Array: ...


class Shape(NamedTuple):
    """Some weights that belong together: their place in w is after those of the shapes before, row by row."""

    name: str
    sizes: tuple[int, ...]
    hidden: bool = False  # a matrix between layers, (outputs, the rest): what Newton-Schulz may orthogonalise

    @property
    def size(self) -> int:
        return prod(self.sizes)


@dataclass(frozen=True)
class Loss(Configured, ABC):
    """What every loss is. Subclasses are frozen dataclasses whose fields are the settings of the loss.

    `provides` says what methods may ask for: "gradient", "hvp", "hessian", "second_derivatives" (coefficients h_j of
    a Hessian X' diag(h) X / n), and bounds of these: "hessian_bound" (`hessian_bound`), "hessian_lipschitz" (`hessian_lipschitz`).
    """

    convex: ClassVar[bool]
    classifies: ClassVar[bool] = False  # predictions are class labels
    provides: ClassVar[frozenset[str]]
    keeps_bytes: ClassVar[bool] = False  # takes features as bytes and a scale, where a shard has them stored so

    @abstractmethod
    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """What the weights are, in the order in which w (d,) holds them."""

    @abstractmethod
    def regularised(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """Which weights l2 holds for, shape (d,). `intercept`: the last feature is always 1, and its weights free."""

    @abstractmethod
    def on_shard(self, shard: Shard, classes: Classes) -> Model:
        """This loss on one shard."""

    def dim(self, features: int, classes: Classes) -> int:
        """d, the number of weights."""
        return sum(shape.size for shape in self.shapes(features, classes))

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """The weights to start from where nobody names others, shape (d,): zeros, unless a loss says otherwise."""
        return np.zeros(self.dim(features, classes))

    def validate(self, features: int, classes: Classes, intercept: bool) -> None:
        """Refuse, before anything starts, what the loss cannot be trained on.

        Raises
        ------
        ConfigError, DataError
            If classes, features or an intercept do not fit the loss.
        """
        self.targets(np.zeros(0), classes)

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Labels of the shard in the form the formulae want, shape (n,): finite numbers, unless a loss says otherwise.

        Raises
        ------
        DataError
            If the labels do not fit the loss.
        """
        self.refuse(y, ~np.isfinite(y), "finite labels")
        return y

    def class_numbers(self, y: Array, classes: Classes) -> NDArray[np.intp]:
        """Position of every label in `classes`, shape (n,).

        Raises
        ------
        DataError
            If the labels are no classes, or one of them is not in `classes`.
        """
        if classes is None:
            raise DataError(f"{self.name} needs labels that are classes; these are real numbers. Use squared or huber")
        known = np.asarray(classes, dtype=np.float64)
        order = np.argsort(known)
        number: NDArray[np.intp] = order[np.searchsorted(known, y, sorter=order).clip(max=len(known) - 1)]
        self.refuse(y, known[number] != y, f"labels of the classes {', '.join(f'{c:g}' for c in known)}")
        return number

    def refuse(self, y: Array, wrong: NDArray[np.bool_], rule: str) -> None:
        """Raise a DataError for the first label that is `wrong`."""
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.name} needs {rule}; row {row} has {y[row]:g}. Correct the data or use another loss")


class PointRay:
    """A point seen along p where a trial step is a new evaluation: for models that are not linear in the weights."""

    def __init__(self, model: Model, w: Array, p: Array) -> None:
        self.model, self.w, self.p = model, w, p

    def losses(self, steps: Array) -> Array:
        """Mean loss at w + a p for every a of `steps`, shape (len(steps),)."""
        return np.array([self.at(step).value() for step in steps], dtype=np.float64)

    def at(self, step: float) -> Point:
        return self.model.at(self.w + step * self.p)


def row_weights(shard: Shard) -> Array | float:
    """Weights of the rows that sum to 1, so that a mean is a plain sum: shape (n,), or one number for all."""
    mass = shard.total_weight or 1.0
    return 1.0 / mass if shard.sample_weight is None else shard.sample_weight / mass


def weights_of_part(weight: Array | float, rows: NDArray[np.intp]) -> Array | float:
    """The same for some of the rows, shape (k,)."""
    if isinstance(weight, float):
        return 1.0 / max(1, len(rows))
    part = weight[rows]
    return np.asarray(part / (part.sum() or 1.0))


def mean_weight_ratio(weight: Array | float, rows: NDArray[np.intp]) -> float:
    """Mean weight of some of the rows, (k,), over that of all."""
    return 1.0 if isinstance(weight, float) else float(weight[rows].sum() * len(weight)) / max(1, len(rows))
