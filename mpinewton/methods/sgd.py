"""Stochastic gradients: synchronous SGD, and SGD on every worker between averages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import Iterate, Method


@dataclass(frozen=True)
class Sgd(Method):
    """Synchronous SGD: any loss. Every worker sends the gradient of a minibatch of its rows, drawn without replacement.

    At a constant step it comes no closer than the noise of the minibatches; `fraction` 1 is gradient descent.
    2 rounds an iteration; floats per worker: d down, d up.
    """

    step_size: float = 1.0
    fraction: float = 0.2  # of the worker's rows, rounded up

    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        self.require(self.step_size > 0, "step_size", "greater than 0")
        self.require(0 < self.fraction <= 1, "fraction", "greater than 0 and at most 1")

    def start(self, fleet: Fleet, w: Array) -> Iterate:
        return Iterate(w)

    def step(self, fleet: Fleet, now: Iterate) -> Iterate:
        return replace(now, w=now.w - self.step_size * fleet.mean(self.minibatch, now.w), step=self.step_size)

    def minibatch(self, worker: Worker, w: Array) -> Array:
        rows = worker.rng().choice(worker.rows, ceil(self.fraction * worker.rows), replace=False)
        return worker.sampled_gradient(rows, w)


@dataclass(frozen=True)
class LocalSgd(Method):
    """Local SGD: any loss. Every worker takes SGD steps on its own rows, each row once a pass; the models are averaged.

    A step on b of n_i rows has length step_size b/n_i, so that a pass is as long as one step on all rows.
    At a constant step size it comes no closer than the noise and the workers' disagreement.
    2 rounds an iteration; floats per worker: d down, d up.
    """

    step_size: float = 10.0  # c; a step on one of n_i rows has length c/n_i
    batch: int = 1  # rows a step
    passes: int = 1  # over the worker's rows, between two averages

    name: ClassVar[str] = "local-sgd"
    shards_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.require(self.step_size > 0, "step_size", "greater than 0")
        self.require(self.batch >= 1, "batch", "at least 1")
        self.require(self.passes >= 1, "passes", "at least 1")

    def start(self, fleet: Fleet, w: Array) -> Iterate:
        return Iterate(w)

    def step(self, fleet: Fleet, now: Iterate) -> Iterate:
        return replace(now, w=fleet.mean(self.walk, now.w))

    def walk(self, worker: Worker, w: Array) -> Array:
        rng = worker.rng()
        for _ in range(self.passes):
            order = rng.permutation(worker.rows)
            for rows in np.split(order, range(self.batch, worker.rows, self.batch)):
                w = w - self.step_size * len(rows) / max(1, worker.rows) * worker.sampled_gradient(rows, w)
        return w
