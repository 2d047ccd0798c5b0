"""LocalNewton, and its adaptive form that ends as GIANT."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.inner import LocalNewtonSystem
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import advance, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class LocalNewtonState(State):
    """An average of models whose objective nobody knows yet, and the best average of which it is known."""

    best: Array = field(default_factory=lambda: np.zeros(0))  # shape (d,)
    least: float = float("inf")  # objective there


@dataclass(frozen=True)
class LocalNewton(LocalNewtonSystem[LocalNewtonState]):
    """LocalNewton (Gupta et al. 2021, Algorithm 1): convex losses, rows dealt out at random.

    Every worker takes L Newton steps on its own shard, with its own line search, and the models are averaged. The
    objective at an average comes with the next models. It is not made to arrive: the averages stop some way above the
    optimum, and when they no longer fall the best of them is returned.
    """

    solver: Literal["cg", "exact"] = setting("exact", help="")
    local_steps: int = setting(3, ge=1, help="L")
    beta: float = setting(0.1, gt=0, le=0.5, help="part of the promised decrease that a local step must make")

    name = "local-newton"
    shards_alike = True
    needs = ("gradient", "hvp")
    convex_only = True
    cost = Cost("2", "d", "d + 1")

    def start(self, fleet: Fleet, w: Array) -> LocalNewtonState:
        return LocalNewtonState(w, best=w)

    def step(self, fleet: Fleet, now: Any) -> Any:
        f, w = fleet.mean(self.walk, now.w)
        if not f < now.least:
            return replace(now, w=now.best, finished=f"the average no longer falls: {f:.10g} after {now.least:.10g}")
        return replace(now, w=w, best=now.w, least=f)

    def walk(self, worker: Worker, w: Array) -> tuple[float, Array]:
        """f_i at w, and the worker's model after L Newton steps from there."""
        worker.move_to(w)
        return worker.value(), self.models(worker, self.local_steps)[-1]

    def models(self, worker: Worker, steps: int) -> Array:
        """The worker's models after each of its next Newton steps, shape (steps, d)."""
        found = []
        for _ in range(steps):
            self.newton_step(worker)
            found.append(worker.w)
        return np.array(found)

    def newton_step(self, worker: Worker) -> None:
        """Go along -H_i^-1 g_i, as far as the worker's own search says; nowhere, if it finds no step."""
        g = worker.gradient()
        p = -self.solve(worker, g).x
        if a := Backtracking(rho=self.beta).alone(worker, g, p):
            worker.advance(a)


@dataclass(frozen=True, eq=False)
class AdaptiveLocalNewtonState(LocalNewtonState):
    """An average, and how the method goes on from there."""

    L: int = 0  # local steps of the next round; 0: GIANT
    pending: float = 0.0  # GIANT's last step, which the workers take with the next call; 0 where they are sent w


@dataclass(frozen=True)
class AdaptiveLocalNewton(LocalNewton):
    """Adaptive LocalNewton (Gupta et al. 2021, Algorithm 2): convex losses; it arrives where LocalNewton does not.

    L local steps between two averages; where an average does not lie below the best one by `delta` of it, L falls by
    one, and after L = 1 the method goes on as GIANT for good. How the objective at an average is known:
    `delayed`: it comes with the next models, and the decision is a round late; `at_once`: two more rounds ask for it;
    `multi`: the averages after 1, 2, ... L local steps are all tried, two more rounds, and the best is taken; where
    none is better than the last, fewer local steps are none either, and GIANT is next.
    """

    check: Literal["delayed", "at_once", "multi"] = setting("delayed", help="")
    delta: float = setting(0.01, ge=0, help="least decrease of the objective, relative to the best so far")
    keep_best: bool = setting(True, help="go on from the best average where a later one lies above it")
    search: Backtracking = setting(factory=Backtracking, help="of GIANT")

    name = "adaptive-local-newton"
    state = AdaptiveLocalNewtonState
    cost = Cost("2", "d", "d + 1", "As GIANT: 6 rounds, 2 d + 1 down, 2 d + 9 up.")

    def start(self, fleet: Fleet, w: Array) -> AdaptiveLocalNewtonState:
        return AdaptiveLocalNewtonState(w, best=w, L=self.local_steps)

    def step(self, fleet: Fleet, now: Any) -> Any:
        if not now.L:
            return self.giant(fleet, now)
        note = f"L = {now.L}"
        if self.check == "delayed":
            f, w = fleet.mean(self.walk_some, now.w, now.L)
            return replace(self.judged(now, now.w, f, w), note=note)
        f, *models = fleet.mean(self.walk_all if self.check == "multi" else self.walk_some, now.w, now.L)
        models = np.atleast_2d(*models)
        values = fleet.mean(self.values, models)
        if not np.isfinite(now.least):  # the objective at the start
            now = replace(now, best=now.w, least=f)
        k = int(np.argmin(values))
        return replace(self.judged(now, models[k], float(values[k]), models[k]), note=note)

    def judged(self, now: AdaptiveLocalNewtonState, w: Array, f: float, ahead: Array) -> AdaptiveLocalNewtonState:
        """What to do now that the objective at w is f; `ahead` is the model that was found from w, or w itself."""
        L = now.L
        if not now.least - f >= (0.0 if self.check == "multi" else self.delta) * now.least or f == now.least:
            L = 0 if self.check == "multi" else L - 1
        if f < now.least:
            now = replace(now, best=w, least=f)
        elif f > now.least and self.keep_best:
            ahead = now.best
        return replace(now, w=ahead, L=L)

    def giant(self, fleet: Fleet, now: AdaptiveLocalNewtonState) -> AdaptiveLocalNewtonState:
        f, g = fleet.mean(advance, now.pending) if now.pending else fleet.mean(value_and_gradient, now.w)
        p = fleet.mean(self.direction, g)
        here = State(now.w, f, g, step=now.step)
        a = self.search(fleet, here, p)
        if not a:
            return replace(fail(now, no_step(here, p)), pending=0.0)
        return replace(now, w=now.w + a * p, step=a, pending=a, note="GIANT")

    def walk_some(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        f, models = self.walk_all(worker, w, steps)
        return f, models[-1]

    def walk_all(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        worker.move_to(w)
        return worker.value(), self.models(worker, steps)

    def values(self, worker: Worker, models: Array) -> Array:
        """f_i at every model, shape (k,)."""
        found = []
        for w in models:
            worker.move_to(w)
            found.append(worker.value())
        return np.array(found)

    def direction(self, worker: Worker, g: Array) -> Array:
        return -self.solve(worker, g).x
