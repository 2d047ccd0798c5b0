"""The federated baselines: many local steps between two messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import is_diverging
from mpinewton.settings import setting

Drift = Callable[[Array], Array]  # of the local weights v (d,): what is added to every gradient


@dataclass(frozen=True, eq=False)
class FedAvgState(State):
    """An iterate, which the workers have not seen."""

    first: float = NAN  # how far the workers went in the first round


@dataclass(frozen=True)
class FedAvg(Method[FedAvgState]):
    """FedAvg (McMahan et al. 2017): any smooth loss, shards that resemble one another.

    Every worker goes through its rows `epochs` times by minibatch SGD with momentum, from w on, and sends how far it
    came; the driver goes the mean of it. Where shards differ it settles near the optimum, not at it, the farther the
    larger lr and the number of local steps are.
    """

    lr: float = setting(0.1, gt=0, help="local step size")
    momentum: float = setting(0.9, ge=0, lt=1, help="of the local steps; forgotten after each round")
    epochs: int = setting(1, ge=1, help="passes over the rows a round")
    batch: int | None = setting(32, ge=1, help="rows of a local step; none: all")

    name = "fedavg"
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> FedAvgState:
        return FedAvgState(w)

    def step(self, fleet: Fleet, now: FedAvgState) -> FedAvgState:
        return self.gone(now, fleet.mean(self.local, now.w))

    def gone(self, now: FedAvgState, p: Array) -> FedAvgState:
        """The iterate after w <- w - p."""
        length = float(np.linalg.norm(p))
        if is_diverging(length, now.first):
            lr = f"set lr = {self.lr / 4:.3g} instead of {self.lr:.3g}"
            return fail(now, f"diverged: the workers went {length:.3g} away, and at first {now.first:.3g}; {lr}")
        return replace(now, w=now.w - p, step=self.lr, first=length if now.first != now.first else now.first)

    def local(self, worker: Worker, w: Array) -> Array:
        return w - self.walked(worker, w)[0]

    def walked(
        self, worker: Worker, w: Array, drift: Drift | None = None, late: Array | None = None
    ) -> tuple[Array, int]:
        """Where the local steps lead from w, shape (d,), and their number tau. `late` is taken off each, times lr."""
        v, heavy, tau = w, np.zeros_like(w), 0
        size = self.batch or max(1, worker.rows)
        for epoch in range(self.epochs):
            order = worker.rng(epoch).permutation(worker.rows)
            for first in range(0, worker.rows, size):
                part = worker.subset(order[first : first + size] if size < worker.rows else None)
                part.move_to(v)
                g = part.gradient()
                heavy = self.momentum * heavy + (g if drift is None else g + drift(v))
                v = v - self.lr * (heavy if late is None else heavy + late)
                tau += 1
        return v, tau


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedProx (Li et al. 2020): FedAvg with mu (v - w) added to every local gradient, against drifting apart."""

    mu: float = setting(0.01, ge=0, help="of the proximal term")

    name = "fedprox"
    cost = Cost("2", "d", "d")

    def local(self, worker: Worker, w: Array) -> Array:
        return w - self.walked(worker, w, lambda v: self.mu * (v - w))[0]


@dataclass(frozen=True)
class FedNova(FedAvg):
    """FedNova (Wang et al. 2020): FedAvg where workers that take more steps do not count for more.

    Worker i sends its way divided by a_i, which is the weight that tau_i steps with momentum give a gradient; the
    driver goes the mean of these times the mean of the a_i. With as many steps on all workers it is FedAvg.
    """

    name = "fednova"
    cost = Cost("2", "d", "d + 1")

    def step(self, fleet: Fleet, now: FedAvgState) -> FedAvgState:
        p, a = fleet.mean(self.normalised, now.w)
        return self.gone(now, a * p)

    def normalised(self, worker: Worker, w: Array) -> tuple[Array, float]:
        v, tau = self.walked(worker, w)
        beta = self.momentum
        a = (tau - beta * (1.0 - beta**tau) / (1.0 - beta)) / (1.0 - beta)
        return (w - v) / (a or 1.0), a  # a is 0 on a worker without rows alone, which has no say


@dataclass(frozen=True, eq=False)
class ScaffoldState(FedAvgState):
    """An iterate and the mean of the workers' controls."""

    control: Array = field(default_factory=lambda: np.zeros(0))  # c, shape (d,)


@dataclass(frozen=True)
class Scaffold(FedAvg):
    """SCAFFOLD (Karimireddy et al. 2020, option II): FedAvg whose local steps are corrected by c - c_i.

    c_i is the mean gradient along worker i's last way, c their mean by rows, so that the optimum is a fixed point on
    any shards, of any sizes (the paper's plain mean is the same where all are of one size). Momentum hurts it.
    """

    momentum: float = setting(0.0, help="")

    name = "scaffold"
    state = ScaffoldState
    cost = Cost("2", "2*d", "2*d")

    def start(self, fleet: Fleet, w: Array) -> ScaffoldState:
        return ScaffoldState(w, control=np.zeros_like(w))

    def step(self, fleet: Fleet, now: ScaffoldState) -> ScaffoldState:  # type: ignore[override]  # its own state
        p, change = fleet.mean(self.corrected, now.w, now.control)
        after = self.gone(now, p)
        assert isinstance(after, ScaffoldState)
        return after if after.trouble else replace(after, control=now.control + change)

    def corrected(self, worker: Worker, w: Array, c: Array) -> tuple[Array, Array]:
        own = worker.memory.get("control", np.zeros_like(w))
        v, tau = self.walked(worker, w, late=c - own)
        if not tau:
            return np.zeros_like(w), np.zeros_like(w)
        worker.memory["control"] = new = own - c + (w - v) / (tau * self.lr)
        return w - v, new - own
