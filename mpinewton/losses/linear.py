"""Losses of linear models: formulas in the logits z = X w of a row."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpinewton import kernels
from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.kernels import Kernel
from mpinewton.linalg.rows import Formula, Rows
from mpinewton.linalg.triangle import pack_triangle
from mpinewton.losses.formula import RowFormula
from mpinewton.losses.loss import Classes, Loss, Shape, Targets, empty_logits, row_weights, subset_weights

# What methods may ask for, by the formula that makes it possible.
PROVIDED_BY = {name: {name} for name in ("hessian", "hessian_diagonal", "hessian_bound", "hessian_lipschitz")} | {
    "second_derivatives": {"hvp", "hessian", "hessian_diagonal", "second_derivatives"},
    "apply_second": {"hvp"},
    "majorants": {"majorant"},
}
# Other ways to evaluate the same formulas: a subclass with a formula of its own does not inherit them.
FORMULAS = {"values", "derivatives", "second_derivatives", "second_terms", "apply_second", "hessian"}
SHORTCUTS = ("value_and_derivatives", "kernel")


@dataclass(frozen=True)
class LinearLoss(Loss):
    """A loss of a linear model: a formula in the logits z = X w of a row, and its derivatives.

    A loss with one output defines `name`, `convex`, `values`, `derivatives` and, if it has any, `second_derivatives`.
    `provides` follows from the methods that a subclass defines: "gradient" and "rows" always; `second_derivatives`
    adds "second_derivatives", "hvp", "hessian" and "hessian_diagonal"; `hessian_bound` and `hessian_lipschitz` add what
    they are named, `majorants` adds "majorant".

    Notes
    -----
    Every formula works row by row. z has shape (..., n), or (..., n, C) with C outputs; leading axes are trial steps
    of a line search. `y` are the labels as the data have them, `classes` their distinct values (None for real numbers),
    and t, shape (n,), what `targets` makes of y: by default y itself, for a `BinaryLoss` -1 and 1, for softmax the
    positions 0, 1, ... in `classes`. Formulas see t only. They return arrays of dtype float64.

    Examples
    --------
    >>> import numpy as np
    >>> from dataclasses import dataclass
    >>> from mpinewton.settings import setting
    >>> @dataclass(frozen=True)
    ... class SquaredHinge(BinaryLoss):
    ...     name, convex = "squared-hinge", True
    ...     margin: float = setting(1.0, ge=0, help="largest t z with a positive loss")
    ...     def values(self, z, t):
    ...         return np.maximum(self.margin - t * z, 0.0) ** 2 / 2
    ...     def derivatives(self, z, t):
    ...         return -t * np.maximum(self.margin - t * z, 0.0)
    ...     def second_derivatives(self, z, t):
    ...         return (t * z < self.margin).astype(float)
    >>> sorted(SquaredHinge.provides)
    ['gradient', 'hessian', 'hessian_diagonal', 'hvp', 'rows', 'second_derivatives']
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "provides" not in vars(cls):
            defined = [
                more for name, more in PROVIDED_BY.items() if getattr(cls, name) is not getattr(LinearLoss, name)
            ]
            cls.provides = frozenset({"gradient", "rows"}.union(*defined))
        if FORMULAS & vars(cls).keys():
            for name in SHORTCUTS:
                if name not in vars(cls):
                    setattr(cls, name, getattr(LinearLoss, name))

    shifts: ClassVar[bool] = False  # whether loss(z + c, t + c) = loss(z, t) for all c

    def outputs(self, classes: Classes) -> int:
        """Number of logits of a row, C: 1 by default."""
        return 1

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """One shape: (p,), or (p, C) with C outputs."""
        outputs = self.outputs(classes)
        return (Shape("w", (features,) if outputs == 1 else (features, outputs)),)

    def l2_mask(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """All weights except those of the intercept, shape (d,)."""
        every = np.ones((features, self.outputs(classes)), dtype=bool)
        if intercept:
            every[-1] = False
        return every.ravel()

    @abstractmethod
    def values(self, z: Array, t: Targets) -> Array:
        """Loss of every row, shape (..., n)."""

    @abstractmethod
    def derivatives(self, z: Array, t: Targets) -> Array:
        """First derivatives with respect to the logits, shape of z."""

    def second_derivatives(self, z: Array, t: Targets) -> Array:
        """Second derivatives with respect to the one logit of a row, shape of z."""
        raise self._missing("second_derivatives", "no second derivative with respect to one logit")

    def hessian_bound(self, t: Targets) -> Array:
        """Upper bounds of |second derivative| over all z, shape (n,)."""
        raise self._missing("hessian_bound", "no bound of its second derivative")

    def hessian_lipschitz(self, t: Targets) -> Array:
        """Lipschitz constants of the second derivative in z, shape (n,)."""
        raise self._missing("hessian_lipschitz", "no bound of its third derivative")

    def majorants(self, z: Array, t: Targets) -> Array:
        """c of every row, shape of z: loss(z + s) <= loss(z) + loss'(z) s + c s^2 / 2 for all s."""
        raise self._missing("majorants", "no quadratic majorant")

    def value_and_derivatives(self, z: Array, t: Targets, order: int) -> tuple[Array, ...]:
        """The first `order` + 1 of `values`, `derivatives` and `second_terms`.

        A loss defines it where they have terms in common.
        """
        return tuple(formula(z, t) for formula in (self.values, self.derivatives, self.second_terms)[: order + 1])

    def kernel(self, t: Targets) -> Kernel | None:
        """How the compiled loops know this loss; None if they do not."""
        return None

    def _missing(self, formula: str, what: str) -> ConfigError:
        return ConfigError(f"{self.name} has {what}: it does not define {formula}. Use logistic, squared or softplus")

    def second_terms(self, z: Array, t: Targets) -> Array:
        """Array, shape of z, from which `apply_second` and `hessian` compute; it is evaluated once at every point."""
        return self.second_derivatives(z, t)

    def apply_second(self, second: Array, dz: Array) -> Array:
        """Second derivative with respect to the logits, applied to dz: shape of z."""
        return second * dz

    def hessian(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """sum_j weight_j x_j loss''(z_j) x_j', shape (d, d)."""
        return rows.gram(weight * second)

    def hessian_diagonal(self, rows: Rows, second: Array, weight: Array | float) -> Array:
        """Its diagonal, sum_j weight_j loss''(z_j) x_j.^2, shape (d,)."""
        return rows.squares_transpose_times(weight * second)

    def location(self, t: Targets, weight: Array) -> float:
        """A location estimate of the labels of a shard, whose rows have weights of sum 1: NaN if the loss has none.

        Where there is an intercept, it starts at `location_logit` of the mean over the workers.
        """
        return float("nan")

    def location_logit(self, location: float) -> float:
        """The logit that predicts this location: by default itself."""
        return location

    def predictions(self, z: Array, classes: Classes) -> Array:
        """Predicted labels, shape (n,): by default the logits, for real numbers."""
        return z

    def on_shard(self, shard: Shard, classes: Classes) -> LinearModel:
        """The mean loss of the rows of one shard, as a function of the weights."""
        return LinearModel(self, shard, classes)


@dataclass(frozen=True)
class BinaryLoss(LinearLoss):
    """A loss of two classes: t is -1 for the first class and 1 for the second; a logit z > 0 predicts the second."""

    classifies = True

    def targets(self, y: Array, classes: Classes) -> Targets:
        """-1 or 1 for every label, shape (n,). Raises DataError if the labels are not of two classes."""
        if classes is not None and len(classes) != 2:
            remedy = (
                "Use softmax or squared" if len(classes) > 2 else "Add rows of another class or check the label column"
            )
            raise DataError(f"{self.name}: expected labels of 2 classes; found {len(classes)}. {remedy}")
        return np.array([-1.0, 1.0])[self.class_numbers(y, classes)]

    def predictions(self, z: Array, classes: Classes) -> Array:
        """The second class where z > 0, else the first, shape (n,)."""
        return np.asarray(classes, dtype=np.float64)[(z > 0).astype(np.intp)]


class LinearModel:
    """Weighted mean of a `LinearLoss` over the rows of one shard; 0 on an empty shard.

    The weights w, shape (d,), are the matrix (p, C), row by row.
    """

    def __init__(self, loss: LinearLoss, shard: Shard, classes: Classes) -> None:
        self.loss, self.classes = loss, classes
        self.rows = Rows(shard.X)
        self.y, self.t = shard.y, loss.targets(shard.y, classes)
        self.outputs = loss.outputs(classes)
        self.dim = shard.features * self.outputs
        self._weigh(row_weights(shard))

    def _weigh(self, weight: Array | float) -> None:
        self.row_weight: Array | float = weight
        compiled = kernels.formula(self.loss.kernel(self.t), self.outputs, self.t, self.row_weight)
        self.formula: Formula = compiled or RowFormula(self.loss, self.t, self.row_weight)

    def subset(self, rows: NDArray[np.intp]) -> LinearModel:
        """The mean over some of the rows, whose numbers have shape (k,)."""
        part = copy.copy(self)
        part.rows, part.y, part.t = self.rows.take(rows), self.y[rows], self.t[rows]
        part._weigh(subset_weights(self.row_weight, rows))
        return part

    def with_columns(self, shift: Array, factor: Array, label: float) -> LinearModel:
        """The same model of columns (X - shift) * factor, shift and factor of shape (p,), and of the labels - label."""
        part = copy.copy(self)
        part.rows = self.rows.affine(shift, factor)
        if label:
            part.y, part.t = self.y - label, self.t - label
            part._weigh(self.row_weight)
        return part

    def logits(self, w: Array) -> Array:
        """X w, shape (n,) or (n, C)."""
        return self.rows.times(w if self.outputs == 1 else w.reshape(-1, self.outputs))

    def product(self, change: Callable[[slice, Array], Array], v: Array) -> Array:
        """X'(weight r), shape (d,), of r = change(rows, X v) for some rows at a time, in one pass over them."""
        V, weight = v if self.outputs == 1 else v.reshape(-1, self.outputs), self.row_weight
        if isinstance(weight, float):
            total = self.rows.product(change, V).ravel()
            total *= weight
            return total
        return self.rows.product(lambda rows, z: (weight[rows] * change(rows, z).T).T, V).ravel()

    @property
    def row_weight_array(self) -> Array:
        """Weight of every row in the mean, shape (n,)."""
        return np.full(self.rows.n, self.row_weight) if isinstance(self.row_weight, float) else self.row_weight

    def mean(self, values: Array, rows: slice = slice(None)) -> Array:
        """Weighted sum over (some of) the rows, shape (...) for values of shape (..., n)."""
        if isinstance(self.row_weight, float):
            return np.asarray(values.sum(axis=-1) * self.row_weight)
        return np.asarray(values @ self.row_weight[rows])

    def at(self, w: Array, **kept: Array) -> LinearPoint:
        """The mean loss at w, shape (d,); the logits z there may be given."""
        return LinearPoint(self, w, kept.get("z"))

    def predict(self, w: Array) -> Array:
        return self.loss.predictions(self.logits(w), self.classes)

    def class_losses(self, w: Array) -> Array:
        """The loss of every row if its label was c, for every class c: shape (n, C)."""
        z, n = self.logits(w), self.rows.n
        targets = [self.loss.targets(np.full(n, label), self.classes) for label in self.classes or ()]
        return np.column_stack([self.loss.values(z, t) for t in targets])


class LinearPoint:
    """A `LinearModel` at w. Whatever is computed is kept, except the Hessian.

    The Hessian comes with gradient and value, and the gradient with the value, in the same pass over the rows: ask for
    the highest derivative first.
    """

    def __init__(self, model: LinearModel, w: Array, z: Array | None) -> None:
        self.model, self.w, self._z = model, w, z
        self._value: float | None = None
        self._gradient: Array | None = None

    @property
    def z(self) -> Array:
        """Logits, shape (n,) or (n, C)."""
        if self._z is None:
            self._z = self.model.logits(self.w)
        return self._z

    def _evaluate(self, order: int, packed: bool = False) -> tuple[float, Array | None, Array | None]:
        """Value, gradient if `order` > 0, Hessian if `order` > 1; the first two are kept."""
        model, z, w = self.model, self._z, None
        if z is None:
            z, w = empty_logits(model.rows.n, model.outputs, self.w)
        f, g, H = model.rows.evaluate(model.formula, w, z, order, packed)
        self._z, self._value = z, f * model.formula.scale
        if g is not None:
            self._gradient = g.ravel()
            self._gradient *= model.formula.scale
            self._gradient.flags.writeable = False
        return self._value, self._gradient, H

    def value(self) -> float:
        return self._evaluate(0)[0] if self._value is None else self._value

    def gradient(self) -> Array:
        g = self._evaluate(1)[1] if self._gradient is None else self._gradient
        assert g is not None
        return g

    @cached_property
    def second(self) -> Array:
        """`LinearLoss.second_terms`."""
        return self.model.formula.second(self.z)

    @cached_property
    def curvature(self) -> Array:
        """Weights of the rows times the second derivatives with respect to their one logit, shape (n,)."""
        return self.model.row_weight * self.second

    @cached_property
    def majorants(self) -> Array:
        """`LinearLoss.majorants` of the rows, times their weights, shape (n,)."""
        return self.model.row_weight * self.model.loss.majorants(self.z, self.model.t)

    def hvp(self, v: Array) -> Array:
        if self._own("apply_second"):
            loss, second = self.model.loss, self.second
            return self.model.product(lambda rows, dz: loss.apply_second(second[rows], dz), v)
        return self.model.rows.hvp(self.curvature, v)

    def hvps(self, V: Array, some: Any = ..., less: Array | float = 0.0) -> Array:
        """The Hessian times V (d, b); with one output, of the `curvature` less this, (n,). `some` is for groups."""
        if self.model.outputs > 1:
            return np.column_stack([self.hvp(v) for v in V.T])
        return self.model.rows.hvp(self.curvature - less, V)

    def hessian(self, packed: bool = False) -> Array:
        """Shape (d, d); packed: its upper triangle, row by row, shape (d (d + 1) / 2,)."""
        if self._own("hessian"):
            H = self.model.loss.hessian(self.model.rows, self.second, self.model.row_weight)
            return pack_triangle(H) if packed else H
        if self._gradient is not None:
            return self.model.rows.gram(self.curvature, packed)
        return np.asarray(self._evaluate(2, packed)[2])

    def _own(self, formula: str) -> bool:
        """Whether the loss has a formula of its own in place of the one from `second_derivatives`."""
        return getattr(type(self.model.loss), formula) is not getattr(LinearLoss, formula)

    def hessian_diagonal(self) -> Array:
        return self.model.loss.hessian_diagonal(self.model.rows, self.second, self.model.row_weight)

    def second_derivatives(self) -> Array:
        return self.model.loss.second_derivatives(self.z, self.model.t)

    def along(self, p: Array) -> LinearRay:
        return LinearRay(self, p, self.model.logits(p))

    def cache(self) -> dict[str, Array]:
        return {"z": self.z}


class LinearRay:
    """The line w + a p. Its logits z + a dz are affine in the step a, so that trial steps do not read the rows."""

    def __init__(self, start: LinearPoint, p: Array, dz: Array) -> None:
        self.start, self.p, self.dz = start, p, dz

    def losses(self, steps: Array) -> Array:
        """Mean loss at w + a p for every a of `steps`, shape (len(steps),)."""
        formula = self.start.model.formula
        return formula.line(self.start.z, self.dz, steps) * formula.scale

    def at(self, step: float) -> LinearPoint:
        return LinearPoint(self.start.model, self.start.w + step * self.p, self.start.z + step * self.dz)
