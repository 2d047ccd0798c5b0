"""PISA, SISA and NSISA against what they are known to be: closed recursions, dense formulae, slow versions."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import on_many, on_one, states
from scipy import sparse

from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.fleet.problem import Problem
from mpinewton.linalg.orthogonal import newton_schulz
from mpinewton.losses import make_loss
from mpinewton.methods.pisa import Nsisa, Pisa, Sisa
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.preconditioners import NewtonSchulz, SecondMoment
from mpinewton.methods.support.schedules import Decay, spacing
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations
from mpinewton.testing.problems import ZOO

PROBLEMS = ["squared-csr", "logistic-dense", "softmax-csr", "poisson-dense"]
STEADY = {"sigma": 6.0, "gamma": 1.0}


def iterates(method, fleet, w, count=12):
    """The first iterates, shape (count + 1, d)."""
    return np.array([state.w for state in states(method, fleet, w, count)])


def gradient_of(problem):
    return lambda w: problem.objective(w)[1]


# -- what it is (all exact) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_without_rho_it_is_the_optimistic_gradient_method(name, gamma):
    problem = ZOO[name]
    slope, w = gradient_of(problem), [problem.start]
    before = np.zeros_like(problem.start)
    for step in range(1, 13):
        g = slope(w[-1])
        w.append(w[-1] - (2 * g - before) / (30.0 / gamma**step))
        before = g
    found = iterates(Pisa(sigma=30.0, rho=0.0, gamma=gamma), on_many(problem), problem.start)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_with_the_identity_it_is_heavy_ball_with_a_look_ahead(name):
    problem, sigma, rho = ZOO[name], 6.0, 2.0
    slope, w, u = gradient_of(problem), [problem.start], np.zeros_like(problem.start)
    for _ in range(12):
        after = rho / (sigma + rho) * u - slope(w[-1]) / (sigma + rho)
        w.append(w[-1] + 2 * after - u)
        u = after
    found = iterates(Pisa(sigma=sigma, rho=rho, gamma=1.0), on_many(problem), problem.start)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_with_the_identity_the_split_does_not_show(name):
    problem, method = ZOO[name], Pisa(sigma=6.0, rho=2.0, gamma=0.95, every=3)
    many, one = (iterates(method, fleet(problem), problem.start) for fleet in (on_many, on_one))
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_stability_bound_is_sharp():
    """On a quadratic: convergence if and only if lambda_max < (2/3)(sigma + 2 rho)."""
    problem, rho = ZOO["squared-dense"], 0.3
    largest = np.linalg.eigvalsh(problem.objective(problem.start)[2])[-1]
    (w, _), far = problem.optimum, []
    for factor in (1.03, 0.97):
        method = Pisa(sigma=factor * 1.5 * largest - 2 * rho, rho=rho, gamma=1.0, divergence=1e300)
        found = iterates(method, on_many(problem), problem.start, 1000)
        far.append(np.linalg.norm(found[-1] - w) / np.linalg.norm(found[0] - w))
    assert far[0] < 1e-4
    assert far[1] > 1e4


@pytest.mark.parametrize("name", ["squared-csr", "logistic-dense"])
def test_the_message_is_the_paper_s_admm(name):
    """(2.9), (2.13) and (2.14) with w_i kept by the workers, every Q_i dense."""
    problem, sigma, rho = ZOO[name], 4.0, 1.5
    fleet = on_many(problem)
    workers = [worker for worker in fleet.host.workers if worker.rows]
    w, pi = problem.start, [np.zeros(6) for _ in workers]
    truth = [w]
    for _ in range(12):
        total = np.zeros(6)
        for i, worker in enumerate(workers):
            worker.move_to(w)
            g, Q = worker.gradient(), worker.hessian()
            w_i = w - np.linalg.solve(sigma * np.eye(6) + rho * Q, pi[i] + g)
            pi[i] = pi[i] + sigma * (w_i - w)
            total += worker.share * (sigma * w_i + pi[i])
        w = total / sigma
        truth.append(w)
    method = Pisa(preconditioner="hessian", sigma=sigma, rho=rho, gamma=1.0)
    np.testing.assert_allclose(iterates(method, on_many(problem), problem.start), truth, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["identity", "hessian", "second-moment"])
def test_a_ridge_may_be_the_driver_s_or_the_workers(kind):
    """Another algorithm, the same optimum; the recursion of the driver's part is (2.9)."""
    problem = ZOO["logistic-csr"]
    sigma = 0.1 if kind == "hessian" else 1.0
    fleet, settings = on_many(problem), {"sigma": sigma, "rho": 1.0, "gamma": 1.0, "preconditioner": kind}
    w, _ = problem.optimum
    for driver in (0.004,) if kind == "identity" else (problem.l2,):  # a part of it, and all; none is the default
        method = Pisa(**settings, l2_driver=driver)
        method.validate(fleet.problem)
        found = iterates(method, on_many(problem), problem.start, 300 if kind == "hessian" else 800)
        np.testing.assert_array_equal(found[0], problem.start * (1 / (1 + driver / sigma)))
        np.testing.assert_allclose(found[-1], w, rtol=0, atol=1e-5)


