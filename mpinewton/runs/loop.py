"""The loop over iterations. Stopping, recording, checkpoints and clocks are added to every method here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet
from mpinewton.methods.support.method import AnyMethod, State, fail
from mpinewton.runs.columns import Columns
from mpinewton.runs.ends import SLACK, Ends, at_rounding, evaluate, is_finite, without_minimiser
from mpinewton.runs.history import Row
from mpinewton.runs.stopping import Stop, estimated_gap, first_reason

NONFINITE = "nonfinite: the objective or its gradient is not finite"


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
    columns : Columns
        The variables of the run: `test` and the gradient norm are of the weights.
    """

    optimum: float = NAN
    test: Callable[[Array], tuple[float, float]] | None = None
    every: int = 1
    columns: Columns = field(default_factory=Columns)


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
        "converged" (a goal is met), "precision" (no further progress is possible in float64), "stalled" (the method
        makes no further progress), "budget", "unbounded" (there is no finite minimiser), "diverged", "trouble"
        (numerical failure) or "interrupted" (signal or time limit: the run can be continued). See docs/ends.md.
    best, best_row : State, Row
        The measured iterate of least objective: the result of the run. Of those equal to rounding, the last.
    resumable : bool
        Whether the workers are at `state`; after a step that failed they are not.
    """

    state: State
    row: Row
    reason: str
    kind: str
    best: State
    best_row: Row
    resumable: bool = True

    @property
    def converged(self) -> bool:
        """Whether a goal was met."""
        return self.kind == "converged"

    @property
    def sentence(self) -> str:
        """The reason, and which iterate is the result where it is not the last."""
        best = self.best_row
        if best.iteration == self.row.iteration:
            return self.reason
        return f"{self.reason}; the result is iterate {best.iteration}, of least measured objective, {best.loss:.6g}"


def run(
    method: AnyMethod,
    fleet: Fleet,
    begin: Array | State,
    stops: Sequence[Stop],
    *,
    clock: Clock | None = None,
    first: Row | None = None,
    ends: Ends | None = None,
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
    ends : Ends, optional
        What the rules of `mpinewton.runs.ends` remember of a run that is resumed.
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
    record = _Record(fleet, clock or Clock(), evaluation or Evaluation(), watchers, ends or Ends(fleet))
    if isinstance(begin, State):
        state, row = begin, record.row(begin)
        if record.ends.best is None:
            record.ends.see(row, state, record.is_measured(state))
    else:
        fleet.iteration = 0
        state = method.start(fleet, begin)
        _check_class(method, state)
        if not _is_finite(state):
            reason = f"{NONFINITE} at the start{record.culprit(begin)}"
            state, row = State(begin), record.row(state)
            return Outcome(state, row, reason, "trouble", state, row, False)
        row = record.add(state)
    first = first or row
    while True:
        reason, kind = _why_stop(method, stops, row, first, state, record, pause)
        if reason:
            break
        fleet.iteration += 1
        after = method.step(fleet, state)
        if not after.trouble and not _is_finite(after):
            remedy = f"; {method.remedy}" if method.remedy else ""
            after = fail(state, f"{NONFINITE} after this step{record.culprit(after.w)}{remedy}")
        if after.trouble:
            fleet.iteration = row.iteration  # checkpoints are of the last row
            reason, kind = after.trouble, "trouble"
            break
        state, row = after, record.add(after)
    if not record.is_due:
        row = record.row(state, in_full=True)
        record.ends.see(row, state, True)
        goal, converged = first_reason(stops, row, first)
        reason, kind = (goal, "converged") if converged else (reason, kind)
    failed = kind == "trouble"
    reason, kind = record.conclude(method, reason, kind, row, state)
    best_row, best = record.ends.best or (row, state)
    if kind == "converged" and row.loss <= first.loss:  # the goal was met there, and need not be at the least objective
        best_row, best = row, state
    return Outcome(state, row, reason, kind, best, best_row, not failed)


def _why_stop(
    method: AnyMethod,
    stops: Sequence[Stop],
    row: Row,
    first: Row,
    state: State,
    record: _Record,
    pause: Callable[[], str],
) -> tuple[str, str]:
    """Reason and kind of the end of a run; the reason is "" if it continues."""
    reason, converged = first_reason(stops, row, first)
    if reason and converged:
        return reason, "converged"
    with record.unseen():
        ftol = estimated_gap(stops)
        if ftol is not None and (goal := record.ends.converged(row, state, ftol)):
            return goal, "converged"
        if reason:
            return reason, "budget"
        if state.finished:
            return state.finished, "stalled"
        if reason := record.ends.diverged(method):
            return reason, "diverged"
        if reason := record.ends.precise(state):
            return reason, "precision"
    return pause(), "interrupted"


@dataclass(frozen=True)
class _Record:
    """Makes the rows of a run."""

    fleet: Fleet
    clock: Clock
    evaluation: Evaluation
    watchers: Sequence[Watcher]
    ends: Ends

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Context of what is evaluated for the record: the clock paused, the ledger closed."""
        with self.clock.paused(), self.fleet.ledger.closed():
            yield

    def is_measured(self, state: State) -> bool:
        """Whether loss and gradient of the row of a state are known."""
        return state.is_measured or self.is_due

    @property
    def is_due(self) -> bool:
        """Whether this iteration is measured in full."""
        return self.fleet.iteration % self.evaluation.every == 0

    def add(self, state: State) -> Row:
        """The row of a new state, which all watchers have seen."""
        row = self.row(state)
        self.ends.see(row, state, self.is_measured(state))
        with self.clock.paused():
            for watch in self.watchers:
                watch(row, state)
        return row

    def row(self, state: State, in_full: bool = False) -> Row:
        """The row of a state; what the method does not know is measured if it is due, or `in_full`."""
        fleet, test, seconds = self.fleet, self.evaluation.test, self.clock.seconds
        due = in_full or self.is_due
        with self.unseen():
            f, g, accuracy, test_loss = NAN, np.full(1, NAN), NAN, NAN
            if state.is_measured:
                f, g = state.loss, state.gradient
            elif due:
                f, g = fleet.mean(evaluate, state.w)
            if due and test is not None:
                accuracy, test_loss = test(self.evaluation.columns.outside(state.w))
            g = self.evaluation.columns.gradient(g)
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
        with self.unseen():
            finite = self.fleet.gather(is_finite, w)
        bad = [index for index, good in enumerate(finite) if not good]
        return f"; first on worker {bad[0]} ({len(bad)} of {self.fleet.n_workers} workers)" if bad else ""

    def conclude(self, method: AnyMethod, reason: str, kind: str, row: Row, state: State) -> tuple[str, str]:
        """Reason and kind after a look at the last iterate: rounding, no minimiser, divergence."""
        fleet, ends = self.fleet, self.ends
        with self.unseen():
            if kind == "trouble" and reason.startswith("diverged"):  # by the method's own rule
                return reason, "diverged"
            if kind in ("trouble", "budget", "stalled") and ends.is_high(row.loss):
                return f"{ends.divergence(method)} ({reason})", "diverged"
            if kind == "trouble" and not reason.startswith(NONFINITE) and (floor := at_rounding(fleet, state.w)):
                reason, kind = floor, "precision"
            if kind in ("converged", "precision", "stalled") and (away := without_minimiser(fleet, state.w)):
                return away, "unbounded"
        if kind == "converged" and row.loss - ends.memory.loss > SLACK * abs(ends.memory.loss):
            return f"{reason}, but the objective is above that at the start: this is no minimum", "trouble"
        return reason, kind


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
