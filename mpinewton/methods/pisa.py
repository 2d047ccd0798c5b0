"""PISA, preconditioned inexact stochastic ADMM, and its presets SISA and NSISA."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker, batched
from mpinewton.linalg.krylov import lanczos
from mpinewton.losses import Loss
from mpinewton.methods.support import tasks
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.preconditioners import NewtonSchulz, SecondMoment, Solver, hidden_weights, solve_hessian
from mpinewton.methods.support.schedules import BATCH, SAMPLING, Decay, spacing
from mpinewton.methods.support.tasks import Sampling, minibatch
from mpinewton.settings import setting

log = logging.getLogger("mpinewton")
Preconditioner = Literal["identity", "hessian", "second-moment", "newton-schulz"]
PRECONDITIONER = "matrix Q: identity, Hessian of f_i, as in SISA (second-moment) or as in NSISA (newton-schulz)"
MOMENT, SCHULZ = {"preconditioner": ("second-moment", "newton-schulz")}, {"preconditioner": "newton-schulz"}
NEEDS = {"auto": "hessian hvp", "cholesky": "hessian", "woodbury": "second_derivatives rows", "cg": "hvp"}
SKEWED = ("label-skew", "dirichlet")
# Largest sigma, as a multiple of the first. Without a limit it overflows, with gamma = 0.99 after 70,000 iterations;
# steps of 1e-12 times the first have no effect long before.
LARGEST_SIGMA = 1e12
# Restarts. Appendix A.2 of the paper advises a larger sigma for runs that diverge; the factor 4 and the window, a loss
# above the first one in rounds 21 to 100, were chosen by trial on least squares and ReLU networks.
RAISE, PATIENCE, LAST_RESTART = 4.0, 20, 100
NEGLIGIBLE = 1e-9  # length of all remaining steps, relative to |w|, below which the run has stalled; chosen by trial


@dataclass(frozen=True, eq=False, kw_only=True)
class PisaState(State):
    """The weights and the penalties; the multipliers are in the workers' memory.

    Attributes
    ----------
    penalties : array, shape (2,) or (4,)
        Initial sigma and rho; with newton-schulz followed by those of the weights outside the hidden matrices.
    origin : array, shape (d,), or None
        The first weights, where restarts are allowed; else None.
    since : int
        Iterations before the last restart.
    restarted : int
        Number of restarts so far.
    first : float or None
        Loss on the rows of the first iteration; None before it.
    peak : float
        Largest norm of u, the mean reply, so far.
    """

    penalties: Array
    origin: Array | None
    since: int = 0
    restarted: int = 0
    first: float | None = None
    peak: float = 0.0


@dataclass(frozen=True)
class Pisa(Method[PisaState]):
    """PISA (Zhou, Wang, Luo, Zhu and Li 2025, Algorithm 1): any smooth loss, any partition of the data.

    Worker i computes r = pi_i + g_i, D = (sigma I + rho Q_i)^-1 r and pi_i <- pi_i - sigma D, and sends
    2 pi_i_new - pi_i, which is sigma w_i + pi_i - sigma w. The driver adds the mean of these, divided by sigma, to w.
    In the long run the step size is 1/sigma; rho Q sets a momentum rho q / (sigma + rho q). sigma is divided by gamma
    at regular intervals, so that the step sizes add up to every/(sigma (1 - gamma)). This sum should be several times
    1/(smallest eigenvalue of the Hessian).
    """

    preconditioner: Preconditioner = setting("identity", help=PRECONDITIONER)
    sigma: float | None = setting(None, gt=0, help="penalty, 1/(learning rate); none: 3 largest eigenvalues, if convex")
    rho: float | None = setting(None, ge=0, help="weight of Q; none: 1; second-moment: 100; newton-schulz: sigma")
    gamma: float = setting(0.99, gt=0, le=1, help="divisor of sigma, applied once every `every` iterations")
    every: int | Literal["auto"] = setting(1, ge=1, help="iterations between divisions; auto: as fast as 0.99 in each")
    decay: Decay = setting(factory=Decay, help="schedule by which sigma and rho are divided")
    batch_size: float | None = setting(None, gt=0, alias="batch", help=BATCH)
    sampling: Sampling = setting("fresh", help=SAMPLING)
    l2_local: float | None = setting(None, ge=0, alias="ridge_local", help="l2 of the workers; none: l2 - l2_driver")
    l2_driver: float = setting(0.0, ge=0, alias="ridge_driver", help="part of l2 that the driver handles")
    solver: Solver = setting("auto", only_if={"preconditioner": "hessian"}, help="solver of (sigma I + rho Q) D = r")
    second: SecondMoment = setting(factory=SecondMoment, only_if=MOMENT, help="second moment of pi + g")
    schulz: NewtonSchulz = setting(factory=NewtonSchulz, only_if=SCHULZ, help="orthogonalised direction")
    dual_leak: float = setting(1.0, gt=0, le=1, help="factor of the multipliers after each step; 1: as published")
    divergence: float = setting(1000.0, gt=1, help="multiple of the first loss above which the run fails")
    restarts: int = setting(0, ge=0, help="maximum number of restarts with 4 times the sigma, in the first 100 rounds")

    name = "pisa"
    remedy = "raise sigma"
    cost = Cost("2", "d + 2", "d + 2")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.gamma < 1 or self.every == 1, "every", "1, as it has no effect with gamma = 1")
        rule = "fresh, as it has no effect without batch_size"
        self.require(self.sampling == "fresh" or self.batch_size is not None, "sampling", rule)

    # -- what is refused ----------------------------------------------------------------------------------------

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.preconditioner == "hessian":
            for need in NEEDS[self.solver].split():
                self.need(loss, need, f"solver={self.solver}", "use another solver, or preconditioner=second-moment")
            if not loss.convex:
                raise ConfigError(
                    f"{self.name}: preconditioner=hessian needs a Hessian without negative eigenvalues, and "
                    f"{loss.name} is not convex; use preconditioner=second-moment"
                )
        if self._estimates_sigma:
            self.need(loss, "hvp", "an estimate of sigma", "set sigma")
        if not loss.convex and self._estimates_sigma:
            raise ConfigError(
                f"{self.name}: sigma cannot be estimated because {loss.name} is not convex: set sigma = 1/"
                "(learning rate of plain SGD), 0.3 to 10 for networks; for newton-schulz sigma = 20 to 80 and "
                "schulz.other_sigma = 0.3 to 10"
            )

    @property
    def uses_single_rows(self) -> bool:
        return super().uses_single_rows or self.preconditioner == "hessian"

    @property
    def _estimates_sigma(self) -> bool:
        return self.sigma is None or (self._orthogonalises and self.schulz.other_sigma is None)

    @property
    def _orthogonalises(self) -> bool:
        return self.preconditioner == "newton-schulz"

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        local = problem.l2 - self.l2_driver if self.l2_local is None else self.l2_local
        if local < -1e-12 * problem.l2 or abs(local + self.l2_driver - problem.l2) > 1e-9 * problem.l2:
            raise ConfigError(
                f"{self.name}: l2_local + l2_driver = {max(local, 0):g} + {self.l2_driver:g}: expected a sum of "
                f"l2 = {problem.l2:g}; leave l2_local out, or set --l2 to the sum"
            )
        if self._orthogonalises and not any(shape.hidden for shape in problem.shapes):
            raise ConfigError(
                f"{self.name} needs matrices between hidden layers, and {problem.loss.name} has none; use sisa"
            )
        if warning := self.skew(problem):
            log.warning("%s: %s", self.name, warning)

    def skew(self, problem: Problem) -> str:
        """A warning that the partition does not suit newton-schulz; "" where it does, or is unknown."""
        if not (self._orthogonalises and problem.partition.startswith(SKEWED)):
            return ""
        return (
            f"the partition is {problem.partition}, and every worker orthogonalises its own momentum, so that its "
            "norm is lost: the run converges to a point where the mean direction is 0, not the gradient; use iid "
            "shards, or sisa"
        )

    def iterations_per_epoch(self, problem: Problem) -> int:
        return tasks.iterations_per_epoch(problem, self.batch_size)

    # -- the driver ---------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> PisaState:
        sigma, other = self.sigma or 0.0, self.schulz.other_sigma or 0.0
        if self._estimates_sigma:
            steepest = lanczos(lambda v: fleet.mean(self.hvp_at, w, v), fleet.rng().standard_normal(len(w)), 8)
            estimate = 3.0 * float(np.abs(np.linalg.eigvalsh(steepest.T[:-1])).max()) or 1.0
            sigma, other = sigma or estimate, other or estimate
        usual = {"second-moment": 100.0, "newton-schulz": sigma}.get(self.preconditioner, 1.0)
        penalties = np.array([sigma, usual if self.rho is None else self.rho, other, self.schulz.other_rho])
        penalties = penalties if self._orthogonalises else penalties[:2]
        lam = self.driver_l2(fleet.problem.l2_vector)
        w = w * (1.0 if not lam.any() else 1.0 / (1.0 + lam / self.per_weight(penalties, fleet.problem)[0]))
        return PisaState(w, penalties=penalties, origin=w if self.restarts else None, note=self.skew(fleet.problem))

    def step(self, fleet: Fleet, now: PisaState) -> PisaState:
        l = fleet.iteration - now.since  # noqa: E741
        penalties = self.penalties_at(now.penalties, l)
        u, f, theta = fleet.mean(self.task, now.w, penalties)
        first = f if now.first is None else now.first
        if reason := self.divergence_reason(now, u, f, first, l):
            return self.restart(fleet, now, reason)
        sigma, lam = self.per_weight(penalties, fleet.problem)[0], self.driver_l2(fleet.problem.l2_vector)
        w, length = now.w + (u - lam * now.w) / (sigma + lam), float(np.sqrt(u @ u))
        note, peak = describe_penalties(penalties, theta), max(now.peak, length)
        after = replace(now, w=w, step=1.0 / penalties[0], note=note, first=first, peak=peak)
        return replace(after, finished=self.stall_reason(now, after, length, penalties[0]))

    def penalties_at(self, initial: Array, l: int) -> Array:  # noqa: E741
        """The penalties in iteration l = 1, 2, ... (equation 2.12), shape (2,) or (4,) as `initial`."""
        penalties, slower = initial.copy(), self.decay(l)
        penalties[::2] /= max(self.gamma ** (l // spacing(self.every, self.gamma)) * slower, 1 / LARGEST_SIGMA)
        penalties[1::2] /= slower if self.decay.also_rho else 1.0
        return penalties

    def divergence_reason(self, now: PisaState, u: Array, f: float, first: float, l: int) -> str:  # noqa: E741
        """Why the run diverges, in a sentence; "" if it does not."""
        advice = f"set sigma = {RAISE * now.penalties[0]:.3g} instead of {now.penalties[0]:.3g}"
        if not (np.isfinite(f) and np.isfinite(u).all()):
            return f"diverged: the workers' replies are not finite; {advice}, or lower rho if its momentum is near 1"
        if f > self.divergence * abs(first):
            return f"diverged: the loss is {f:.3g}, and the first was {first:.3g}; {advice}"
        if now.restarted < self.restarts and self.batch_size is None and PATIENCE < l <= LAST_RESTART and f > first:
            return f"the loss is {f:.3g} after {l} iterations, and the first was {first:.3g}; {advice}"
        return ""

    def restart(self, fleet: Fleet, now: PisaState, reason: str) -> PisaState:
        """The state of a new run with a larger sigma; a failed state if no restart is left."""
        if now.origin is None or now.restarted >= self.restarts or fleet.iteration - now.since > LAST_RESTART:
            return fail(now, reason)
        fleet.send(clear_memory)
        penalties = now.penalties * np.where(np.arange(len(now.penalties)) % 2, 1.0, RAISE)
        return PisaState(
            now.origin, penalties=penalties, origin=now.origin, since=fleet.iteration, restarted=now.restarted + 1,
            note=f"restarted: {reason}",
        )  # fmt: skip

    def stall_reason(self, now: PisaState, after: PisaState, length: float, sigma: float) -> str:
        """Why the remaining steps are negligible although the gradient is not, in a sentence; "" where they are not."""
        moved = float(np.linalg.norm(after.w - now.w))
        left = moved * spacing(self.every, self.gamma) / (1.0 - self.gamma) if self.gamma < 1 else np.inf
        if not 0 < left < NEGLIGIBLE * np.linalg.norm(after.w) or length < 1e-2 * after.peak:
            return ""
        return (
            f"stalled: sigma has grown to {sigma:.3g}, and the remaining steps have a total length of {left:.1g}; "
            "raise gamma or every, or lower sigma"
        )

    def per_weight(self, penalties: Array, problem: Problem | Worker) -> tuple[Array, Array]:
        """sigma and rho of every weight, shapes (d,), or () where they are the same for all."""
        if len(penalties) == 2:
            return penalties[0], penalties[1]
        hidden = hidden_weights(problem.shapes)
        return np.where(hidden, penalties[0], penalties[2]), np.where(hidden, penalties[1], penalties[3])

    def driver_l2(self, l2_vector: Array) -> Array:
        """The part of every weight's l2 that the driver handles, shape (d,)."""
        return np.where(l2_vector > 0, self.l2_driver, 0.0)

    # -- the workers --------------------------------------------------------------------------------------------

    def hvp_at(self, worker: Worker, w: Array, v: Array) -> Array:
        """The Hessian of f_i at w times v, d floats."""
        part = worker.subset()
        part.move_to(w)
        return part.hvp(v)

    @property
    def task(self) -> Callable[..., tuple[Array, float, float]]:
        """What every worker does in an iteration."""
        diagonal = self.preconditioner in ("identity", "second-moment")
        return self.local_on_all_rows if diagonal and self.batch_size is None else self.local

    @batched
    def local_on_all_rows(self, worker: Worker, w: Array, penalties: Array) -> tuple[Array, float, float]:
        """`local` on all rows with a diagonal Q: d + 2 floats."""
        return self.local(worker, w, penalties)

    def local(self, worker: Worker, w: Array, penalties: Array) -> tuple[Array, float, float]:
        """2 pi_i_new - pi_i, the loss on the minibatch and the median momentum, d + 2 floats; updates pi_i."""
        part, lam = minibatch(worker, self.batch_size, self.sampling), self.driver_l2(worker.l2_vector)
        part.move_to(w)
        memory = worker.memory
        pi = memory.get("pi", np.zeros_like(w))
        g = part.gradient() - lam * w
        memory["steps"] = np.asarray(memory.get("steps", 0)) + 1
        r = pi + (self.schulz.direction(memory, g, worker.shapes) if self._orthogonalises else g)
        y, theta = self.solve(worker, part, r, penalties)  # y = sigma D = sigma (w - w_i)
        new = pi - y
        memory["pi"] = self.dual_leak * new
        return 2.0 * new - pi, part.value(), theta

    def solve(self, worker: Worker, part: Worker, r: Array, penalties: Array) -> tuple[Array, float]:
        """sigma (sigma I + rho Q)^-1 r, shape (d,), and the median of rho q / (sigma + rho q), NaN for hessian."""
        sigma, rho = self.per_weight(penalties, worker)
        ratio = rho / sigma
        if self.preconditioner == "hessian":
            return solve_hessian(part, r, float(ratio), self.driver_l2(worker.l2_vector), self.solver), NAN
        if self.preconditioner != "identity":
            q = self.second.root(worker.memory, r, int(np.max(worker.memory["steps"])))
            if self._orthogonalises and self.schulz.moment == "current":
                q = np.where(hidden_weights(worker.shapes), np.abs(r), q)
            ratio = ratio * q
        momentum: Any = np.median(np.broadcast_to(ratio / (1.0 + ratio), r.shape), axis=-1)
        return r / (1.0 + ratio), momentum


