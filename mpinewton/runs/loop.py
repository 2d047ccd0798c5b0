"""The one loop over iterates. Stopping, recording, checkpoints and clocks wrap every method from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import AnyMethod, State, fail
from mpinewton.runs.history import Row
from mpinewton.runs.stopping import Stop, first_reason


class Clock:
    """Seconds of a run, evaluation left out."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds, self._since = seconds, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._seconds = self.seconds
        try:
            yield
        finally:
            self._since = time.perf_counter()


@dataclass(frozen=True)
class Evaluation:
    """What is measured for the record alone, outside the ledger and the clock."""

    optimum: float = NAN  # P*, if known
    tested: Callable[[Array], tuple[float, float]] | None = None  # accuracy and mean loss of weights on test data
    every: int = 1  # iterations from one measurement to the next


class Watcher(Protocol):
    """Somebody who wants to see every row: a history, a display, a checkpoint."""

    def __call__(self, row: Row, state: State) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    state : the last finite iterate
    row : its row, measured in full whatever the history leaves out
    reason : str
        A sentence.
    converged : bool
    kind : str
        "converged", "budget", "stalled" (the method comes no closer, and knows it), "trouble" (numerical),
        "interrupted" (signal or time limit: to be continued).
    """

    state: State
    row: Row
    reason: str
    kind: str

    @property
    def converged(self) -> bool:
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
    """State until a rule says stop, the method is fail, or `pause` gives a reason to go on another time.

    `begin` is w, shape (d,), for a new run; to resume, the state at the last recorded row, with that run's `first` row
    and its `clock`; `fleet.iteration` then is that row's number and the workers have been restored.
    """
    clock, evaluation = clock or Clock(), evaluation or Evaluation()

    def end(row: Row, state: State, reason: str, kind: str) -> Outcome:
        if row.iteration % evaluation.every:
            row = _row(state, fleet, clock, replace(evaluation, every=1))
            met, converged = first_reason(stops, row, first or row)
            reason, kind = (met, "converged") if converged else (reason, kind)
        return Outcome(state, row, reason, kind)

    if isinstance(begin, State):
        state, fresh = begin, False
    else:
        fleet.iteration = 0
        state, fresh = method.start(fleet, begin), True
        assert type(state) is method.state, "the class of a method's states is named in `state`: checkpoints go by it"
        if not _finite(state):
            reason = (
                f"nonfinite: the objective or its gradient is not finite at the start{_culprit(fleet, clock, begin)}"
            )
            return Outcome(State(begin, NAN, np.zeros(0)), _row(state, fleet, clock, evaluation), reason, "trouble")
    while True:
        row = _row(state, fleet, clock, evaluation)
        first = first or row
        if fresh:
            with clock.paused():
                for watch in watchers:
                    watch(row, state)
        reason, converged = first_reason(stops, row, first)
        if reason:
            return end(row, state, reason, "converged" if converged else "budget")
        if state.finished:
            return end(row, state, state.finished, "stalled")
        if reason := pause():
            return end(row, state, reason, "interrupted")
        fleet.iteration += 1
        after = method.step(fleet, state)
        if not after.trouble and not _finite(after):
            place = _culprit(fleet, clock, after.w)
            after = fail(state, f"nonfinite: the objective or its gradient is not finite after this step{place}")
        if after.trouble:
            fleet.iteration = row.iteration  # a checkpoint is of the last row
            return end(row, state, after.trouble, "trouble")
        state, fresh = after, True


def _known(state: State) -> bool:
    return state.is_measured


def _finite(state: State) -> bool:
    if not _known(state):
        return bool(np.isfinite(state.w).all())
    return bool(np.isfinite(state.loss) and np.isfinite(state.gradient @ state.gradient))


def _row(state: State, fleet: Fleet, clock: Clock, evaluation: Evaluation) -> Row:
    seconds = clock.seconds
    with clock.paused(), fleet.ledger.closed():
        due = fleet.iteration % evaluation.every == 0
        f, g, accuracy, test_loss = NAN, np.full(1, NAN), NAN, NAN
        if due or _known(state):
            f, g = (state.loss, state.gradient) if _known(state) else fleet.mean(look, state.w)
        if due and evaluation.tested is not None:
            accuracy, test_loss = evaluation.tested(state.w)
        return Row(
            iteration=fleet.iteration,
            rounds=fleet.ledger.rounds,
            **fleet.ledger.totals(),
            wire_bytes=fleet.ledger.wire,
            seconds=seconds,
            loss=float(f),
            grad_norm=float(np.sqrt(g @ g)),
            step=float(state.step),
            gap=float(f) - evaluation.optimum,
            test_accuracy=accuracy,
            test_loss=test_loss,
            note=state.note,
        )


def _culprit(fleet: Fleet, clock: Clock, w: Array) -> str:
    """Which worker a NaN or an infinity came from first, for the record."""
    with clock.paused(), fleet.ledger.closed():
        finite = fleet.gather(is_finite, w)
    bad = [index for index, good in enumerate(finite) if not good]
    return f"; first on worker {bad[0]} ({len(bad)} of {fleet.n_workers} workers)" if bad else ""


def look(worker: Worker, w: Array) -> tuple[float, Array]:
    """f_i and its gradient at w."""
    return worker.evaluate(w)


def is_finite(worker: Worker, w: Array) -> bool:
    """Whether f_i and its gradient are finite at w."""
    f, g = worker.evaluate(w)
    return bool(np.isfinite(f) and np.isfinite(g).all())
