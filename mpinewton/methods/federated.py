"""Federated averaging and its variants: many local steps per round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.settings import setting

A = TypeVar("A", bound=State)


@dataclass(frozen=True)
class LocalTraining(Method[A]):
    """Base of the federated methods: each worker runs `epochs` passes of minibatch SGD with momentum from w."""

    learning_rate: float = setting(0.1, gt=0, alias=("lr", "step_size"), help="step size of the local steps")
    momentum: float = setting(0.9, ge=0, lt=1, help="momentum of the local steps; reset after each round")
    epochs: int = setting(1, ge=1, alias="passes", help="number of passes over the local rows per round")
    batch_size: int | None = setting(32, ge=1, alias="batch", help="number of rows in a local step; none: all")

    remedy = "lower learning_rate"

    def update(self, now: A, p: Array) -> A:
        """The state at w - p."""
        return replace(now, w=now.w - p, step=self.learning_rate)

    def train(
        self, worker: Worker, w: Array, drift: Callable[[Array], Array] | None = None, correction: Array | None = None
    ) -> tuple[Array, int]:
        """Run the local steps from w.

        Parameters
        ----------
        worker : Worker
        w : array, shape (d,)
        drift : function of the local weights v (d,), or None
            Vector (d,) that is added to the gradient at v, before momentum.
        correction : array, shape (d,), or None
            Vector that is added to every step, after momentum.

        Returns
        -------
        v : array, shape (d,)
            The local weights after the last step.
        tau : int
            The number of steps.
        """
        v, heavy, tau = w, np.zeros_like(w), 0
        size = self.batch_size or max(1, worker.rows)
        for epoch in range(self.epochs):
            order = worker.rng(epoch).permutation(worker.rows)
            for first in range(0, worker.rows, size):
                part = worker.subset(order[first : first + size] if size < worker.rows else None)
                part.move_to(v)
                g = part.gradient()
                heavy = self.momentum * heavy + (g if drift is None else g + drift(v))
                v = v - self.learning_rate * (heavy if correction is None else heavy + correction)
                tau += 1
        return v, tau


@dataclass(frozen=True)
class FedAvg(LocalTraining[State]):
    """FedAvg (McMahan et al. 2017): any smooth loss, shards that resemble one another.

    Every worker runs `epochs` passes of minibatch SGD with momentum from w and sends w - v, v its local weights; the
    driver subtracts the mean. Where shards differ, it converges to a point near the optimum, whose distance grows with
    learning_rate and the number of local steps.
    """

    name = "fedavg"
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> State:
        return State(w)

    def step(self, fleet: Fleet, now: State) -> State:
        return self.update(now, fleet.mean(self.local, now.w))

    def local(self, worker: Worker, w: Array) -> Array:
        """w - v after the local steps, d floats."""
        return w - self.train(worker, w)[0]


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedProx (Li et al. 2020): FedAvg with mu (v - w) added to every local gradient, which keeps v close to w."""

    mu: float = setting(0.01, ge=0, help="weight of the proximal term mu/2 |v - w|^2")

    name = "fedprox"
    cost = Cost("2", "d", "d")

    def local(self, worker: Worker, w: Array) -> Array:
        """w - v after the local steps, d floats."""
        return w - self.train(worker, w, lambda v: self.mu * (v - w))[0]


@dataclass(frozen=True)
class FedNova(FedAvg):
    """FedNova (Wang et al. 2020): FedAvg with local updates normalised by their number of steps.

    Worker i sends (w - v) / a_i, where a_i is the total weight of a gradient in tau_i steps with momentum; the driver
    subtracts the mean times the mean of the a_i. Where all workers take equally many steps it is FedAvg.
    """

    name = "fednova"
    cost = Cost("2", "d", "d + 1")

    def step(self, fleet: Fleet, now: State) -> State:
        p, a = fleet.mean(self.normalise, now.w)
        return self.update(now, a * p)

    def normalise(self, worker: Worker, w: Array) -> tuple[Array, float]:
        """(w - v) / a_i, shape (d,), and a_i: d + 1 floats."""
        v, tau = self.train(worker, w)
        beta = self.momentum
        a = (tau - beta * (1.0 - beta**tau) / (1.0 - beta)) / (1.0 - beta)
        return (w - v) / (a or 1.0), a  # a is 0 only on a worker without rows, which has zero weight


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaffoldState(State):
    """The state of FedAvg and the control variate.

    Attributes
    ----------
    control : array, shape (d,)
        c, the mean of the workers' c_i.
    """

    control: Array


@dataclass(frozen=True)
class Scaffold(LocalTraining[ScaffoldState]):
    """SCAFFOLD (Karimireddy et al. 2020, option II): FedAvg with local steps corrected by c - c_i.

    c_i is the mean gradient along the latest local steps of worker i, and c their mean, weighted by rows, so that the
    optimum is a fixed point for shards of any sizes. The paper's plain mean is the same for equal sizes. Use it without
    momentum, which slows it down.
    """

    momentum: float = setting(0.0, ge=0, lt=1, help="momentum of the local steps; reset after each round")

    name = "scaffold"
    cost = Cost("2", "2*d", "2*d")

    def start(self, fleet: Fleet, w: Array) -> ScaffoldState:
        return ScaffoldState(w, control=np.zeros_like(w))

    def step(self, fleet: Fleet, now: ScaffoldState) -> ScaffoldState:
        p, change = fleet.mean(self.local, now.w, now.control)
        return replace(self.update(now, p), control=now.control + change)

    def local(self, worker: Worker, w: Array, c: Array) -> tuple[Array, Array]:
        """w - v after the local steps and the change of c_i, 2 d floats."""
        own = worker.memory.get("control", np.zeros_like(w))
        v, tau = self.train(worker, w, correction=c - own)
        if not tau:
            return np.zeros_like(w), np.zeros_like(w)
        worker.memory["control"] = new = own - c + (w - v) / (tau * self.learning_rate)
        return w - v, new - own
