"""Optimisers of deep learning on the mean of the workers' gradients: SGD with momentum, Adam, AdamW, Muon."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.methods.support import tasks
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.preconditioners import hidden_weights, orthogonalise
from mpinewton.methods.support.schedules import BATCH, SAMPLING, Decay
from mpinewton.methods.support.tasks import Sampling, minibatch
from mpinewton.settings import setting

RATES = ("lr", "step_size")


@dataclass(frozen=True, eq=False, kw_only=True)
class OptimiserState(State):
    """The weights and the driver's moments.

    Attributes
    ----------
    momentum : array, shape (d,)
        Running sum or mean of the gradients.
    square : array, shape (d,), or None
        Running mean of the squared gradients; None for a method that has none.
    steps : int
        Number of steps taken.
    """

    momentum: Array
    square: Array | None
    steps: int


@dataclass(frozen=True)
class Optimiser(Method[OptimiserState]):
    """Base of the optimisers: the workers send minibatch gradients at w, and the driver steps with their mean."""

    learning_rate: float = setting(0.1, gt=0, alias=RATES, help="step size")
    decay: Decay = setting(factory=Decay, help="schedule by which learning_rate is multiplied")
    batch_size: float | None = setting(None, gt=0, alias="batch", help=BATCH)
    sampling: Sampling = setting("fresh", help=SAMPLING)

    remedy = "lower learning_rate"
    has_square: ClassVar[bool] = False  # whether the method keeps the second moment

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.sampling == "fresh" or self.batch_size is not None,
            "sampling",
            "fresh, as it has no effect without batch_size",
        )

    def iterations_per_epoch(self, problem: Problem) -> int:
        return tasks.iterations_per_epoch(problem, self.batch_size)

    def start(self, fleet: Fleet, w: Array) -> OptimiserState:
        zeros = np.zeros_like(w)
        return OptimiserState(w, momentum=zeros, square=zeros if self.has_square else None, steps=0)

    def step(self, fleet: Fleet, now: OptimiserState) -> OptimiserState:
        g = fleet.mean(self.gradient, now.w)
        now = replace(now, steps=now.steps + 1)
        factor = self.decay(now.steps)
        return replace(self.update(fleet, now, g, factor), step=self.learning_rate * factor)

    def gradient(self, worker: Worker, w: Array) -> Array:
        """The gradient of f_i at w on a minibatch, d floats."""
        part = minibatch(worker, self.batch_size, self.sampling)
        part.move_to(w)
        return part.gradient()

    @abstractmethod
    def update(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        """The state after a step with the gradient g (d,), learning_rate multiplied by `factor`."""


@dataclass(frozen=True)
class Sgdm(Optimiser):
    """Distributed SGD with heavy-ball momentum (Polyak 1964), a <- beta a + g, w <- w - eta a: any smooth loss."""

    momentum: float = setting(0.9, ge=0, lt=1, help="beta, the momentum")

    name = "sgdm"
    cost = Cost("2", "d", "d")

    def update(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        a = self.momentum * now.momentum + g
        return replace(now, w=now.w - self.learning_rate * factor * a, momentum=a)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Distributed Adam (Kingma and Ba 2015, Algorithm 1): any smooth loss.

    The moments are those of the mean gradient and stay on the driver.
    """

    learning_rate: float = setting(0.01, gt=0, alias=RATES, help="step size")
    beta1: float = setting(0.9, ge=0, lt=1, help="decay rate of the first moment")
    beta2: float = setting(0.999, ge=0, lt=1, help="decay rate of the second moment")
    eps: float = setting(1e-08, gt=0, help="number added to the root of the second moment")
    weight_decay: float = setting(0.0, ge=0, help="decoupled weight decay, as in AdamW")

    name = "adam"
    cost = Cost("2", "d", "d")
    has_square: ClassVar[bool] = True

    def update(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        m, v, p = adam_direction(now, g, self)
        w = now.w * (1.0 - self.learning_rate * factor * self.weight_decay) - self.learning_rate * factor * p
        return replace(now, w=w, momentum=m, square=v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Distributed AdamW (Loshchilov and Hutter 2019): Adam with w <- (1 - eta weight_decay) w before each step."""

    weight_decay: float = setting(0.01, ge=0, help="decoupled weight decay")

    name = "adamw"


@dataclass(frozen=True)
class Muon(Optimiser):
    """Distributed Muon (Jordan et al. 2024): networks. The momentum of each hidden matrix is orthogonalised.

    Weights outside the hidden matrices are trained by Adam. Unlike nsisa, the mean over the workers is taken before
    Newton-Schulz, so the result does not depend on how the data are partitioned.
    """

    learning_rate: float = setting(0.02, gt=0, alias=RATES, help="step size of the hidden matrices")
    momentum: float = setting(0.95, ge=0, lt=1, help="mu, the momentum of the hidden matrices")
    nesterov: bool = setting(True, help="orthogonalise g + mu b instead of b")
    steps: int = setting(5, ge=3, le=10, help="number of Newton-Schulz iterations")
    other_learning_rate: float = setting(0.003, gt=0, alias="other_lr", help="Adam's step size, for the other weights")
    beta1: float = setting(0.9, ge=0, lt=1, help="Adam's decay rate of the first moment")
    beta2: float = setting(0.999, ge=0, lt=1, help="Adam's decay rate of the second moment")
    eps: float = setting(1e-08, gt=0, help="number added to the root of Adam's second moment")

    name = "muon"
    cost = Cost("2", "d", "d")
    has_square: ClassVar[bool] = True

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not any(shape.hidden for shape in problem.shapes):
            raise ConfigError(f"muon needs matrices between hidden layers, and {problem.loss.name} has none; use adam")

    def update(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        shapes = fleet.problem.shapes
        hidden = hidden_weights(shapes)
        b = self.momentum * now.momentum + g
        o = orthogonalise(g + self.momentum * b if self.nesterov else b, shapes, self.steps, True)
        m, v, p = adam_direction(now, g, self)
        w = now.w - factor * np.where(hidden, self.learning_rate * o, self.other_learning_rate * p)
        return replace(now, w=w, momentum=np.where(hidden, b, m), square=v)


def adam_direction(now: OptimiserState, g: Array, method: Adam | Muon) -> tuple[Array, Array, Array]:
    """Adam's first and second moments and its direction in step `now.steps`, each of shape (d,)."""
    assert now.square is not None
    m = method.beta1 * now.momentum + (1.0 - method.beta1) * g
    v = method.beta2 * now.square + (1.0 - method.beta2) * (g * g)
    root = np.sqrt(v / (1.0 - method.beta2**now.steps)) + method.eps
    return m, v, m / (1.0 - method.beta1**now.steps) / root
