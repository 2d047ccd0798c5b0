"""DiSCO: Newton's method on the whole objective, its linear systems solved by distributed conjugate gradients."""

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
from mpinewton.methods.support.inner import Inner
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import hvp, initial_state, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True)
class Disco(Inner[State]):
    """DiSCO (Zhang and Lin 2015): convex objectives; it does not see how the rows are split.

    The driver runs conjugate gradients on H v = g, the workers multiply: two rounds a step. `damped` goes
    -v/(1 + sqrt(v'Hv)), as published; `search` looks along -v. With `forcing` the solver stops at
    |Hv - g| <= min(1/10, sqrt|g|) |g|, as published at `tolerance`. On a direction of negative curvature `stop` ends
    the run, `truncate` takes the iterate before it.

    `mu` is the published preconditioner: (H_1 + mu I)^-1, applied by the first worker that has rows. It costs two more
    rounds a step, since the driver, who holds no data, passes the residual on.

    k steps of conjugate gradients take
    """

    step_rule: Literal["search", "damped"] = setting("search", help="")
    forcing: bool = setting(True, help="a tolerance that follows the gradient, instead of a fixed one")
    negative: Literal["stop", "truncate"] = setting("truncate", help="")
    mu: float | None = setting(None, gt=0, help="of the preconditioner, 1e-3 to 1e-2 of |H|; none: no preconditioner")
    search: Backtracking = setting(factory=Backtracking, help="")

    name = "disco"
    needs = ("gradient", "hvp")
    cost = Cost("2*k + 4", "(k + 1)*d + 1", "(k + 1)*d + 9")

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        g = now.gradient
        tolerance = min(0.1, float(g @ g) ** 0.25) if self.forcing else self.tolerance
        H = partial(fleet.mean, hvp)
        flat = FLAT if self.negative == "truncate" else 0.0
        solved = cg(H, g, self.limit, tolerance, flat, self.preconditioner(fleet))
        if solved.status == "negative curvature" and self.negative == "stop":
            return fail(
                now,
                f"negative curvature at step {solved.iterations + 1} of conjugate gradients; "
                "negative=truncate, dino or lbfgs go on",
            )
        if self.step_rule == "search":
            after = descend(fleet, self.search, now, -solved.x)
        else:
            a = 1.0 / (1.0 + sqrt(solved.x @ g))  # v'Hv = <v, g>: the residual is orthogonal to v
            w = now.w - a * solved.x
            f, g = fleet.mean(value_and_gradient, w)
            after = State(w, f, g, step=a)
        return after if after.trouble else replace(after, note=f"{solved.iterations} steps of conjugate gradients")

    def preconditioner(self, fleet: Fleet) -> Callable[[Array], Array] | None:
        first = [int(np.argmax(fleet.worker_share > 0))]
        return None if self.mu is None else partial(fleet.sum, self.precondition, among=first)

    def precondition(self, worker: Worker, r: Array) -> Array:
        """(H_1 + mu I)^-1 r to rounding, shape (d,): what is applied must be linear."""
        mu = self.mu or 0.0
        return cg(lambda v: worker.hvp(v) + mu * v, r, 10 * len(r), 1e-12).x
