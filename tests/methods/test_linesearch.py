"""The line search against Armijo's rule tried step by step."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import on_many

from mpinewton.errors import ConfigError
from mpinewton.methods.gradient_descent import GradientDescent
from mpinewton.methods.support.linesearch import (
    Backtracking,
    descend,
    least_loss_search,
    minimise_cubic,
    step_or_descend,
)
from mpinewton.methods.support.method import State
from mpinewton.methods.support.tasks import value_and_gradient
from mpinewton.testing.problems import ZOO


def placed(search, scale):
    """A fleet at the start of a problem, the state there, and a direction so long that steps must be short."""
    problem = ZOO["softplus-csr"]
    fleet = on_many(problem)
    fleet.adopt(GradientDescent(search=search))
    f, g = fleet.mean(value_and_gradient, problem.start)
    return problem, fleet, State(problem.start, f, g), -scale * g


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("first", [1, 8, 51])
def test_takes_the_largest_step_that_passes(scale, first):
    search = Backtracking(first=first)
    problem, fleet, now, p = placed(search, scale)
    for a in 0.5 ** np.arange(51):
        if problem.objective(now.w + a * p)[0] <= now.loss + a * 1e-4 * (now.gradient @ p):
            break
    rounds = fleet.ledger.rounds
    assert fleet.method.search(fleet, now, p) == a
    assert fleet.ledger.rounds - rounds == (2 if a in search.grid[:first] else 4)
    step, loss = fleet.method.search.find_step(fleet, now, p)
    assert (step, loss) == (a, pytest.approx(problem.objective(now.w + a * p)[0], rel=1e-13))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_takes_the_step_of_least_loss(scale):
    search = Backtracking(largest=4.0, choose="least", first=53)
    problem, fleet, now, p = placed(search, scale)
    losses = {a: problem.objective(now.w + a * p)[0] for a in 4 * 0.5 ** np.arange(53)}
    best = min(losses, key=losses.get)
    assert fleet.method.search(fleet, now, p) == best


def test_grid_ends_at_two_to_the_minus_fifty():
    assert len(Backtracking().grid) == 51
    assert len(Backtracking(largest=4.0).grid) == 53
    assert Backtracking(largest=4.0).grid[-1] == 2.0**-50


def test_refuses_to_climb():
    search = Backtracking()
    _, fleet, now, p = placed(search, 1.0)
    after = descend(fleet, fleet.method.search, now, -p)
    assert "no descent direction" in after.trouble
    assert np.array_equal(after.w, now.w)


def test_rounding_slack_lets_the_last_step_pass():
    search = Backtracking()
    f = 0.3
    # A promised decrease of 1e-18 that shows as an increase of one ulp is a decrease for all we know.
    assert search.select(np.array([1.0]), np.array([np.nextafter(f, 1)]), f, -1e-18) == 1.0
    assert search.select(np.array([1.0]), np.array([f * (1 + 1e-13)]), f, -1e-18) == 0.0


def test_a_nan_loss_is_no_step():
    assert Backtracking().select(np.array([1.0, 0.5]), np.array([np.nan, 0.1]), 1.0, -1.0) == 0.5
    assert Backtracking(choose="least").select(np.array([1.0, 0.5]), np.array([np.nan, 0.1]), 1.0, -1.0) == 0.5


@pytest.mark.parametrize("settings", [{"rho": 0.0}, {"rho": 1.0}, {"largest": 0.5}, {"first": 0}])
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"search: {name} = .*: expected a value"):
        Backtracking(**settings)


def newton_direction(problem, w):
    _, g, H = problem.objective(w)
    return -np.linalg.solve(H, g)


def least_of_cubic(f, df, f1, df1):
    """The minimiser beyond 0 of the cubic with these values and slopes at 0 and 1, by its coefficients; or infinity."""
    a, b = np.linalg.solve([[1.0, 1.0], [3.0, 2.0]], [f1 - f - df, df1 - df])  # a x^3 + b x^2 + df x + f
    turns = [x.real for x in np.roots([3 * a, 2 * b, df]) if abs(x.imag) < 1e-12 and x.real > 0]
    return next((x for x in turns if 6 * a * x + 2 * b > 0), np.inf)


@pytest.mark.parametrize("seed", range(40))
def test_the_minimiser_of_a_cubic_is_that_of_its_coefficients(seed):
    rng = np.random.default_rng(seed)
    f, f1, df1 = rng.standard_normal(3)
    df = -rng.exponential()
    assert minimise_cubic(f, df, f1, df1) == pytest.approx(least_of_cubic(f, df, f1, df1), rel=1e-7)


@pytest.mark.parametrize("end", [(np.inf, np.nan), (np.nan, np.nan), (1e300, 1e300), (1.0, np.inf)])
def test_after_a_step_that_overflows_the_least_one_is_tried(end):
    assert minimise_cubic(1.0, -1.0, *end) == 0.0


@pytest.mark.parametrize(
    ("share", "step", "rounds"),
    [
        (1.0, 1.0, 2),  # the step of Newton's method
        (0.05, 4.0, 4),  # too short: the slope at its end is 0.95 of that at its beginning
        (0.01, 4.0, 9),  # the second step too, and the search goes no further
        (10.0, "cubic", 4),  # too long: the objective grows, and the minimum of the cubic is less than 1
        (300.0, 2.0**-7, 9),  # so long that a tenth of it is too long, too
    ],
)
def test_the_first_of_two_steps_is_taken_that_satisfies_wolfes_conditions(share, step, rounds):
    search = least_loss_search()
    problem, fleet, now, _ = placed(search, 1.0)
    p = share * newton_direction(problem, now.w)
    if step == "cubic":
        (f, g, _), (f1, g1, _) = problem.objective(now.w), problem.objective(now.w + p)
        step = least_of_cubic(f, g @ p, f1, g1 @ p)
        assert 0.1 < step < 1
    before = fleet.ledger.rounds
    after = step_or_descend(fleet, fleet.method.search, now, p)
    assert (after.step, fleet.ledger.rounds - before) == (pytest.approx(step, rel=1e-9), rounds)
    step = after.step
    f, g, _ = problem.objective(now.w + step * p)
    np.testing.assert_allclose(after.gradient, g, atol=1e-13)
    assert after.loss == pytest.approx(f, rel=1e-13)


@pytest.mark.parametrize("last", [2.0, 0.5])
def test_where_losses_are_equal_to_rounding_the_whole_step_is_taken_not_the_last_one(last):
    search = least_loss_search()
    problem, fleet, now, _ = placed(search, 1.0)
    w = now.w
    for _ in range(12):
        w = w + newton_direction(problem, w)
    away = 1e-9 * np.ones(len(w))
    f, g = fleet.mean(value_and_gradient, w + away)
    now = State(w + away, f, g, step=last)
    after = step_or_descend(fleet, fleet.method.search, now, -away)
    assert after.step == 1.0
    assert np.linalg.norm(after.gradient) < 1e-4 * np.linalg.norm(g)
