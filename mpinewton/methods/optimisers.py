"""The optimisers of deep learning on the mean of the workers' gradients: SGD with momentum, Adam, AdamW, Muon."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.methods.support.method import Iterate, Method, stuck
from mpinewton.methods.support.preconditioners import hidden_weights, orthogonalised
from mpinewton.methods.support.schedules import Decay
from mpinewton.methods.support.tasks import Sampling, drawn, runaway


@dataclass(frozen=True, eq=False)
class Moving(Iterate):
    """An iterate, which the workers have not seen, and the driver's moments."""

    momentum: Array = field(default_factory=lambda: np.zeros(0))  # shape (d,)
    square: Array = field(default_factory=lambda: np.zeros(0))  # of the gradient, shape (d,); (0,) where none is kept
    steps: int = 0  # taken so far
    first: float = NAN  # norm of the first gradient


@dataclass(frozen=True)
class Optimiser(Method):
    """What they share: minibatch gradients at w, averaged; the driver takes the step."""

    lr: float = 0.1  # step size
    decay: Decay = field(default_factory=Decay)  # lr is multiplied by it
    batch: float | None = None  # rows a worker draws; below 1 a share of them; none: all
    sampling: Sampling = "fresh"  # minibatches of their own each, or passes over the rows: epochs

    state: ClassVar[type[Iterate]] = Moving
    squares: ClassVar[bool] = False  # whether the second moment is kept

    def __post_init__(self) -> None:
        self.require(self.lr > 0, "lr", "greater than 0")
        self.require(self.batch is None or self.batch > 0, "batch", "greater than 0")

    def start(self, fleet: Fleet, w: Array) -> Moving:
        return Moving(w, momentum=np.zeros_like(w), square=np.zeros_like(w) if self.squares else np.zeros(0))

    def step(self, fleet: Fleet, now: Moving) -> Moving:
        g = fleet.mean(self.slope, now.w)
        length = float(np.linalg.norm(g))
        if runaway(length, now.first):
            lr = f"set lr = {self.lr / 4:.3g} instead of {self.lr:.3g}"
            return stuck(now, f"diverged: the gradient's norm is {length:.3g}, and was {now.first:.3g} at first; {lr}")
        now = replace(now, steps=now.steps + 1, first=now.first if now.steps else length)
        factor = self.decay(now.steps)
        return replace(self.moved(fleet, now, g, factor), step=self.lr * factor)

    def slope(self, worker: Worker, w: Array) -> Array:
        part = drawn(worker, self.batch, self.sampling)
        part.place(w)
        return part.gradient()

    @abstractmethod
    def moved(self, fleet: Fleet, now: Moving, g: Array, factor: float) -> Moving:
        """The state after a step along the gradient g (d,), lr multiplied by `factor`."""


@dataclass(frozen=True)
class Sgdm(Optimiser):
    """Distributed SGD with heavy-ball momentum (Polyak 1964), a <- beta a + g, w <- w - lr a: any smooth loss.

    2 rounds an iteration; floats per worker: d down, d up.
    """

    momentum: float = 0.9  # beta

    name: ClassVar[str] = "sgdm"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.momentum < 1, "momentum", "0 or more and less than 1")

    def moved(self, fleet: Fleet, now: Moving, g: Array, factor: float) -> Moving:
        a = self.momentum * now.momentum + g
        return replace(now, w=now.w - self.lr * factor * a, momentum=a)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Distributed Adam (Kingma and Ba 2015): any smooth loss. The moments are of the averaged gradient, on the driver.

    2 rounds an iteration; floats per worker: d down, d up.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # apart from the gradient, as in AdamW

    name: ClassVar[str] = "adam"
    squares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.beta1 < 1, "beta1", "0 or more and less than 1")
        self.require(0 <= self.beta2 < 1, "beta2", "0 or more and less than 1")
        self.require(self.eps > 0, "eps", "greater than 0")
        self.require(self.weight_decay >= 0, "weight_decay", "0 or more")

    def moved(self, fleet: Fleet, now: Moving, g: Array, factor: float) -> Moving:
        m, v, p = adam_step(now, g, self)
        w = now.w * (1.0 - self.lr * factor * self.weight_decay) - self.lr * factor * p
        return replace(now, w=w, momentum=m, square=v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Distributed AdamW (Loshchilov and Hutter 2019): Adam with w <- (1 - lr weight_decay) w before each step.

    2 rounds an iteration; floats per worker: d down, d up.
    """

    weight_decay: float = 0.01

    name: ClassVar[str] = "adamw"


@dataclass(frozen=True)
class Muon(Optimiser):
    """Distributed Muon (Jordan et al. 2024): networks. The momentum of the averaged gradient, orthogonalised.

    The weights that are in no matrix between layers go by Adam. Unlike nsisa the mean is taken before Newton-Schulz, so
    that it does not matter how the data are split.
    2 rounds an iteration; floats per worker: d down, d up.
    """

    lr: float = 0.02  # of the hidden matrices
    momentum: float = 0.95  # mu
    nesterov: bool = True  # orthogonalise g + mu b instead of b
    steps: int = 5  # of Newton-Schulz
    other_lr: float = 0.003  # Adam's, of the other weights
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    name: ClassVar[str] = "muon"
    squares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.momentum < 1, "momentum", "0 or more and less than 1")
        self.require(3 <= self.steps <= 10, "steps", "3 to 10")
        self.require(self.other_lr > 0, "other_lr", "greater than 0")
        self.require(0 <= self.beta1 < 1, "beta1", "0 or more and less than 1")
        self.require(0 <= self.beta2 < 1, "beta2", "0 or more and less than 1")
        self.require(self.eps > 0, "eps", "greater than 0")

    def fit(self, problem: Problem) -> None:
        super().fit(problem)
        if not any(shape.hidden for shape in problem.shapes):
            raise ConfigError(
                f"muon orthogonalises the matrices between layers, and {problem.loss.name} has none: use adam"
            )

    def moved(self, fleet: Fleet, now: Moving, g: Array, factor: float) -> Moving:
        shapes = fleet.problem.shapes
        hidden = hidden_weights(shapes)
        b = self.momentum * now.momentum + g
        o = orthogonalised(g + self.momentum * b if self.nesterov else b, shapes, self.steps, True)
        m, v, p = adam_step(now, g, self)
        w = now.w - factor * np.where(hidden, self.lr * o, self.other_lr * p)
        return replace(now, w=w, momentum=np.where(hidden, b, m), square=v)


def adam_step(now: Moving, g: Array, betas: Adam | Muon) -> tuple[Array, Array, Array]:
    """Adam's moments and its direction in step number now.steps, shapes (d,)."""
    m = betas.beta1 * now.momentum + (1.0 - betas.beta1) * g
    v = betas.beta2 * now.square + (1.0 - betas.beta2) * (g * g)
    root = np.sqrt(v / (1.0 - betas.beta2**now.steps)) + betas.eps
    return m, v, m / (1.0 - betas.beta1**now.steps) / root
