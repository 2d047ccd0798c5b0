"""When to stop: each rule gives its reason in a sentence, and says whether stopping there means convergence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mpinewton.errors import ConfigError
from mpinewton.runs.history import Row


@dataclass(frozen=True)
class Stop(ABC):
    """A rule with one limit."""

    limit: float
    converged: ClassVar[bool] = False
    option: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise ConfigError(f"--{self.option} {self.limit!r}: it must be a number, 0 or more")

    @abstractmethod
    def reason(self, row: Row, first: Row) -> str:
        """Why to stop at this row of a history that began with `first`; "" to go on."""


class GradientBelow(Stop):
    converged = True
    option = "tol"

    def reason(self, row: Row, first: Row) -> str:
        if row.grad_norm <= self.limit:
            return f"gradient norm {row.grad_norm:.3g} is at most {self.limit:g}"
        return ""


class GradientReduced(Stop):
    converged = True
    option = "rtol"

    def reason(self, row: Row, first: Row) -> str:
        if row.grad_norm <= self.limit * first.grad_norm:
            return f"gradient norm {row.grad_norm:.3g} is at most {self.limit:g} of the first, {first.grad_norm:.3g}"
        return ""


class GapBelow(Stop):
    converged = True
    option = "gap"

    def reason(self, row: Row, first: Row) -> str:
        return f"gap {row.gap:.3g} to the known optimum is at most {self.limit:g}" if row.gap <= self.limit else ""


class Iterations(Stop):
    option = "max-iterations"

    def reason(self, row: Row, first: Row) -> str:
        return f"{self.limit:g} iterations were asked for" if row.iteration >= self.limit else ""


class Rounds(Stop):
    option = "max-rounds"

    def reason(self, row: Row, first: Row) -> str:
        return f"{row.rounds} rounds: {self.limit:g} were allowed" if row.rounds >= self.limit else ""


class Bits(Stop):
    option = "max-bits"

    def reason(self, row: Row, first: Row) -> str:
        used = row.bits_down + row.bits_up
        return f"{used} bits on the busiest link: {self.limit:g} were allowed" if used >= self.limit else ""


class Seconds(Stop):
    option = "max-seconds"

    def reason(self, row: Row, first: Row) -> str:
        return f"{row.seconds:.1f} seconds: {self.limit:g} were allowed" if row.seconds >= self.limit else ""


def first_reason(stops: Sequence[Stop], row: Row, first: Row) -> tuple[str, bool]:
    """The reason of the first rule that says stop, convergence before budgets, and whether it means convergence."""
    for stop in sorted(stops, key=lambda stop: not stop.converged):
        if reason := stop.reason(row, first):
            return reason, stop.converged
    return "", False
