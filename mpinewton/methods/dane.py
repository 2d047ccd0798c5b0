"""DANE, InexactDANE and AIDE: every worker minimises its own loss, shifted to have the gradient of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import cg
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import initial_state, value_and_gradient
from mpinewton.settings import setting

NEWTON_STEPS = 100  # maximum number of a worker's Newton steps on its own problem; it has always needed fewer


D = TypeVar("D", bound=State)


@dataclass(frozen=True)
class Dane(Method[State]):
    """DANE (Shamir, Srebro and Zhang 2014): convex losses, shards that resemble one another.

    w+ is the mean over the workers of argmin_v f_i(v) - <g_i(w) - eta g, v> + mu/2 |v - w|^2. The workers run Newton's
    method with conjugate gradients until the gradient of this problem is at most `tolerance` |g|. With one worker the
    first iterate is the optimum.
    """

    eta: float = setting(1.0, gt=0, help="weight of the gradient")
    mu: float = setting(0.0, ge=0, help="weight of the distance from w; raise it where shards are unlike")
    tolerance: float = setting(1e-8, gt=0, lt=1, help="tolerance of the workers' problems, relative to |g|")

    name = "dane"
    shards_alike = True
    needs = ("gradient", "hvp")
    convex_only = True
    cost = Cost("4", "2*d", "2*d + 1")

    remedy = "raise mu"

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        return initial_state(fleet, fleet.mean(self.minimise, now.gradient))

    def minimise(self, worker: Worker, g: Array) -> Array:
        """The minimiser of the worker's problem, g (d,) the gradient of the whole at its weights: d floats."""
        w, mu, search = worker.w, self.mu, Backtracking()
        shift = worker.gradient() - self.eta * g
        goal = self.tolerance * sqrt(g @ g)
        for _ in range(NEWTON_STEPS):
            r = worker.gradient() - shift + mu * (worker.w - w)
            norm = sqrt(r @ r)
            if norm <= goal:
                break
            p = -cg(lambda v: worker.hvp(v) + mu * v, r, len(r), min(0.1, sqrt(norm))).x
            # The objective of the worker's problem along the ray, less its value at step 0.
            away, steps, f = worker.w - w, search.grid, worker.value()
            worker.set_direction(p)
            losses = worker.losses(steps) - f - steps * (shift @ p) + mu * steps * (away @ p + steps / 2 * (p @ p))
            a = search.select(steps, losses + f, f, float(p @ r))
            if not a:
                break
            worker.advance(a)
        return worker.w


@dataclass(frozen=True)
class LocalSvrg(Method[D]):
    """Base of the methods whose workers take SVRG steps on their own problems."""

    learning_rate: float = setting(0.1, gt=0, help="step size of the workers' SVRG steps", alias=("lr", "step_size"))
    steps: int | None = setting(None, ge=1, help="number of SVRG steps; none: the number of the worker's rows")
    eta: float = setting(1.0, gt=0, help="weight of the gradient")
    mu: float = setting(0.0, ge=0, help="weight of the distance from w")

    shards_alike = True
    cost = Cost("4", "2*d", "2*d + 1")

    @property
    def distance_weight(self) -> float:
        """Weight of |v - w|^2 / 2 in the workers' problems."""
        return self.mu

    def take_svrg_steps(self, worker: Worker, g: Array) -> Array:
        """The worker's weights after its SVRG steps, g (d,) the gradient of the whole at its weights: d floats."""
        w = v = worker.w
        if not worker.rows:
            return w
        for j in worker.rng().integers(worker.rows, size=(self.steps or worker.rows, 1)):
            change = worker.sampled_gradient(j, v) - worker.sampled_gradient(j, w)
            v = v - self.learning_rate * (change + self.eta * g + self.distance_weight * (v - w))
        return v


@dataclass(frozen=True)
class InexactDane(LocalSvrg[State]):
    """InexactDANE (Reddi et al. 2016): any loss. DANE whose workers take SVRG steps on their own problems.

    A step is v <- v - s (grad_j(v) - grad_j(w) + eta g + mu (v - w)) for a random row j, with s = learning_rate about
    1/L of a row. Nothing keeps the objective from increasing.
    """

    name = "inexact-dane"
    remedy = "lower learning_rate or raise mu"

    def start(self, fleet: Fleet, w: Array) -> State:
        return initial_state(fleet, w)

    def step(self, fleet: Fleet, now: State) -> State:
        return initial_state(fleet, fleet.mean(self.take_svrg_steps, now.gradient))


@dataclass(frozen=True, eq=False, kw_only=True)
class AideState(State):
    """State of AIDE.

    Attributes
    ----------
    centre : array, shape (d,)
        y, the centre of the next problem.
    zeta : float
        Parameter of the extrapolation.
    """

    centre: Array
    zeta: float


@dataclass(frozen=True)
class Aide(LocalSvrg[AideState]):
    """AIDE (Reddi et al. 2016): any loss. InexactDANE on f + tau/2 |v - y|^2, one iteration, with an extrapolated y.

    q = lam/(lam + tau), zeta+ the root in (0, 1) of x^2 + (zeta^2 - q) x - zeta^2, beta = zeta (1 - zeta)/(zeta^2 +
    zeta+), y = w+ + beta (w+ - w). y is not sent: the driver adds tau (w - y) to the gradient that it sends.
    """

    tau: float = setting(0.1, ge=0, help="weight of the distance from y")
    lam: float = setting(0.0, ge=0, help="strong convexity, a lower bound")

    name = "aide"
    remedy = "lower learning_rate, or raise tau or mu"

    def start(self, fleet: Fleet, w: Array) -> AideState:
        f, g = fleet.mean(value_and_gradient, w)
        return AideState(w, f, g, centre=w, zeta=0.5)

    @property
    def distance_weight(self) -> float:
        return self.mu + self.tau

    def step(self, fleet: Fleet, now: AideState) -> AideState:
        w = fleet.mean(self.take_svrg_steps, now.gradient + self.tau * (now.w - now.centre))
        square = now.zeta**2
        half = (square - (self.lam / (self.lam + self.tau) if self.lam else 0.0)) / 2
        zeta = sqrt(half**2 + square) - half
        beta = now.zeta * (1 - now.zeta) / (square + zeta)
        f, g = fleet.mean(value_and_gradient, w)
        return AideState(w, f, g, centre=w + beta * (w - now.w), zeta=zeta)
