"""GIANT: the average of the workers' Newton directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import FLAT
from mpinewton.methods.support.inner import LocalNewtonSystem, krylov, solver_tolerance
from mpinewton.methods.support.linesearch import Backtracking, descend, polyak
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import initial_state
from mpinewton.settings import setting


@dataclass(frozen=True)
class Giant(LocalNewtonSystem[State]):
    """GIANT (Wang, Roosta, Xu and Mahoney 2018): strongly convex objectives, shards that resemble one another.

    Every worker solves H_i v = g; p = -sum_i omega_i v_i. If the solver meets a direction u with u'H_i u <= 0, `stop`
    ends the run, as published; `truncate` takes the iterate before it, and counts curvature at rounding level as none.
    `abs` solves |H_i| v = g in a Krylov space of `limit` dimensions, with eigenvalues by modulus and none below `floor`
    times the largest. With `truncate` and `abs` the direction is always a descent direction.

    The curvature of a convex loss is never negative: where it is 0 to rounding, `stop` takes the iterate before u too,
    and without one, Polyak's step along g.
    """

    negative: Literal["stop", "truncate", "abs"] = setting("stop", help="what to do on negative curvature")
    tolerance: float = solver_tolerance(solver="cg", negative=("stop", "truncate"))
    floor: float = setting(0.001, gt=0, lt=1, help="least relative eigenvalue", only_if={"negative": "abs"})
    search: Backtracking = setting(factory=Backtracking, help="line search")

    name = "giant"
    any_units = True
    shards_alike = True
    needs = ("gradient", "hvp")
    cost = Cost("6", "2*d + 1", "2*d + 10")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.solver == "cg" or self.negative != "abs", "solver", "cg with negative=abs")

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        p, failed = fleet.sum(self.direction, now.gradient)
        if failed and self.negative == "stop" and not fleet.problem.loss.convex:
            where = f"the solver failed on {failed:.0f} of {fleet.n_workers} workers"
            return fail(now, f"negative curvature: {where}; set negative=truncate or negative=abs, or use dino")
        return descend(fleet, self.search, now, p)

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        """omega_i p_i, shape (d,), and whether the solver met negative curvature: d + 1 floats."""
        if self.negative == "abs":
            return -worker.share * krylov(worker, g, self.limit).solve_absolute(self.floor), False
        solved = self.solve(worker, g, FLAT if self.negative == "truncate" else 0.0)
        # A worker without rows has zero weight, and its Hessian does not count.
        failed, x = solved.status not in ("solved", "limit") and worker.share > 0, solved.x
        if failed and not solved.iterations and not g @ worker.hvp(g) < 0:
            x = -polyak(worker.value(), g, g)
        return -worker.share * x, failed
