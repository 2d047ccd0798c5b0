"""What a method is: frozen hyper-parameters, `start` and `step`. Everything around it wraps it from outside."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem
from mpinewton.losses import LOSSES, Loss

UNLIKE = ("blocks", "round-robin", "label-skew", "dirichlet")  # partitions that do not permute the rows
log = logging.getLogger("mpinewton")


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where a method stands after a step. A method that must remember more derives from this; every field is saved."""

    w: Array  # weights, shape (d,)
    # Where a method moves before it is told, both stay unknown; they are measured for the record, at no charge.
    loss: float = NAN  # objective at w
    gradient: Array = field(default_factory=lambda: np.zeros(0))  # of the objective at w, shape (d,)
    step: float = NAN  # step size that led here
    note: str = ""  # anything worth a word in the history
    trouble: str = ""  # why the method cannot go on from here, in a sentence
    finished: str = ""  # why the method has no more to do: it comes no closer than this, in a sentence

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # in C order, as a checkpoint gives it back: H.T @ v rounds unlike H @ v
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, np.asarray(value, order="C"))


State = TypeVar("State", bound=Iterate)


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods. Fields are the settings, letters of the paper allowed; `start` and `step` run on the driver.

    Attributes
    ----------
    needs : what the loss must provide.
    convex_only : bool
        Whether the method means nothing on a loss that is not convex.
    shards_alike : bool
        Whether the workers' own models or directions are averaged, which means much where shards resemble one another.
    rows_travel : bool
        Whether rows of the data leave their workers: such methods are compared apart from the others.
    state : type
        The class of what `start` and `step` return.
    aliases : dict
        Settings that people may call by another name than the field has: {"step": "step_size"}.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    convex_only: ClassVar[bool] = False
    shards_alike: ClassVar[bool] = False
    rows_travel: ClassVar[bool] = False
    state: ClassVar[type[Iterate]] = Iterate
    aliases: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def start(self, fleet: Fleet, w: Array) -> Any:
        """The state at w, shape (d,)."""

    @abstractmethod
    def step(self, fleet: Fleet, now: Any) -> Any:
        """The state after one iteration; the same state with `trouble` where there is no going on."""

    def fit(self, problem: Problem) -> None:
        """Refuse a problem that this method cannot do, before anything is started. Raises ConfigError."""
        self.fit_loss(problem.loss)
        if self.shards_alike and problem.partition.partition(":")[0] in UNLIKE:
            log.warning(
                "%s averages what the workers find on their own rows, and these were dealt out by %s: if that makes "
                "them unlike, by label or time, it crawls or stops short; `pack --partition iid` permutes the rows",
                self.name, problem.partition,
            )  # fmt: skip

    def fit_loss(self, loss: Loss) -> None:
        """Refuse a loss that lacks what this method needs, naming what would do. Raises ConfigError."""
        missing = [need for need in self.needs if need not in loss.provides]
        if missing:
            able = [name for name, kind in LOSSES.items() if set(self.needs) <= kind.provides]
            raise ConfigError(
                f"{self.name} needs {' and '.join(missing)}, which {loss.name} does not provide; {', '.join(able)} do. "
                f"{loss.name} has {', '.join(sorted(loss.provides))}: `mpinewton methods` says who needs no more"
            )
        if self.convex_only and not loss.convex:
            raise ConfigError(
                f"{self.name} needs a convex loss, and {loss.name} is not; dino, lbfgs or giant with negative=abs do"
            )

    def need(self, loss: Loss, what: str, setting: str, remedy: str) -> None:
        """Refuse a setting that this loss cannot serve, naming losses that can. Raises ConfigError."""
        if what not in loss.provides:
            able = ", ".join(name for name, kind in LOSSES.items() if what in kind.provides)
            raise ConfigError(
                f"{self.name}: {setting} needs the {what.replace('_', ' ')} of the loss, and {loss.name} has none; "
                f"{remedy}, and {able} have one"
            )

    def require(self, holds: bool, setting: str, rule: str) -> None:
        """Refuse a setting out of its range, in a sentence. Raises ConfigError."""
        if not holds:
            raise ConfigError(f"{self.name}: {setting} = {getattr(self, setting)!r}, but it must be {rule}")

    @classmethod
    def cost(cls) -> tuple[str, str, str]:
        """Rounds an iteration, floats down and floats up per worker, as the docstring promises them.

        Formulae in d, and in k where an iteration takes k steps of some inner solver between driver and workers.
        """
        text = " ".join((cls.__doc__ or "").split())
        found = re.search(r"(\d[\dk*+ ]*) rounds an iteration; floats per worker: (.+?) down, (.+?) up", text)
        assert found, f"{cls.__name__}'s docstring has no cost line"
        return found[1], found[2], found[3]


def stuck(now: State, trouble: str) -> State:
    """The same state, and why there is no going on from it."""
    return replace(now, trouble=trouble)
