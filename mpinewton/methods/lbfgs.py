"""L-BFGS on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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
from mpinewton.methods.support.units import LOOK, hessian_diagonal, preconditioner, provides_units
from mpinewton.settings import setting

# The weight of diag(H), and how much larger the mean of log cos^2 must be: by trial on a9a, w8a, ijcnn1, news20 and
# data like Criteo's, with l2 from 0.1 / rows to 50 / rows.
ALPHA, BETTER = 0.1, 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class LbfgsState(State):
    """State of L-BFGS.

    Attributes
    ----------
    S, Y : tuples of k arrays, shape (d,)
        Changes of w and of the gradient, oldest first.
    M : array, shape (d,)
        Diagonal preconditioner, from whose inverse the recursion starts; `UNKNOWN` for the identity.
    """

    S: Vectors
    Y: Vectors
    M: Array


@dataclass(frozen=True)
class Lbfgs(Method[LbfgsState]):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss, any split of the data.

    The driver keeps the pairs. The step is 1, or the minimiser of the cubic through losses and derivatives at steps 0
    and 1 (from 0.1 to 4), whichever first satisfies Wolfe's conditions (with 0.9 for the second one); the workers send
    the gradient there with the loss. If neither does, and where there are no pairs, it is the one of least loss among
    those of 4, 2, 1, 1/2, ... that satisfy Armijo's rule. With trial=search all steps are, which takes 4 rounds an
    iteration.

    The recursion starts from a multiple of the identity or of M^-1, where M = 0.1 diag(H) + 0.9 L is the preconditioner
    of `newton-cg`, with L the diagonal matrix of l2. In iterations 20, 40, 80, ... the workers send diag(H), if the
    loss provides it. M is used from the first of these iterations on in which it explains the pairs clearly better than
    the identity: the mean of log cos^2 of the angle between M s and y, in the norm of M^-1, is larger by 1. A search
    that fails is repeated without pairs and with M. With preconditioner=none M is never used.
    """

    memory: int = setting(10, ge=1, help="number of pairs kept")
    preconditioner: Literal["auto", "none"] = setting("auto", help="auto: M where it explains the pairs better")
    trial: Trial = setting("one", help="what an iteration begins with: step 1 and its gradient, or the line search")
    search: Backtracking = setting(factory=least_loss_search, help="line search")

    name = "lbfgs"
    any_units = True
    cost = Cost("2", "d", "d + 1", AFTER_SEARCH)

    def start(self, fleet: Fleet, w: Array) -> LbfgsState:
        f, g = fleet.mean(value_and_gradient, w)
        return LbfgsState(w, f, g, S=(), Y=(), M=UNKNOWN)

    def step(self, fleet: Fleet, now: LbfgsState) -> LbfgsState:
        looks, rest = divmod(fleet.iteration, LOOK)
        if rest == 0 and looks.bit_count() == 1 and now.S and not now.M.size:
            M = self.measure_preconditioner(fleet)
            if M.size and log_cosine(now.S, now.Y, M) > log_cosine(now.S, now.Y) + BETTER:
                now = replace(now, M=M)
        move = step_or_descend if now.S and self.trial == "one" else descend
        after = move(fleet, self.search, now, self.direction(now))
        if after.trouble and now.S:
            now = replace(now, S=(), Y=(), M=now.M if now.M.size else self.measure_preconditioner(fleet))
            after = descend(fleet, self.search, now, self.direction(now))
        if after.trouble:
            return after
        S, Y = append_pair(now.S, now.Y, after.w - now.w, after.gradient - now.gradient, self.memory)
        return replace(after, S=S, Y=Y)

    def direction(self, now: LbfgsState) -> Array:
        """The direction of the step, shape (d,)."""
        S, Y, M = now.S, now.Y, now.M
        if not M.size:
            return -apply_inverse(S, Y, now.gradient)
        scale = float(S[-1] @ Y[-1]) / float(Y[-1] @ (Y[-1] / M)) if S else 1.0
        return -apply_inverse(S, Y, now.gradient, lambda q: scale * q / M)

    def measure_preconditioner(self, fleet: Fleet) -> Array:
        """M at the workers' weights, shape (d,), one round; `UNKNOWN` where the loss does not provide diag(H)."""
        if self.preconditioner == "none" or not provides_units(fleet):
            return UNKNOWN
        return preconditioner(fleet, fleet.mean(hessian_diagonal), ALPHA)


def log_cosine(S: Vectors, Y: Vectors, M: Array | float = 1.0) -> float:
    """Mean of log cos^2 of the angle between M s and y in the norm of M^-1, M diagonal (d,); 0 where y = M s.

    The pairs have s'y > 0.
    """
    return float(np.mean([2 * np.log(s @ y) - np.log((s * M) @ s) - np.log((y / M) @ y) for s, y in zip(S, Y)]))
