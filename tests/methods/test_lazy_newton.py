"""Newton with lazy Hessians: what it equals, how few Hessians it needs, and what a misleading sample does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from fleets import iterates, on_many, states

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.linalg.triangle import unpack_triangle
from mpinewton.losses import make_loss
from mpinewton.methods import lazy_newton
from mpinewton.methods.lazy_newton import LazyNewton
from mpinewton.methods.newton import Newton
from mpinewton.methods.support.tasks import value_and_gradient, value_gradient_hessian
from mpinewton.testing.problems import ZOO

CONVEX = [name for name, problem in ZOO.items() if problem.loss.convex and "huber" not in name]


@pytest.mark.parametrize("name", CONVEX)
def test_with_a_new_hessian_in_every_iteration_it_is_newton(name):
    problem = ZOO[name]
    lazy = iterates(LazyNewton(refresh=0.0, sample=0.0), on_many(problem), problem.start, 5)
    newton = iterates(Newton(), on_many(problem), problem.start, 5)
    np.testing.assert_allclose(lazy, newton, rtol=0, atol=1e-9)


def logistic(workers=3, unlike=False):
    """A logistic regression on 3,000 rows of 8 features: fleet and Newton's optimum; unlike: a third flipped."""
    rng = np.random.default_rng(5)
    X, truth = rng.standard_normal((3000, 8)), rng.standard_normal(8)
    y = np.where(X @ truth + rng.logistic(size=len(X)) > 0, 1.0, -1.0)
    if unlike:
        y[2000:] *= -1
    parts = [Shard(X[rows], y[rows]) for rows in np.array_split(np.arange(len(y)), workers)]
    fleet = local_fleet(parts, make_loss("logistic"), (-1.0, 1.0), 1e-3)
    return fleet, iterates(Newton(), fleet, np.zeros(8), 10)[-1]


def samples(fleet, iteration):
    """The samples that the workers of a fleet draw in an iteration, a shard each."""
    for worker in fleet.host.workers:
        worker.iteration = iteration
    rows = [worker.rng().choice(worker.rows, round(worker.rows / 8), replace=False) for worker in fleet.host.workers]
    return [Shard(w.model.rows.X[k], w.model.y[k]) for w, k in zip(fleet.host.workers, rows)]


def minimised(parts):
    """Newton's minimiser over some shards, and the Hessian there."""
    fleet = local_fleet(parts, make_loss("logistic"), (-1.0, 1.0), 1e-3)
    w = iterates(Newton(), fleet, np.zeros(8), 12)[-1]
    return w, unpack_triangle(fleet.mean(value_gradient_hessian, w)[2])


def test_two_hessians_of_all_rows_are_enough():
    fleet, optimum = logistic()
    fleet.ledger.entries()
    path = iterates(LazyNewton(), fleet, np.zeros(8), 9)
    tasks = Counter(entry.task for entry in fleet.ledger.entries())
    np.testing.assert_allclose(path[-1], optimum, rtol=0, atol=1e-10)
    assert tasks["mpinewton.methods.support.tasks:value_gradient_hessian"] == 2  # one message down, one up
    assert tasks["mpinewton.methods.lazy_newton:current_hessian"] <= 2


@pytest.mark.parametrize("unlike", [False, True])
def test_the_first_iteration_takes_a_step_from_minimisers_on_samples(monkeypatch, unlike):
    monkeypatch.setattr(lazy_newton, "REST", 1e-13)  # the minimisers, not points near them
    fleet, optimum = logistic(unlike=unlike)
    first = iterates(LazyNewton(), fleet, np.zeros(8), 1)[1]
    parts = samples(fleet, int(unlike))
    if unlike:  # the mean over all samples
        start, H = minimised(parts)
    else:  # the average of the workers' own minimisers
        start, H = (sum(own) / 3 for own in zip(*(minimised([part]) for part in parts)))
    step = -np.linalg.solve(H, fleet.mean(value_and_gradient, start)[1])
    assert np.linalg.norm(first - start - step) < 1e-5 * np.linalg.norm(step)
    assert np.linalg.norm(first - optimum) < 0.4 * np.linalg.norm(start - optimum)


@pytest.mark.parametrize("unlike", [False, True])
def test_only_unlike_workers_need_a_round_trip_for_every_step_on_samples(unlike):
    fleet, optimum = logistic(unlike=unlike)
    fleet.ledger.entries()
    path = iterates(LazyNewton(), fleet, np.zeros(8), 9)
    tasks = [entry.task.split(":")[-1] for entry in fleet.ledger.entries() if entry.direction == "up"]
    assert sum(task.endswith("value_gradient_and_own_minimum") for task in tasks) == 1
    assert any(task.endswith("derivatives_of_sample") for task in tasks) is unlike
    np.testing.assert_allclose(path[-1], optimum, rtol=0, atol=1e-10)


def test_a_sample_that_misleads_costs_one_iteration():
    fleet, optimum = logistic()
    near = optimum + 1e-6  # the minimiser of the sample is farther away
    now, after = states(LazyNewton(), fleet, near, 1)
    np.testing.assert_array_equal(after.w, near)
    assert after.loss == pytest.approx(now.loss, rel=1e-15)
    np.testing.assert_allclose(states(LazyNewton(), fleet, near, 4)[-1].w, optimum, rtol=0, atol=1e-12)


def test_the_sample_is_left_out_where_it_has_few_rows_for_the_weights():
    fleet, _ = logistic()
    assert (
        iterates(LazyNewton(sample=0.01), fleet, np.zeros(8), 3)
        == iterates(LazyNewton(sample=0.0), fleet, np.zeros(8), 3)
    ).all()
