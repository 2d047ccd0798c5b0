"""PISA and its presets SISA and NSISA: preconditioned inexact stochastic ADMM."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.krylov import lanczos
from mpinewton.losses import Loss
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.preconditioners import NewtonSchulz, SecondMoment, Solver, hidden_weights, solve_curved
from mpinewton.methods.support.schedules import Decay, spacing
from mpinewton.methods.support.tasks import Sampling, minibatch
from mpinewton.settings import setting

log = logging.getLogger("mpinewton")
LARGEST_SIGMA = 1e12  # times the first: no step is seen beyond
SKEWED = ("label-skew", "dirichlet")
PATIENCE, LONGEST = 20, 100  # rounds in which a loss above its first is no sign, and after which nothing is restarted
SPENT = 1e-9  # of |w|: a way still to go that is not worth going


@dataclass(frozen=True, eq=False)
class PisaState(State):
    """An iterate, which the workers have not seen, and the step sizes; the multipliers stay with the workers."""

    pace: Array = field(default_factory=lambda: np.zeros(0))  # sigma and rho in the beginning, of other weights too
    origin: Array = field(default_factory=lambda: np.zeros(0))  # where the run began, shape (d,); kept for restarts
    since: int = 0  # iterations before the last restart
    restarted: int = 0
    first: float = NAN  # loss on the first rows that were seen
    peak: float = 0.0  # longest u so far


@dataclass(frozen=True)
class Pisa(Method[PisaState]):
    """PISA (Zhou, Wang, Luo, Zhu and Li 2025, Algorithm 1): any smooth loss, any split of the data.

    Worker i takes r = pi_i + g_i, D = (sigma I + rho Q_i)^-1 r, pi_i <- pi_i - sigma D, and sends 2 pi_i_new - pi_i,
    which is sigma w_i + pi_i less sigma w; the driver's step is the mean of these over sigma. 1/sigma is the step in
    the long run, and rho Q only sets a momentum rho q / (sigma + rho q). sigma is divided by gamma every so often, so
    that all steps together reach every/(sigma (1 - gamma)); that should be several times 1/(least curvature).
    """

    preconditioner: Literal["identity", "hessian", "second-moment", "newton-schulz"] = setting("identity", help="")
    sigma: float | None = setting(
        None, gt=0, help="penalty, 1/(learning rate); none: 3 x the largest curvature at the start, if convex"
    )
    rho: float | None = setting(None, ge=0, help="weight of Q; none: 1, for second-moment 100, for newton-schulz sigma")
    gamma: float = setting(0.99, gt=0, le=1, help="sigma is divided by it ...")
    every: int | Literal["auto"] = setting(1, help="... after so many iterations; auto: as fast as 0.99 at each")
    decay: Decay = setting(factory=Decay, help="sigma, and rho, are divided by it")
    batch: float | None = setting(None, gt=0, help="rows a worker draws; below 1 a share of them; none: all")
    sampling: Sampling = setting("fresh", help="minibatches of their own each, or passes over the rows: epochs")
    ridge_local: float | None = setting(
        None, ge=0, help="what of l2 the workers see; none: what the driver does not take"
    )
    ridge_driver: float = setting(0.0, ge=0, help="what of l2 the driver takes")
    solver: Solver = setting("auto", help="for hessian")
    second: SecondMoment = setting(factory=SecondMoment, help="for second-moment and newton-schulz")
    schulz: NewtonSchulz = setting(factory=NewtonSchulz, help="for newton-schulz")
    dual_leak: float = setting(
        1.0, gt=0, le=1, help="what the multiplier is multiplied by at each step; 1 is the method"
    )
    divergence: float = setting(1000.0, gt=1, help="a loss so many times the first ends the run")
    restarts: int = setting(
        0, ge=0, help="times a run that goes wrong in its first 100 rounds begins anew, sigma 4 times as large"
    )

    name = "pisa"
    cost = Cost("2", "d + 2", "d + 2")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.every == "auto" or int(self.every) >= 1, "every", "at least 1, or auto")

    @property
    def adaptive(self) -> bool:
        """Whether Q is a diagonal that the workers learn."""
        return self.preconditioner in ("second-moment", "newton-schulz")

    # -- what is refused ----------------------------------------------------------------------------------------

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        need = {"cholesky": "hessian", "woodbury": "second_derivatives"}.get(self.solver, "hvp")
        if self.preconditioner == "hessian" and need not in loss.provides:
            raise ConfigError(f"{self.name}: solver={self.solver} needs {need}, which {loss.name} does not provide")
        if self.preconditioner == "hessian" and not loss.convex:
            raise ConfigError(
                f"{self.name}: preconditioner=hessian wants a Hessian without negative eigenvalues (Gauss-Newton's "
                f"would do), and {loss.name} is not convex; use preconditioner=second-moment"
            )
        if not loss.convex and (self.sigma is None or self._other_sigma_missing):
            raise ConfigError(
                f"{self.name}: {loss.name} is not convex, so that sigma cannot be estimated: set sigma = 1/(learning "
                "rate of plain SGD), 0.3 to 10 for networks; newton-schulz 20 to 80, schulz.other_sigma 0.3 to 10"
            )

    @property
    def _other_sigma_missing(self) -> bool:
        return self.preconditioner == "newton-schulz" and self.schulz.other_sigma is None

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        local = problem.l2 - self.ridge_driver if self.ridge_local is None else self.ridge_local
        if local < -1e-12 * problem.l2 or abs(local + self.ridge_driver - problem.l2) > 1e-9 * problem.l2:
            raise ConfigError(
                f"{self.name}: ridge_local + ridge_driver must be l2 = {problem.l2:g}, the objective's, and they are "
                f"{max(local, 0):g} + {self.ridge_driver:g}: leave ridge_local out, or give --l2 their sum"
            )
        if self.preconditioner != "newton-schulz":
            return
        if not any(shape.hidden for shape in problem.shapes):
            raise ConfigError(
                f"{self.name} orthogonalises the matrices between layers, and {problem.loss.name} has none: use sisa"
            )
        if skew := self.skew(problem):
            log.warning("%s: %s", self.name, skew)

    def skew(self, problem: Problem) -> str:
        """Why the shards do not suit this method, in a sentence; "" where they do, as far as is known."""
        if self.preconditioner != "newton-schulz" or not problem.partition.startswith(SKEWED):
            return ""
        return (
            f"shards are {problem.partition}: every worker orthogonalises its own momentum, which forgets how large it "
            "is, so that the run settles where the mean of the directions is 0, not the gradient; iid shards, or sisa"
        )

    # -- the driver ---------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> PisaState:
        sigma = self.sigma or 0.0
        other = self.schulz.other_sigma or 0.0
        if not sigma or self._other_sigma_missing:
            steepest = lanczos(lambda v: fleet.mean(self.bend, w, v), fleet.rng().standard_normal(len(w)), 8, 0.0)
            estimate = 3.0 * float(np.abs(np.linalg.eigvalsh(steepest.T[:-1])).max()) or 1.0
            sigma, other = sigma or estimate, other or estimate
        usual = {"second-moment": 100.0, "newton-schulz": sigma}.get(self.preconditioner, 1.0)
        pace = [sigma, usual if self.rho is None else self.rho]
        if self.preconditioner == "newton-schulz":
            pace += [other, self.schulz.other_rho]
        lam = self.freed(fleet.problem.l2_vector)
        w = w * (1.0 if not lam.any() else 1.0 / (1.0 + lam / self.spread(np.array(pace), fleet.problem)[0]))
        return PisaState(
            w, pace=np.array(pace), origin=w if self.restarts else np.zeros(0), note=self.skew(fleet.problem)
        )

    def step(self, fleet: Fleet, now: PisaState) -> PisaState:
        pace = self.paced(now.pace, fleet.iteration - now.since)
        u, f, theta = fleet.mean(self.local, now.w, pace)
        if sick := self.sickness(now, u, f, fleet.iteration - now.since):
            return self.restart(fleet, now, sick)
        sigma, lam = self.spread(pace, fleet.problem)[0], self.freed(fleet.problem.l2_vector)
        w = now.w + (u - lam * now.w) / (sigma + lam)
        after = replace(
            now, w=w, step=1.0 / pace[0], note=said(pace, theta), first=f if now.first != now.first else now.first,
            peak=max(now.peak, float(np.sqrt(u @ u))),
        )  # fmt: skip
        return replace(after, finished=self.spent(now, after, u, pace))

    def paced(self, begun: Array, l: int) -> Array:  # noqa: E741
        """sigma and rho in iteration l = 1, 2, ... (2.12), of other weights too: shape (2,) or (4,)."""
        pace, slower = begun.copy(), self.decay(l)
        pace[::2] /= max(self.gamma ** (l // spacing(self.every, self.gamma)) * slower, 1 / LARGEST_SIGMA)
        pace[1::2] /= slower if self.decay.also_rho else 1.0
        return pace

    def sickness(self, now: PisaState, u: Array, f: float, l: int) -> str:  # noqa: E741
        """Why the run goes wrong, in a sentence; "" if it does not."""
        advice = f"set sigma = {4 * now.pace[0]:.3g} instead of {now.pace[0]:.3g}"
        if not (np.isfinite(f) and np.isfinite(u).all()):
            return f"diverged: the workers' replies are not finite; {advice}, or lower rho if its momentum is near 1"
        if f > self.divergence * abs(now.first):
            return f"diverged: the loss is {f:.3g}, and was {now.first:.3g} in the beginning; {advice}"
        if now.restarted < self.restarts and self.batch is None and PATIENCE < l <= LONGEST and f > now.first:
            return f"the loss is {f:.3g} after {l} iterations, and was {now.first:.3g} in the beginning; {advice}"
        return ""

    def restart(self, fleet: Fleet, now: PisaState, sick: str) -> PisaState:
        """The state from which to begin anew, where that is asked for."""
        if now.restarted >= self.restarts or fleet.iteration - now.since > LONGEST:
            return fail(now, sick)
        fleet.send(forget)
        pace = now.pace * np.where(np.arange(len(now.pace)) % 2, 1.0, 4.0)
        return PisaState(
            now.origin, pace=pace, origin=now.origin, since=fleet.iteration, restarted=now.restarted + 1,
            note=f"restarted: {sick}",
        )  # fmt: skip

    def spent(self, now: PisaState, after: PisaState, u: Array, pace: Array) -> str:
        """Why no step that is left can matter, although the gradient has not vanished; "" where one can."""
        moved = float(np.linalg.norm(after.w - now.w))
        left = moved * spacing(self.every, self.gamma) / (1.0 - self.gamma) if self.gamma < 1 else np.inf
        if not 0 < left < SPENT * np.linalg.norm(after.w) or np.sqrt(u @ u) < 1e-2 * after.peak:
            return ""
        return (
            f"stalled: sigma has grown to {pace[0]:.3g}, and all steps that are left come to {left:.1g}; "
            "raise gamma or every, or lower sigma"
        )

    def spread(self, pace: Array, problem: Problem | Worker) -> tuple[Array, Array]:
        """sigma and rho of every weight, shapes (d,), or () where they are the same for all."""
        if len(pace) == 2:
            return pace[0], pace[1]
        hidden = hidden_weights(problem.shapes)
        return np.where(hidden, pace[0], pace[2]), np.where(hidden, pace[1], pace[3])

    def freed(self, ridge: Array) -> Array:
        """What of every weight's l2 the driver takes, shape (d,)."""
        return np.where(ridge > 0, self.ridge_driver, 0.0)

    # -- the workers --------------------------------------------------------------------------------------------

    def bend(self, worker: Worker, w: Array, v: Array) -> Array:
        part = worker.subset()
        part.move_to(w)
        return part.hvp(v)

    def local(self, worker: Worker, w: Array, pace: Array) -> tuple[Array, float, float]:
        part, lam = minibatch(worker, self.batch, self.sampling), self.freed(worker.l2_vector)
        part.move_to(w)
        memory = worker.memory
        pi = memory.get("pi", np.zeros_like(w))
        memory["steps"] = np.asarray(memory.get("steps", 0)) + 1
        g = part.gradient() - lam * w
        r = pi + (self.schulz.direction(memory, g, worker.shapes) if self.preconditioner == "newton-schulz" else g)
        y, theta = self.solve(worker, part, r, pace)  # y = sigma D = sigma (w - w_i)
        new = pi - y
        memory["pi"] = self.dual_leak * new
        return 2.0 * new - pi, part.value(), theta

    def solve(self, worker: Worker, part: Worker, r: Array, pace: Array) -> tuple[Array, float]:
        """sigma (sigma I + rho Q)^-1 r, shape (d,), and the median of the momentum rho q / (sigma + rho q)."""
        sigma, rho = self.spread(pace, worker)
        if self.preconditioner == "hessian":
            return solve_curved(part, r, float(rho / sigma), self.freed(worker.l2_vector), self.solver), NAN
        ratio = rho / sigma
        if self.adaptive:
            q = self.second.root(worker.memory, r, int(worker.memory["steps"]))
            if self.preconditioner == "newton-schulz" and self.schulz.moment == "current":
                q = np.where(hidden_weights(worker.shapes), np.abs(r), q)
            ratio = ratio * q
        return r / (1.0 + ratio), float(np.median(ratio / (1.0 + ratio)))


