"""DINO: every worker's direction descends, or is tilted until it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from mpinewton.data.shard import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import cg, lanczos, lsmr
from mpinewton.methods.base import Iterate, Method
from mpinewton.methods.linesearch import Backtracking, descend
from mpinewton.methods.tasks import begun


@dataclass(frozen=True)
class Dino(Method):
    """DINO (Crane and Roosta 2020, Algorithm 1): any smooth loss, convex or not, any split of the data.

    Worker i solves min_v |H_i v - g|^2 + phi^2 |v|^2 and sends -v, if <v, g> >= theta |g|^2; otherwise it is of I_t,
    and adds as much of -(H_i^2 + phi^2 I)^-1 g as makes <p_i, g> = -theta |g|^2. So <p, g> <= -theta |g|^2 always.

    `lsmr` solves the two problems as published, by LSMR and CG, at two products with H_i a step. `lanczos` solves both
    in one Krylov space K(H_i, g), at one product a step, and comes closer with as many products.

    6 rounds an iteration; floats per worker: 2*d + 1 down, 2*d + 10 up.
    """

    solver: Literal["lsmr", "lanczos"] = "lsmr"
    theta: float = 1e-4  # least descent asked of every worker, units 1/|H|
    phi: float = 1e-6  # damping of the local problem, units |H|
    limit: int = 50  # iterations of the local solver
    tolerance: float = 1e-4  # of the local solver, the paper's epsilon_i
    search: Backtracking = field(default_factory=Backtracking)

    name: ClassVar[str] = "dino"
    needs: ClassVar[tuple[str, ...]] = ("gradient", "hessian_product")

    def __post_init__(self) -> None:
        self.require(self.theta > 0, "theta", "greater than 0")
        self.require(self.phi > 0, "phi", "greater than 0")
        self.require(self.limit >= 1, "limit", "at least 1")
        self.require(0 < self.tolerance < 1, "tolerance", "between 0 and 1")

    def start(self, fleet: Fleet, w: Array) -> Iterate:
        return begun(fleet, w)

    def step(self, fleet: Fleet, now: Iterate) -> Iterate:
        p, tilted = fleet.sum(self.direction, now.gradient)
        after = descend(fleet, self.search, now, p)
        return replace(after, note=f"{tilted:.0f} of {fleet.workers} workers tilted" if tilted else "")

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        v1, tilt = self.solve(worker, g)
        lack = self.theta * (g @ g) - v1 @ g
        if lack <= 0:
            return -worker.weight * v1, False
        v2 = tilt()
        if not v2 @ g > 0:  # true of every iterate of CG but for rounding
            v2 = g
        return -worker.weight * (v1 + lack / (v2 @ g) * v2), worker.weight > 0

    def solve(self, worker: Worker, g: Array) -> tuple[Array, Callable[[], Array]]:
        """v1, and v2 for whoever needs it, shapes (d,)."""
        H = worker.hessian_product
        if self.solver == "lanczos":
            space = lanczos(H, g, self.limit, 0.0)
            return space.solve_damped(self.phi), lambda: space.solve_squared(self.phi)
        v1 = lsmr(H, g, self.phi, self.limit, self.tolerance).x
        return v1, lambda: cg(lambda v: H(H(v)) + self.phi**2 * v, g, self.limit, self.tolerance).x
