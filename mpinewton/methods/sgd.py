"""Stochastic gradient descent: synchronous SGD, and local SGD with averages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.settings import setting


@dataclass(frozen=True)
class Sgd(Method[State]):
    """Synchronous SGD: any loss. Every worker sends the gradient of a minibatch of its rows, drawn without replacement.

    With a constant learning rate the iterates stay at the noise level of the minibatches. batch_fraction=1 is gradient
    descent.
    """

    learning_rate: float = setting(1.0, gt=0, help="step size", alias=("lr", "step_size"))
    batch_fraction: float = setting(
        0.2, gt=0, le=1, help="share of the worker's rows in a minibatch, rounded up", alias="fraction"
    )

    name = "sgd"
    remedy = "lower learning_rate"
    cost = Cost("2", "d", "d")

    def iterations_per_epoch(self, problem: Problem) -> int:
        return ceil(1 / self.batch_fraction)

    def start(self, fleet: Fleet, w: Array) -> State:
        return State(w)

    def step(self, fleet: Fleet, now: State) -> State:
        g = fleet.mean(self.minibatch_gradient, now.w)
        return replace(now, w=now.w - self.learning_rate * g, step=self.learning_rate)

    def minibatch_gradient(self, worker: Worker, w: Array) -> Array:
        """Gradient of f_i on a minibatch at w, shape (d,): d floats."""
        rows = worker.rng().choice(worker.rows, ceil(self.batch_fraction * worker.rows), replace=False)
        return worker.sampled_gradient(rows, w)


@dataclass(frozen=True)
class LocalSgd(Method[State]):
    """Local SGD: any loss. Every worker takes SGD steps on its own rows, each row once an epoch; models are averaged.

    A step on b of n_i rows has length learning_rate b/n_i, so that an epoch is as long as one step on all rows. With a
    constant learning rate the iterates stay at a distance from the optimum, set by the noise and the unlike shards.
    """

    learning_rate: float = setting(
        10.0, gt=0, help="step size c; a step on one of n_i rows has length c/n_i", alias=("lr", "step_size")
    )
    batch_size: int = setting(1, ge=1, help="number of rows in a minibatch", alias="batch")
    epochs: int = setting(1, ge=1, help="passes over the worker's rows between two averages", alias="passes")

    name = "local-sgd"
    remedy = "lower learning_rate"
    shards_alike = True
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> State:
        return State(w)

    def step(self, fleet: Fleet, now: State) -> State:
        return replace(now, w=fleet.mean(self.take_steps, now.w))

    def take_steps(self, worker: Worker, w: Array) -> Array:
        """The worker's model after its SGD steps from w, shape (d,): d floats."""
        rng = worker.rng()
        for _ in range(self.epochs):
            order = rng.permutation(worker.rows)
            for rows in np.split(order, range(self.batch_size, worker.rows, self.batch_size)):
                w = w - self.learning_rate * len(rows) / max(1, worker.rows) * worker.sampled_gradient(rows, w)
        return w
