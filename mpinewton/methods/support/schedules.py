"""Step sizes that change as a run goes on, as functions of the iteration alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Literal

from mpinewton.errors import ConfigError


@dataclass(frozen=True)
class Decay:
    """What the step size is multiplied by in iteration l = 1, 2, ...; it changes once in `epoch` iterations.

    `linear`: 1 until the part `hold` of `total` iterations, and from there down a line that reaches 0 after the last.
    `step`: divided by `factor` every `length` iterations.
    """

    kind: Literal["none", "linear", "step"] = "none"
    total: int = 0  # iterations of the run, for linear
    hold: float = 0.0  # part of them before it begins to fall
    epoch: int = 1  # iterations for which it stays as it is
    factor: float = 2.0  # for step
    length: int = 100  # for step
    also_rho: bool = True  # PISA: rho goes with sigma

    def __post_init__(self) -> None:
        for holds, name, rule in (
            (self.kind != "linear" or self.total >= 1, "total", "the iterations of the run, at least 1"),
            (0 <= self.hold < 1, "hold", "0 or more and less than 1"),
            (self.epoch >= 1, "epoch", "at least 1"),
            (self.factor >= 1, "factor", "at least 1"),
            (self.length >= 1, "length", "at least 1"),
        ):
            if not holds:
                raise ConfigError(f"decay: {name} = {getattr(self, name)!r}, but it must be {rule}")

    def __call__(self, iteration: int) -> float:
        """The factor in this iteration, counted from 1; past the last it stays what it was in the last."""
        begun = (iteration - 1) // self.epoch * self.epoch
        if self.kind == "linear":
            begun = min(begun, (self.total - 1) // self.epoch * self.epoch)
            return min(1.0, (1.0 - begun / self.total) / (1.0 - self.hold))
        return self.factor ** -(begun // self.length) if self.kind == "step" else 1.0


def spacing(every: int | str, gamma: float) -> int:
    """Iterations between two divisions of sigma by gamma; `auto` is ceil(ln gamma / ln 0.99), as fast as 0.99 each."""
    if every != "auto":
        return int(every)
    return max(1, ceil(log(gamma) / log(0.99) - 1e-9))
