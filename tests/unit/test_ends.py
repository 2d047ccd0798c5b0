"""The ends of a run: truths from closed forms, and what must not be mistaken for an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from fleets import on_many

import mpinewton
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods import METHODS
from mpinewton.methods.support import method as methods
from mpinewton.methods.support.method import Method, State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.runs.ends import Ends, gap_bound, polyak
from mpinewton.runs.history import Row
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import GradientBelow, Iterations
from mpinewton.testing.problems import ZOO

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 4))
Z = X @ np.array([1.0, -2.0, 0.5, 1.0])
LABELS = {
    "logistic": np.sign(Z + RNG.standard_normal(200)),
    "squared": Z + RNG.standard_normal(200),
    "huber": Z + RNG.standard_t(2, 200),
    "poisson": RNG.poisson(np.exp(Z / 2)).astype(float),
}
UNITS = np.array([1e-9, 1e-3, 1e4, 1e9])


def solved(name, loss, X=X, y=None, l2=0.0, **options):
    y = LABELS[loss] if y is None else y
    return mpinewton.minimize(name, (X, y), loss=loss, l2=l2, intercept=True, workers=3, **options)


# -- convergence without units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("name", ["newton", "newton-cg"])
def test_units_of_the_features_change_nothing_but_rounding(name, loss):
    plain, scaled = solved(name, loss), solved(name, loss, X * UNITS)
    assert plain.kind == scaled.kind == "converged"
    assert scaled.fun == pytest.approx(plain.fun, rel=1e-13)
    assert abs(scaled.nit - plain.nit) <= 1
    np.testing.assert_allclose(scaled.x[:-1] * UNITS, plain.x[:-1], rtol=1e-5)


@pytest.mark.parametrize("name", ["lbfgs", "bfgs"])
def test_quasi_newton_methods_arrive_in_any_units(name):
    best = solved("newton", "logistic").fun
    found = solved(name, "logistic", X * UNITS, max_iterations=200)
    assert found.kind == "converged"
    assert found.fun == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", ["newton", "newton-cg", "lbfgs"])
def test_units_of_the_labels_change_nothing_but_rounding(name):
    plain = solved(name, "squared")
    for unit in (1e-9, 1e9):
        scaled = solved(name, "squared", y=LABELS["squared"] * unit)
        assert scaled.kind == "converged"
        assert scaled.fun / unit**2 == pytest.approx(plain.fun, rel=1e-12)


def test_a_small_gradient_in_small_units_is_no_convergence():
    best = solved("newton", "logistic").fun
    found = solved("gradient-descent", "logistic", X * 1e-9, max_iterations=30)
    assert found.kind == "budget"
    assert found.fun > best + 1e-2


def test_the_gap_is_bounded_where_l2_applies_to_all_weights():
    whole = mpinewton.minimize("lbfgs", (X, LABELS["logistic"]), loss="logistic", l2=0.1, max_iterations=3)
    best = mpinewton.minimize("newton", (X, LABELS["logistic"]), loss="logistic", l2=0.1).fun
    assert whole.gap_bound == pytest.approx(whole.jac @ whole.jac / 0.2)
    assert 0 < whole.fun - best <= whole.gap_bound
    assert np.isnan(solved("lbfgs", "logistic", l2=0.1, max_iterations=3).gap_bound)  # an intercept
    assert np.isnan(gap_bound(on_many(ZOO["softplus-dense"]).problem, 1.0))  # not convex


# -- singular Hessians ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LABELS)
def test_duplicated_constant_and_dead_columns_change_nothing(loss):
    odd = np.hstack([X, X[:, :2], np.full((200, 1), 7.0), np.zeros((200, 1))])
    best = solved("newton", loss).fun
    for name in ("newton", "newton-cg", "giant", "ship-data"):
        found = solved(name, loss, odd)
        assert found.success, found.message
        assert found.fun == pytest.approx(best, rel=1e-11)


@pytest.mark.parametrize("name", ["newton", "newton-cg", "lbfgs"])
@pytest.mark.parametrize("units", [1.0, UNITS])
def test_rounding_errors_in_directions_without_curvature_are_not_followed(name, units):
    y = np.digitize(Z, [-1.0, 1.0])
    y = np.where(RNG.random(200) < 0.3, RNG.integers(0, 3, 200), y)  # not separable
    reduced = mpinewton.minimize("newton", (X, y), loss="softmax:reduced=true", l2=0.0, intercept=True)
    found = mpinewton.minimize(name, (X * units, y), loss="softmax", l2=0.0, intercept=True)
    assert found.success, found.message
    assert found.fun == pytest.approx(reduced.fun, rel=1e-12)
    assert np.abs(found.x.reshape(5, 3)[:-1] * np.reshape(units, (-1, 1))).max() < 100


@pytest.mark.parametrize("name", ["newton", "newton-cg", "giant", "ship-data", "lbfgs"])
def test_no_method_stays_where_all_second_derivatives_are_zero(name):
    y = LABELS["huber"] + 150.0
    best = solved("bfgs", "huber", y=y, l2=1e-3).fun
    found = solved(name, "huber", y=y, l2=1e-3, w0=np.zeros(5))  # every residual beyond delta
    assert found.success, found.message
    assert found.fun == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize(
    ("loss", "location"), [("squared", np.mean), ("huber", np.median), ("poisson", lambda y: np.log(np.mean(y)))]
)
def test_an_intercept_starts_at_a_location_estimate(loss, location):
    y, seen = LABELS[loss] + 50.0, []
    mpinewton.minimize(
        "lbfgs", (X, y), loss=loss, l2=0.1, intercept=True, max_iterations=0, callback=lambda _, w: seen.append(w)
    )
    np.testing.assert_array_equal(seen[0][:-1], 0.0)
    assert seen[0][-1] == pytest.approx(location(y), abs=0.1 if loss == "huber" else 1e-12)
    free = mpinewton.minimize("lbfgs", (X, y), loss=loss, l2=0.1, max_iterations=0)
    assert not free.x.any()
    assert free.ledger.totals()["floats_up"] == 5  # loss and gradient alone


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["newton", "newton-cg", "lbfgs", "gradient-descent"])
def test_a_run_ends_where_nothing_is_left_to_gain(name):
    found = solved(name, "logistic", l2=1e-1, tol=0.0, max_iterations=500)
    losses = np.array([row.loss for row in found.history])
    first = int(np.argmax(losses <= losses.min() * (1 + 1e-14)))
    assert found.kind == "precision", found.message
    assert found.success
    assert found.status == 5
    assert found.nit <= first + 60


def test_noise_is_not_the_limit_of_rounding():
    found = solved("sgd", "logistic", l2=0.1, settings={"learning_rate": 0.5, "batch_fraction": 0.05}, tol=0.0,
                   max_iterations=300)  # fmt: skip
    assert found.kind == "budget"


# -- no minimiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["newton", "newton-cg", "lbfgs"])
@pytest.mark.parametrize("goal", [{}, {"tol": 1e-6}, {"rtol": 1e-5}])
def test_separated_classes_have_no_minimiser(name, goal):
    found = solved(name, "logistic", y=np.sign(Z), **goal)
    assert found.kind == "unbounded", found.message
    assert not found.success
    assert "no finite minimiser" in found.message


def test_one_feature_that_separates_some_rows_suffices():
    part = np.arange(200) < 20
    found = solved("lbfgs", "logistic", np.column_stack([X, part]), np.where(part, 1.0, LABELS["logistic"]))
    assert found.kind == "unbounded"


def test_counts_that_are_all_0_have_no_minimiser():
    assert solved("newton", "poisson", y=np.zeros(200)).kind == "unbounded"
    assert solved("newton", "poisson", y=np.zeros(200), l2=0.1).kind == "unbounded"  # the intercept is free


@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("goal", [{}, {"tol": 1e-3}, {"rtol": 1e-2}])
def test_a_minimiser_is_not_overlooked(loss, goal):
    for l2 in (0.0, 1e-3):
        assert solved("newton", loss, l2=l2, **goal).kind == "converged"
    far = solved("newton", "poisson", w0=np.array([0.0, 0.0, 0.0, 0.0, 30.0]), **goal)  # 30 steps away
    assert far.kind == "converged"
    assert goal or far.fun == pytest.approx(solved("newton", "poisson").fun, rel=1e-12)
    assert solved("newton", "logistic", y=np.sign(Z), l2=1e-6).kind == "converged"


def test_a_step_of_polyak_is_not_made_of_rounding_errors():
    g, p = np.array([3.0, 0.0]), np.array([2.0, 5.0])
    np.testing.assert_array_equal(polyak(-12.0, g, p), -2 * p)  # f - <g, 2 p> = f - |f|
    slope = float(g @ p)
    for bound, taken in ((1.01, False), (0.99, True)):  # noise^2 |f|, in units of the slope
        f = bound * slope / 1e-4
        np.testing.assert_array_equal(polyak(f, g, p, 1e-2), -p * (f / slope) if taken else 0 * p)


# -- divergence, and the best iterate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "local-sgd", "fedavg", "sgdm"])
def test_an_exploding_objective_is_said_and_the_best_iterate_is_returned(name):
    raw = RNG.poisson(40, (200, 4)) * np.array([30.0, 3.0, 10.0, 20.0])
    y = np.where(raw[:, 0] > raw[:, 0].mean(), 1.0, -1.0)
    found = mpinewton.minimize(name, (raw, y), loss="logistic", l2=1e-3, workers=3, max_iterations=3000)
    losses = [row.loss for row in found.history]
    assert found.kind == "diverged"
    assert found.status == 7
    assert found.fun == min(losses) <= losses[0]
    assert found.nit < 3000
    assert "the result is iterate" in found.message


def row(iteration, loss, grad_norm=1.0):
    return Row(iteration, 0, 0, 0, 0, 0, 0, 0.0, loss, grad_norm)


def followed(losses):
    """Whether a run with these losses diverges, row by row."""
    ends, said = Ends(on_many(ZOO["squared-dense"])), []
    for iteration, loss in enumerate(losses):
        ends.see(row(iteration, loss), State(np.zeros(6)), True)
        said.append(bool(ends.diverged(METHODS["newton"]())))
    return said, ends


def test_a_rise_from_which_a_run_comes_back_is_no_divergence():
    said, ends = followed([1.0, *np.geomspace(1e100, 1.0, 300), 0.5])
    assert not any(said)
    assert ends.best[0].loss == 0.5
    said, ends = followed([1.0, 0.9, *np.geomspace(20, 1e9, 90)])
    assert said.index(True) == 82
    assert ends.best[0].iteration == 1
    said, _ = followed([1.0, np.nan, *[np.nan] * 90])
    assert said[-1]


def test_of_iterates_that_are_equal_to_rounding_the_last_is_the_best():
    _, ends = followed([1.0, 0.5, 0.5 * (1 + 4e-16), 0.5 * (1 + 1e-14)])
    assert ends.best[0].iteration == 2


def test_the_memory_survives_a_checkpoint():
    _, ends = followed([3.0, 1.0, 2.0, np.inf, 5.0])
    ends.memory.last, ends.memory.asked = 2.5, True
    rows = [row(i, loss) for i, loss in enumerate([3.0, 1.0, 2.0, np.inf, 5.0])]
    last = State(np.ones(6))
    again = Ends(ends.fleet)
    again.restore(ends.saved(last), rows, last)
    assert again.memory == ends.memory
    assert again.best[0].iteration == 1
    np.testing.assert_array_equal(again.best[1].w, np.zeros(6))
    assert ends.saved(ends.best[1])["ends/best"].size == 0  # the weights of the state itself
    assert Ends(ends.fleet).saved(last)["ends/best"].size == 0


@dataclass(frozen=True)
class Climber(Method[State]):
    """Arrives at a point where the gradient vanishes, above the start."""

    name: ClassVar[str] = "climber"

    def start(self, fleet, w):
        return self.step(fleet, State(w))

    def step(self, fleet, now):
        w = np.zeros_like(now.w) if fleet.iteration else now.w
        return State(w, *fleet.mean(value_and_gradient, w))


def test_a_vanishing_gradient_above_the_start_is_no_success():
    found = mpinewton.minimize_function(
        lambda x: (1 - x @ x + (x @ x) ** 2, 4 * (x @ x) * x - 2 * x), np.array([0.5]), jac=True, method=Climber(),
        max_iterations=5, tol=1e-8,
    )  # fmt: skip
    assert found.kind == "trouble"
    assert "above that at the start" in found.message
    assert found.fun < 1


# -- memory -----------------------------------------------------------------------------------------------------------


def test_matrices_that_do_not_fit_are_refused_with_what_does(monkeypatch):
    monkeypatch.setattr(methods, "available_memory", lambda: 1e9)
    wide = Shard(np.zeros((2, 20_000)), np.array([-1.0, 1.0]))
    problem = local_fleet([wide], make_loss("logistic"), (-1.0, 1.0), 1e-3)
    for name in ("newton", "bfgs", "nl1", "fednl-ls", "ranl", "quantised-bfgs"):
        with pytest.raises(ConfigError, match=rf"{name} needs .* GB .* d = 20000 .*use lbfgs, newton-cg, disco, dino"):
            METHODS[name]().validate(problem.problem)
    for name in ("lbfgs", "newton-cg", "giant"):
        METHODS[name]().validate(problem.problem)
    with pytest.raises(ConfigError, match="giant needs"):
        METHODS["giant"](solver="exact").validate(problem.problem)


def test_the_record_of_a_run_does_not_depend_on_the_rules():
    rows = []
    fleet, method = on_many(ZOO["logistic-dense"]), METHODS["newton"]()
    fleet.adopt(method)
    ended = run(
        method, fleet, ZOO["logistic-dense"].start, [GradientBelow(1e-8), Iterations(50)],
        watchers=[lambda one, _: rows.append(one)],
    )  # fmt: skip
    assert ended.kind == "converged"
    assert ended.row == ended.best_row == rows[-1]
    assert ended.row.rounds == 2 + 2 * ended.row.iteration
