"""DINGO: descent of the gradient's norm, by the workers' pseudo-inverses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.inner import Inner, krylov
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import initial_state
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class DingoState(State):
    """An iterate the workers have not gone to yet: they go along with the next call."""

    pending: float = 0.0  # step they are to take along the direction they know


@dataclass(frozen=True)
class Dingo(Inner[DingoState]):
    """DINGO (Crane and Roosta 2019, Algorithm 1): minimises |g|^2, so it wants an invex objective, and any split.

    The workers send H_i g, H_i^+ g and [H_i; phi I]^+ [g; 0]; all three come from one Krylov space K(H_i, g). The mean
    of the second (case 1), else of the third (case 2), is the direction if it descends along Hg by theta |g|^2; else
    (case 3, two more rounds) every worker tilts its third until it does. Where the objective is not convex, maxima and
    saddles attract it: it may climb.

    The search is on |g|^2: the workers send losses and gradients of its first steps at once, and the gradient that is
    accepted is the next. (As published all 51 of them: search.first = 51, at 51 (d + 1) floats.)
    """

    theta: float = setting(0.0001, gt=0, help="least descent asked of the direction")
    phi: float = setting(1e-06, gt=0, help="damping, units |H|")
    search: Backtracking = setting(factory=lambda: Backtracking(first=4), help="")

    name = "dingo"
    needs = ("gradient", "hvp")
    cost = Cost("4", "2*d + 1", "7*d + 4")

    def start(self, fleet: Fleet, w: Array) -> DingoState:
        now = initial_state(fleet, w)
        return DingoState(w, now.loss, now.gradient)

    def step(self, fleet: Fleet, now: DingoState) -> DingoState:
        g = now.gradient
        gg = float(g @ g)
        Hg, c1, c2 = fleet.mean(self.propose, now.pending, g)
        now = replace(now, pending=0.0)  # they stand at w now
        if not Hg.any():
            return fail(now, "H g = 0: this is a stationary point of |g|^2, and dingo knows no way from there")
        case, p = 1, -c1
        if c1 @ Hg < self.theta * gg:
            case, p = 2, -c2
            if c2 @ Hg < self.theta * gg:
                case, p = 3, fleet.mean(self.tilt, Hg, g)
        slope = 2.0 * float(p @ Hg) / gg
        # On |g|^2 relative to the last: a sum of squares is as small as it is, and rounding is relative to it.
        steps, first = self.search.grid, self.search.first
        losses, gradients = fleet.mean(self.try_first, p)
        tried, norms = 0, np.einsum("kd,kd->k", gradients, gradients) / gg
        a = self.search.passing(steps[:first], norms, 1.0, slope)
        if not a and first < len(steps):
            losses, gradients = fleet.mean(self.try_others)
            tried, norms = first, np.einsum("kd,kd->k", gradients, gradients) / gg
            a = self.search.passing(steps[first:], norms, 1.0, slope)
        if not a:
            return fail(now, f"the line search found no step that lowers |g|, although <p, Hg> = {p @ Hg:.3g}")
        taken = int(np.flatnonzero(steps == a)[0]) - tried
        f, g = float(losses[taken]), gradients[taken]
        return DingoState(now.w + a * p, f, g, step=a, note=f"case {case}", pending=a)

    def propose(self, worker: Worker, pending: float, g: Array) -> tuple[Array, Array, Array]:
        if pending:
            worker.advance(pending)
        space = krylov(worker, g, self.limit)
        return worker.hvp(g), space.solve_shortest(), space.solve_damped(self.phi)

    def tilt(self, worker: Worker, Hg: Array, g: Array) -> Array:
        c2 = krylov(worker, g, self.limit).solve_damped(self.phi)
        lack = self.theta * (g @ g) - c2 @ Hg
        if lack <= 0:
            return -c2
        q = krylov(worker, Hg, self.limit).solve_squared(self.phi)
        return -c2 - lack / (q @ Hg) * q

    def try_first(self, worker: Worker, p: Array) -> tuple[Array, Array]:
        worker.set_direction(p)
        steps = self.search.grid[: self.search.first]
        return worker.losses(steps), worker.gradients(steps)

    def try_others(self, worker: Worker) -> tuple[Array, Array]:
        steps = self.search.grid[self.search.first :]
        return worker.losses(steps), worker.gradients(steps)
