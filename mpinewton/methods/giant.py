"""GIANT: the average of the workers' Newton directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import FLAT
from mpinewton.methods.support.inner import LocalNewtonSystem, krylov
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import initial_state
from mpinewton.settings import setting


@dataclass(frozen=True)
class Giant(LocalNewtonSystem[State]):
    """GIANT (Wang, Roosta, Xu and Mahoney 2018): strongly convex objectives, shards that resemble one another.

    Every worker solves H_i v = g; p = -sum_i omega_i v_i. On a direction u with u'H_i u <= 0:
    `stop` ends the run, as published; `truncate` takes the iterate before it (and counts
    curvature at rounding level as none); `abs` solves |H_i| v = g in a Krylov
    space of the same size, eigenvalues by modulus and none below `floor` times the largest. These two descend always.
    """

    negative: Literal["stop", "truncate", "abs"] = setting("stop", help="")
    floor: float = setting(0.001, gt=0, lt=1, help="least eigenvalue in `abs`, relative to the largest")
    search: Backtracking = setting(factory=Backtracking, help="")

    name = "giant"
    shards_alike = True
    needs = ("gradient", "hvp")
    cost = Cost("6", "2*d + 1", "2*d + 10")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.solver == "cg" or self.negative != "abs", "solver", "cg with negative=abs")

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        p, bent = fleet.sum(self.direction, now.gradient)
        if bent and self.negative == "stop":
            return fail(
                now,
                f"negative curvature: the local solver failed on {bent:.0f} of {fleet.n_workers} workers; "
                "negative=truncate, negative=abs or dino go on",
            )
        return descend(fleet, self.search, now, p)

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        if self.negative == "abs":
            space = krylov(worker, g, self.limit)
            return -worker.share * space.solve_absolute(self.floor), False
        solved = self.solve(worker, g, FLAT if self.negative == "truncate" else 0.0)
        # A worker without rows has no curvature and no say.
        return -worker.share * solved.x, solved.status not in ("solved", "limit") and worker.share > 0
