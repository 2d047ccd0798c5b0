"""DCGD, DIANA, ADIANA and BFGS against gradient descent, the papers' lines, and scipy's update."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import on_many, on_one, states
from scipy.optimize import BFGS

from mpinewton.errors import ConfigError
from mpinewton.methods.newton import Newton
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.tasks import gradient_at, smoothness_constant
from mpinewton.testing.problems import ZOO, Problem

L = 3.0
IDENTITIES = ["identity", "random:r=6", "bernoulli:p=1,of=identity"]


def iterates(method, fleet, w, count=10):
    return np.array([state.w for state in states(method, fleet, w, count)])


def descent(problem: Problem, eta: float, count: int = 10):
    w, found = problem.start, [problem.start]
    for _ in range(count):
        w = w - eta * problem.objective(w)[1]
        found.append(w)
    return np.array(found)


@pytest.mark.parametrize("compressor", IDENTITIES)
def test_without_compression_they_are_gradient_descent(compressor):
    problem = ZOO["logistic-csr"]
    settings = {"compressor": compressor, "smoothness": L}
    dcgd = iterates(make_method("dcgd", settings), on_many(problem), problem.start)
    np.testing.assert_allclose(dcgd, descent(problem, 1 / (L + problem.l2)), atol=1e-13)
    diana = iterates(make_method("diana", settings), on_many(problem), problem.start)
    np.testing.assert_allclose(diana, descent(problem, 2 / (L + problem.l2)), atol=1e-12)
    half = iterates(make_method("dcgd", {"compressor": compressor, "eta": 0.1}), on_many(problem), problem.start)
    np.testing.assert_allclose(half, descent(problem, 0.1), atol=1e-13)


def test_adiana_without_compression_is_the_papers_lines():
    problem, l2 = ZOO["logistic-csr"], ZOO["logistic-csr"].l2
    method = make_method("adiana", {"compressor": "identity", "smoothness": L})
    eta, y = 1 / (2 * (L + l2)), problem.start
    z = anchor = h = problem.start
    h = np.zeros_like(y)
    theta1 = min(1 / 4, np.sqrt(eta * l2))
    gamma = eta / (2 * (theta1 + eta * l2))
    for state in states(method, on_many(problem), problem.start, 12)[1:]:
        x = theta1 * z + 0.5 * anchor + (0.5 - theta1) * y
        after = x - eta * problem.objective(x)[1]  # h + (g - h)
        h = problem.objective(anchor)[1]
        z = (1 - gamma * l2) * z + gamma * l2 * x + gamma / eta * (after - x)
        y, anchor = after, y
        np.testing.assert_allclose(state.w, after, atol=1e-12)
        np.testing.assert_allclose(state.h, h, atol=1e-12)


@pytest.mark.slow
def test_diana_knows_the_mean_of_the_workers_shifts_and_they_become_the_gradients():
    problem = ZOO["logistic-csr"]
    fleet = on_many(problem)
    last = states(make_method("diana", {}), fleet, problem.start, 800)[-1]
    shifts = [worker.memory["h"] for worker in fleet.host.workers]
    np.testing.assert_allclose(last.h, sum(fleet.worker_share[i] * h for i, h in enumerate(shifts)), atol=1e-13)
    for worker, h in zip(fleet.host.workers, shifts):
        np.testing.assert_allclose(h, worker.evaluate(last.w)[1], atol=5e-3)  # though none of them is 0 there
    assert np.linalg.norm(shifts[0]) > 1e-2


def test_parameters_are_the_theorys():
    problem = ZOO["logistic-csr"]
    fleet = on_many(problem)
    with_l2 = L + problem.l2
    for compressor, omega in (("natural", 1 / 8), ("random:r=2", 2.0)):
        n = 1 / fleet.worker_share.max()
        settings = {"compressor": compressor, "smoothness": L}
        after = states(make_method("dcgd", settings), on_many(problem), problem.start, 1)[-1]
        assert after.step == pytest.approx(1 / (with_l2 * (1 + omega / n)))
        after = states(make_method("diana", settings), on_many(problem), problem.start, 1)[-1]
        alpha = 1 / (1 + omega)
        assert after.step == pytest.approx(min(alpha / 0.02, 2 / (with_l2 * (1 + 6 * omega / n))))
        prob, eta = make_method("adiana", settings).chance_and_step(fleet, with_l2)
        assert prob == pytest.approx(min(1, max(alpha / 2, alpha / 2 * (np.sqrt(n / (32 * omega)) - 1))))
        expected = min(1 / 2, n / (64 * omega * (2 * prob * (omega + 1) + 1) ** 2)) / with_l2
        assert eta == pytest.approx(expected)


@pytest.mark.parametrize("name", ["logistic-csr", "squared-dense", "huber-dense", "softplus-csr"])
def test_every_worker_bounds_its_own_curvature_and_the_mean_bounds_that_of_all(name):
    problem = ZOO[name]
    many, one = on_many(problem), on_one(problem)
    for fleet in (many, one):
        for worker in fleet.host.workers:
            if worker.rows:
                X = worker.model.rows.X
                X = X.toarray() if hasattr(X, "toarray") else X
                truth = np.linalg.eigvalsh(
                    (X.T * worker.model.row_weight * worker.model.loss.hessian_bound(worker.model.t)) @ X
                )[-1]
                assert truth * (1 - 1e-12) <= smoothness_constant(worker) <= truth * (1 + 1e-9)
            else:
                assert smoothness_constant(worker) == 0
    assert one.mean(smoothness_constant) <= many.mean(smoothness_constant) <= 2 * one.mean(smoothness_constant)
    for w in (problem.start, 0 * problem.start):
        assert np.linalg.eigvalsh(problem.objective(w)[2])[-1] <= one.mean(smoothness_constant) + problem.l2 + 1e-12


@pytest.mark.parametrize("name", ["dcgd", "diana", "adiana"])
def test_the_theorys_steps_converge_where_l2_is_large(name):
    """P(w) = mean loss + 5/2 |w|^2: its gradient shrinks; a step of 1/L without l2 would enlarge it."""
    problem = ZOO["logistic-csr"]
    fleet = on_many(replace(problem, l2=5.0))
    found = states(make_method(name, {"compressor": "random:r=6"}), fleet, problem.start, 60)
    before, after = (np.linalg.norm(fleet.mean(gradient_at, state.w)) for state in (found[0], found[-1]))
    assert after < 1e-3 * before


def test_dcgd_with_a_given_step_needs_no_bound_and_gathers_none():
    fleet = on_many(ZOO["poisson-csr"])
    method = make_method("dcgd", {"eta": 0.1})
    method.validate(fleet.problem)
    method.start(fleet, ZOO["poisson-csr"].start)
    assert not fleet.ledger.bits_up.any()


def test_messages_are_counted_both():
    problem = ZOO["logistic-csr"]
    for name, messages in (("dcgd", 1), ("diana", 1), ("adiana", 2)):
        fleet = on_many(problem)
        method = make_method(name, {"smoothness": L})
        states(method, fleet, problem.start, 10)
        assert (fleet.ledger.bits_up == messages * 10 * 8 * -(-9 * fleet.dim // 8)).all()


# -- BFGS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"hessian_start": "exact"}, {"hessian_start": "bound"}])
def test_bfgs_learns_by_scipys_update(settings):
    problem = ZOO["logistic-csr"]
    found = states(make_method("bfgs", settings), on_many(problem), problem.start, 8)
    d = len(problem.start)
    first = found[0].B
    if not settings:
        s, y = found[1].w - found[0].w, found[1].gradient - found[0].gradient
        first = (s @ y) / (y @ y) * np.eye(d)
        assert np.linalg.norm(found[1].w - found[0].w) <= 4 * (1 + 1e-12)  # |p| <= 1, and a step of 4 at the most
    elif settings["hessian_start"] == "exact":
        np.testing.assert_allclose(first, np.linalg.inv(problem.objective(problem.start)[2]), rtol=1e-9)
    update = BFGS(init_scale=first)
    update.initialize(d, "inv_hess")
    for now, after in pairwise(found):
        update.update(after.w - now.w, after.gradient - now.gradient)
        np.testing.assert_allclose(after.B, update.get_matrix(), rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(after.B, after.B.T)


def test_bfgs_of_steps_1_begins_as_newton_and_sees_no_split():
    problem = ZOO["logistic-csr"]
    near = problem.optimum[0] + 0.05
    method = make_method("bfgs", {"hessian_start": "exact", "search": None})
    found = iterates(method, on_many(problem), near, 12)
    np.testing.assert_allclose(found[1], iterates(Newton(search=None), on_one(problem), near, 1)[1], atol=1e-12)
    np.testing.assert_allclose(found, iterates(method, on_one(problem), near, 12), atol=1e-10)
    np.testing.assert_allclose(found[-1], problem.optimum[0], atol=1e-8)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("diana", {"compressor": "top"}, "top is biased"),
        ("dcgd", {"compressor": "rank"}, "rank is for symmetric matrices"),
        ("dcgd", {"eta": 0.0}, "learning_rate = 0.0"),
        ("adiana", {"smoothness": -1.0}, "smoothness = -1.0"),
        ("bfgs", {"smoothness": 1.0}, "no effect with hessian_start = 'scaled'"),
        ("bfgs", {"search": None}, "exact or bound with search=none"),
        ("bfgs", {"hessian_start": "zero"}, "choose from scaled, exact, bound"),
    ],
)
def test_bad_settings_are_refused(name, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_method(name, settings)


def test_problems_that_do_not_fit_are_refused():
    poisson, flat = on_many(ZOO["poisson-csr"]).problem, on_many(ZOO["logistic-csr"]).problem
    object.__setattr__(flat, "l2", 0.0)
    for name, settings, where, says in (
        ("diana", {}, poisson, "needs hessian_bound, which poisson does not provide; set smoothness"),
        ("bfgs", {"hessian_start": "bound"}, poisson, "bound needs hessian_bound, which poisson does not provide"),
        ("adiana", {}, flat, "needs l2 > 0"),
        ("dcgd", {"compressor": "random:r=7"}, flat, "r = 7, but x has 6 coordinates"),
    ):
        with pytest.raises(ConfigError, match=says):
            make_method(name, settings).validate(where)
    make_method("diana", {"smoothness": 9.0}).validate(poisson)
    make_method("dcgd", {}).validate(flat)
