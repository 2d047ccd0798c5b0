"""First-order methods with compressed gradients, DCGD, DIANA and ADIANA, at the step sizes of their theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import TypeVar

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress import Compressor, make_compressor
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.losses import Loss
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import smoothness_constant
from mpinewton.settings import setting

Arrays = tuple[AnyArray, ...]
SMOOTHNESS = "bound on the Hessian of the mean loss, without l2; none: computed at the start"


@dataclass(frozen=True, eq=False, kw_only=True)
class DcgdState(State):
    """The weights and the step size.

    Attributes
    ----------
    eta : float
        Step size, the same in all iterations.
    """

    eta: float


G = TypeVar("G", bound=DcgdState)


@dataclass(frozen=True)
class CompressedGradients(Method[G]):
    """Base of the three: an unbiased compressor C, and L, a bound on the Hessian of P, which gives the step size.

    L is l2 plus a bound on the Hessian of the mean loss, `smoothness`. Where that is not given, every worker sends one
    float at the start, its own bound, from the bound on the second derivative of the loss. Their mean is at least the
    bound for all rows (0.7 % above it on a2a, 43 % on w8a). In the step sizes n stands for 1 / max worker share, the
    number of workers where all have equally many rows.
    """

    compressor: str = setting("natural", help="unbiased compressor C with its settings, as random:r=30")
    r: int | None = setting(None, help="the setting r of the compressor; none: its default")
    smoothness: float | None = setting(None, gt=0, help=SMOOTHNESS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.C.omega(1) is None:
            raise ConfigError(f"{self.name}: {self.compressor} is biased; use random, dithering or natural")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        self.C.validate(problem.dim)

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.needs_bound:
            for what in ("hessian_bound", "rows"):
                self.need(loss, what, "smoothness=none", "set smoothness, or use gradient-descent")

    @property
    def needs_bound(self) -> bool:
        """Whether the workers compute L."""
        return self.smoothness is None

    @property
    def C(self) -> Compressor:
        return make_compressor(self.compressor, self.r)

    def bound(self, fleet: Fleet) -> float:
        """L, with l2."""
        return fleet.problem.l2 + (self.smoothness or fleet.mean(smoothness_constant))

    def mean(self, fleet: Fleet, messages: Sequence[Arrays]) -> Array:
        """The mean of the workers' messages by share, shape (d,)."""
        return self.C.mean(messages, fleet.worker_share, fleet.dim)

    def noise(self, fleet: Fleet) -> float:
        """omega / n, for omega in E|C(x) - x|^2 <= omega |x|^2."""
        return (self.C.omega(fleet.dim) or 0.0) * float(fleet.worker_share.max())


@dataclass(frozen=True)
class Dcgd(CompressedGradients[DcgdState]):
    """DCGD (Khirirat, Feyzmahdavian and Johansson 2018): gradient descent with compressed gradients, smooth objectives.

    w - eta mean C(g_i), eta = 1 / (L (1 + omega / n)). The local gradients g_i do not vanish at the optimum, and
    neither does the noise of C: the method converges to a neighbourhood of the optimum. A message has 9 bits per
    coordinate by default.
    """

    learning_rate: float | None = setting(
        None, gt=0, alias=("eta", "lr", "step_size"), help="step size; none: 1 / (L (1 + omega / n))"
    )
    smoothness: float | None = setting(None, gt=0, only_if={"learning_rate": None}, help=SMOOTHNESS)

    name = "dcgd"
    cost = Cost("2", "d", "0")

    @property
    def needs_bound(self) -> bool:
        return self.learning_rate is None and self.smoothness is None

    def start(self, fleet: Fleet, w: Array) -> DcgdState:
        return DcgdState(w, eta=self.learning_rate or 1 / (self.bound(fleet) * (1 + self.noise(fleet))))

    def step(self, fleet: Fleet, now: DcgdState) -> DcgdState:
        g = self.mean(fleet, fleet.gather(self.compress_gradient, now.w))
        return replace(now, w=now.w - now.eta * g, step=now.eta)

    def compress_gradient(self, worker: Worker, w: Array) -> Arrays:
        """C(g_i) at w, `C.bits(d)` bits."""
        worker.move_to(w)
        return self.C.compress(worker.gradient(), worker.rng()).arrays


@dataclass(frozen=True, eq=False, kw_only=True)
class DianaState(DcgdState):
    """The weights, the step size and the mean of the workers' gradient estimates.

    Attributes
    ----------
    h : array, shape (d,)
        Mean of the h_i.
    """

    h: Array


