"""DANE, InexactDANE and AIDE: every worker minimises its own loss, tilted to have the gradient of the whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, TypeVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import cg
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.settings import setting

# Nothing in these methods keeps the objective from rising; this far above the start there is no hope.
DIVERGED = 10.0
NEWTON_STEPS = 100  # of a worker on its own problem: more than it ever takes


@dataclass(frozen=True, eq=False)
class DaneState(State):
    """An iterate and where it all began."""

    first: float = 0.0  # objective at the start


D = TypeVar("D", bound=DaneState)


@dataclass(frozen=True)
class Dane(Method[DaneState]):
    """DANE (Shamir, Srebro and Zhang 2014): convex losses, shards that resemble one another.

    w+ is the mean over the workers of argmin_v f_i(v) - <g_i(w) - eta g, v> + mu/2 |v - w|^2, solved by Newton's method
    with conjugate gradients until its gradient is `tolerance` |g|. One worker alone arrives at once.
    """

    eta: float = setting(1.0, gt=0, help="weight of the gradient")
    mu: float = setting(0.0, ge=0, help="weight of the distance from w; raise it where shards are unlike")
    tolerance: float = setting(1e-08, gt=0, lt=1, help="of the workers' own problems")

    name = "dane"
    shards_alike = True
    needs = ("gradient", "hvp")
    convex_only = True
    cost = Cost("4", "2*d", "2*d + 1")

    def start(self, fleet: Fleet, w: Array) -> DaneState:
        f, g = fleet.mean(value_and_gradient, w)
        return DaneState(w, f, g, first=f)

    def step(self, fleet: Fleet, now: DaneState) -> DaneState:
        return arrived(fleet, now, fleet.mean(self.minimise, now.gradient), "raise mu")

    def minimise(self, worker: Worker, g: Array) -> Array:
        """argmin over v of the worker's tilted loss, shape (d,)."""
        w, mu, search = worker.w, self.mu, Backtracking()
        tilt = worker.gradient() - self.eta * g
        goal = self.tolerance * sqrt(g @ g)
        for _ in range(NEWTON_STEPS):
            r = worker.gradient() - tilt + mu * (worker.w - w)
            norm = sqrt(r @ r)
            if norm <= goal:
                break
            p = -cg(lambda v: worker.hvp(v) + mu * v, r, len(r), min(0.1, sqrt(norm))).x
            # The tilted loss on the ray, less its value here.
            away, slope = worker.w - w, float(p @ r)
            steps, here = search.grid, worker.value()
            worker.set_direction(p)
            losses = worker.losses(steps) - here - steps * (tilt @ p) + mu * steps * (away @ p + steps / 2 * (p @ p))
            a = search.passing(steps, losses + here, here, slope)
            if not a:
                break
            worker.advance(a)
        return worker.w


@dataclass(frozen=True)
class InexactDane(Method[DaneState]):
    """InexactDANE (Reddi et al. 2016): any loss. DANE whose workers take SVRG steps on their own problems.

    A step is v <- v - s (grad_j(v) - grad_j(w) + eta g + mu (v - w)) for a row j drawn at random; s about 1/L of a row.
    Nothing keeps the objective from rising: the run ends where it is ten times that of the start.
    """

    step_size: float = setting(0.1, gt=0, help="s")
    steps: int | None = setting(None, ge=1, help="SVRG steps; none: as many as the worker has rows")
    eta: float = setting(1.0, gt=0, help="weight of the gradient")
    mu: float = setting(0.0, ge=0, help="weight of the distance from w")

    name = "inexact-dane"
    shards_alike = True
    cost = Cost("4", "2*d", "2*d + 1")

    def start(self, fleet: Fleet, w: Array) -> DaneState:
        f, g = fleet.mean(value_and_gradient, w)
        return DaneState(w, f, g, first=f)

    def step(self, fleet: Fleet, now: Any) -> Any:
        return arrived(fleet, now, fleet.mean(self.walk, now.gradient), "lower step_size or raise mu")

    @property
    def distance(self) -> float:
        """Weight of |v - w|^2 / 2 in the workers' problems."""
        return self.mu

    def walk(self, worker: Worker, g: Array) -> Array:
        """SVRG from where the worker stands, g the gradient of the whole there; shape (d,)."""
        w = v = worker.w
        if not worker.rows:
            return w
        for j in worker.rng().integers(worker.rows, size=(self.steps or worker.rows, 1)):
            change = worker.sampled_gradient(j, v) - worker.sampled_gradient(j, w)
            v = v - self.step_size * (change + self.eta * g + self.distance * (v - w))
        return v


@dataclass(frozen=True, eq=False)
class AideState(DaneState):
    """An iterate and the centre of the next problem."""

    centre: Array = field(default_factory=lambda: np.zeros(0))  # y, shape (d,)
    zeta: float = 0.5


@dataclass(frozen=True)
class Aide(InexactDane):
    """AIDE (Reddi et al. 2016): any loss. InexactDANE on f + tau/2 |v - y|^2, one iteration, and y runs ahead.

    q = lam/(lam + tau), zeta+ the root in (0, 1) of x^2 + (zeta^2 - q) x - zeta^2, beta = zeta (1 - zeta)/(zeta^2 +
    zeta+), y = w+ + beta (w+ - w). y needs no message: the driver adds tau (w - y) to the gradient it sends.
    """

    tau: float = setting(0.1, ge=0, help="weight of the distance from y")
    lam: float = setting(0.0, ge=0, help="strong convexity, as far as it is known")

    name = "aide"
    state = AideState
    cost = Cost("4", "2*d", "2*d + 1")

    def start(self, fleet: Fleet, w: Array) -> AideState:
        f, g = fleet.mean(value_and_gradient, w)
        return AideState(w, f, g, first=f, centre=w)

    @property
    def distance(self) -> float:
        return self.mu + self.tau

    def step(self, fleet: Fleet, now: Any) -> Any:
        g = now.gradient + self.tau * (now.w - now.centre)
        w = fleet.mean(self.walk, g)
        square = now.zeta**2
        half = (square - (self.lam / (self.lam + self.tau) if self.lam else 0.0)) / 2
        zeta = sqrt(half**2 + square) - half
        beta = now.zeta * (1 - now.zeta) / (square + zeta)
        after = arrived(fleet, now, w, "lower step_size, raise tau or mu")
        return after if after.trouble else replace(after, centre=w + beta * (w - now.w), zeta=zeta)


def arrived(fleet: Fleet, now: D, w: Array, remedy: str) -> D:
    """The state at w, if it is not far above the start. 2 rounds."""
    f, g = fleet.mean(value_and_gradient, w)
    if f > DIVERGED * now.first:
        return fail(now, f"diverged: the objective would be {f:.3g}, {DIVERGED:g} times that of the start; {remedy}")
    return replace(now, w=w, loss=f, gradient=g)
