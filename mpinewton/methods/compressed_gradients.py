"""First-order methods whose workers send compressed gradients: DCGD, DIANA and ADIANA, with their theoretical steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, sqrt
from typing import Any, TypeVar

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress import Compressor, make_compressor
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.losses import Loss
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import smoothness_constant
from mpinewton.settings import setting

Packed = tuple[AnyArray, ...]


@dataclass(frozen=True, eq=False)
class DcgdState(State):
    """An iterate, and how smooth the objective is."""

    L: float = 0.0  # a bound of the Hessian's eigenvalues, the ridge apart


G = TypeVar("G", bound=DcgdState)


@dataclass(frozen=True)
class CompressedGradients(Method[G]):
    """What the three share: an unbiased C, and L, from which their steps follow.

    Where `smoothness` is not given, every worker sends one float at the start, its own L_i, from a bound of the loss'
    second derivative; L is their mean, which is not below the L of all rows (0.7 % above on a2a, 43 % on w8a). In the
    theory's steps n stands for 1 / max omega_i, the number of workers where their shares are equal.
    """

    compressor: str = setting("natural", help="C; or random:r=30, dithering:levels=11, ...")
    r: int | None = setting(None, help="the r of the compressor; None for its own")
    smoothness: float | None = setting(None, gt=0, help="L, where it is known")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.C.omega(1) is None:
            raise ConfigError(f"{self.name}: {self.compressor} is biased; random, dithering and natural are not")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        self.C.validate(problem.dim)

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.smoothness is None and "hessian_bound" not in loss.provides:
            raise ConfigError(
                f"{self.name}: no bound of the second derivative of {loss.name} is known; set smoothness to a bound of "
                "the Hessian's eigenvalues, or use gradient-descent, which needs none"
            )

    @property
    def C(self) -> Compressor:
        return make_compressor(self.compressor, self.r)

    def bound(self, fleet: Fleet) -> float:
        """L."""
        return fleet.mean(smoothness_constant) if self.smoothness is None else self.smoothness

    def omega(self, size: int) -> float:
        omega = self.C.omega(size)
        assert omega is not None, "a biased compressor is refused when the method is made"
        return omega

    def mean(self, fleet: Fleet, messages: list[Packed]) -> Array:
        return self.C.mean(messages, fleet.worker_share, fleet.dim)

    def noise(self, fleet: Fleet) -> float:
        """omega / n."""
        return self.omega(fleet.dim) * float(fleet.worker_share.max())


@dataclass(frozen=True)
class Dcgd(CompressedGradients[DcgdState]):
    """DCGD (Khirirat, Feyzmahdavian and Johansson 2018): gradient descent on compressed gradients, smooth objectives.

    w - eta mean C(g_i), eta = 1 / L. The noise of C does not vanish with the gradient, since the g_i do not: it comes
    no closer than that noise lets it. 9 bits a coordinate by default.
    """

    eta: float | None = setting(None, gt=0, help="the step; None for 1 / L")

    name = "dcgd"
    cost = Cost("2", "d", "0")

    def start(self, fleet: Fleet, w: Array) -> DcgdState:
        return DcgdState(w, L=self.bound(fleet))

    def step(self, fleet: Fleet, now: DcgdState) -> DcgdState:
        eta = 1.0 / now.L if self.eta is None else self.eta
        g = self.mean(fleet, fleet.gather(self.send_gradient, now.w))
        return replace(now, w=now.w - eta * g, step=eta)

    def send_gradient(self, worker: Worker, w: Array) -> Packed:
        worker.move_to(w)
        return self.C.compress(worker.gradient(), worker.rng()).arrays


@dataclass(frozen=True, eq=False)
class DianaState(DcgdState):
    """An iterate, and what the workers have learnt of their gradients."""

    h: Array = field(default_factory=lambda: np.zeros(0))  # mean of the h_i, shape (d,)


@dataclass(frozen=True)
class Diana(CompressedGradients[DianaState]):
    """DIANA (Mishchenko, Gorbunov, Takac and Richtarik 2019): compressed differences of gradients, smooth convex ones.

    Workers send D_i = C(g_i - h_i), and both sides learn h_i + alpha D_i, alpha = 1 / (1 + omega): the differences
    vanish, and with them the noise. The step is w - eta (mean D_i + h),
    eta = min(alpha / (2 l2), 2 / ((L + l2) (1 + 6 omega / n))).
    """

    name = "diana"
    cost = Cost("2", "d", "0")

    def start(self, fleet: Fleet, w: Array) -> DianaState:
        fleet.send(forget)
        return DianaState(w, L=self.bound(fleet), h=np.zeros_like(w))

    def step(self, fleet: Fleet, now: DianaState) -> DianaState:
        l2, alpha = fleet.problem.l2, self.C.rate(fleet.dim)
        eta = min(alpha / (2 * l2) if l2 else inf, 2 / ((now.L + l2) * (1 + 6 * self.noise(fleet))))
        D = self.mean(fleet, fleet.gather(self.send_difference, now.w))
        return replace(now, w=now.w - eta * (D + now.h), h=now.h + alpha * D, step=eta)

    def send_difference(self, worker: Worker, w: Array) -> Packed:
        worker.move_to(w)
        g, h = worker.gradient(), worker.memory.get("h", 0.0)
        message = self.C.compress(g - h, worker.rng())
        worker.memory["h"] = h + self.C.rate(len(w)) * message.value
        return message.arrays


@dataclass(frozen=True, eq=False)
class AdianaState(DianaState):
    """The iterate y, and the other sequences."""

    z: Array = field(default_factory=lambda: np.zeros(0))  # the momentum, shape (d,)
    anchor: Array = field(default_factory=lambda: np.zeros(0))  # where h is learnt, shape (d,); the paper's w


@dataclass(frozen=True)
class Adiana(CompressedGradients[AdianaState]):
    """ADIANA (Li, Kovalev, Qian and Richtarik 2020): DIANA accelerated, smooth and strongly convex objectives.

    Workers send two messages, C(g_i(x) - h_i) for the step and C(g_i(anchor) - h_i) to learn h_i from; both count. The
    iterate is y. (With the released parameters; omega = 0 has prob = 1 and eta = 1 / (2 L).)
    """

    name = "adiana"
    cost = Cost("2", "2*d", "0")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not problem.l2 > 0:
            raise ConfigError(f"{self.name} needs l2 > 0, which its momentum is made for; diana does not")

    def start(self, fleet: Fleet, w: Array) -> AdianaState:
        fleet.send(forget)
        return AdianaState(w, L=self.bound(fleet), h=np.zeros_like(w), z=w, anchor=w)

    def step(self, fleet: Fleet, now: AdianaState) -> AdianaState:
        l2, y = fleet.problem.l2, now.w
        prob, eta = self.chance_and_step(fleet, now.L)
        theta1, theta2 = min(0.25, sqrt(eta * l2 / prob)), 0.5
        gamma = eta / (2 * (theta1 + eta * l2))
        beta = 1 - gamma * l2
        x = theta1 * now.z + theta2 * now.anchor + (1 - theta1 - theta2) * y
        replies = fleet.gather(self.send_two, x, now.anchor)
        first = [reply[: len(reply) // 2] for reply in replies]
        second = [reply[len(reply) // 2 :] for reply in replies]
        after = x - eta * (self.mean(fleet, first) + now.h)
        return replace(
            now,
            w=after,
            z=beta * now.z + (1 - beta) * x + (gamma / eta) * (after - x),
            h=now.h + self.C.rate(fleet.dim) * self.mean(fleet, second),
            anchor=y if fleet.rng().random() < prob else now.anchor,
            step=eta,
        )

    def chance_and_step(self, fleet: Fleet, L: float) -> tuple[float, float]:
        """The probability of a new anchor, and eta."""
        omega, per_worker = self.omega(fleet.dim), self.noise(fleet)
        if omega == 0:
            return 1.0, 1 / (2 * L)
        alpha = 1 / (1 + omega)
        prob = min(1.0, max(alpha / 2, alpha / 2 * (sqrt(1 / (32 * per_worker)) - 1)))
        return prob, min(1 / (2 * L), 1 / (64 * per_worker * L * (2 * prob * (omega + 1) + 1) ** 2))

    def send_two(self, worker: Worker, x: Array, anchor: Array) -> tuple[Any, ...]:
        h = worker.memory.get("h", 0.0)
        worker.move_to(x)
        step = self.C.compress(worker.gradient() - h, worker.rng(0))
        worker.move_to(anchor)
        learnt = self.C.compress(worker.gradient() - h, worker.rng(1))
        worker.memory["h"] = h + self.C.rate(len(x)) * learnt.value
        return *step.arrays, *learnt.arrays


def forget(worker: Worker) -> None:
    """h_i = 0."""
    worker.memory.pop("h", None)