def test_ridges_that_are_not_the_objective_s_are_refused():
    problem = on_many(ZOO["squared-dense"]).problem
    Pisa(l2_local=0.004, l2_driver=0.006).validate(problem)
    for settings in ({"l2_local": 0.02}, {"l2_driver": 0.02}, {"l2_local": 0.004}):
        with pytest.raises(ConfigError, match=r"expected a sum of l2 = 0\.01"):
            Pisa(**settings).validate(problem)


# -- Q = Hessian ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squared-dense", "logistic-csr", "huber-csr"])
def test_the_routes_to_the_hessian_agree(name):
    problem, fit = ZOO[name], {"sigma": 2.0, "gamma": 1.0, "preconditioner": "hessian", "l2_driver": 0.003}
    batch = 4  # fewer rows than features
    found = {
        solver: iterates(Pisa(**fit, solver=solver, batch_size=batch), on_many(problem), problem.start)
        for solver in ("cholesky", "woodbury", "cg")
    }
    np.testing.assert_allclose(found["woodbury"], found["cholesky"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["cg"], found["cholesky"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("storage", ["dense", "csr"])
def test_more_weights_than_a_matrix_is_formed_for(storage):
    rng, d = np.random.default_rng(2), 1100
    X, y = rng.standard_normal((30, d)) * (rng.random((30, d)) < 0.1), rng.standard_normal(30)
    shards = [Shard(sparse.csr_array(X[i::2]) if storage == "csr" else X[i::2], y[i::2]) for i in range(2)]
    fleet = local_fleet(shards, make_loss("squared"), None, 0.1)
    found = iterates(Pisa(preconditioner="hessian", sigma=0.3, rho=2.0, gamma=1.0), fleet, np.zeros(d), 3)
    w, pi = np.zeros(d), [np.zeros(d), np.zeros(d)]
    for step in range(3):
        total = np.zeros(d)
        for i, shard in enumerate(shards):
            A = X[i::2]
            Q = A.T @ A / 15 + 0.1 * np.eye(d)
            g = A.T @ (A @ w - shard.y) / 15 + 0.1 * w
            new = pi[i] - 0.3 * np.linalg.solve(0.3 * np.eye(d) + 2.0 * Q, pi[i] + g)
            total += (2 * new - pi[i]) / 2
            pi[i] = new
        w = w + total / 0.3
        np.testing.assert_allclose(found[step + 1], w, rtol=0, atol=1e-10)


# -- Q = second moment, Newton-Schulz ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["sum", "mean", "corrected"])
@pytest.mark.parametrize("eta", [None, 0.05])
def test_sisa_is_its_formulae(scheme, eta):
    problem, sigma, rho, beta = ZOO["softmax-csr"], 3.0, 20.0, 0.9
    fleet = on_many(problem)
    workers = [worker for worker in fleet.host.workers if worker.rows]
    w = problem.start
    pi, n, truth = [0 * w for _ in workers], [0 * w for _ in workers], [w]
    for step in range(1, 9):
        s, u = sigma / 0.9**step, 0
        for i, worker in enumerate(workers):
            r = pi[i] + worker.evaluate(w)[1]
            n[i] = n[i] + r * r if scheme == "sum" else beta * n[i] + (1 - beta) * r * r
            m = n[i] / (1 - beta**step) if scheme == "corrected" else n[i]
            q = np.sqrt(m) if eta is None else np.minimum(np.sqrt(m), eta)
            new = pi[i] - s * r / (s + rho * (q + 1e-8))
            u = u + worker.share * (2 * new - pi[i])
            pi[i] = new
        w = w + u / s
        truth.append(w)
    second = SecondMoment(scheme=scheme, eta=eta, **({} if scheme == "sum" else {"beta": beta}))
    found = iterates(Sisa(sigma=sigma, rho=rho, gamma=0.9, second=second), on_many(problem), problem.start, 8)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12)


def network(workers=3, seed=0, rule=""):
    """A fleet of a little network on iid shards."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, 5))
    y = (X[:, 0] > 0).astype(float) + (X[:, 1] > 0.5)
    shards = [Shard(X[i::workers], y[i::workers]) for i in range(workers)]
    return local_fleet(shards, make_loss("mlp:hidden=8-4,activation=tanh"), (0.0, 1.0, 2.0), 0.0, seed=seed)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("moment", ["scheme", "current"])
def test_nsisa_is_its_formulae(nesterov, moment):
    fleet = network()
    sigma, rho, mu = 20.0, 30.0, 0.9
    schulz = NewtonSchulz(mu=mu, nesterov=nesterov, moment=moment, other_sigma=2.0, other_rho=50.0)
    w = fleet.problem.initial_weights()
    found = iterates(Nsisa(sigma=sigma, rho=rho, gamma=1.0, schulz=schulz, dual_leak=0.5), network(), w, 6)
    cuts = np.cumsum([shape.size for shape in fleet.problem.shapes])[:-1]
    zero = [0 * w for _ in range(3)]
    pi, n, b = list(zero), list(zero), list(zero)
    S, R = (np.concatenate([np.full(s.size, a if s.hidden else c) for s in fleet.problem.shapes])
            for a, c in ((sigma, 2.0), (rho, 50.0)))  # fmt: skip
    for step in range(1, 7):
        u = 0
        for i, worker in enumerate(fleet.host.workers):
            g = worker.evaluate(w)[1]
            b[i] = mu * b[i] + g
            seen = g + mu * b[i] if nesterov else b[i]
            parts = []
            for shape, part, plain in zip(fleet.problem.shapes, np.split(seen, cuts), np.split(g, cuts)):
                if shape.hidden:
                    o = newton_schulz(part.reshape(shape.sizes)) * max(1, shape.sizes[0] / shape.sizes[1]) ** 0.5
                    parts.append(o.ravel())
                else:
                    parts.append(plain)
            r = pi[i] + np.concatenate(parts)
            n[i] = 0.999 * n[i] + 0.001 * r * r
            q = np.sqrt(n[i] / (1 - 0.999**step)) + 1e-8
            if moment == "current":
                q = np.where(sigma == S, abs(r), q)
            new = pi[i] - S * r / (S + R * q)
            u = u + (2 * new - pi[i]) / 3
            pi[i] = 0.5 * new
        w = w + u / S
        np.testing.assert_allclose(found[step], w, rtol=0, atol=1e-12)


def test_newton_schulz_drives_singular_values_towards_one():
    rng = np.random.default_rng(1)
    for shape in ((8, 5), (5, 8), (6, 6)):
        U, _, V = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
        s = np.geomspace(1, 0.01, len(V))
        O = newton_schulz((U * s) @ V)  # noqa: E741
        found = np.diag(U.T @ O @ V.T)  # the same singular vectors
        np.testing.assert_allclose((U * found) @ V, O, atol=1e-12)
        assert ((found > 0.67) & (found < 1.21)).all()
    assert not newton_schulz(np.zeros((3, 4))).any()


# -- schedules, batches -----------------------------------------------------------------------------------------------


def test_k0_of_the_paper():
    assert [spacing("auto", gamma) for gamma in (0.5, 0.6, 0.7, 0.8, 0.9, 0.99)] == [69, 51, 36, 23, 11, 1]
    assert spacing(4, 0.5) == 4
    assert spacing("auto", 1.0) == 1


def test_sigma_is_divided_by_gamma_at_multiples_of_every():
    method, initial = Pisa(gamma=0.5, every=3), np.array([2.0, 7.0])
    assert [method.penalties_at(initial, step)[0] for step in range(1, 8)] == [2, 2, 4, 4, 4, 8, 8]
    assert {method.penalties_at(initial, step)[1] for step in range(1, 8)} == {7.0}
    assert method.penalties_at(initial, 10_000)[0] == 2e12  # frozen there


def test_decays():
    linear = Decay(kind="linear", total=10, hold=0.7)
    np.testing.assert_allclose([linear(step) for step in (1, 7, 8, 9, 10, 11)], [1, 1, 1, 2 / 3, 1 / 3, 1 / 3])
    epochs = Decay(kind="linear", total=6, epoch=2)
    np.testing.assert_allclose([epochs(step) for step in range(1, 8)], [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    steps = Decay(kind="step", factor=4, length=3)
    assert [steps(step) for step in range(1, 8)] == [1, 1, 1, 0.25, 0.25, 0.25, 1 / 16]
    method = Pisa(gamma=1.0, decay=epochs)
    np.testing.assert_allclose(method.penalties_at(np.array([2.0, 3.0]), 5), [6.0, 9.0])
    alone = Pisa(gamma=1.0, decay=Decay(kind="linear", total=6, epoch=2, also_rho=False))
    np.testing.assert_allclose(alone.penalties_at(np.array([2.0, 3.0]), 5), [6.0, 3.0])


@pytest.mark.parametrize("sampling", ["fresh", "epochs"])
def test_batches_depend_on_seed_worker_and_step_alone(sampling):
    problem = ZOO["logistic-csr"]
    method = Sisa(sigma=2.0, batch_size=0.3, sampling=sampling)
    found = [iterates(method, on_many(problem), problem.start, 9) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    full = iterates(Sisa(sigma=2.0), on_many(problem), problem.start, 9)
    assert not np.allclose(found[0], full)
    large = iterates(Sisa(sigma=2.0, batch_size=1000, sampling=sampling), on_many(problem), problem.start, 9)
    np.testing.assert_array_equal(large, full)


def test_epochs_leave_no_row_out():
    fleet = on_one(ZOO["squared-dense"])
    (worker,), seen = fleet.host.workers, []
    worker.model.subset = lambda rows: seen.append(rows) or type(worker.model).subset(worker.model, rows)
    iterates(Pisa(sigma=9.0, batch_size=30, sampling="epochs"), fleet, ZOO["squared-dense"].start, 8)
    for epoch in (seen[:4], seen[4:]):
        assert sorted(np.concatenate(epoch)) == list(range(120))
    assert not np.array_equal(seen[0], seen[4])


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"sigma": 0.05}, {"sigma": 0.1, "restarts": 0, "divergence": 1e250}])
def test_a_divergent_setting_is_ended_with_advice(settings):
    problem = ZOO["squared-dense"]
    ended = run_of(Pisa(rho=0.0, gamma=1.0, **settings), on_many(problem), problem.start, 3000)
    assert ended.kind == "diverged"
    if len(settings) == 3:  # its own rule switched off: that of the loop
        assert ended.reason.startswith("diverged: the objective has risen")
        assert "raise sigma" in ended.reason
    else:
        assert ended.reason.startswith("diverged: the loss is")
        assert "set sigma = 0.2 instead of 0.05" in ended.reason
        assert ended.row.iteration < 10


def test_restarts_raise_sigma_until_it_goes_well():
    problem, notes = ZOO["squared-dense"], []
    fleet = on_many(problem)
    method = Pisa(sigma=0.05, rho=0.0, gamma=1.0, restarts=5)
    fleet.adopt(method)
    # After 200 iterations the losses are equal to rounding, which then decides whose weights are the result.
    ended = run(method, fleet, problem.start, [Iterations(100)], watchers=[lambda row, _: notes.append(row.note)])
    again = [number for number, note in enumerate(notes) if note.startswith("restarted: ")]
    assert 1 < len(again) <= 5
    assert ended.row.loss < problem.optimum[1] + 1e-6
    sigma = 0.05 * 4 ** len(again)
    fresh = iterates(Pisa(sigma=sigma, rho=0.0, gamma=1.0), on_many(problem), problem.start, 100 - again[-1])
    np.testing.assert_array_equal(ended.state.w, fresh[-1])


def test_steps_that_are_spent_are_no_convergence():
    problem = ZOO["squared-dense"]
    ended = run_of(Pisa(sigma=20.0, gamma=0.5), on_many(problem), problem.start, 500)
    assert ended.kind == "stalled"
    assert ended.reason.startswith("stalled: sigma has grown to")
    assert ended.row.iteration < 60


def test_a_run_that_arrives_is_not_called_stalled():
    problem = ZOO["squared-dense"]
    method = Pisa(preconditioner="hessian", sigma=0.1, gamma=0.99)
    assert run_of(method, on_many(problem), problem.start, 300).kind == "precision"


def run_of(method, fleet, w, count):
    fleet.adopt(method)
    return run(method, fleet, w, [Iterations(count)])


def test_sigma_is_estimated_where_the_loss_is_convex():
    problem = ZOO["squared-dense"]
    fleet = on_many(problem)
    largest = np.linalg.eigvalsh(problem.objective(problem.start)[2])[-1]
    for kind, rho in (("identity", 1), ("hessian", 1), ("second-moment", 100)):
        method = Pisa(preconditioner=kind)
        fleet.adopt(method)
        np.testing.assert_allclose(method.start(fleet, problem.start).penalties, [3 * largest, rho], rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("pisa", {"preconditioner": "hessian", "sigma": 1}, "is not convex; use preconditioner=second-moment"),
        ("sisa", {}, "set sigma = 1/"),
        ("nsisa", {"sigma": 20}, "schulz.other_sigma = 0.3 to 10"),
    ],
)
def test_what_a_loss_that_is_not_convex_needs(method, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_method(method, settings).validate_loss(make_loss("softplus"))


def test_a_route_that_the_loss_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="solver=woodbury needs second_derivatives, which softmax does not provide"):
        make_method("pisa", {"preconditioner": "hessian", "solver": "woodbury"}).validate_loss(make_loss("softmax"))


def test_nsisa_refuses_a_model_without_hidden_matrices():
    with pytest.raises(ConfigError, match="softmax has none; use sisa"):
        make_method("nsisa", {}).validate(on_many(ZOO["softmax-csr"]).problem)


@pytest.mark.parametrize("rule", ["label-skew:1", "dirichlet:0.1", "iid"])
def test_nsisa_warns_on_skewed_shards_and_says_why(rule, caplog):
    problem = Problem(make_loss("mlp"), (0.0, 1.0), (5, 5), (5.0, 5.0), 3, 0.0, partition=rule)
    make_method("nsisa", {"sigma": 20, "schulz": {"other_sigma": 1}}).validate(problem)
    assert ("orthogonalises its own momentum" in caplog.text) is (rule != "iid")
    caplog.clear()
    make_method("sisa", {"sigma": 1}).validate(problem)
    assert not caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0}, {"rho": -1}, {"gamma": 0}, {"gamma": 1.1}, {"every": 0}, {"every": "often"}, {"batch": 0},
        {"l2_local": -1}, {"l2_driver": -1}, {"dual_leak": 0}, {"divergence": 1}, {"restarts": -1},
        {"preconditioner": "none"}, {"second": {"beta": 1}}, {"second": {"eta": 0}}, {"second": {"eps": -1}},
        {"second": {"scheme": "III"}}, {"schulz": {"mu": 1}}, {"schulz": {"steps": 2}}, {"schulz": {"other_sigma": 0}},
        {"schulz": {"other_rho": -1}}, {"decay": {"kind": "linear"}}, {"decay": {"hold": 1}}, {"decay": {"epoch": 0}},
        {"decay": {"factor": 0.5}}, {"decay": {"length": 0}}, {"gamma": 1.0, "every": 3}, {"sampling": "epochs"},
        {"solver": "cg"}, {"schulz": {"mu": 0.9}}, {"second": {"beta": 0.9}}, {"decay": {"total": 9}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        make_method("pisa", settings)


def test_settings_as_they_are_typed():
    method = make_method("sisa", {"every": "auto", "batch": "25", "second": {"eta": "0.1"}})
    assert (method.every, method.batch_size, method.second.eta) == ("auto", 25.0, 0.1)
    assert make_method("pisa", {"every": "3"}).every == 3
