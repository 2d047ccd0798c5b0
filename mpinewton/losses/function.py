"""A function of the weights as a loss: what `minimize_function` minimises. No rows, no settings, no l2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.losses.loss import Classes, Loss, Model, PointRay, Shape

Evaluate = Callable[[Array], Any]


@dataclass(frozen=True, eq=False)
class Function(Loss):
    """f(x), any smooth function of x.

    Attributes
    ----------
    fun : function of x
        Its value; (value, gradient) where `jac` is True.
    x0 : array, shape (d,)
        Where to start.
    jac : True, or function of x
        Its gradient, shape (d,).
    hessp : function of (x, v), optional
        Its Hessian times v, shape (d,).
    hess : function of x, optional
        Its Hessian, shape (d, d); products are made of it where `hessp` is missing.
    is_convex : bool
        Whether it is convex: some methods are for convex functions alone.
    scale : float
        What the function is multiplied by.
    """

    fun: Evaluate
    x0: Array
    jac: Evaluate | bool
    hessp: Callable[[Array, Array], Any] | None = None
    hess: Evaluate | None = None
    is_convex: bool = False
    scale: float = 1.0

    name = "function"

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.is_convex

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        if self.hess is not None:
            return frozenset({"gradient", "hvp", "hessian", "hessian_diagonal"})
        return frozenset({"gradient"} if self.hessp is None else {"gradient", "hvp"})

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """One shape: that of x."""
        return (Shape("x", self.x0.shape),)

    def l2_mask(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """No weight."""
        return np.zeros(self.x0.size, dtype=bool)

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """x0, shape (d,)."""
        return self.x0.copy()

    def on_shard(self, shard: Shard, classes: Classes) -> FunctionModel:
        """The function, whatever the shard."""
        return FunctionModel(self)


class FunctionModel:
    """A `Function` as the model of a worker: one row, which counts 1."""

    row_weight: Array | float = 1.0

    def __init__(self, function: Function) -> None:
        self.function, self.dim = function, function.x0.size

    def at(self, w: Array, **kept: Array) -> FunctionPoint:
        """The function at w."""
        return FunctionPoint(self, w)

    def subset(self, rows: NDArray[np.intp]) -> Model:
        """The function: it has no rows to choose from."""
        return self

    def predict(self, w: Array) -> Array:
        """A function predicts nothing. Raises TypeError."""
        raise TypeError("a function has no rows to predict labels of")


class FunctionPoint:
    """A `Function` at w: every derivative is evaluated once. w is passed on as a copy, which users may write to."""

    def __init__(self, model: FunctionModel, w: Array) -> None:
        self.model, self.w, self.function = model, w, model.function

    @cached_property
    def _evaluated(self) -> tuple[Any, Any]:
        found = self.function.fun(self.w.copy())
        if self.function.jac is not True:
            return found, None
        if not (isinstance(found, tuple) and len(found) == 2):
            raise TypeError("jac=True: fun must return (value, gradient)")
        return found

    def value(self) -> float:
        value = np.asarray(self._evaluated[0], dtype=np.float64)
        if value.size != 1:
            raise ValueError(f"fun must return one number, but it returned an array of shape {value.shape}")
        return self.function.scale * float(value.item())

    @cached_property
    def _gradient(self) -> Array:
        jac = self.function.jac
        found = self._evaluated[1] if not callable(jac) else jac(self.w.copy())
        return self._array("jac", found, self.w.shape)

    def gradient(self) -> Array:
        return self._gradient

    def hvp(self, v: Array) -> Array:
        if self.function.hessp is None:
            return self._hessian @ v
        return self._array("hessp", self.function.hessp(self.w.copy(), v.copy()), self.w.shape)

    @cached_property
    def _hessian(self) -> Array:
        assert self.function.hess is not None, "methods that need it are refused without"
        return self._array("hess", self.function.hess(self.w.copy()), (self.w.size, self.w.size))

    def hessian(self) -> Array:
        return self._hessian.copy()

    def hessian_diagonal(self) -> Array:
        return np.diag(self._hessian).copy()

    def second_derivatives(self) -> Array:
        raise TypeError("a function has no rows: it provides a gradient, hvp and hessian alone")

    def along(self, p: Array) -> PointRay:
        return PointRay(self.model, self.w, p)

    def cache(self) -> dict[str, Array]:
        return {}

    def _array(self, name: str, found: Any, shape: tuple[int, ...]) -> Array:
        array = np.asarray(found, dtype=np.float64)
        if array.shape != shape:
            raise ValueError(
                f"{name} must return an array of shape {shape}, but it returned one of shape {array.shape}"
            )
        return self.function.scale * array