@dataclass(frozen=True)
class Sisa(Pisa):
    """SISA (Zhou, Wang, Luo, Zhu and Li 2025): PISA with the second moment of pi + g as Q, networks too.

    Q is diagonal, min(sqrt(m), eta), with m by one of three schemes. Q tends to 0 where the method converges, so that
    the step size there is 1/sigma, unlike Adam's.
    """

    preconditioner: Preconditioner = setting("second-moment", help=PRECONDITIONER)

    name = "sisa"


@dataclass(frozen=True)
class Nsisa(Pisa):
    """NSISA (Zhou, Wang, Luo, Zhu and Li 2025, Algorithm 3): networks, on shards that resemble one another.

    SISA with the momentum of every hidden matrix, orthogonalised by Newton-Schulz, in place of its gradient. The other
    weights are trained by SISA, in the same message. On shards with different labels it converges to a wrong point.
    """

    preconditioner: Preconditioner = setting("newton-schulz", help=PRECONDITIONER)

    name = "nsisa"
    cost = Cost("2", "d + 4", "d + 2")


def clear_memory(worker: Worker) -> None:
    """Clear the worker's memory for a restart; no reply."""
    worker.memory.clear()


def describe_penalties(penalties: Array, theta: float) -> str:
    """sigma and the median momentum, for the history; theta is NaN where the momentum is unknown."""
    momentum = "" if np.isnan(theta) else f", median momentum {theta:.3g}"
    return f"sigma {penalties[0]:.4g}{momentum}{': raise sigma or lower rho' if theta > 0.99 else ''}"
