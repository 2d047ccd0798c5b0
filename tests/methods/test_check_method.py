"""`check_method` finds the errors that are planted in a method, and says where they are; a sound method passes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
from variants import VARIANTS

from mpinewton.arrays import Array
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import hvp, initial_state, value_and_gradient
from mpinewton.settings import setting
from mpinewton.testing import CheckFailed, check_method
from mpinewton.testing.jobs import check_mpiexec
from mpinewton.testing.methods import checks
from mpinewton.testing.problems import ZOO
from mpinewton.testing.run_checks import value_of

COUNTER = itertools.count(1)


@dataclass(frozen=True)
class Descent(Method[State]):
    """Gradient descent, sound."""

    search: Backtracking = setting(factory=lambda: Backtracking(largest=4.0), help="line search")

    name = "descent"
    cost = Cost("4", "d + 1", "d + 9")

    def start(self, fleet, w):
        return initial_state(fleet, w)

    def step(self, fleet, now):
        return descend(fleet, self.search, now, -now.gradient)


def test_a_sound_method_passes_and_the_report_says_what_was_measured():
    report = check_method(Descent, gap=0.01, monotone=True)
    text = str(report)
    assert text.startswith(f"method descent: {len(report.passed)} checks passed\n")
    assert "4 rounds, 7 floats down and 15 up per worker, d = 6, as declared" in text
    assert "needs gradient" in text
    assert {row.check for row in report.passed} == {
        "settings", "needs", "states", "resumption", "bits", "cost", "optimum", "descent",
    }  # fmt: skip
    assert [row.check for row in report.skipped] == ["mpiexec"]


def test_the_suite_makes_the_checks_of_check_method():
    v = VARIANTS["newton-cg"]
    report = check_method(v.made(), limit=v.limit, monotone=True)
    assert [row[:2] for row in report.passed] == [check[:2] for check in checks(v.made(), v.expected)]


class NoCost(Descent):
    cost = None


class WrongCost(Descent):
    cost = Cost("4", "d + 1", "d + 8")


class WrongLoss(Descent):
    def step(self, fleet, now):
        return replace(super().step(fleet, now), loss=now.loss)


class WrongGradient(Descent):
    """The mean over workers, not over rows."""

    def start(self, fleet, w):
        state = super().start(fleet, w)
        return replace(state, gradient=np.mean([g for _, g in fleet.gather(value_and_gradient, w)], axis=0))


class LossAlone(Descent):
    def step(self, fleet, now):
        return State(super().step(fleet, now).w, loss=1.0)


class Hidden(Descent):
    """Uses Hessian products that it does not ask for."""

    def step(self, fleet, now):
        fleet.mean(hvp, now.gradient)
        return super().step(fleet, now)


class Rows(Descent):
    def step(self, fleet, now):
        fleet.mean(self.logits)
        return super().step(fleet, now)

    def logits(self, worker):
        return float(worker.model.logits(worker.w).sum())


class Accepts(Descent):
    needs = ("gradient", "hvp")

    def validate_loss(self, loss):
        pass


class Impossible(Descent):
    needs = ("gradient", "telepathy")


class LegacyRandom(NoCost):
    """Noise of numpy's global generator, too small to matter."""

    def step(self, fleet, now):
        noise = 1e-9 * vars(np.random)["standard_normal"](len(now.w))
        w = now.w - 0.1 * now.gradient + noise
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)


class ModuleCounter(LegacyRandom):
    def step(self, fleet, now):
        w = now.w - (0.1 + 1e-12 * next(COUNTER)) * now.gradient
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)


class WritesW(Descent):
    def step(self, fleet, now):
        w = now.w
        w -= 0.1 * now.gradient
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)


@dataclass(frozen=True, eq=False, kw_only=True)
class Momentum(State):
    velocity: Array = field(default_factory=lambda: np.zeros(6))


class PlainState(State):
    """No decorator: the attribute is no field."""

    velocity: Array


@dataclass(frozen=True)
class Forgets(Method[PlainState]):
    name = "forgets"

    def start(self, fleet, w):
        f, g = fleet.mean(value_and_gradient, w)
        return self.remember(PlainState(w, f, g), np.zeros_like(w))

    def step(self, fleet, now):
        velocity = 0.5 * getattr(now, "velocity", 0.0) - 0.05 * now.gradient
        f, g = fleet.mean(value_and_gradient, now.w + velocity)
        return self.remember(PlainState(now.w + velocity, f, g), velocity)

    def remember(self, state, velocity):
        object.__setattr__(state, "velocity", velocity)
        return state


class WorkerForgets(Descent):
    """Keeps something on a worker, and not in its memory."""

    def step(self, fleet, now):
        g = fleet.mean(self.averaged)
        w = now.w - 0.1 * g
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)

    def averaged(self, worker):
        worker.kept = 0.5 * getattr(worker, "kept", 0.0) + 0.5 * worker.gradient()
        return worker.kept


class DriverKeeps(NoCost):
    """The workers read what the driver has set on the method."""

    scale: ClassVar[float] = 0.0

    def step(self, fleet, now):
        object.__setattr__(self, "scale", 1e-6)
        fleet.mean(self.shifted)
        return descend(fleet, self.search, now, -fleet.mean(self.shifted))

    def shifted(self, worker):
        return (1.0 + self.scale) * worker.gradient()


@dataclass(frozen=True)
class OtherState(Method[Momentum]):
    name = "other"

    def start(self, fleet, w):
        return initial_state(fleet, w)

    def step(self, fleet, now):
        return now


