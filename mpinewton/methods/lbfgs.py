"""L-BFGS, the pairs kept by the driver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import append_pair, scaled
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class LbfgsState(State):
    """An iterate and the last pairs of changes, oldest first."""

    S: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of w, shape (k, d)
    Y: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of the gradient, shape (k, d)


@dataclass(frozen=True)
class Lbfgs(Method[LbfgsState]):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss; it does not see the split.

    The step is the one of least loss among those of 4, 2, 1, 1/2, ... that pass Armijo's rule.
    """

    memory: int = setting(10, ge=1, help="pairs kept")
    search: Backtracking = setting(factory=lambda: Backtracking(largest=4.0, choose="least", first=10), help="")

    name = "lbfgs"
    cost = Cost("4", "d + 1", "d + 11")

    def start(self, fleet: Fleet, w: Array) -> LbfgsState:
        f, g = fleet.mean(value_and_gradient, w)
        return LbfgsState(w, f, g, S=np.zeros((0, len(w))), Y=np.zeros((0, len(w))))

    def step(self, fleet: Fleet, now: LbfgsState) -> LbfgsState:
        after = descend(fleet, self.search, now, -scaled(now.S, now.Y, now.gradient))
        if after.trouble:
            return after
        S, Y = append_pair(now.S, now.Y, after.w - now.w, after.gradient - now.gradient, self.memory)
        return replace(after, S=S, Y=Y)
