"""The loop over iterations. Stopping, recording, checkpoints and clocks are added to every method here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import AnyMethod, State, fail
from mpinewton.runs.history import Row
from mpinewton.runs.stopping import Stop, first_reason


class Clock:
    """Seconds of a run, without evaluation for the record.

    Parameters
    ----------
    seconds : float
        Where to start, for a run that is resumed.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds, self._since = seconds, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._seconds + time.perf_counter() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which the clock is paused."""
        self._seconds = self.seconds
        try:
            yield
        finally:
            self._since = time.perf_counter()


@dataclass(frozen=True)
class Evaluation:
    """What is measured for the record only, outside the ledger and the clock.

    Attributes
    ----------
    optimum : float
        The optimal value P*; NaN if it is not known.
    test : function or None
        Accuracy and mean loss of weights w, shape (d,), on test data.
    every : int
        Number of iterations between measurements.
    """

    optimum: float = NAN
    test: Callable[[Array], tuple[float, float]] | None = None
    every: int = 1


class Watcher(Protocol):
    """A function that is called for every row: a history, a display, a checkpoint."""

    def __call__(self, row: Row, state: State) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    state : State
        At the last finite iterate.
    row : Row
        The row of that iterate, measured in full even where the history is not.
    reason : str
        Why the run stopped, in a sentence.
    kind : str
        "converged", "budget", "stalled" (the method makes no further progress), "trouble" (numerical failure) or
        "interrupted" (signal or time limit: the run can be continued).
    """

    state: State
    row: Row
    reason: str
    kind: str

    @property
    def converged(self) -> bool:
        """Whether a goal was met."""
        return self.kind == "converged"


def run(
    method: AnyMethod,
    fleet: Fleet,
    begin: Array | State,
    stops: Sequence[Stop],
    *,
    clock: Clock | None = None,
    first: Row | None = None,
    evaluation: Evaluation | None = None,
    watchers: Sequence[Watcher] = (),
    pause: Callable[[], str] = lambda: "",
) -> Outcome:
    """Iterate until a stopping rule applies, the method ends the run, or `pause` interrupts it.

    Parameters
    ----------
    method : Method
        Adopted by the fleet.
    fleet : Fleet
    begin : array, shape (d,), or State
        The first w; to resume, the state at the last recorded row. In that case `fleet.iteration` is the number of
        that row, the workers have been restored, and `first` and `clock` are those of the run.
    stops : sequence of Stop
    clock : Clock, optional
    first : Row, optional
        The first row of a run that is resumed.
    evaluation : Evaluation, optional
    watchers : sequence of functions of (row, state)
        Called for every new row, with the clock paused.
    pause : function without arguments
        Called once per iteration; returns why the run must be interrupted, or "".

    Returns
    -------
    Outcome

    Raises
    ------
    ConfigError
        If `method.start` returns another class than `method.state`.
    WorkerError
        If a task fails on a worker.
    """
    record = _Record(fleet, clock or Clock(), evaluation or Evaluation(), watchers)
    if isinstance(begin, State):
        state, row = begin, record.row(begin)
    else:
        fleet.iteration = 0
        state = method.start(fleet, begin)
        _check_class(method, state)
        if not _is_finite(state):
            reason = f"nonfinite: the objective or its gradient is not finite at the start{record.culprit(begin)}"
            return Outcome(State(begin), record.row(state), reason, "trouble")
        row = record.add(state)
    first = first or row
    while True:
        reason, kind = _why_stop(stops, row, first, state, pause)
        if reason:
            break
        fleet.iteration += 1
        after = method.step(fleet, state)
        if not after.trouble and not _is_finite(after):
            place = record.culprit(after.w)
            after = fail(state, f"nonfinite: the objective or its gradient is not finite after this step{place}")
        if after.trouble:
            fleet.iteration = row.iteration  # checkpoints are of the last row
            reason, kind = after.trouble, "trouble"
            break
        state, row = after, record.add(after)
    if not record.is_due:
        row = record.row(state, in_full=True)
        goal, converged = first_reason(stops, row, first)
        reason, kind = (goal, "converged") if converged else (reason, kind)
    return Outcome(state, row, reason, kind)


def _why_stop(stops: Sequence[Stop], row: Row, first: Row, state: State, pause: Callable[[], str]) -> tuple[str, str]:
    """Reason and kind of the end of a run; the reason is "" if it continues."""
    reason, converged = first_reason(stops, row, first)
    if reason:
        return reason, "converged" if converged else "budget"
    if state.finished:
        return state.finished, "stalled"
    return pause(), "interrupted"


@dataclass(frozen=True)
class _Record:
    """Makes the rows of a run."""

    fleet: Fleet
    clock: Clock
    evaluation: Evaluation
    watchers: Sequence[Watcher]

    @property
    def is_due(self) -> bool:
        """Whether this iteration is measured in full."""
        return self.fleet.iteration % self.evaluation.every == 0

    def add(self, state: State) -> Row:
        """The row of a new state, which all watchers have seen."""
        row = self.row(state)
        with self.clock.paused():
            for watch in self.watchers:
                watch(row, state)
        return row

    def row(self, state: State, in_full: bool = False) -> Row:
        """The row of a state; what the method does not know is measured if it is due, or `in_full`."""
        fleet, test, seconds = self.fleet, self.evaluation.test, self.clock.seconds
        due = in_full or self.is_due
        with self.clock.paused(), fleet.ledger.closed():
            f, g, accuracy, test_loss = NAN, np.full(1, NAN), NAN, NAN
            if state.is_measured:
                f, g = state.loss, state.gradient
            elif due:
                f, g = fleet.mean(evaluate, state.w)
            if due and test is not None:
                accuracy, test_loss = test(state.w)
            return Row(
                iteration=fleet.iteration,
                rounds=fleet.ledger.rounds,
                **fleet.ledger.totals(),
                wire_bytes=fleet.ledger.wire,
                seconds=seconds,
                loss=float(f),
                grad_norm=float(np.sqrt(g @ g)),
                step=float(state.step),
                gap=float(f) - self.evaluation.optimum,
                test_accuracy=accuracy,
                test_loss=test_loss,
                note=state.note,
            )

    def culprit(self, w: Array) -> str:
        """Which workers have a value or gradient at w that is not finite, in words."""
        with self.clock.paused(), self.fleet.ledger.closed():
            finite = self.fleet.gather(is_finite, w)
        bad = [index for index, good in enumerate(finite) if not good]
        return f"; first on worker {bad[0]} ({len(bad)} of {self.fleet.n_workers} workers)" if bad else ""


def _check_class(method: AnyMethod, state: State) -> None:
    if type(state) is not method.state:
        raise ConfigError(
            f"{method.name}: start returned a {type(state).__name__}, but checkpoints expect {method.state.__name__}; "
            f"derive the method from Method[{type(state).__name__}]"
        )


def _is_finite(state: State) -> bool:
    if not state.is_measured:
        return bool(np.isfinite(state.w).all())
    return bool(np.isfinite(state.loss) and np.isfinite(state.gradient @ state.gradient))


def evaluate(worker: Worker, w: Array) -> tuple[float, Array]:
    """Worker task: f_i and its gradient at w."""
    return worker.evaluate(w)


def is_finite(worker: Worker, w: Array) -> bool:
    """Worker task: whether f_i and its gradient are finite at w."""
    f, g = worker.evaluate(w)
    return bool(np.isfinite(f) and np.isfinite(g).all())