class Undecorated(Descent):
    rate: float = 0.1


@dataclass(frozen=True)
class TooLong(NoCost):
    """A step size that is too large."""

    def step(self, fleet, now):
        w = now.w - 8.0 * now.gradient
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)


@dataclass(frozen=True)
class TooShort(NoCost):
    """A step size that is too small."""

    def step(self, fleet, now):
        w = now.w - 1e-4 * now.gradient
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)


class Stops(NoCost):
    def step(self, fleet, now):
        return replace(now, finished="enough")


class Raises(Descent):
    def step(self, fleet, now):
        return fleet.mean(self.broken)

    def broken(self, worker):
        raise ValueError("no such luck")


FOUND = {
    WrongCost: ("cost: the declared cost is wrong: up", "d + 8 = 14, as declared", "15 in the ledger"),
    WrongLoss: ("states: loss is not the objective at w", "iteration 1", "state mixes w of one iterate"),
    WrongGradient: ("states: gradient is not the gradient of the objective at w", "iteration 0", "fleet.mean"),
    LossAlone: ("states: the state has a loss but no gradient",),
    Hidden: ("needs: the method uses second_terms of the loss", "only gradient", "needs = ('gradient',)"),
    Rows: ("needs: the method uses rows of the loss",),
    Accepts: ("needs: a loss that lacks", "super().validate_loss"),
    Impossible: ("accepts no loss of the zoo", "telepathy"),
    LegacyRandom: ("bits: the states differ in a second run", "another w at iteration 1", "np.random"),
    ModuleCounter: ("bits: the states differ in a second run", "in a module"),
    WritesW: ("states: step wrote into w of the state", "iteration 1", "in-place"),
    Forgets: ("resumption: a resumed run does not end as the undisturbed one", "stopped at iteration 3", "@dataclass"),
    WorkerForgets: ("resumption: a resumed run", "worker.memory"),
    DriverKeeps: ("bits: the states differ on 2 ranks", "what the driver keeps on the method"),
    OtherState: ("states: start or step returned another class", "Momentum", "State"),
    Undecorated: ("settings: rate is no setting, since Undecorated is no dataclass", "@dataclass(frozen=True)"),
    TooShort: ("optimum: the method does not reach the optimum", "logistic", "at iteration"),
    Stops: ("optimum: the method does not reach the optimum", "enough"),
    Raises: ("WorkerError", "no such luck"),
}


@pytest.mark.parametrize("kind", FOUND, ids=lambda kind: kind.__name__)
def test_a_planted_error_is_found(kind):
    with pytest.raises(CheckFailed) as caught:
        check_method(kind, gap=0.01)
    message = str(caught.value)
    assert message.startswith("method "), message
    for words in FOUND[kind]:
        assert words in message, message


def test_the_cost_of_a_method_that_declares_none_is_measured():
    report = check_method(NoCost, gap=0.01)
    assert "4 rounds, 7 floats down and 15 up" in next(row.measured for row in report.passed if row.check == "cost")
    assert ("cost against the ledger", "", "the class declares no cost") in report.skipped


def test_a_method_that_rises_is_not_monotone():
    method = make_method(TooLong, {})
    with pytest.raises(CheckFailed, match="the objective rises"):
        check_method(method, gap=1e9, monotone=True)


def test_settings_are_those_of_the_class_and_no_cost_is_declared_for_others():
    report = check_method(Descent, settings={"search": {"first": 2}}, gap=0.01)
    cost = next(row.measured for row in report.passed if row.check == "cost")
    assert cost == "4 rounds, 7 floats down and 9 up per worker, d = 6"


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("2*k + 4", 10), ("d*(d + 1)/2 + m", 31), ("(k + 1)*d - 1", 23)])
def test_formulas_of_costs(text, value):
    assert value_of(text, {"d": 6, "k": 3, "m": 10}) == value


@pytest.mark.parametrize("text", ["x", "d**2", "__import__('os')", "d.real", "'d'"])
def test_what_is_no_formula_of_a_cost(text):
    with pytest.raises(CheckFailed, match="cannot be read"):
        value_of(text, {"d": 6})


OWN = """
from dataclasses import dataclass

from mpinewton.methods.support.method import Method, State, fail
from mpinewton.methods.support.tasks import initial_state, value_and_gradient


@dataclass(frozen=True)
class Own(Method[State]):
    name = "own"
    rate: float = 0.5

    def start(self, fleet, w):
        return initial_state(fleet, w)

    def step(self, fleet, now):
        if self.rate < 0:
            return fail(now, "the rate is negative")
        w = now.w - self.rate * now.gradient
        f, g = fleet.mean(value_and_gradient, w)
        return State(w, f, g)
"""


@pytest.mark.slow
def test_jobs_under_mpiexec_have_the_bits_of_one_process(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    method = make_method(f"{tmp_path}/own.py:Own", {"rate": 0.2})
    assert check_mpiexec(method, ZOO["logistic-csr"], [2]).startswith("history_sha256 ")


@pytest.mark.slow
def test_a_job_that_fails_under_mpiexec_is_reported(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    method = make_method(f"{tmp_path}/own.py:Own", {"rate": -1.0})
    with pytest.raises(CheckFailed, match="a job on 1 ranks failed") as caught:
        check_mpiexec(method, ZOO["logistic-csr"])
    assert "the rate is negative" in str(caught.value)