@dataclass(frozen=True)
class Sisa(Pisa):
    """SISA (Zhou, Wang, Luo, Zhu and Li 2025): PISA with the second moment of pi + g as Q, networks too.

    Q is diagonal, min(sqrt(m), eta), m by one of three schemes; it tends to 0 where the method arrives, so that the
    step there is 1/sigma, unlike Adam's.
    """

    preconditioner: Literal["identity", "hessian", "second-moment", "newton-schulz"] = setting("second-moment", help="")

    name = "sisa"


@dataclass(frozen=True)
class Nsisa(Pisa):
    """NSISA (Zhou, Wang, Luo, Zhu and Li 2025, Algorithm 3): networks, on shards that resemble one another.

    As SISA, with the momentum of every hidden matrix orthogonalised by Newton-Schulz in the gradient's place; the other
    weights go by SISA, in the same message. On shards with other labels each it settles at a wrong point.
    """

    preconditioner: Literal["identity", "hessian", "second-moment", "newton-schulz"] = setting("newton-schulz", help="")

    name = "nsisa"
    cost = Cost("2", "d + 4", "d + 2")


def forget(worker: Worker) -> None:
    """Begin anew."""
    worker.memory.clear()


def said(pace: Array, theta: float) -> str:
    """sigma and momentum for the history."""
    momentum = f", median momentum {theta:.3g}" if theta == theta else ""
    high = ": raise sigma or lower rho" if theta > 0.99 else ""
    return f"sigma {pace[0]:.4g}{momentum}{high}"
