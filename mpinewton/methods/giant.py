"""GIANT: the average of the workers' Newton directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import FLAT
from mpinewton.methods.support.inner import LocalNewtonSystem, krylov
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Iterate, stuck
from mpinewton.methods.support.tasks import begun


@dataclass(frozen=True)
class Giant(LocalNewtonSystem):
    """GIANT (Wang, Roosta, Xu and Mahoney 2018): strongly convex objectives, shards that resemble one another.

    Every worker solves H_i v = g; p = -sum_i omega_i v_i. On a direction u with u'H_i u <= 0:
    `stop` ends the run, as published; `truncate` takes the iterate before it (and counts
    curvature at rounding level as none); `abs` solves |H_i| v = g in a Krylov
    space of the same size, eigenvalues by modulus and none below `floor` times the largest. These two descend always.

    6 rounds an iteration; floats per worker: 2*d + 1 down, 2*d + 10 up.
    """

    negative: Literal["stop", "truncate", "abs"] = "stop"
    floor: float = 1e-3  # least eigenvalue in `abs`, relative to the largest
    search: Backtracking = field(default_factory=Backtracking)

    name: ClassVar[str] = "giant"
    shards_alike: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("gradient", "hessian_product")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.floor < 1, "floor", "between 0 and 1")
        self.require(self.solver == "cg" or self.negative != "abs", "solver", "cg with negative=abs")

    def start(self, fleet: Fleet, w: Array) -> Iterate:
        return begun(fleet, w)

    def step(self, fleet: Fleet, now: Iterate) -> Iterate:
        p, bent = fleet.sum(self.direction, now.gradient)
        if bent and self.negative == "stop":
            return stuck(
                now,
                f"negative curvature: the local solver failed on {bent:.0f} of {fleet.workers} workers; "
                "negative=truncate, negative=abs or dino go on",
            )
        return descend(fleet, self.search, now, p)

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        if self.negative == "abs":
            space = krylov(worker, g, self.limit)
            return -worker.weight * space.solve_absolute(self.floor), False
        solved = self.solve(worker, g, FLAT if self.negative == "truncate" else 0.0)
        # A worker without rows has no curvature and no say.
        return -worker.weight * solved.x, solved.status not in ("solved", "limit") and worker.weight > 0
