"""The loop, its stops and what it does with a NaN."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from fleets import on_many

from mpinewton.errors import ConfigError
from mpinewton.methods.gradient_descent import GradientDescent
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.methods.support.method import State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.runs import loop, stopping
from mpinewton.runs.history import COLUMNS, EXACT_COLUMNS, Row, history_sha256
from mpinewton.runs.loop import Clock, Evaluation, run
from mpinewton.signals import catch_signals
from mpinewton.testing.problems import ZOO

PROBLEM = ZOO["logistic-dense"]


@dataclass(frozen=True)
class Poisoned(GradientDescent):
    """Gradient descent with a worker whose data turn into NaN at an iteration."""

    search: Backtracking = field(default_factory=lambda: Backtracking(largest=4.0, choose="least", first=10))
    poison: int = 3
    name: ClassVar[str] = "poisoned"

    def step(self, fleet, now):
        after = super().step(fleet, now)
        if fleet.iteration == self.poison:
            fleet.send(self.spoil)
            f, g = fleet.mean(self.evaluate)
            return replace(after, loss=f, gradient=g)
        return after

    def spoil(self, worker):
        if worker.index == 3:
            worker.point.model.rows.X[0, 0] = np.nan
            worker.move_to(worker.w)

    def evaluate(self, worker):
        return worker.value(), worker.gradient()


def ran(method=None, stops=(), **options):
    fleet, rows = on_many(PROBLEM), []
    method = method or GradientDescent()
    fleet.adopt(method)
    watchers = [lambda row, _: rows.append(row), *options.pop("watchers", [])]
    return run(method, fleet, PROBLEM.start, stops, watchers=watchers, **options), rows, fleet


def copied(problem):
    """The problem with data of its own, to be spoilt."""
    return replace(problem, shards=[replace(shard, X=shard.X.copy()) for shard in problem.shards])


def test_a_nan_stops_in_the_same_round_and_the_last_finite_iterate_is_kept():
    fleet, rows = on_many(copied(PROBLEM)), []
    method = Poisoned()
    fleet.adopt(method)
    ended = run(
        method, fleet, PROBLEM.start, [stopping.Iterations(20)], watchers=[lambda row, state: rows.append((row, state))]
    )
    assert ended.kind == "trouble"
    assert ended.reason.startswith("nonfinite")
    assert "first on worker 3 (1 of 5 workers)" in ended.reason
    assert [row.iteration for row, _ in rows] == [0, 1, 2]
    assert fleet.iteration == ended.row.iteration == 2  # where a resumed run begins
    assert np.array_equal(ended.state.w, rows[-1][1].w)
    assert np.isfinite(ended.state.w).all()


def test_a_nan_at_the_start_is_said():
    shards = [replace(shard, X=np.where(shard.X > 10, 0, shard.X)) for shard in PROBLEM.shards]
    shards[1].X[0, 0] = np.inf
    spoilt, rows = replace(PROBLEM, shards=shards), []
    fleet = on_many(spoilt)
    fleet.adopt(GradientDescent())
    with np.errstate(invalid="ignore"):
        ended = run(fleet.method, fleet, PROBLEM.start, [], watchers=[lambda row, _: rows.append(row)])
    assert ended.kind == "trouble"
    assert "at the start; first on worker 1" in ended.reason
    assert not rows
    assert np.array_equal(ended.state.w, PROBLEM.start)


@pytest.mark.parametrize(
    ("stop", "converged", "words"),
    [
        (stopping.GradientBelow(1e-4), True, "gradient norm .* is at most 0.0001"),
        (stopping.GradientReduced(1e-3), True, "is at most 0.001 times the first"),
        (stopping.GapBelow(1e-6), True, "gap .* to the optimal value"),
        (stopping.Iterations(4), False, r"maximum number of iterations \(4\) reached"),
        (stopping.Rounds(9), False, r"maximum number of rounds \(9\) reached"),
        (stopping.Bits(3000), False, r"maximum number of bits \(3000\) reached on the busiest link"),
        (stopping.Seconds(0.0), False, r"maximum time \(0 s\) reached"),
    ],
)
def test_every_stop_gives_its_reason(stop, converged, words):
    ended, rows, _ = ran(stops=[stop, stopping.Iterations(500)], evaluation=Evaluation(PROBLEM.optimum[1]))
    assert ended.converged is converged
    assert ended.row == rows[-1]
    assert re.search(words, ended.reason), ended.reason
    first = rows[0]
    assert not any(stop.reason(row, first) for row in rows[:-1]), "it should have stopped before"


def test_convergence_is_said_before_a_budget():
    ended, _, _ = ran(stops=[stopping.Iterations(0), stopping.GradientBelow(1e9)])
    assert ended.converged


def test_a_negative_limit_is_refused():
    with pytest.raises(ConfigError, match="--tol -1"):
        stopping.GradientBelow(-1)
    with pytest.raises(ConfigError, match="--gap nan"):
        stopping.GapBelow(float("nan"))


@pytest.fixture
def now(monkeypatch):
    """The time on the clock of runs, as a list of one number; it goes on where a test says so."""
    shown = [100.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: shown[0]))
    return shown


def test_evaluation_changes_neither_iterates_nor_ledger_nor_clock(now):
    calls = []

    def slow(w):
        calls.append(w)
        now[0] += 20
        return 0.5, 1.25

    stops = [stopping.Iterations(6)]
    watched, rows, fleet = ran(stops=stops, evaluation=Evaluation(0.1, slow))
    plain, plain_rows, plain_fleet = ran(stops=stops)
    assert len(calls) == 7
    assert np.array_equal(watched.state.w, plain.state.w)
    assert history_sha256(rows) == history_sha256(plain_rows)
    assert fleet.ledger.totals() == plain_fleet.ledger.totals()
    assert rows[-1].seconds == 0
    assert rows[0].gap == rows[0].loss - 0.1
    assert (rows[0].test_accuracy, rows[0].test_loss) == (0.5, 1.25)


def test_pause_ends_after_the_iteration():
    ended, rows, _ = ran(stops=[stopping.Iterations(50)], pause=lambda: "enough")
    assert (ended.kind, ended.reason, len(rows)) == ("interrupted", "enough", 1)


def test_a_signal_is_heard_by_all_who_wait_for_one():
    with catch_signals() as outer:
        with catch_signals() as inner:
            signal.raise_signal(signal.SIGUSR1)
        assert inner.name == outer.name == "SIGUSR1"


def test_rows_survive_text():
    _, rows, _ = ran(stops=[stopping.Iterations(3)])
    again = [Row.of(dict(zip(COLUMNS, row.cells(COLUMNS)))) for row in rows]
    assert [row.cells(COLUMNS) for row in again] == [row.cells(COLUMNS) for row in rows]
    assert history_sha256(again) == history_sha256(rows)


@pytest.mark.parametrize("column", EXACT_COLUMNS)
def test_the_digest_sees_every_exact_column(column):
    row = Row(1, 2, 3, 4, 5, 6, 7, 8.0, 9.0, 10.0, 11.0)
    value = getattr(row, column)
    changed = replace(row, **{column: value + 1 if isinstance(value, int) else float(np.nextafter(value, 100))})
    assert history_sha256([row]) != history_sha256([changed])


def test_the_digest_sees_neither_time_nor_layout():
    row = Row(1, 2, 3, 4, 5, 6, 7, 8.0, 9.0, 10.0, 11.0)
    other = replace(row, wire_bytes=0, seconds=0.5, gap=1.0, test_accuracy=0.9, note="x")
    assert history_sha256([row]) == history_sha256([other])


def test_the_clock_stands_still_while_paused(now):
    clock = Clock(5.0)
    now[0] += 1
    with clock.paused():
        now[0] += 10
    now[0] += 2
    assert clock.seconds == 8


@dataclass(frozen=True)
class Blind(GradientDescent):
    """Gradient descent that does not look where it steps: loss and gradient of its iterates stay unknown."""

    name: ClassVar[str] = "blind"
    state: ClassVar[type[State]] = State

    def start(self, fleet, w):
        return State(w)

    def step(self, fleet, now):
        _, g = fleet.mean(value_and_gradient, now.w)
        return State(now.w - 0.1 * g)


def test_what_a_method_does_not_know_is_measured_for_the_record():
    _, rows, fleet = ran(Blind(), stops=[stopping.Iterations(3)])
    w = PROBLEM.start
    for row in rows:
        value, gradient, _ = PROBLEM.objective(w)
        assert row.loss == pytest.approx(value, rel=1e-13)
        assert row.grad_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
        assert row.rounds == 2 * row.iteration, "the measurement was charged"
        w = w - 0.1 * gradient
    assert fleet.ledger.rounds == 6


@dataclass(frozen=True)
class Content(GradientDescent):
    """Has no more to do after two steps."""

    name: ClassVar[str] = "content"

    def step(self, fleet, now):
        return replace(super().step(fleet, now), finished="it is good enough" if fleet.iteration == 2 else "")


def test_a_method_may_end_a_run():
    ended, rows, _ = ran(Content())
    assert (ended.kind, ended.reason, ended.converged) == ("stalled", "it is good enough", False)
    assert [row.iteration for row in rows] == [0, 1, 2]


@dataclass(frozen=True)
class Undeclared(GradientDescent):
    """Returns another state than it declares."""

    name: ClassVar[str] = "undeclared"

    def start(self, fleet, w):
        return State(w)


def test_a_state_of_another_class_is_refused():
    with pytest.raises(
        ConfigError, match=r"undeclared: start returned a State, .* derive the method from Method\[State\]"
    ):
        ran(Undeclared())


@pytest.mark.parametrize(("value", "slope", "finite"), [(1.0, 2.0, True), (np.inf, 2.0, False), (1.0, np.nan, False)])
def test_a_worker_says_whether_its_value_and_its_gradient_are_finite(value, slope, finite):
    worker = SimpleNamespace(evaluate=lambda w: (value, np.array([0.0, slope])))
    assert loop.is_finite(worker, np.zeros(2)) is finite
