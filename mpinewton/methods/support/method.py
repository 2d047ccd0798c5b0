"""What a method is: a frozen dataclass of settings with `start` and `step`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem
from mpinewton.losses import LOSSES, Loss
from mpinewton.methods.support.memory import available_memory
from mpinewton.settings import Configured

UNLIKE = ("blocks", "round-robin", "label-skew", "dirichlet")  # partitions that do not permute the rows
SMALL_MEMORY = 1e8  # bytes; whether as much is available is not asked
UNKNOWN: Array = np.zeros(0)  # in place of a gradient that a method does not know
log = logging.getLogger("mpinewton")


@dataclass(frozen=True, eq=False)
class State:
    """What a method remembers from one step to the next; every field is saved in checkpoints.

    A method that remembers more derives a class from this one, with `@dataclass(frozen=True, eq=False, kw_only=True)`.
    Its fields are numbers, texts, arrays, and `Vectors`, tuples of arrays of one shape.

    Attributes
    ----------
    w : array, shape (d,)
        Weights.
    loss : float
        Objective at w; NaN where the method does not know it. It is then measured for the record, at no charge.
    gradient : array, shape (d,)
        Gradient of the objective at w; `UNKNOWN` where the method does not know it.
    step : float
        Step size that led to w, for the history.
    note : str
        A remark for the history.
    trouble : str
        Why the method cannot continue from w, in a sentence; "" where it can.
    finished : str
        Why the method makes no further progress, in a sentence; "" where it does.
    """

    w: Array
    loss: float = NAN
    gradient: Array = field(default_factory=lambda: UNKNOWN)
    step: float = NAN
    note: str = ""
    trouble: str = ""
    finished: str = ""

    def __post_init__(self) -> None:
        # Arrays in C order, as a checkpoint returns them: H.T @ v and H @ v round differently.
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, np.asarray(value, order="C"))

    @property
    def is_measured(self) -> bool:
        """Whether the method knows loss and gradient at w."""
        return self.gradient.size > 0


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Cost:
    """What one iteration costs: formulae in d (weights), m (rows of the busiest worker) and k (inner steps).

    Attributes
    ----------
    rounds : str
        Rounds.
    down, up : str
        Floats per worker from the driver and to it.
    note : str
        When it costs something else.
    """

    rounds: str
    down: str
    up: str
    note: str = ""

    def __str__(self) -> str:
        line = f"{self.rounds} rounds an iteration; floats per worker: {self.down} down, {self.up} up."
        return f"{line} ({self.note})" if self.note else line


@dataclass(frozen=True)
class Algorithm(Configured, ABC):
    """What users name to solve a problem: a `Method`, or a `Rule` that chooses a method. Its fields are the settings.

    Attributes
    ----------
    name : str
    needs : tuple of str
        What the loss must provide; see `Loss.provides`.
    convex_only : bool
        Whether the algorithm is meaningless for a loss that is not convex.
    rows_travel : bool
        Whether rows of the data leave their workers: such methods are compared apart from the others.
    cost : Cost or None
        Cost of an iteration; the docstring's last line is made of it, and a test compares it with the ledger.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    convex_only: ClassVar[bool] = False
    rows_travel: ClassVar[bool] = False
    cost: ClassVar[Cost | None] = None

    @abstractmethod
    def choose(self, problem: Problem) -> AnyMethod:
        """The method that runs on this problem."""

    @abstractmethod
    def validate(self, problem: Problem) -> None:
        """Refuse a problem that this algorithm cannot solve, before anything is started. Raises ConfigError."""

    def validate_loss(self, loss: Loss) -> None:
        """Refuse a loss that lacks what this method needs, and name losses that have it. Raises ConfigError."""
        missing = [need for need in self.needs if need not in loss.provides]
        if missing:
            able = [name for name, kind in LOSSES.items() if set(self.needs) <= kind.provides]
            raise ConfigError(
                f"{self.name} needs {' and '.join(missing)}, which {loss.name} does not provide; {', '.join(able)} do. "
                f"{loss.name} provides {', '.join(sorted(loss.provides))}: `mpinewton methods NAME` lists needs"
            )
        if self.convex_only and not loss.convex:
            raise ConfigError(
                f"{self.name} needs a convex loss, and {loss.name} is not convex; use dino, lbfgs or giant with "
                "negative=abs"
            )


class Rule(Algorithm):
    """A rule that chooses a method for a problem, as `auto`. Derive from it and write `choose`.

    `choose` depends on the problem and the settings alone, so that a run that is resumed, on any number of ranks, goes
    on with the same method.
    """

    def validate(self, problem: Problem) -> None:
        self.choose(problem).validate(problem)


