"""The optimisers of deep learning on the mean of the workers' gradients: SGD with momentum, Adam, AdamW, Muon."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.preconditioners import hidden_weights, orthogonalised
from mpinewton.methods.support.schedules import Decay
from mpinewton.methods.support.tasks import Sampling, is_diverging, minibatch
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class OptimiserState(State):
    """An iterate, which the workers have not seen, and the driver's moments."""

    momentum: Array = field(default_factory=lambda: np.zeros(0))  # shape (d,)
    square: Array = field(default_factory=lambda: np.zeros(0))  # of the gradient, shape (d,); (0,) where none is kept
    steps: int = 0  # taken so far
    first: float = NAN  # norm of the first gradient


@dataclass(frozen=True)
class Optimiser(Method[OptimiserState]):
    """What they share: minibatch gradients at w, averaged; the driver takes the step."""

    lr: float = setting(0.1, gt=0, help="step size")
    decay: Decay = setting(factory=Decay, help="lr is multiplied by it")
    batch: float | None = setting(None, gt=0, help="rows a worker draws; below 1 a share of them; none: all")
    sampling: Sampling = setting("fresh", help="minibatches of their own each, or passes over the rows: epochs")

    squares: ClassVar[bool] = False  # whether the second moment is kept

    def start(self, fleet: Fleet, w: Array) -> OptimiserState:
        return OptimiserState(w, momentum=np.zeros_like(w), square=np.zeros_like(w) if self.squares else np.zeros(0))

    def step(self, fleet: Fleet, now: OptimiserState) -> OptimiserState:
        g = fleet.mean(self.slope, now.w)
        length = float(np.linalg.norm(g))
        if is_diverging(length, now.first):
            lr = f"set lr = {self.lr / 4:.3g} instead of {self.lr:.3g}"
            return fail(now, f"diverged: the gradient's norm is {length:.3g}, and was {now.first:.3g} at first; {lr}")
        now = replace(now, steps=now.steps + 1, first=now.first if now.steps else length)
        factor = self.decay(now.steps)
        return replace(self.moved(fleet, now, g, factor), step=self.lr * factor)

    def slope(self, worker: Worker, w: Array) -> Array:
        part = minibatch(worker, self.batch, self.sampling)
        part.move_to(w)
        return part.gradient()

    @abstractmethod
    def moved(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        """The state after a step along the gradient g (d,), lr multiplied by `factor`."""


@dataclass(frozen=True)
class Sgdm(Optimiser):
    """Distributed SGD with heavy-ball momentum (Polyak 1964), a <- beta a + g, w <- w - lr a: any smooth loss."""

    momentum: float = setting(0.9, ge=0, lt=1, help="beta")

    name = "sgdm"
    cost = Cost("2", "d", "d")

    def moved(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        a = self.momentum * now.momentum + g
        return replace(now, w=now.w - self.lr * factor * a, momentum=a)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Distributed Adam (Kingma and Ba 2015): any smooth loss. The moments are of the averaged gradient, on the driver."""

    lr: float = setting(0.01, help="")
    beta1: float = setting(0.9, ge=0, lt=1, help="")
    beta2: float = setting(0.999, ge=0, lt=1, help="")
    eps: float = setting(1e-08, gt=0, help="")
    weight_decay: float = setting(0.0, ge=0, help="apart from the gradient, as in AdamW")

    name = "adam"
    cost = Cost("2", "d", "d")
    squares: ClassVar[bool] = True

    def moved(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        m, v, p = adam_step(now, g, self)
        w = now.w * (1.0 - self.lr * factor * self.weight_decay) - self.lr * factor * p
        return replace(now, w=w, momentum=m, square=v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Distributed AdamW (Loshchilov and Hutter 2019): Adam with w <- (1 - lr weight_decay) w before each step."""

    weight_decay: float = setting(0.01, help="")

    name = "adamw"


@dataclass(frozen=True)
class Muon(Optimiser):
    """Distributed Muon (Jordan et al. 2024): networks. The momentum of the averaged gradient, orthogonalised.

    The weights that are in no matrix between layers go by Adam. Unlike nsisa the mean is taken before Newton-Schulz, so
    that it does not matter how the data are split.
    """

    lr: float = setting(0.02, help="of the hidden matrices")
    momentum: float = setting(0.95, ge=0, lt=1, help="mu")
    nesterov: bool = setting(True, help="orthogonalise g + mu b instead of b")
    steps: int = setting(5, ge=3, le=10, help="of Newton-Schulz")
    other_lr: float = setting(0.003, gt=0, help="Adam's, of the other weights")
    beta1: float = setting(0.9, ge=0, lt=1, help="")
    beta2: float = setting(0.999, ge=0, lt=1, help="")
    eps: float = setting(1e-08, gt=0, help="")

    name = "muon"
    cost = Cost("2", "d", "d")
    squares: ClassVar[bool] = True

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not any(shape.hidden for shape in problem.shapes):
            raise ConfigError(
                f"muon orthogonalises the matrices between layers, and {problem.loss.name} has none: use adam"
            )

    def moved(self, fleet: Fleet, now: OptimiserState, g: Array, factor: float) -> OptimiserState:
        shapes = fleet.problem.shapes
        hidden = hidden_weights(shapes)
        b = self.momentum * now.momentum + g
        o = orthogonalised(g + self.momentum * b if self.nesterov else b, shapes, self.steps, True)
        m, v, p = adam_step(now, g, self)
        w = now.w - factor * np.where(hidden, self.lr * o, self.other_lr * p)
        return replace(now, w=w, momentum=np.where(hidden, b, m), square=v)


def adam_step(now: OptimiserState, g: Array, betas: Adam | Muon) -> tuple[Array, Array, Array]:
    """Adam's moments and its direction in step number now.steps, shapes (d,)."""
    m = betas.beta1 * now.momentum + (1.0 - betas.beta1) * g
    v = betas.beta2 * now.square + (1.0 - betas.beta2) * (g * g)
    root = np.sqrt(v / (1.0 - betas.beta2**now.steps)) + betas.eps
    return m, v, m / (1.0 - betas.beta1**now.steps) / root
