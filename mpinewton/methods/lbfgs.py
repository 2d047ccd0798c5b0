"""L-BFGS on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.methods.support.linesearch import Backtracking, descend, least_loss_search
from mpinewton.methods.support.method import UNKNOWN, Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.methods.support.units import is_time_to_look, measure_units, provides_units
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class LbfgsState(State):
    """State of L-BFGS.

    Attributes
    ----------
    S, Y : arrays, shape (k, d)
        Changes of w and of the gradient, oldest first.
    units : array, shape (d,)
        diag(H), where it scales the variables; `UNKNOWN` where the identity does.
    """

    S: Array
    Y: Array
    units: Array


@dataclass(frozen=True)
class Lbfgs(Method[LbfgsState]):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss, any split of the data.

    The driver keeps the pairs. The step is the one of least loss among those of 4, 2, 1, 1/2, ... that satisfy Armijo's
    rule.

    The recursion starts from a multiple of the identity. Where the pairs show curvatures that differ by a factor 1e4 or
    more, the workers send diag(H) in iteration 20, if the loss provides it. Where its entries differ by more than a
    factor 1e6, that is where the units of the features differ, the recursion then starts from a multiple of diag(H)^-1.
    A search that fails is repeated without pairs and with diag(H).
    """

    memory: int = setting(10, ge=1, help="number of pairs kept")
    search: Backtracking = setting(factory=least_loss_search, help="line search")

    name = "lbfgs"
    any_units = True
    cost = Cost("4", "d + 1", "d + 11")

    def start(self, fleet: Fleet, w: Array) -> LbfgsState:
        f, g = fleet.mean(value_and_gradient, w)
        return LbfgsState(w, f, g, S=np.zeros((0, len(w))), Y=np.zeros((0, len(w))), units=UNKNOWN)

    def step(self, fleet: Fleet, now: LbfgsState) -> LbfgsState:
        sy = np.einsum("kd,kd->k", now.S, now.Y)
        largest = np.max(np.einsum("kd,kd->k", now.Y, now.Y) / sy, initial=0.0)
        least = np.min(sy / np.einsum("kd,kd->k", now.S, now.S), initial=np.inf)
        if is_time_to_look(fleet, largest, least) and not now.units.size:
            now = replace(now, units=measure_units(fleet))
        after = descend(fleet, self.search, now, self.direction(now))
        if after.trouble and len(now.S):
            units = measure_units(fleet) if provides_units(fleet) and not now.units.size else now.units
            now = replace(now, S=now.S[:0], Y=now.Y[:0], units=units)
            after = descend(fleet, self.search, now, self.direction(now))
        if after.trouble:
            return after
        S, Y = append_pair(now.S, now.Y, after.w - now.w, after.gradient - now.gradient, self.memory)
        return replace(after, S=S, Y=Y)

    def direction(self, now: LbfgsState) -> Array:
        """The direction of the step, shape (d,)."""
        S, Y, D = now.S, now.Y, now.units
        if not D.size:
            return -apply_inverse(S, Y, now.gradient)
        scale = float(S[-1] @ Y[-1]) / float(Y[-1] @ (Y[-1] / D)) if len(S) else 1.0
        return -apply_inverse(S, Y, now.gradient, lambda q: scale * q / D)
