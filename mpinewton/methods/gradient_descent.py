"""Gradient descent with a step that follows the curvature it meets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class GradientDescentState(State):
    """An iterate and the length of the next trial."""

    scale: float = 1.0  # the last step, as a multiple of the gradient


@dataclass(frozen=True)
class GradientDescent(Method[GradientDescentState]):
    """Gradient descent, w <- w - t g: any smooth loss. The baseline of baselines.

    The step t is the one of least loss among 4, 2, 1, 1/2, ... times the last one: no Lipschitz constant is asked for.
    """

    search: Backtracking = setting(factory=lambda: Backtracking(largest=4.0, choose="least", first=10), help="")

    name = "gradient-descent"
    cost = Cost("4", "d + 1", "d + 11")

    def start(self, fleet: Fleet, w: Array) -> GradientDescentState:
        f, g = fleet.mean(value_and_gradient, w)
        return GradientDescentState(w, f, g, scale=min(1.0, 1.0 / max(float((g @ g) ** 0.5), 1e-300)))

    def step(self, fleet: Fleet, now: GradientDescentState) -> GradientDescentState:
        after = descend(fleet, self.search, now, -now.scale * now.gradient, last=1.0)
        return after if after.trouble else replace(after, scale=now.scale * after.step, step=now.scale * after.step)
