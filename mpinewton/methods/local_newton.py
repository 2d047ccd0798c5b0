"""LocalNewton, and its adaptive form that ends as GIANT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.inner import SOLVER, LocalNewtonSystem
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, S, State, fail
from mpinewton.methods.support.tasks import advance, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalNewtonState(State):
    """State of LocalNewton; w is an average whose objective is not known yet.

    Attributes
    ----------
    best : array, shape (d,)
        Average of models with the least known objective.
    least : float
        Objective there; infinite before any is known.
    """

    best: Array
    least: float


@dataclass(frozen=True)
class LocalSteps(LocalNewtonSystem[S]):
    """Base of the methods whose workers take Newton steps on their own shards."""

    solver: Literal["auto", "cg", "exact"] = setting("auto", help=SOLVER)
    local_steps: int = setting(3, ge=1, help="L, number of Newton steps between two averages")
    beta: float = setting(0.1, gt=0, le=0.5, help="fraction of the predicted decrease that a local step must achieve")

    shards_alike = True
    needs = ("gradient", "hvp")
    convex_only = True

    def take_steps(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        """f_i at w, and the worker's model (d,) after some Newton steps from there: d + 1 floats."""
        f, models = self.take_all_steps(worker, w, steps)
        return f, models[-1]

    def take_all_steps(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        """f_i at w, and the worker's models (steps, d) after each of its Newton steps: steps d + 1 floats.

        A step for which the worker's own search finds no step size is left out.
        """
        worker.move_to(w)
        f, models = worker.value(), []
        for _ in range(steps):
            g = worker.gradient()
            if a := Backtracking(rho=self.beta).search_locally(worker, g, self.direction(worker, g)):
                worker.advance(a)
            models.append(worker.w)
        return f, np.array(models)

    def direction(self, worker: Worker, g: Array) -> Array:
        """-H_i^-1 g at the worker's weights, shape (d,): d floats."""
        return -self.solve(worker, g).x


@dataclass(frozen=True)
class LocalNewton(LocalSteps[LocalNewtonState]):
    """LocalNewton (Gupta et al. 2021, Algorithm 1): convex losses, rows dealt out at random.

    Every worker takes L Newton steps on its own shard, with its own line search, and the models are averaged. The
    objective at an average is sent with the next models. The method does not converge to the optimum: at some distance
    from it the objective at the averages stops decreasing. Then the run ends with the best of them. With `until_rise`
    = false it goes on, as published, to the given number of iterations; a later average may be slightly better.
    """

    until_rise: bool = setting(True, help="end where the objective at an average does not decrease")

    name = "local-newton"
    cost = Cost("2", "d", "d + 1")

    def start(self, fleet: Fleet, w: Array) -> LocalNewtonState:
        return LocalNewtonState(w, best=w, least=np.inf)

    def step(self, fleet: Fleet, now: LocalNewtonState) -> LocalNewtonState:
        f, w = fleet.mean(self.take_local_steps, now.w)
        if self.until_rise and not f < now.least:
            why = f"the objective at the averages no longer decreases: {f:.10g} after {now.least:.10g}"
            return replace(now, w=now.best, finished=why)
        return replace(now, w=w, best=now.w, least=f) if f < now.least else replace(now, w=w)

    def take_local_steps(self, worker: Worker, w: Array) -> tuple[float, Array]:
        """f_i at w, and the worker's model (d,) after L Newton steps from there: d + 1 floats."""
        return self.take_steps(worker, w, self.local_steps)


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveLocalNewtonState(LocalNewtonState):
    """State of adaptive LocalNewton.

    Attributes
    ----------
    L : int
        Local steps of the next iteration; 0 for GIANT.
    pending : float
        GIANT's last step, which the workers take with the next call; 0 where they are sent w.
    """

    L: int
    pending: float


@dataclass(frozen=True)
class AdaptiveLocalNewton(LocalSteps[AdaptiveLocalNewtonState]):
    """Adaptive LocalNewton (Gupta et al. 2021, Algorithm 2): convex losses; converges where LocalNewton does not.

    There are L local steps between two averages. If the objective at an average is not below the best one by `delta`
    times that, L decreases by one, and after L = 1 the method continues as GIANT. `check` says how the objective at an
    average becomes known. `delayed`: it is sent with the next models, one iteration late. `at_once`: in two more
    rounds. `multi`: in two more rounds for the averages after 1, 2, ..., L local steps, of which the best is taken; if
    none is better than the last, GIANT follows, as fewer local steps are among those tried.
    """

    check: Literal["delayed", "at_once", "multi"] = setting("delayed", help="how objectives at averages become known")
    delta: float = setting(
        0.01, ge=0, help="least relative decrease of the objective", only_if={"check": ("delayed", "at_once")}
    )
    keep_best: bool = setting(True, help="continue from the best average where a later one is worse")
    search: Backtracking = setting(factory=Backtracking, help="line search of GIANT")

    name = "adaptive-local-newton"
    cost = Cost("2", "d", "d + 1", "As GIANT: 6 rounds, 2 d + 1 down, 2 d + 9 up.")

    def start(self, fleet: Fleet, w: Array) -> AdaptiveLocalNewtonState:
        return AdaptiveLocalNewtonState(w, best=w, least=np.inf, L=self.local_steps, pending=0.0)

    def step(self, fleet: Fleet, now: AdaptiveLocalNewtonState) -> AdaptiveLocalNewtonState:
        if not now.L:
            return self.giant_step(fleet, now)
        note = f"L = {now.L}"
        if self.check == "delayed":
            f, w = fleet.mean(self.take_steps, now.w, now.L)
            return replace(self.compare(now, now.w, f, w), note=note)
        f, *models = fleet.mean(self.take_all_steps if self.check == "multi" else self.take_steps, now.w, now.L)
        models = np.atleast_2d(*models)
        values = fleet.mean(self.evaluate_models, models)
        if not np.isfinite(now.least):  # f is the objective at the start
            now = replace(now, best=now.w, least=f)
        k = int(np.argmin(values))
        return replace(self.compare(now, models[k], float(values[k]), models[k]), note=note)

    def compare(self, now: AdaptiveLocalNewtonState, w: Array, f: float, ahead: Array) -> AdaptiveLocalNewtonState:
        """The state after the objective at w is known to be f; `ahead` is the next average, or w itself."""
        L = now.L
        margin = self.delta * now.least if self.delta and self.check != "multi" else 0.0  # the first `least` is inf
        if not now.least - f >= margin or f == now.least:
            L = 0 if self.check == "multi" else L - 1
        if f < now.least:
            now = replace(now, best=w, least=f)
        elif f > now.least and self.keep_best:
            ahead = now.best
        return replace(now, w=ahead, L=L)

    def giant_step(self, fleet: Fleet, now: AdaptiveLocalNewtonState) -> AdaptiveLocalNewtonState:
        """An iteration of GIANT. 6 rounds."""
        f, g = fleet.mean(advance, now.pending) if now.pending else fleet.mean(value_and_gradient, now.w)
        p = fleet.mean(self.direction, g)
        here = State(now.w, f, g, step=now.step)
        a = self.search(fleet, here, p)
        if not a:
            return replace(fail(now, no_step(here, p)), pending=0.0)
        return replace(now, w=now.w + a * p, step=a, pending=a, note="GIANT")

    def evaluate_models(self, worker: Worker, models: Array) -> Array:
        """f_i at every model, models of shape (k, d), shape (k,): k floats."""
        found = []
        for w in models:
            worker.move_to(w)
            found.append(worker.value())
        return np.array(found)
