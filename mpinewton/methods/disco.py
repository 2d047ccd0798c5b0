"""DiSCO: Newton's method on the whole objective with distributed conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import FLAT, cg
from mpinewton.methods.support.inner import solver_tolerance
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import hvp, initial_state
from mpinewton.settings import setting


@dataclass(frozen=True)
class Disco(Method[State]):
    """DiSCO (Zhang and Lin 2015): convex objectives, any split of the data.

    The driver runs conjugate gradients on H v = g, and the workers compute the products: two rounds a step. With
    `damped` the step is -v / (1 + sqrt(v'Hv)), as published; with `search` a line search runs along -v. With `forcing`
    the solver stops at |Hv - g| <= min(1/10, sqrt|g|) |g|, otherwise at `tolerance` |g|, as published. If the solver
    meets a direction of negative curvature, `stop` ends the run and `truncate` takes the iterate before it.

    `mu` sets the published preconditioner (H_1 + mu I)^-1, which the first worker with rows applies. It takes two more
    rounds a step, as the driver holds no data and must send the residual.

    In the cost below, k is the number of steps of conjugate gradients.
    """

    limit: int = setting(50, ge=1, help="maximum number of conjugate gradient steps")
    forcing: bool = setting(True, help="relative tolerance on the residual from the gradient norm")
    tolerance: float = solver_tolerance(forcing=False)
    step_rule: Literal["search", "damped"] = setting("search", help="rule for the step size")
    negative: Literal["stop", "truncate"] = setting("truncate", help="what to do on negative curvature")
    mu: float | None = setting(
        None, gt=0, help="shift of the preconditioner, 1e-3 to 1e-2 of |H|; none: no preconditioner", unit="|H|"
    )
    search: Backtracking = setting(factory=Backtracking, help="line search", only_if={"step_rule": "search"})

    name = "disco"
    any_units = True
    needs = ("gradient", "hvp")
    cost = Cost("2*k + 4", "(k + 1)*d + 1", "(k + 1)*d + 9")

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        g = now.gradient
        tolerance = min(0.1, float(g @ g) ** 0.25) if self.forcing else self.tolerance
        flat = FLAT if self.negative == "truncate" else 0.0
        solved = cg(partial(fleet.mean, hvp), g, self.limit, tolerance, flat, self.preconditioner(fleet))
        if solved.status == "negative curvature" and self.negative == "stop":
            where = f"step {solved.iterations + 1} of conjugate gradients"
            return fail(now, f"negative curvature at {where}: set negative=truncate, or use dino or lbfgs")
        if self.step_rule == "search":
            after = descend(fleet, self.search, now, -solved.x)
        else:
            a = 1.0 / (1.0 + sqrt(solved.x @ g))  # v'Hv = <v, g>, as the residual is orthogonal to v
            after = replace(initial_state(fleet, now.w - a * solved.x), step=a)
        return after if after.trouble else replace(after, note=f"{solved.iterations} steps of conjugate gradients")

    def preconditioner(self, fleet: Fleet) -> Callable[[Array], Array] | None:
        """The product with (H_1 + mu I)^-1; None without mu."""
        first = [int(np.argmax(fleet.worker_share > 0))]
        return None if self.mu is None else partial(fleet.sum, self.precondition, among=first)

    def precondition(self, worker: Worker, r: Array) -> Array:
        """(H_1 + mu I)^-1 r to rounding error, so that it is linear in r, shape (d,): d floats."""
        mu = self.mu or 0.0
        return cg(lambda v: worker.hvp(v) + mu * v, r, 10 * len(r), 1e-12).x