@dataclass(frozen=True)
class Diana(CompressedGradients[DianaState]):
    """DIANA (Mishchenko, Gorbunov, Takac and Richtarik 2019): compressed gradient differences, smooth and convex.

    Workers send D_i = C(g_i - h_i), and both sides set h_i <- h_i + alpha D_i, alpha = 1/(1 + omega). The differences
    vanish at the optimum, and with them the noise of C. The step is w - eta (mean D_i + h),
    eta = min(alpha / (2 l2), 2 / (L (1 + 6 omega / n))).
    """

    name = "diana"
    cost = Cost("2", "d", "0")

    def start(self, fleet: Fleet, w: Array) -> DianaState:
        fleet.send(reset_h)
        l2, alpha = fleet.problem.l2, self.C.rate(fleet.dim)
        eta = min(alpha / (2 * l2) if l2 else inf, 2 / (self.bound(fleet) * (1 + 6 * self.noise(fleet))))
        return DianaState(w, eta=eta, h=np.zeros_like(w))

    def step(self, fleet: Fleet, now: DianaState) -> DianaState:
        D = self.mean(fleet, fleet.gather(self.compress_difference, now.w))
        return replace(now, w=now.w - now.eta * (D + now.h), h=now.h + self.C.rate(fleet.dim) * D, step=now.eta)

    def compress_difference(self, worker: Worker, w: Array) -> Arrays:
        """C(g_i - h_i) at w, `C.bits(d)` bits; updates h_i."""
        worker.move_to(w)
        g, h = worker.gradient(), worker.memory.get("h", 0.0)
        message = self.C.compress(g - h, worker.rng())
        worker.memory["h"] = h + self.C.rate(len(w)) * message.value
        return message.arrays


@dataclass(frozen=True, eq=False, kw_only=True)
class AdianaState(DianaState):
    """The state of DIANA, whose weights are y here, and the other sequences of ADIANA.

    Attributes
    ----------
    z : array, shape (d,)
        Momentum sequence.
    anchor : array, shape (d,)
        Point at which h is updated; w in the paper.
    prob : float
        Probability of a new anchor.
    """

    z: Array
    anchor: Array
    prob: float


@dataclass(frozen=True)
class Adiana(CompressedGradients[AdianaState]):
    """ADIANA (Li, Kovalev, Qian and Richtarik 2020): accelerated DIANA, smooth and strongly convex objectives.

    Workers send two messages, C(g_i(x) - h_i) for the step and C(g_i(anchor) - h_i) for the update of h_i; both count.
    The weights are y. Parameters are those of the released code; omega = 0 gives prob = 1 and eta = 1/(2 L).
    """

    name = "adiana"
    cost = Cost("2", "2*d", "0")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not problem.l2 > 0:
            raise ConfigError(f"{self.name} needs l2 > 0 for its momentum; set --l2, or use diana")

    def start(self, fleet: Fleet, w: Array) -> AdianaState:
        fleet.send(reset_h)
        prob, eta = self.chance_and_step(fleet, self.bound(fleet))
        return AdianaState(w, eta=eta, prob=prob, h=np.zeros_like(w), z=w, anchor=w)

    def step(self, fleet: Fleet, now: AdianaState) -> AdianaState:
        l2, y, eta = fleet.problem.l2, now.w, now.eta
        theta1, theta2 = min(0.25, sqrt(eta * l2 / now.prob)), 0.5
        gamma = eta / (2 * (theta1 + eta * l2))
        beta = 1 - gamma * l2
        x = theta1 * now.z + theta2 * now.anchor + (1 - theta1 - theta2) * y
        replies = fleet.gather(self.compress_two, x, now.anchor)
        first, second = zip(*((reply[: len(reply) // 2], reply[len(reply) // 2 :]) for reply in replies))
        after = x - eta * (self.mean(fleet, first) + now.h)
        return replace(
            now,
            w=after,
            z=beta * now.z + (1 - beta) * x + (gamma / eta) * (after - x),
            h=now.h + self.C.rate(fleet.dim) * self.mean(fleet, second),
            anchor=y if fleet.rng().random() < now.prob else now.anchor,
            step=eta,
        )

    def chance_and_step(self, fleet: Fleet, L: float) -> tuple[float, float]:
        """The probability of a new anchor, and eta."""
        alpha, noise = self.C.rate(fleet.dim), self.noise(fleet)
        if noise == 0:
            return 1.0, 1 / (2 * L)
        prob = min(1.0, max(alpha / 2, alpha / 2 * (sqrt(1 / (32 * noise)) - 1)))
        return prob, min(1 / (2 * L), 1 / (64 * noise * L * (2 * prob / alpha + 1) ** 2))

    def compress_two(self, worker: Worker, x: Array, anchor: Array) -> Arrays:
        """C(g_i(x) - h_i) and C(g_i(anchor) - h_i), `2 C.bits(d)` bits; updates h_i."""
        h = worker.memory.get("h", 0.0)
        worker.move_to(x)
        step = self.C.compress(worker.gradient() - h, worker.rng(0))
        worker.move_to(anchor)
        update = self.C.compress(worker.gradient() - h, worker.rng(1))
        worker.memory["h"] = h + self.C.rate(len(x)) * update.value
        return *step.arrays, *update.arrays


def reset_h(worker: Worker) -> None:
    """h_i = 0; no reply."""
    worker.memory.pop("h", None)
