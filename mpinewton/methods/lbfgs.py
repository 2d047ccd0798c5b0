"""L-BFGS, the pairs kept by the driver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import remembered, scaled
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Iterate, Method
from mpinewton.methods.support.tasks import value_and_gradient


@dataclass(frozen=True, eq=False)
class Remembered(Iterate):
    """An iterate and the last pairs of changes, oldest first."""

    S: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of w, shape (k, d)
    Y: Array = field(default_factory=lambda: np.zeros((0, 0)))  # changes of the gradient, shape (k, d)


@dataclass(frozen=True)
class Lbfgs(Method):
    """L-BFGS (Liu and Nocedal 1989) on the whole objective: any smooth loss; it does not see the split.

    The step is the one of least loss among those of 4, 2, 1, 1/2, ... that pass Armijo's rule.
    4 rounds an iteration; floats per worker: d + 1 down, d + 11 up.
    """

    memory: int = 10  # pairs kept
    search: Backtracking = field(default_factory=lambda: Backtracking(largest=4.0, choose="least", first=10))

    name: ClassVar[str] = "lbfgs"
    state: ClassVar[type[Iterate]] = Remembered

    def __post_init__(self) -> None:
        self.require(self.memory >= 1, "memory", "at least 1")

    def start(self, fleet: Fleet, w: Array) -> Remembered:
        f, g = fleet.mean(value_and_gradient, w)
        return Remembered(w, f, g, S=np.zeros((0, len(w))), Y=np.zeros((0, len(w))))

    def step(self, fleet: Fleet, now: Remembered) -> Remembered:
        after = descend(fleet, self.search, now, -scaled(now.S, now.Y, now.gradient))
        if after.trouble:
            return after
        S, Y = remembered(now.S, now.Y, after.w - now.w, after.gradient - now.gradient, self.memory)
        return replace(after, S=S, Y=Y)
