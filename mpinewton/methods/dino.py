"""DINO: every worker's direction is a descent direction, or is corrected until it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import cg, lsmr
from mpinewton.methods.support.inner import krylov, solver_tolerance
from mpinewton.methods.support.linesearch import Backtracking, descend, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class DinoState(State):
    """State of DINO.

    Attributes
    ----------
    h : float
        Size of the Hessian at w, at least half of `first`; 0 before it is measured, and with adaptive=false.
    first : float
        Its value at the start.
    phi : float
        Damping relative to h, with adaptive=true.
    """

    h: float
    first: float
    phi: float


@dataclass(frozen=True)
class Dino(Method[DinoState]):
    """DINO (Crane and Roosta 2020, Algorithm 1): any smooth loss, convex or not, any split of the data.

    Worker i solves min_v |H_i v - g|^2 + phi^2 |v|^2 and sends -v, if <v, g> >= theta |g|^2. Otherwise i is in the set
    I_t of the paper, and adds the multiple of -(H_i^2 + phi^2 I)^-1 g for which <p_i, g> = -theta |g|^2. So
    <p, g> <= -theta |g|^2 always.

    `lsmr` solves the two problems as published, by LSMR and CG, with two products with H_i a step. `lanczos` solves
    both in one Krylov space K(H_i, g) with one product a step, and is more accurate for the same number of products.

    theta and phi have units. With `adaptive` they are theta_hat / h and phi_hat h, where h is the mean of
    |H_i g_i| / |g_i| and is sent with the gradient; with `size=max` it is the largest |H_i g| / |g|, which takes two
    more rounds. phi_hat is divided by 4 after a step of 1/2 or more, and multiplied by 4 after a step of 1/8 or less
    with a worker in I_t. These factors and the defaults of theta_hat and phi_hat were chosen by trial.
    """

    solver: Literal["lsmr", "lanczos"] = setting("lsmr", help="solver of the workers")
    limit: int = setting(50, ge=1, help="maximum number of iterations of the solver")
    tolerance: float = solver_tolerance(solver="lsmr")
    theta: float = setting(
        1e-4, gt=0, help="least descent of every worker's direction", unit="1/|H|", only_if={"adaptive": False}
    )
    phi: float = setting(1e-6, gt=0, help="damping of the workers' problems", unit="|H|", only_if={"adaptive": False})
    adaptive: bool = setting(False, help="compute theta and phi from the size of the Hessian")
    theta_hat: float = setting(
        5.0, gt=0, help="theta relative to 1/h; 1 is better for convex objectives", only_if={"adaptive": True}
    )
    phi_hat: float = setting(0.03, gt=0, help="phi at the start, relative to h", only_if={"adaptive": True})
    size: Literal["mean", "max"] = setting("mean", help="definition of h", only_if={"adaptive": True})
    search: Backtracking = setting(factory=Backtracking, help="line search")

    name = "dino"
    any_units = True
    needs = ("gradient", "hvp")
    cost = Cost("6", "2*d + 1", "2*d + 10", "adaptive: two more down, one more up.")

    def start(self, fleet: Fleet, w: Array) -> DinoState:
        if self.adaptive and self.size == "mean":
            f, g, h = fleet.mean(self.start_with_size, w)
            h = h or 1.0  # H g = 0: any unit will do
            return DinoState(w, f, g, h=h, first=h, phi=self.phi_hat)
        f, g = fleet.mean(value_and_gradient, w)
        return DinoState(w, f, g, h=0.0, first=0.0, phi=self.phi_hat)

    def step(self, fleet: Fleet, now: DinoState) -> DinoState:
        if self.adaptive:
            return self.adaptive_step(fleet, now)
        p, corrected = fleet.sum(self.direction, now.gradient)
        return replace(descend(fleet, self.search, now, p), note=self.note(fleet, corrected))

    def adaptive_step(self, fleet: Fleet, now: DinoState) -> DinoState:
        if self.size == "max":
            h = max(fleet.gather(self.measure_size, now.gradient)) or now.h or 1.0
            now = replace(now, h=max(h, now.first / 2), first=now.first or h)
            p, corrected = fleet.sum(self.direction_again, self.theta_hat / now.h, now.phi * now.h)
        else:
            p, corrected = fleet.sum(self.direction_with, now.gradient, self.theta_hat / now.h, now.phi * now.h)
        a = self.search(fleet, now, p)
        if not a:
            return fail(now, no_step(now, p))
        f, g, h = (*fleet.mean(advance, a), now.h) if self.size == "max" else fleet.mean(self.advance_with_size, a)
        phi = now.phi
        if a >= 1 / 2:
            phi = max(phi / 4, 1e-6)
        elif a <= 1 / 8 and corrected:
            phi = min(phi * 4, 1.0)
        h, note = max(h, now.first / 2), self.note(fleet, corrected)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, note=note, h=h, phi=phi)

    def note(self, fleet: Fleet, corrected: float) -> str:
        """The remark of an iteration: how many workers were in I_t."""
        return f"{corrected:.0f} of {fleet.n_workers} workers corrected" if corrected else ""

    def start_with_size(self, worker: Worker, w: Array) -> tuple[float, Array, float]:
        """Move to w; f_i, g_i (d,) and |H_i g_i| / |g_i| there: d + 2 floats."""
        return *value_and_gradient(worker, w), hessian_size(worker, worker.gradient())

    def advance_with_size(self, worker: Worker, step: float) -> tuple[float, Array, float]:
        """Take the step; f_i, g_i (d,) and |H_i g_i| / |g_i| there: d + 2 floats."""
        return *advance(worker, step), hessian_size(worker, worker.gradient())

    def measure_size(self, worker: Worker, g: Array) -> float:
        """Keep g (d,); |H_i g| / |g|: 1 float."""
        worker.memory["g"] = g
        return hessian_size(worker, g)

    def direction_again(self, worker: Worker, theta: float, phi: float) -> tuple[Array, bool]:
        """`direction_with` for the gradient that the worker has kept: d + 1 floats."""
        return self.direction_with(worker, worker.memory["g"], theta, phi)

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        """`direction_with` the settings' theta and phi: d + 1 floats."""
        return self.direction_with(worker, g, self.theta, self.phi)

    def direction_with(self, worker: Worker, g: Array, theta: float, phi: float) -> tuple[Array, bool]:
        """omega_i p_i, shape (d,), and whether the worker is in I_t: d + 1 floats."""
        v1, solve_squared = self.solve(worker, g, phi)
        lack = theta * (g @ g) - v1 @ g
        if lack <= 0:
            return -worker.share * v1, False
        v2 = solve_squared()
        if not v2 @ g > 0:  # positive for every iterate of CG, up to rounding
            v2 = g
        return -worker.share * (v1 + lack / (v2 @ g) * v2), worker.share > 0

    def solve(self, worker: Worker, g: Array, phi: float) -> tuple[Array, Callable[[], Array]]:
        """argmin_v |H_i v - g|^2 + phi^2 |v|^2, and a function that returns (H_i^2 + phi^2 I)^-1 g; shapes (d,)."""
        H = worker.hvp
        if self.solver == "lanczos":
            space = krylov(worker, g, self.limit)
            return space.solve_damped(phi), lambda: space.solve_squared(phi)
        v1 = lsmr(H, g, phi, self.limit, self.tolerance).x
        return v1, lambda: cg(lambda v: H(H(v)) + phi**2 * v, g, self.limit, self.tolerance).x


def hessian_size(worker: Worker, g: Array) -> float:
    """|H_i g| / |g| at the worker's weights; 0 for g = 0."""
    Hg, norm = worker.hvp(g), sqrt(g @ g)
    return sqrt(Hg @ Hg) / norm if norm else 0.0
