"""Stopping rules. Each has one limit and gives its reason in a sentence."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mpinewton.errors import ConfigError
from mpinewton.runs.history import Row

FTOL = 1e-14  # default goal: above the rounding errors of a sum, and a relative error of about 1e-7 in the weights


@dataclass(frozen=True)
class Stop(ABC):
    """A stopping rule.

    Parameters
    ----------
    limit : float
        At least 0.

    Attributes
    ----------
    converged : bool
        Whether a run that this rule stops has converged; otherwise its budget is used up.
    option : str
        The option of `mpinewton run` that sets the limit.

    Raises
    ------
    ConfigError
        If the limit is negative or NaN.
    """

    limit: float
    converged: ClassVar[bool] = False
    option: ClassVar[str]

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= sys.float_info.max:
            raise ConfigError(f"--{self.option} {self.limit!r:.40}: expected a number of at least 0")

    @abstractmethod
    def reason(self, row: Row, first: Row) -> str:
        """Why the run stops at this row, in a sentence; "" if it continues. `first` is the first row of the history."""


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
            return f"gradient norm {row.grad_norm:.3g} is at most {self.limit:g} times the first, {first.grad_norm:.3g}"
        return ""


class GapBelow(Stop):
    converged = True
    option = "gap"

    def reason(self, row: Row, first: Row) -> str:
        return f"gap {row.gap:.3g} to the optimal value is at most {self.limit:g}" if row.gap <= self.limit else ""


class GapEstimated(Stop):
    """Estimated gap, relative to the decrease so far. The loop estimates it: see `mpinewton.runs.ends`."""

    converged = True
    option = "ftol"

    def reason(self, row: Row, first: Row) -> str:
        return ""


class Iterations(Stop):
    option = "max-iterations"

    def reason(self, row: Row, first: Row) -> str:
        return f"maximum number of iterations ({self.limit:g}) reached" if row.iteration >= self.limit else ""


class Rounds(Stop):
    option = "max-rounds"

    def reason(self, row: Row, first: Row) -> str:
        return f"maximum number of rounds ({self.limit:g}) reached" if row.rounds >= self.limit else ""


class Bits(Stop):
    option = "max-bits"

    def reason(self, row: Row, first: Row) -> str:
        used = row.bits_down + row.bits_up
        return f"maximum number of bits ({self.limit:g}) reached on the busiest link" if used >= self.limit else ""


class Seconds(Stop):
    option = "max-seconds"

    def reason(self, row: Row, first: Row) -> str:
        return f"maximum time ({self.limit:g} s) reached" if row.seconds >= self.limit else ""


def first_reason(stops: Sequence[Stop], row: Row, first: Row) -> tuple[str, bool]:
    """The reason of the first rule that stops the run, and whether it means convergence; goals come before budgets."""
    for stop in sorted(stops, key=lambda stop: not stop.converged):
        if reason := stop.reason(row, first):
            return reason, stop.converged
    return "", False


KINDS: dict[str, type[Stop]] = {
    kind.option.replace("-", "_"): kind
    for kind in (GradientBelow, GradientReduced, GapBelow, GapEstimated, Iterations, Rounds, Bits, Seconds)
}


def estimated_gap(stops: Sequence[Stop]) -> float | None:
    """The limit of `GapEstimated`, where it is one of the rules."""
    return next((stop.limit for stop in stops if isinstance(stop, GapEstimated)), None)


def make_stops(limits: Mapping[str, float | None]) -> list[Stop]:
    """The rules with these limits: tol, rtol, gap, max_iterations, ...; None for no limit. Raises ConfigError."""
    return [kind(limit) for name, kind in KINDS.items() if (limit := limits.get(name)) is not None]


def default_stops(limits: Mapping[str, float | None]) -> dict[str, float]:
    """Additional limits: ftol 1e-14 if no goal is given, max_iterations 1000 if no budget is given."""
    given = make_stops(limits)
    goal = {} if any(stop.converged for stop in given) else {"ftol": FTOL}
    return goal | ({} if any(not stop.converged for stop in given) else {"max_iterations": 1000})
