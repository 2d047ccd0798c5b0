"""Linear models of several shards as one: what is asked of all of them is one call of the compiled loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mpinewton import kernels
from mpinewton.arrays import Array, Integers
from mpinewton.losses.linear import LinearModel, LinearPoint, LinearRay
from mpinewton.losses.loss import empty_logits


class LinearGroup:
    """Linear models of k shards at the same weights. Results have a first axis, that of the models.

    All bits are those of the models one by one.
    """

    def __init__(self, models: Sequence[LinearModel]) -> None:
        self.models, self.outputs = list(models), models[0].outputs
        self.rows = kernels.Group([model.rows.in_one for model in models], [model.formula for model in models])
        self.scale = np.array([model.formula.scale for model in models])
        ends = accumulate((model.rows.n for model in models), initial=0)
        self.parts = [slice(first, end) for first, end in pairwise(ends)]

    @staticmethod
    def of(models: Sequence[object]) -> LinearGroup | None:
        """The models as a group; None where the compiled loops cannot take them in one call."""
        linear = [model for model in models if isinstance(model, LinearModel)]
        if len(linear) < max(2, len(models)):
            return None
        if not all(model.formula.compiled and model.rows.in_one is not None for model in linear):
            return None
        return LinearGroup(linear)

    @cached_property
    def sums_hessians(self) -> bool:
        """Whether the compiled loops form the Hessians of all models."""
        return self.outputs == 1 and not any(model.rows.dense_gram for model in self.models)

    def times(self, w: Array) -> Array:
        """X w of all rows, shape (n,) or (n, C)."""
        return np.asarray(self.rows.times(w if self.outputs == 1 else w.reshape(-1, self.outputs)))

    def at(self, w: Array) -> GroupPoint:
        """The models at w, shape (d,)."""
        return GroupPoint(self, w)

    def join(self, points: Sequence[LinearPoint]) -> GroupPoint | None:
        """The points of the models, with what is known there; None where they are not at the same weights."""
        w = points[0].w
        if not all(point.w is w or np.array_equal(point.w, w) for point in points):
            return None
        joined = GroupPoint(self, w)
        for name, join in ("_z", np.concatenate), ("_value", np.array), ("_gradient", np.array):
            known = [getattr(point, name) for point in points]
            if all(part is not None for part in known):
                setattr(joined, name, join(known))
        joined.points = list(points)
        return joined


class GroupPoint:
    """A `LinearGroup` at w, as `LinearPoint`."""

    def __init__(self, group: LinearGroup, w: Array, z: Array | None = None) -> None:
        self.group, self.w, self._z = group, w, z
        self._value: Array | None = None
        self._gradient: Array | None = None

    def _evaluate(
        self, order: int, sums: tuple[Array, Array, Integers] | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        group, z, w = self.group, self._z, None
        if z is None:
            z, w = empty_logits(group.rows.n, group.outputs, self.w)
        f, g, H = group.rows.evaluate(w, z, order, sums)
        self._z, self._value = z, f * group.scale
        if g is not None:
            self._gradient = g.reshape(len(f), -1) * group.scale[:, None]
            self._gradient.flags.writeable = False
        return self._value, self._gradient, H

    @property
    def z(self) -> Array:
        """Logits of all rows, shape (n,) or (n, C)."""
        if self._z is None:
            self._z = self.group.times(self.w)
        return self._z

    def value(self) -> Array:
        """Shape (k,)."""
        return self._evaluate(0)[0] if self._value is None else self._value

    def gradient(self) -> Array:
        """Shape (k, d)."""
        g = self._evaluate(1)[1] if self._gradient is None else self._gradient
        assert g is not None
        return g

    @cached_property
    def curvature(self) -> Array:
        """Weights of all rows times the second derivatives with respect to their one logit, shape (n,)."""
        weights = np.concatenate([model.row_weight_array for model in self.group.models])
        return np.asarray(weights * self.group.rows.second(self.z))

    def hessian_sums(self, diagonal: Array, scales: Array, merged: Integers) -> Array:
        """Sums of the Hessians with this diagonal (d,) added, as packed triangles; see `kernels.compiled.Group`.

        Only where the group `sums_hessians`. Gradients and values come from the same pass: ask for the sums first.
        """
        H = self._evaluate(1, (diagonal, scales, merged))[2]
        assert H is not None
        return H

    def hvp(self, v: Array) -> Array:
        """The Hessians times v (d,), shape (k, d)."""
        if self.group.outputs > 1:
            return np.array([point.hvp(v) for point in self.share()])
        return np.asarray(self.group.rows.hvp(self.curvature, v))

    def hvps(self, V: Array, some: Any = ..., less: Array | float = 0.0) -> Array:
        """`LinearPoint.hvps` of all models or those with the indices `some`, (k, d, b); `less` is of all rows."""
        every, some = some is ..., range(len(V)) if some is ... else some
        if self.group.outputs > 1:
            points = self.share()
            return np.array([points[i].hvps(v) for i, v in zip(some, V)])
        h = self.curvature - np.ravel(less)
        h = h if every else np.concatenate([h[self.group.parts[i]] for i in some])
        return np.asarray(self.group.rows.hvps(h, V, some))

    def along(self, p: Array) -> GroupRay:
        return GroupRay(self, p, self.group.times(p))

    @cached_property
    def points(self) -> list[LinearPoint]:
        """The points of the models."""
        return [LinearPoint(model, self.w, None) for model in self.group.models]

    def share(self) -> list[LinearPoint]:
        """The points of the models, with what is known here."""
        points = self.points
        if self._z is not None and points[0]._z is None:
            for point, part in zip(points, self.group.parts):
                point._z = self._z[part]
        if self._value is not None and points[0]._value is None:
            for point, value in zip(points, self._value.tolist()):
                point._value = value
        if self._gradient is not None and points[0]._gradient is None:
            for point, gradient in zip(points, self._gradient):
                point._gradient = gradient
        return points


class GroupRay:
    """The line w + a p, as `LinearRay`."""

    def __init__(self, start: GroupPoint, p: Array, dz: Array) -> None:
        self.start, self.p, self.dz = start, p, dz

    def losses(self, steps: Array) -> Array:
        """Mean losses at w + a p for every a of `steps`, shape (k, len(steps))."""
        group = self.start.group
        return np.asarray(group.rows.line(self.start.z, self.dz, steps) * group.scale[:, None])

    def at(self, step: float) -> GroupPoint:
        start = self.start
        return GroupPoint(start.group, start.w + step * self.p, start.z + step * self.dz)

    @cached_property
    def rays(self) -> list[LinearRay]:
        """The rays of the models."""
        return [
            LinearRay(point, self.p, self.dz[part]) for point, part in zip(self.start.share(), self.start.group.parts)
        ]
