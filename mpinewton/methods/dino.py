"""DINO: every worker's direction descends, or is tilted until it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import cg, lsmr
from mpinewton.methods.support.inner import Inner, krylov
from mpinewton.methods.support.linesearch import Backtracking, descend, no_step
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import advance, initial_state, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class DinoState(State):
    """An iterate, and the size of the curvature there; all 0 where theta and phi are fixed."""

    h: float = 0.0  # size of the curvature, never below half the first
    first: float = 0.0  # its value at the start
    phi: float = 0.0  # damping, relative to h


@dataclass(frozen=True)
class Dino(Inner[DinoState]):
    """DINO (Crane and Roosta 2020, Algorithm 1): any smooth loss, convex or not, any split of the data.

    Worker i solves min_v |H_i v - g|^2 + phi^2 |v|^2 and sends -v, if <v, g> >= theta |g|^2; otherwise it is of I_t,
    and adds as much of -(H_i^2 + phi^2 I)^-1 g as makes <p_i, g> = -theta |g|^2. So <p, g> <= -theta |g|^2 always.

    `lsmr` solves the two problems as published, by LSMR and CG, at two products with H_i a step. `lanczos` solves both
    in one Krylov space K(H_i, g), at one product a step, and comes closer with as many products.

    theta and phi have units. With `adaptive` they are theta_hat/h and phi_hat h, where h is the mean of
    |H_i g_i|/|g_i| and comes with the gradient; with `size=max` the largest |H_i g|/|g|, which takes two rounds more.
    phi_hat falls to a quarter after a step of 1/2 or more, and rises fourfold after one of 1/8 or less that was tilted.
    """

    solver: Literal["lsmr", "lanczos"] = setting("lsmr", help="")
    theta: float = setting(0.0001, gt=0, help="least descent asked of every worker, units 1/|H|")
    phi: float = setting(1e-06, gt=0, help="damping of the local problem, units |H|")
    adaptive: bool = setting(False, help="theta and phi from the size of the curvature, instead of the two above")
    theta_hat: float = setting(
        5.0, gt=0, help="adaptive theta, relative to 1/h; 1 is better where the objective is convex"
    )
    phi_hat: float = setting(0.03, gt=0, help="adaptive phi at the start, relative to h")
    size: Literal["mean", "max"] = setting("mean", help="adaptive: of what h is made")
    search: Backtracking = setting(factory=Backtracking, help="")

    name = "dino"
    needs = ("gradient", "hvp")
    cost = Cost("6", "2*d + 1", "2*d + 10", "adaptive: two more down, one more up.")

    def start(self, fleet: Fleet, w: Array) -> DinoState:
        if not self.adaptive:
            now = initial_state(fleet, w)
            return DinoState(w, now.loss, now.gradient)
        if self.size == "max":
            now = initial_state(fleet, w)
            return DinoState(w, now.loss, now.gradient, phi=self.phi_hat)
        f, g, h = fleet.mean(self.measured_start, w)
        h = h or 1.0  # no curvature at all: any unit will do
        return DinoState(w, f, g, h=h, first=h, phi=self.phi_hat)

    def step(self, fleet: Fleet, now: DinoState) -> DinoState:
        if self.adaptive:
            return self.adaptive_step(fleet, now)
        p, tilted = fleet.sum(self.direction, now.gradient)
        return replace(descend(fleet, self.search, now, p), note=self.note(fleet, tilted))

    def adaptive_step(self, fleet: Fleet, now: DinoState) -> DinoState:
        if self.size == "max":
            h = max(fleet.gather(self.bent, now.gradient)) or now.h or 1.0
            now = replace(now, h=max(h, now.first / 2), first=now.first or h)
            p, tilted = fleet.sum(self.tilted_there, self.theta_hat / now.h, now.phi * now.h)
        else:
            p, tilted = fleet.sum(self.tilted, now.gradient, self.theta_hat / now.h, now.phi * now.h)
        a = self.search(fleet, now, p)
        if not a:
            return fail(now, no_step(now, p))
        f, g, h = (*fleet.mean(advance, a), now.h) if self.size == "max" else fleet.mean(self.measured_advance, a)
        phi = now.phi
        if a >= 1 / 2:
            phi = max(phi / 4, 1e-6)
        elif a <= 1 / 8 and tilted:
            phi = min(phi * 4, 1.0)
        h, note = max(h, now.first / 2), self.note(fleet, tilted)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, note=note, h=h, phi=phi)

    def note(self, fleet: Fleet, tilted: float) -> str:
        return f"{tilted:.0f} of {fleet.n_workers} workers tilted" if tilted else ""

    def measured_start(self, worker: Worker, w: Array) -> tuple[float, Array, float]:
        return *value_and_gradient(worker, w), size_of_curvature(worker, worker.gradient())

    def measured_advance(self, worker: Worker, step: float) -> tuple[float, Array, float]:
        return *advance(worker, step), size_of_curvature(worker, worker.gradient())

    def bent(self, worker: Worker, g: Array) -> float:
        """|H_i g| / |g|; the worker keeps g."""
        worker.memory["g"] = g
        return size_of_curvature(worker, g)

    def tilted_there(self, worker: Worker, theta: float, phi: float) -> tuple[Array, bool]:
        return self.tilted(worker, worker.memory["g"], theta, phi)

    def direction(self, worker: Worker, g: Array) -> tuple[Array, bool]:
        return self.tilted(worker, g, self.theta, self.phi)

    def tilted(self, worker: Worker, g: Array, theta: float, phi: float) -> tuple[Array, bool]:
        """omega_i p_i, and whether the worker is of I_t."""
        v1, tilt = self.solve(worker, g, phi)
        lack = theta * (g @ g) - v1 @ g
        if lack <= 0:
            return -worker.share * v1, False
        v2 = tilt()
        if not v2 @ g > 0:  # true of every iterate of CG but for rounding
            v2 = g
        return -worker.share * (v1 + lack / (v2 @ g) * v2), worker.share > 0

    def solve(self, worker: Worker, g: Array, phi: float) -> tuple[Array, Callable[[], Array]]:
        """v1, and v2 for whoever needs it, shapes (d,)."""
        H = worker.hvp
        if self.solver == "lanczos":
            space = krylov(worker, g, self.limit)
            return space.solve_damped(phi), lambda: space.solve_squared(phi)
        v1 = lsmr(H, g, phi, self.limit, self.tolerance).x
        return v1, lambda: cg(lambda v: H(H(v)) + phi**2 * v, g, self.limit, self.tolerance).x


def size_of_curvature(worker: Worker, g: Array) -> float:
    """|H_i g| / |g| where the worker stands; 0 where g is."""
    Hg, norm = worker.hvp(g), sqrt(g @ g)
    return sqrt(Hg @ Hg) / norm if norm else 0.0
