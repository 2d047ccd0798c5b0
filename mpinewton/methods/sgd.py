"""Stochastic gradients: synchronous SGD, and SGD on every worker between averages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.settings import setting


@dataclass(frozen=True)
class Sgd(Method[State]):
    """Synchronous SGD: any loss. Every worker sends the gradient of a minibatch of its rows, drawn without replacement.

    At a constant step it comes no closer than the noise of the minibatches; `fraction` 1 is gradient descent.
    """

    step_size: float = setting(1.0, gt=0, help="")
    fraction: float = setting(0.2, gt=0, le=1, help="of the worker's rows, rounded up")

    name = "sgd"
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> State:
        return State(w)

    def step(self, fleet: Fleet, now: State) -> State:
        return replace(now, w=now.w - self.step_size * fleet.mean(self.minibatch, now.w), step=self.step_size)

    def minibatch(self, worker: Worker, w: Array) -> Array:
        rows = worker.rng().choice(worker.rows, ceil(self.fraction * worker.rows), replace=False)
        return worker.sampled_gradient(rows, w)


@dataclass(frozen=True)
class LocalSgd(Method[State]):
    """Local SGD: any loss. Every worker takes SGD steps on its own rows, each row once a pass; the models are averaged.

    A step on b of n_i rows has length step_size b/n_i, so that a pass is as long as one step on all rows.
    At a constant step size it comes no closer than the noise and the workers' disagreement.
    """

    step_size: float = setting(10.0, gt=0, help="c; a step on one of n_i rows has length c/n_i")
    batch: int = setting(1, ge=1, help="rows a step")
    passes: int = setting(1, ge=1, help="over the worker's rows, between two averages")

    name = "local-sgd"
    shards_alike = True
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> State:
        return State(w)

    def step(self, fleet: Fleet, now: State) -> State:
        return replace(now, w=fleet.mean(self.walk, now.w))

    def walk(self, worker: Worker, w: Array) -> Array:
        rng = worker.rng()
        for _ in range(self.passes):
            order = rng.permutation(worker.rows)
            for rows in np.split(order, range(self.batch, worker.rows, self.batch)):
                w = w - self.step_size * len(rows) / max(1, worker.rows) * worker.sampled_gradient(rows, w)
        return w
