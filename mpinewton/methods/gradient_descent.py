"""Gradient descent with a line search."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.methods.support.linesearch import Backtracking, descend, least_loss_search
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientDescentState(State):
    """State of gradient descent.

    Attributes
    ----------
    scale : float
        The last step, as a multiple of the gradient.
    """

    scale: float


@dataclass(frozen=True)
class GradientDescent(Method[GradientDescentState]):
    """Gradient descent, w <- w - t g: any smooth loss, any split of the data.

    The step t is the one of least loss among 4, 2, 1, 1/2, ... times the last one that satisfy Armijo's rule. No
    Lipschitz constant is needed. The first trial step has a length of at most 4.
    """

    search: Backtracking = setting(factory=least_loss_search, help="line search, with steps relative to the last one")

    name = "gradient-descent"
    cost = Cost("4", "d + 1", "d + 11")

    def start(self, fleet: Fleet, w: Array) -> GradientDescentState:
        f, g = fleet.mean(value_and_gradient, w)
        return GradientDescentState(w, f, g, scale=min(1.0, 1.0 / max(float((g @ g) ** 0.5), 1e-300)))

    def step(self, fleet: Fleet, now: GradientDescentState) -> GradientDescentState:
        after = descend(fleet, self.search, now, -now.scale * now.gradient, last=1.0)
        return after if after.trouble else replace(after, scale=now.scale * after.step, step=now.scale * after.step)
