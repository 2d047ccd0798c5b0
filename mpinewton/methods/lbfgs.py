"""L-BFGS on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.methods.support.linesearch import Backtracking, descend, least_loss_search
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class LbfgsState(State):
    """State of L-BFGS.

    Attributes
    ----------
    S, Y : arrays, shape (k, d)
        Changes of w and of the gradient, oldest first.
    """

    S: Array
    Y: Array


@dataclass(frozen=True)
class Lbfgs(Method[LbfgsState]):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss, any split of the data.

    The driver keeps the pairs. The step is the one of least loss among those of 4, 2, 1, 1/2, ... that satisfy Armijo's
    rule.
    """

    memory: int = setting(10, ge=1, help="number of pairs kept")
    search: Backtracking = setting(factory=least_loss_search, help="line search")

    name = "lbfgs"
    cost = Cost("4", "d + 1", "d + 11")

    def start(self, fleet: Fleet, w: Array) -> LbfgsState:
        f, g = fleet.mean(value_and_gradient, w)
        return LbfgsState(w, f, g, S=np.zeros((0, len(w))), Y=np.zeros((0, len(w))))

    def step(self, fleet: Fleet, now: LbfgsState) -> LbfgsState:
        after = descend(fleet, self.search, now, -apply_inverse(now.S, now.Y, now.gradient))
        if after.trouble:
            return after
        S, Y = append_pair(now.S, now.Y, after.w - now.w, after.gradient - now.gradient, self.memory)
        return replace(after, S=S, Y=Y)
