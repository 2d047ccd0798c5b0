"""Step-size schedules, and the help texts of the settings for minibatches."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Literal

from mpinewton.settings import Configured, setting

BATCH = "number of rows in a minibatch; below 1 a share of the worker's rows; none: all rows"
SAMPLING = "minibatches are drawn from all rows (fresh), or pass through permutations of the rows (epochs)"


@dataclass(frozen=True)
class Decay(Configured):
    """A schedule: the factor of the step size in iteration l = 1, 2, ..., which changes once in `epoch` iterations.

    With kind=linear it is 1 up to iteration `hold` * `total`, and then decreases linearly to 0 after iteration `total`.
    With kind=step it is divided by `factor` every `length` iterations.
    """

    kind: Literal["none", "linear", "step"] = setting("none", help="form of the schedule")
    total: int = setting(0, ge=0, only_if={"kind": "linear"}, help="number of iterations of the run")
    hold: float = setting(0.0, ge=0, lt=1, only_if={"kind": "linear"}, help="share of the run before the decrease")
    epoch: int = setting(1, ge=1, only_if={"kind": ("linear", "step")}, help="iterations between changes of the factor")
    factor: float = setting(2.0, ge=1, only_if={"kind": "step"}, help="divisor")
    length: int = setting(100, ge=1, only_if={"kind": "step"}, help="iterations between divisions")
    also_rho: bool = setting(True, only_if={"kind": ("linear", "step")}, help="pisa: divide rho as well as sigma")

    name = "decay"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.kind != "linear" or self.total >= 1, "total", "the number of iterations of the run")

    def __call__(self, iteration: int) -> float:
        """The factor in this iteration, counted from 1; with kind=linear it stays constant after iteration `total`."""
        first = (iteration - 1) // self.epoch * self.epoch
        if self.kind == "linear":
            first = min(first, (self.total - 1) // self.epoch * self.epoch)
            return min(1.0, (1.0 - first / self.total) / (1.0 - self.hold))
        return self.factor ** -(first // self.length) if self.kind == "step" else 1.0


def spacing(every: int | str, gamma: float) -> int:
    """Iterations between divisions of sigma by gamma; "auto": ceil(ln gamma / ln 0.99), as fast as 0.99 in each one."""
    return max(1, ceil(log(gamma) / log(0.99) - 1e-9)) if every == "auto" else int(every)
