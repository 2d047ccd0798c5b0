"""L-BFGS on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array, Vectors
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.methods.support.linesearch import (
    AFTER_SEARCH,
    Backtracking,
    Trial,
    descend,
    least_loss_search,
    step_or_descend,
)
from mpinewton.methods.support.method import UNKNOWN, Cost, Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.methods.support.units import differ_much, is_time_to_look, measure_units, provides_units
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class LbfgsState(State):
    """State of L-BFGS.

    Attributes
    ----------
    S, Y : tuples of k arrays, shape (d,)
        Changes of w and of the gradient, oldest first.
    units : array, shape (d,)
        diag(H), where it scales the variables; `UNKNOWN` where the identity does.
    """

    S: Vectors
    Y: Vectors
    units: Array


@dataclass(frozen=True)
class Lbfgs(Method[LbfgsState]):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss, any split of the data.

    The driver keeps the pairs. Step 1 is tried first, and the workers send the gradient there with the loss. Where it
    does not satisfy Wolfe's conditions (with 0.9 for the second one), and where there are no pairs, the step is the one
    of least loss among those of 4, 2, 1, 1/2, ... that satisfy Armijo's rule. With trial=search all are, which takes
    4 rounds an iteration.

    The recursion starts from a multiple of the identity. Where the pairs show curvatures that differ by a factor 1e4 or
    more, the workers send diag(H) in iteration 20, if the loss provides it. Where its entries differ by more than a
    factor 1e6, that is where the units of the features differ, the recursion then starts from a multiple of diag(H)^-1.
    A search that fails is repeated without pairs and with diag(H).
    """

    memory: int = setting(10, ge=1, help="number of pairs kept")
    trial: Trial = setting("one", help="what an iteration begins with: step 1 and its gradient, or the line search")
    search: Backtracking = setting(factory=least_loss_search, help="line search")

    name = "lbfgs"
    any_units = True
    cost = Cost("2", "d", "d + 1", AFTER_SEARCH)

    def start(self, fleet: Fleet, w: Array) -> LbfgsState:
        f, g = fleet.mean(value_and_gradient, w)
        return LbfgsState(w, f, g, S=(), Y=(), units=UNKNOWN)

    def step(self, fleet: Fleet, now: LbfgsState) -> LbfgsState:
        if is_time_to_look(fleet) and not now.units.size and differ_much(curvatures(now.S, now.Y)):
            now = replace(now, units=measure_units(fleet))
        move = step_or_descend if now.S and self.trial == "one" else descend
        after = move(fleet, self.search, now, self.direction(now))
        if after.trouble and now.S:
            units = measure_units(fleet) if provides_units(fleet) and not now.units.size else now.units
            now = replace(now, S=(), Y=(), units=units)
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
        scale = float(S[-1] @ Y[-1]) / float(Y[-1] @ (Y[-1] / D)) if S else 1.0
        return -apply_inverse(S, Y, now.gradient, lambda q: scale * q / D)


def curvatures(S: Vectors, Y: Vectors) -> Array:
    """Curvatures along the pairs, <s, y> / <s, s>, and those along y of the inverse, <y, y> / <s, y>; shape (2 k,)."""
    return np.array([q for s, y in zip(S, Y) for q in ((s @ y) / (s @ s), (y @ y) / (s @ y))])
