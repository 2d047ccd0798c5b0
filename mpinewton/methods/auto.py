"""`auto`: for those who do not want to choose. Quasi-Newton, with the workers' own Hessians for a beginning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.lbfgs import append_pair, scaled
from mpinewton.methods.support.inner import krylov
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, value_and_gradient

LOCAL_STEPS = (3, 1)  # Newton steps of the workers before the first averages
PRODUCTS, FLOOR = 50, 1e-3  # of a worker's Krylov space; least eigenvalue, relative to the largest
MEMORY = 30  # pairs
SEARCH = Backtracking(largest=2.0, choose="least", first=10)
LIKELY = 4  # the first steps of the search come with their gradients: 2, 1, 1/2, 1/4
POOR = 1 / 64  # product of two steps at which the workers' Hessians are found to mislead


@dataclass(frozen=True, eq=False)
class AutoState(State):
    """An iterate, what the method has learned, and how it goes on."""

    phase: str = "models"  # "models", "Hessians" or "pairs"
    averages: int = 0  # of models, so far
    best: Array = field(default_factory=lambda: np.zeros(0))  # average of models with the least objective known
    least: float = float("inf")  # objective there
    S: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of w, shape (k, d)
    Y: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of the gradient, shape (k, d)
    pending: float = 0.0  # step that the workers take with the next call


@dataclass(frozen=True)
class Auto(Method[AutoState]):
    """What to use if you do not want to choose: no settings, any loss, any split.

    `models`, where the loss is convex: the workers take Newton steps on their own rows, three and then one, and the
    averages of their models are as good a start as two rounds each can buy (LocalNewton).
    `Hessians`: L-BFGS whose initial matrix is the mean of the workers' |H_i|^-1, found in Krylov spaces, so that
    nothing need be convex (GIANT); the pairs correct what those Hessians have wrong.
    `pairs`: where two steps in a row are so short that the workers' Hessians must mislead (unlike shards, few rows),
    plain L-BFGS goes on with the same pairs.

    The gradients of the likely steps come with the losses of the search, so that the step taken costs no more rounds.
    The history's note names the phase. The cost is that of `Hessians`; `models` and `pairs` take 2 rounds.
    """

    name = "auto"
    needs = ("gradient", "hvp")
    cost = Cost("4", "2*d + 2", "5*d + 10")

    def start(self, fleet: Fleet, w: Array) -> AutoState:
        return AutoState(w, best=w) if fleet.problem.loss.convex else self.begun(fleet, w)

    def begun(self, fleet: Fleet, w: Array) -> AutoState:
        """At w, f and g known, nothing else. 2 rounds."""
        f, g = fleet.mean(value_and_gradient, w)
        none = np.zeros((0, len(w)))
        return AutoState(w, f, g, phase="Hessians", S=none, Y=none)

    def step(self, fleet: Fleet, now: AutoState) -> AutoState:
        if now.phase == "models":
            if now.averages < len(LOCAL_STEPS):
                return self.average(fleet, now)
            now = self.best_average(fleet, now)
        p = -scaled(now.S, now.Y, now.gradient, partial(self.initial, fleet, now) if now.phase == "Hessians" else None)
        if now.phase == "Hessians":  # the workers have taken the pending step
            now = replace(now, pending=0.0)
        if not now.gradient @ p < 0:  # Krylov spaces of unlike right-hand sides need not make one definite matrix
            p = -scaled(now.S, now.Y, now.gradient)
        return self.search(fleet, now, p)

    # -- models ---------------------------------------------------------------------------------------------------

    def average(self, fleet: Fleet, now: AutoState) -> AutoState:
        """Average the workers' own models; the objective at w comes with them."""
        f, w = fleet.mean(self.walk, now.w, LOCAL_STEPS[now.averages])
        now = replace(now, best=now.w, least=f) if f < now.least else now
        return replace(now, w=w, averages=now.averages + 1, note="models")

    def walk(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        """f_i at w, and the worker's model after some Newton steps on its own rows."""
        worker.move_to(w)
        f = worker.value()
        for _ in range(steps):
            g = worker.gradient()
            p = -self.solve(worker, g)
            if a := Backtracking().alone(worker, g, p):
                worker.advance(a)
        return f, worker.w

    def best_average(self, fleet: Fleet, now: AutoState) -> AutoState:
        """The last average, or the best one before it. 2 rounds, or 4."""
        last = self.begun(fleet, now.w)
        return last if last.loss < now.least else self.begun(fleet, now.best)

    # -- Hessians and pairs ---------------------------------------------------------------------------------------

    def initial(self, fleet: Fleet, now: AutoState, q: Array) -> Array:
        found: Array = fleet.mean(self.solve_there, q, now.pending)
        return found

    def solve_there(self, worker: Worker, q: Array, pending: float) -> Array:
        if pending:
            worker.advance(pending)
        return self.solve(worker, q)

    def solve(self, worker: Worker, q: Array) -> Array:
        """|H_i|^-1 q in a Krylov space, shape (d,)."""
        return krylov(worker, q, PRODUCTS).solve_absolute(FLOOR)

    def search(self, fleet: Fleet, now: AutoState, p: Array) -> AutoState:
        """Search along p and go there. 2 rounds where the step is a likely one."""
        slope, grid = float(now.gradient @ p), SEARCH.grid
        losses, gradients = fleet.mean(self.look_ahead, p, now.pending)
        now = replace(now, pending=0.0)
        a = SEARCH.passing(grid[: SEARCH.first], losses, now.loss, slope, now.step)
        if not a:
            losses = fleet.mean(self.look_further)
            a = SEARCH.passing(grid[SEARCH.first :], losses, now.loss, slope, now.step)
        if not a:
            return self.without(now, p)
        if a >= grid[LIKELY - 1]:
            k = int(np.flatnonzero(grid == a)[0])
            f, g, pending = float(losses[k]), gradients[k], a
        else:
            (f, g), pending = fleet.mean(advance, a), 0.0
        S, Y = append_pair(now.S, now.Y, a * p, g - now.gradient, MEMORY)
        poor = now.phase == "Hessians" and now.step * a <= POOR
        return replace(
            now, w=now.w + a * p, loss=f, gradient=g, step=a, S=S, Y=Y, pending=pending,
            phase="pairs" if poor else now.phase, note=now.phase,
        )  # fmt: skip

    def without(self, now: AutoState, p: Array) -> AutoState:
        """What to do where no step along p lowers the objective: trust less of what led to p, until nothing is left."""
        if now.phase == "pairs" and not len(now.S):
            return fail(now, no_step(now, p))
        none = np.zeros((0, len(now.w)))
        return replace(now, phase="pairs", S=none, Y=none, step=NAN, note="no step: pairs dropped")

    def look_ahead(self, worker: Worker, p: Array, pending: float) -> tuple[Array, Array]:
        """Losses of the first steps along p, and the gradients of the likely ones."""
        if pending:
            worker.advance(pending)
        worker.set_direction(p)
        return worker.losses(SEARCH.grid[: SEARCH.first]), worker.gradients(SEARCH.grid[:LIKELY])

    def look_further(self, worker: Worker) -> Array:
        return worker.losses(SEARCH.grid[SEARCH.first :])
