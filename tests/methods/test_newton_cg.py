"""Truncated Newton: what it equals, what its inner solver stops on, and what it does not depend on."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import iterates, on_many, states
from reference import SHARED, dealt, needs_shared
from scipy import sparse

from mpinewton.data.columns import Schema
from mpinewton.data.loading import load_rows
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.linesearch import SLACK
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import GradientBelow, Iterations
from mpinewton.testing.problems import ZOO

CONVEX = [name for name, problem in ZOO.items() if problem.loss.convex]


@pytest.mark.parametrize("name", ZOO)
def test_the_diagonal_is_that_of_the_hessian(name):
    problem = ZOO[name]
    (now,) = states(make_method("newton-cg", {}), on_many(problem), problem.start, 0)
    np.testing.assert_allclose(now.diagonal, np.diag(problem.objective(problem.start)[2]), rtol=1e-13)


@pytest.mark.parametrize("name", CONVEX)
def test_run_to_the_end_conjugate_gradients_give_the_iterates_of_newton(name):
    problem = ZOO[name]
    settings = {"preconditioner": "none", "forcing": 1e-13, "cg_steps": 100}
    ours = iterates(make_method("newton-cg", settings), on_many(problem), problem.start)
    newton = iterates(make_method("newton", {}), on_many(problem), problem.start)
    both = min(len(ours), len(newton))
    assert both >= 2
    np.testing.assert_allclose(ours[:both], newton[:both], rtol=0, atol=1e-8)


def metric(problem, w, alpha=0.01):
    """M of the paper, from the dense Hessian at w."""
    return alpha * np.diag(problem.objective(w)[2]) + (1 - alpha) * problem.l2


def inner(name, settings):
    """Of every step in turn: direction in the scaled variables, scaled Hessian and gradient, steps of the solver."""
    problem = ZOO[name]
    found = states(make_method("newton-cg", settings), on_many(problem), problem.start, 5)
    for now, after in pairwise(found):
        _, g, H = problem.objective(now.w)
        root = np.sqrt(metric(problem, now.w))
        s = (after.w - now.w) / after.step
        yield root * s, H / np.outer(root, root), g / root, int(after.note.split()[0])


def krylov_optima(H, g, k):
    """Minimisers of the quadratic model in the Krylov spaces of dimension 1 to k, by dense least squares."""
    V = g[:, None] / np.linalg.norm(g)
    for _ in range(k):
        s = V @ np.linalg.solve(V.T @ H @ V, -V.T @ g)
        yield s, 0.5 * s @ H @ s + g @ s
        V = np.linalg.qr(np.column_stack([V, H @ V[:, -1]]))[0]


@pytest.mark.parametrize("name", ["logistic-csr", "poisson-dense", "softmax-csr"])
def test_model_stops_at_the_first_step_that_adds_less_than_half_the_mean(name):
    for s, H, g, k in inner(name, {"forcing": "model"}):
        points, Q = zip(*krylov_optima(H, g, k))
        np.testing.assert_allclose(s, points[-1], rtol=1e-6, atol=1e-9 * np.linalg.norm(s))
        gains = np.diff([0.0, *Q])
        assert [j * gain / q <= 0.5 for j, (gain, q) in enumerate(zip(gains, Q), start=1)] == [False] * (k - 1) + [True]


@pytest.mark.parametrize("forcing", ["residual", 0.05])
@pytest.mark.parametrize("name", ["logistic-csr", "poisson-dense", "softmax-csr"])
def test_residual_and_number_stop_at_the_first_step_within_the_tolerance(name, forcing):
    first = None
    for _, H, g, k in inner(name, {"forcing": forcing}):
        first = first or np.linalg.norm(g)
        eta = min(0.5, np.sqrt(np.linalg.norm(g) / first)) if forcing == "residual" else forcing
        residuals = [np.linalg.norm(H @ s + g) / np.linalg.norm(g) for s, _ in krylov_optima(H, g, k)]
        assert [r <= eta for r in residuals] == [False] * (k - 1) + [True]


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("forcing", ["model", "residual"])
def test_without_l2_the_path_does_not_depend_on_the_units_of_the_columns(forcing, alpha):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 8))
    y = np.sign(X @ rng.standard_normal(8) + rng.standard_normal(200))
    method = make_method("newton-cg", {"forcing": forcing, "alpha": alpha})

    def path(units):
        fleet = local_fleet(dealt(X * units, y, 3), make_loss("logistic"), (-1.0, 1.0), 0.0)
        return iterates(method, fleet, np.zeros(8), 8) * units

    plain, powers = path(np.ones(8)), path(2.0 ** np.array([-10, 20, 3, 0, -5, 12, 7, 1]))
    np.testing.assert_array_equal(powers, plain)
    np.testing.assert_allclose(path(np.logspace(-3, 6, 8)), plain, rtol=1e-9)


def test_a_column_of_zeros_without_l2_is_left_alone():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3)) * [1.0, 0.0, 1.0]
    fleet = local_fleet([Shard(X, X @ np.ones(3) + rng.standard_normal(50))], make_loss("squared"), None, 0.0)
    path = iterates(make_method("newton-cg", {"forcing": "residual"}), fleet, np.array([0.0, 7.0, 0.0]))
    assert (path[:, 1] == 7).all()
    np.testing.assert_allclose(
        path[-1, [0, 2]], np.linalg.lstsq(X, fleet.host.workers[0].model.y)[0][[0, 2]], rtol=1e-12
    )


def test_a_first_direction_of_negative_curvature_is_taken_scaled_by_the_preconditioner():
    problem = ZOO["softplus-dense"]
    rng = np.random.default_rng(0)
    method, tried = make_method("newton-cg", {}), 0
    for _ in range(50):
        w = 2 * rng.standard_normal(len(problem.start))
        _, g, H = problem.objective(w)
        M = np.abs(metric(problem, w))
        now, after = states(method, on_many(problem), w, 1)
        if (g / M) @ H @ (g / M) < 0:
            tried += 1
            assert after.note == "0 steps of conjugate gradients, then negative curvature"
            np.testing.assert_allclose(after.w - now.w, -after.step * g / M, rtol=1e-10)
        assert after.loss < now.loss
    assert tried >= 3


@pytest.mark.slow
def test_a_network_needs_no_diagonal_and_is_refused_one():
    problem = ZOO["softmax-dense"]
    loss = make_loss("mlp:hidden=5,activation=tanh")
    with pytest.raises(ConfigError, match=r"preconditioner=diagonal needs hessian_diagonal.*use preconditioner=none"):
        make_method("newton-cg", {"preconditioner": "diagonal"}).validate_loss(loss)
    method = make_method("newton-cg", {})
    method.validate_loss(loss)
    fleet = local_fleet(problem.shards, loss, problem.classes, 1e-3)
    w = fleet.problem.initial_weights()
    found = states(method, fleet, w, 60)
    losses = [now.loss for now in found]
    assert (np.diff(losses) <= SLACK).all()
    assert any("negative curvature" in now.note for now in found)
    assert np.linalg.norm(found[-1].gradient) < 1e-6


def test_nothing_is_larger_than_sixteen_vectors():
    d, rows = 100_000, 300
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, d, (rows, 8)), axis=1)
    X = sparse.csr_array(
        (rng.standard_normal(rows * 8), columns.ravel(), np.arange(0, 8 * rows + 1, 8)), shape=(rows, d)
    )
    fleet = local_fleet([Shard(X, rng.choice([-1.0, 1.0], rows))], make_loss("logistic"), (-1.0, 1.0), 1e-3)
    tracemalloc.start()
    try:
        found = states(make_method("newton-cg", {}), fleet, np.zeros(d), 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(int(now.note.split()[0]) >= 1 for now in found[1:])
    held = len(found) * 3 * 8 * d  # w, gradient and diagonal of the states that this test keeps
    assert peak - held <= 16 * 8 * d


@pytest.mark.slow
def test_a_reach_spares_products_where_steps_are_shortened():
    """On rows of very different length: the sum over two problems, since rounding moves that of one by a quarter."""
    rng = np.random.default_rng(0)
    products = {True: 0, False: 0}
    for spread in (1.25, 1.5):
        lengths, values = rng.lognormal(0, spread, (600, 1)), rng.lognormal(0, spread, (600, 400))
        X = sparse.csr_array(lengths * np.ceil(values) * (rng.random((600, 400)) < 0.03))
        labels = np.argmax(X @ rng.standard_normal((400, 5)) + rng.gumbel(0, 5, (600, 5)), axis=1).astype(float)
        shards = [Shard(X[:300], labels[:300]), Shard(X[300:], labels[300:])]
        for limited in products:
            fleet, method = (
                local_fleet(shards, make_loss("softmax"), tuple(range(5)), 1e-4),
                make_method("newton-cg", {}),
            )
            fleet.adopt(method)
            now = method.start(fleet, np.zeros(fleet.dim))
            goal = 1e-3 * np.linalg.norm(now.gradient)
            while np.linalg.norm(now.gradient) > goal:
                now = method.step(fleet, now)
                assert not now.trouble
                products[limited] += int(now.note.split()[0])
                now = now if limited else replace(now, reach=np.inf)
    assert products[True] < 0.9 * products[False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param("a9a", {"preconditioner": "none"}, marks=needs_shared, id="a9a-none"),
        pytest.param("w8a", {}, marks=needs_shared, id="w8a-diagonal"),
    ],
)
def test_the_optimum_of_scikit_learn(name, settings):
    from sklearn.linear_model import LogisticRegression, Ridge

    whole, _ = load_rows(str(SHARED / f"{name}.xz"), Schema({"a9a": 123, "w8a": 300}[name]))
    l2 = 1e-3
    logistic = LogisticRegression(solver="newton-cg", C=1 / (l2 * whole.rows), tol=1e-13, fit_intercept=False)
    squared = Ridge(alpha=l2 * whole.rows, solver="cholesky", fit_intercept=False)
    for text, classes, theirs in (("logistic", (-1.0, 1.0), logistic), ("squared", None, squared)):
        fleet = local_fleet(dealt(whole.X, whole.y, 7), make_loss(text), classes, l2)
        method = make_method("newton-cg", settings)
        fleet.adopt(method)
        ended = run(method, fleet, np.zeros(fleet.dim), [GradientBelow(1e-13), Iterations(100)])
        assert ended.converged, ended.reason
        found = theirs.fit(whole.X, whole.y).coef_.ravel()
        np.testing.assert_allclose(ended.state.w, found, rtol=0, atol=1e-10)
