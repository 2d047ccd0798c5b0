"""DINGO: descent of the gradient norm by the workers' pseudo-inverses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.inner import krylov
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class DingoState(State):
    """State of DINGO.

    Attributes
    ----------
    pending : float
        Step along the last direction that the workers take with the next call; 0 for none.
    """

    pending: float


@dataclass(frozen=True)
class Dingo(Method[DingoState]):
    """DINGO (Crane and Roosta 2019, Algorithm 1): minimises |g|^2. For invex objectives, any split of the data.

    The workers send H_i g, H_i^+ g and [H_i; phi I]^+ [g; 0], all from one Krylov space K(H_i, g). The direction is the
    mean of the second (case 1), or else of the third (case 2), if it decreases |g|^2 / 2 at a rate of at least
    theta |g|^2. Otherwise (case 3, two more rounds) every worker corrects its third vector until that holds. Where the
    objective is not convex, maxima and saddle points attract the iterates, and the objective may increase.

    The line search is on |g|^2: the workers send losses and gradients at its first steps together, and the gradient at
    the step taken is the next one. As published all 51 are sent: search.first = 51, with 51 (d + 1) floats.
    """

    limit: int = setting(50, ge=1, help="maximum dimension of the Krylov space")
    theta: float = setting(1e-4, gt=0, help="least descent of the direction, relative to |g|^2")
    phi: float = setting(1e-6, gt=0, help="damping of the workers' problems", unit="|H|")
    search: Backtracking = setting(factory=lambda: Backtracking(first=4), help="line search on |g|^2")

    name = "dingo"
    any_units = True
    needs = ("gradient", "hvp")
    cost = Cost("4", "2*d + 1", "7*d + 4")

    def start(self, fleet: Fleet, w: Array) -> DingoState:
        f, g = fleet.mean(value_and_gradient, w)
        return DingoState(w, f, g, pending=0.0)

    def step(self, fleet: Fleet, now: DingoState) -> DingoState:
        g = now.gradient
        gg = float(g @ g)
        Hg, c1, c2 = fleet.mean(self.propose, now.pending, g)
        now = replace(now, pending=0.0)  # the workers are at w now
        if not Hg.any():
            return fail(now, "H g = 0: w is a stationary point of |g|^2, from which dingo cannot continue; use dino")
        case, p = 1, -c1
        if c1 @ Hg < self.theta * gg:
            case, p = 2, -c2
            if c2 @ Hg < self.theta * gg:
                case, p = 3, fleet.mean(self.correct, Hg, g)
        derivative = 2.0 * float(p @ Hg) / gg
        # On |g|^2 relative to the last: the slack of the search is then relative to the size of |g|^2.
        steps, first = self.search.grid, self.search.first
        losses, gradients = fleet.mean(self.try_first, p)
        tried, norms = 0, np.einsum("kd,kd->k", gradients, gradients) / gg
        a = self.search.select(steps[:first], norms, 1.0, derivative)
        if not a and first < len(steps):
            losses, gradients = fleet.mean(self.try_others)
            tried, norms = first, np.einsum("kd,kd->k", gradients, gradients) / gg
            a = self.search.select(steps[first:], norms, 1.0, derivative)
        if not a:
            return fail(now, f"the line search found no step that decreases |g|, although <p, Hg> = {p @ Hg:.3g}")
        k = int(np.flatnonzero(steps == a)[0]) - tried
        return DingoState(now.w + a * p, float(losses[k]), gradients[k], step=a, note=f"case {case}", pending=a)

    def propose(self, worker: Worker, pending: float, g: Array) -> tuple[Array, Array, Array]:
        """Take the pending step; H_i g, H_i^+ g and [H_i; phi I]^+ [g; 0] there, shape (d,) each: 3 d floats."""
        if pending:
            worker.advance(pending)
        space = krylov(worker, g, self.limit)
        return worker.hvp(g), space.solve_shortest(), space.solve_damped(self.phi)

    def correct(self, worker: Worker, Hg: Array, g: Array) -> Array:
        """p_i with <p_i, Hg> <= -theta |g|^2, shape (d,): d floats."""
        c2 = krylov(worker, g, self.limit).solve_damped(self.phi)
        lack = self.theta * (g @ g) - c2 @ Hg
        if lack <= 0:
            return -c2
        q = krylov(worker, Hg, self.limit).solve_squared(self.phi)
        return -c2 - lack / (q @ Hg) * q

    def try_first(self, worker: Worker, p: Array) -> tuple[Array, Array]:
        """Set the direction p; losses (k,) and gradients (k, d) at the first k steps: k (d + 1) floats."""
        worker.set_direction(p)
        steps = self.search.grid[: self.search.first]
        return worker.losses(steps), worker.gradients(steps)

    def try_others(self, worker: Worker) -> tuple[Array, Array]:
        """Losses and gradients at the other steps of the grid, d + 1 floats each."""
        steps = self.search.grid[self.search.first :]
        return worker.losses(steps), worker.gradients(steps)