@dataclass(frozen=True)
class Method(Algorithm, Generic[S]):
    """Base of all methods. Fields are the settings, letters of the paper allowed; `start` and `step` run on the driver.

    Derive from `Method[MyState]`, or from `Method[State]` if nothing but weights, loss and gradient is remembered.

    Attributes
    ----------
    shards_alike : bool
        Whether the method averages local models or directions, which helps only if shards resemble one another.
    any_units : bool
        Whether the run may centre and scale columns of very different units for it, as for methods with a line search
        whose settings have no units; see `mpinewton.runs.columns`.
    matrices : float
        Peak memory of the driver or a worker in matrices of d x d float64, as measured; 0 where none is formed.
    remedy : str
        What to change where the objective diverges, as a clause; "" for the loop's own advice.
    state : type of State
        The class of what `start` and `step` return; taken from the class that `Method[...]` names.
    """

    shards_alike: ClassVar[bool] = False
    any_units: ClassVar[bool] = False
    matrices: ClassVar[float] = 0.0
    remedy: ClassVar[str] = ""
    state: ClassVar[type[State]] = State

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            states = [a for a in get_args(base) if isinstance(a, type) and issubclass(a, State)]
            if states and isinstance(get_origin(base), type) and issubclass(get_origin(base), Method):
                cls.state = states[0]
        if cls.cost is not None and "name" in cls.__dict__ and cls.__doc__:
            cls.__doc__ = f"{cls.__doc__.rstrip()}\n\n    {cls.cost}\n    "

    @abstractmethod
    def start(self, fleet: Fleet, w: Array) -> S:
        """The state at the first weights.

        Parameters
        ----------
        fleet : Fleet
        w : array, shape (d,)
        """

    @abstractmethod
    def step(self, fleet: Fleet, now: S) -> S:
        """The state after one more iteration; `fail(now, why)` where the method cannot continue."""

    @property
    def uses_single_rows(self) -> bool:
        """Whether workers use single rows of their shards, not only products with all."""
        return "rows" in self.needs

    def choose(self, problem: Problem) -> AnyMethod:
        """This method itself."""
        return self

    def validate(self, problem: Problem) -> None:
        """Refuse a problem that this method cannot solve, before anything is started.

        Raises
        ------
        ConfigError
            If the loss lacks what the method needs, the problem does not suit the settings, or matrices of d x d would
            not fit into memory.
        """
        self.validate_loss(problem.loss)
        self.require_memory(problem, self.matrices)
        if self.shards_alike and problem.partition.partition(":")[0] in UNLIKE:
            log.warning(
                "%s averages what the workers find on their own rows, and the rows were dealt out by %s. If that makes "
                "shards unlike, by label or time, convergence is slow or incomplete; `pack --partition iid` permutes "
                "the rows",
                self.name, problem.partition,
            )  # fmt: skip

    def require_memory(self, problem: Problem, matrices: float) -> None:
        """Refuse to form so many matrices of d x d where they do not fit into memory. Raises ConfigError."""
        bytes_needed = 8.0 * matrices * problem.dim**2
        if bytes_needed > SMALL_MEMORY and bytes_needed > (there := available_memory()):
            from mpinewton.methods import METHODS  # which imports this module

            able = [name for name in ("lbfgs", "newton-cg", "disco", "dino") if _accepts(METHODS[name](), problem.loss)]
            raise ConfigError(
                f"{self.name} needs {bytes_needed / 1e9:.3g} GB for matrices of d x d, d = {problem.dim} weights, and "
                f"{there / 1e9:.3g} GB are available; use {', '.join(able)}, which form none"
            )

    def need(self, loss: Loss, what: str, setting: str, remedy: str) -> None:
        """Refuse a setting that this loss cannot serve, and name losses that can. Raises ConfigError."""
        if what not in loss.provides:
            able = ", ".join(name for name, kind in LOSSES.items() if what in kind.provides)
            raise ConfigError(
                f"{self.name}: {setting} needs {what}, which {loss.name} does not provide; {remedy}. {able} provide it"
            )

    def iterations_per_epoch(self, problem: Problem) -> int:
        """Iterations in which a method of minibatches goes through the rows once; 1 for all others."""
        return 1


AnyMethod = Method[Any]


def _accepts(method: Algorithm, loss: Loss) -> bool:
    try:
        method.validate_loss(loss)
    except ConfigError:
        return False
    return True


def fail(now: S, trouble: str) -> S:
    """The same state, with the reason why the method cannot continue from it."""
    return replace(now, trouble=trouble)
