"""Gradient descent with a step that follows the curvature it meets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Iterate, Method
from mpinewton.methods.support.tasks import value_and_gradient


@dataclass(frozen=True, eq=False)
class Scaled(Iterate):
    """An iterate and the length of the next trial."""

    scale: float = 1.0  # the last step, as a multiple of the gradient


@dataclass(frozen=True)
class GradientDescent(Method):
    """Gradient descent, w <- w - t g: any smooth loss. The baseline of baselines.

    The step t is the one of least loss among 4, 2, 1, 1/2, ... times the last one: no Lipschitz constant is asked for.
    4 rounds an iteration; floats per worker: d + 1 down, d + 11 up.
    """

    search: Backtracking = field(default_factory=lambda: Backtracking(largest=4.0, choose="least", first=10))

    name: ClassVar[str] = "gradient-descent"
    state: ClassVar[type[Iterate]] = Scaled

    def start(self, fleet: Fleet, w: Array) -> Scaled:
        f, g = fleet.mean(value_and_gradient, w)
        return Scaled(w, f, g, scale=min(1.0, 1.0 / max(float((g @ g) ** 0.5), 1e-300)))

    def step(self, fleet: Fleet, now: Scaled) -> Scaled:
        after = descend(fleet, self.search, now, -now.scale * now.gradient, last=1.0)
        return after if after.trouble else replace(after, scale=now.scale * after.step, step=now.scale * after.step)
