"""FedNL against dense versions of the paper's lines, and against Newton's method where it is that."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import on_many, on_one, states, together

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.linalg.lowrank import GrowingMatrix, outer_sum
from mpinewton.losses.logistic import Logistic
from mpinewton.methods.newton import Newton
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.tasks import linear_model
from mpinewton.testing.problems import ZOO

PROBLEMS = ["logistic-csr", "softmax-dense", "squared-csr"]  # with row weights, several outputs, a constant Hessian
COMPRESSORS = [
    {},
    {"products": 0},
    {"compressor": "rank:word=32", "r": 2},
    {"compressor": "top", "r": 5},
    {"compressor": "random", "r": 5},
    {"compressor": "natural"},
    {"compressor": "dithering:levels=7,norm=max"},
    {"compressor": "bernoulli:p=0.5,of=identity"},
]


def iterates(method, fleet, w, count=5):
    return np.array([state.w for state in states(method, fleet, w, count)])


def hessian(worker, w) -> Array:
    """Of one worker's loss, without the ridge, outside what the method knows."""
    return worker.model.at(w).hessian()


def kept(worker, d) -> Array:
    """H_i, dense."""
    memory = worker.memory
    base = memory["base"] if memory["base"].size else np.zeros((d, d))
    if "rows" in memory:
        base = base + linear_model(worker).rows.gram(memory["rows"])
    return base + outer_sum(e := memory.get("e", np.zeros(0)), memory.get("V", np.zeros((0, d)))[: len(e)])


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("settings", [{"r": None, "compressor": "identity"}, {"r": "d", "products": 0}, {"r": "d"}])
def test_with_everything_sent_it_is_newton_with_the_last_hessian(name, settings):
    problem = ZOO[name]
    fleet = on_many(problem)
    settings = {key: fleet.dim if value == "d" else value for key, value in settings.items()}
    found = states(make_method("fednl", settings), fleet, problem.start, 4)
    for worker in fleet.host.workers:
        np.testing.assert_allclose(kept(worker, fleet.dim), hessian(worker, found[-2].w), atol=1e-11)
    for k, (now, after) in enumerate(pairwise(found)):
        H = problem.objective(found[max(k - 1, 0)].w)[2]
        p = -np.linalg.solve(H, problem.objective(now.w)[1])
        np.testing.assert_allclose(after.w - now.w, p, atol=1e-10)


@pytest.mark.parametrize("settings", COMPRESSORS)
@pytest.mark.parametrize("start", ["exact", "zero"])
def test_the_driver_knows_the_mean_of_what_the_workers_have_learnt(settings, start):
    problem = ZOO["logistic-csr"]
    fleet = on_many(problem)
    method = make_method("fednl-ls", settings | {"hessian_start": start})
    last = states(method, fleet, problem.start, 7)[-1]
    mean = sum(worker.share * kept(worker, fleet.dim) for worker in fleet.host.workers)
    np.testing.assert_allclose(last.H, mean, atol=1e-14)


def slow_fednl(problem, fleet, option: int, count: int) -> list[Array]:
    """Rank 1, exact eigenvectors, H_i^0 exact: the paper's lines."""
    w, workers = problem.start, [worker for worker in fleet.host.workers if worker.rows]
    share = [worker.share for worker in workers]
    Hs = [hessian(worker, w) for worker in workers]
    found = [w]
    for _ in range(count):
        g, lack, S = problem.objective(w)[1], 0.0, []
        for weight, worker, H in zip(share, workers, Hs):
            D = hessian(worker, w) - H
            e, Q = np.linalg.eigh(D)
            k = np.abs(e).argmax()
            S.append(e[k] * np.outer(Q[:, k], Q[:, k]))
            lack += weight * np.sqrt((D**2).sum())
        H = sum(weight * H for weight, H in zip(share, Hs)) + problem.l2 * np.eye(len(w))
        if option == 1:
            e, Q = np.linalg.eigh(H)
            w = w - Q @ (Q.T @ g / np.maximum(e, problem.l2))
        else:
            w = w - np.linalg.solve(H + lack * np.eye(len(w)), g)
        Hs = [H + s for H, s in zip(Hs, S)]
        found.append(w)
    return found


@pytest.mark.parametrize("name", ["logistic-csr", "softmax-dense"])
@pytest.mark.parametrize("option", [1, 2])
def test_rank_one_is_the_papers_lines(name, option):
    problem = ZOO[name]
    exact = [{"products": 0}, {"products": 400, "accuracy": 1e-12}] if option == 1 else [{}]
    for settings in exact:
        found = iterates(make_method("fednl", {"option": option} | settings), on_many(problem), problem.start, 6)
        np.testing.assert_allclose(found, slow_fednl(problem, on_many(problem), option, 6), atol=1e-9)


def test_line_search_takes_the_steps_of_option_1_where_they_pass():
    problem = ZOO["logistic-csr"]
    near = problem.optimum[0] + 0.05
    settings = {"hessian_start": "exact", "products": 0}
    found = states(make_method("fednl-ls", settings), on_many(problem), near, 5)
    assert [state.step for state in found[1:]] == [1.0] * 5
    plain = iterates(make_method("fednl", settings), on_many(problem), near, 5)
    np.testing.assert_allclose([state.w for state in found], plain, atol=1e-12)


def test_with_an_intercept_and_shards_of_any_size():
    problem = ZOO["logistic-csr"]
    fleet, one = (
        local_fleet(shards, problem.loss, problem.classes, problem.l2, intercept=True)
        for shards in (problem.shards, [together(problem.shards)])
    )
    w = iterates(Newton(), one, np.zeros(7), 8)[-1] + 0.05
    naive = iterates(Newton(search=None), one, w, 6)
    for settings in ({"compressor": "identity"}, {"r": 7}):
        method = make_method("fednl", settings)
        method.validate(fleet.problem)
        found = iterates(method, fleet, w, 9)
        np.testing.assert_allclose(found[1], naive[1], atol=1e-11)  # the first step has the exact Hessian
        np.testing.assert_allclose(found[-1], naive[-1], atol=1e-9)
    found = iterates(make_method("fednl-ls", {}), fleet, w, 60)
    np.testing.assert_allclose(found[-1], naive[-1], atol=1e-7)


def test_cubic_steps_majorise():
    problem, method = ZOO["softplus-csr"], make_method("fednl-cr", {"hessian_start": "zero"})
    fleet = on_many(problem)
    found = states(method, fleet, 10 * problem.start, 30)
    losses = [problem.objective(state.w)[0] for state in found]
    assert all(after < before for before, after in pairwise(losses))
    # M is the mean of nu |a|^3: it bounds how much the Hessian changes on the way.
    for now, after in pairwise(found):
        change = problem.objective(after.w)[2] - problem.objective(now.w)[2]
        assert np.linalg.norm(change, 2) <= found[0].M * np.linalg.norm(after.w - now.w) * (1 + 1e-12)


@pytest.mark.parametrize("name", ["logistic-csr", "softmax-dense"])
def test_partial_participation_of_all_with_everything_sent_is_newton(name):
    problem = ZOO[name]
    fleet = on_many(problem)
    near = problem.optimum[0] + 0.05
    method = make_method("fednl-pp", {"compressor": "identity", "tau": 4})
    method.validate(fleet.problem)
    found = iterates(method, fleet, near, 4)
    np.testing.assert_allclose(found, iterates(Newton(search=None), on_one(problem), near, 4), atol=1e-10)


def test_partial_participation_is_the_papers_lines():
    problem = ZOO["logistic-csr"]
    fleet = on_many(problem)
    method = make_method("fednl-pp", {"tau": 2, "hessian_start": "zero", "compressor": "identity", "alpha": 0.5})
    found = states(method, fleet, problem.start, 8)
    seated = [worker for worker in fleet.host.workers if worker.rows]
    d, places = fleet.dim, {worker.index: problem.start for worker in seated}
    Hs = {worker.index: np.zeros((d, d)) for worker in seated}
    for iteration in range(1, 9):
        H, pull, lack = np.zeros((d, d)), np.zeros(d), 0.0
        for worker in seated:
            w, Hi = places[worker.index], Hs[worker.index]
            li = np.sqrt(((hessian(worker, w) - Hi) ** 2).sum())
            H += worker.share * Hi
            lack += worker.share * li
            pull += worker.share * (Hi @ w + li * w - worker.model.at(w).gradient())
        x = np.linalg.solve(H + (lack + problem.l2) * np.eye(d), pull)
        np.testing.assert_allclose(found[iteration].w, x, atol=1e-11)
        fleet.iteration = iteration
        drawn = fleet.rng().choice([worker.index for worker in seated], 2, replace=False)
        for worker in seated:
            if worker.index in drawn:
                places[worker.index] = x
                Hs[worker.index] = 0.5 * Hs[worker.index] + 0.5 * hessian(worker, x)


def test_partial_participation_asks_tau_workers_and_none_without_rows():
    problem = ZOO["logistic-csr"]
    fleet = on_many(problem)
    states(make_method("fednl-pp", {"tau": 2}), fleet, problem.start, 20)
    asked = fleet.ledger.floats_down - fleet.dim
    assert asked.sum() == 2 * 20 * fleet.dim
    assert asked[2] == 0  # the worker without rows
    assert all(asked[[0, 1, 3, 4]] > 0)


def test_a_matrix_that_grows_by_terms():
    rng = np.random.default_rng(0)
    base = outer_sum(rng.standard_normal(9), rng.standard_normal((9, 9)))
    for H, dense in (
        (GrowingMatrix(np.zeros(0), np.zeros((0, 9)), np.zeros((0, 0))), np.zeros((9, 9))),
        (GrowingMatrix(np.zeros(0), np.zeros((0, 9)), base), base),
    ):
        for _ in range(13):
            e, V = rng.standard_normal(2), rng.standard_normal((2, 9))
            H, dense = H.plus(e, V), dense + outer_sum(e, V)
            v = rng.standard_normal((9, 3))
            np.testing.assert_allclose(H.times(v), dense @ v, atol=1e-12)
            assert 2 * len(H.e) < 9


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("fednl", {"hessian_start": "zero"}, "use option=2, fednl-ls or fednl-cr"),
        ("fednl", {"option": 3}, "choose from 1, 2"),
        ("fednl-ls", {"alpha": 1.5}, "alpha = 1.5: expected a value greater than 0 and at most 1"),
        ("fednl-ls", {"mu": 0.0}, "mu = 0.0"),
        ("fednl-ls", {"products": -1}, "products = -1"),
        ("fednl-ls", {"accuracy": -0.1}, "accuracy = -0.1"),
        ("fednl-cr", {"M": -1.0}, "M = -1.0"),
        ("fednl-pp", {"tau": 0}, "tau = 0"),
        ("fednl", {"option": 2, "mu": 0.1}, "mu = 0.1: expected none"),
        ("fednl", {"option": 2, "products": 1}, "products = 1: expected 3"),
        ("fednl-ls", {"compressor": "top", "accuracy": 0.5}, "accuracy = 0.5: expected 0.3"),
        ("fednl-ls", {"compressor": "rnak"}, "did you mean 'rank'"),
        ("fednl-ls", {"compressor": "natural", "r": 3}, "natural has no setting 'r'"),
    ],
)
def test_bad_settings_are_refused(name, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_method(name, settings)


def test_problems_that_do_not_fit_are_refused():
    problem = on_many(ZOO["logistic-csr"]).problem
    flat = local_fleet(ZOO["logistic-csr"].shards, ZOO["logistic-csr"].loss, (-1.0, 1.0), 0.0).problem
    for name, settings, where, says in (
        ("fednl-ls", {"r": 7}, problem, "r = 7, but the matrix has 6 rows"),
        ("fednl-ls", {"compressor": "top:r=22"}, problem, "r = 22, but x has 21 coordinates"),
        ("fednl-pp", {"tau": 5}, problem, "4 workers have rows"),
        (
            "fednl-cr",
            {},
            on_many(ZOO["poisson-csr"]).problem,
            "M=none needs hessian_lipschitz, which poisson does not provide",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            make_method(name, settings).validate(where)
    make_method("fednl-ls", {"mu": 1e-3}).validate(flat)
    make_method("fednl-cr", {"M": 3.0}).validate(on_many(ZOO["poisson-csr"]).problem)


@pytest.mark.parametrize(("name", "settings"), [("fednl", {"option": 2}), ("fednl-cr", {}), ("fednl-pp", {})])
def test_mu_is_required_only_where_it_is_used(name, settings):
    """Without mu and with l2 = 0 they are accepted, and arrive."""
    problem = replace(ZOO["logistic-csr"], l2=0.0)
    fleet, method = on_many(problem), make_method(name, settings)
    method.validate(fleet.problem)
    found = states(method, fleet, problem.optimum[0] + 0.1, 60)[-1].w
    assert np.linalg.norm(problem.objective(found)[1]) < 1e-8


@pytest.mark.parametrize(
    "name", ["nl1", "nl2", "cnl", "fednl", "fednl-ls", "fednl-cr", "fednl-pp", "ranl", "dcgd", "diana", "adiana"]
)
def test_a_loss_without_rows_is_refused_before_the_run(name):
    class NoRows(Logistic):
        provides = Logistic.provides - {"rows"}

    with pytest.raises(ConfigError, match="needs rows, which logistic does not provide"):
        make_method(name, {}).validate_loss(NoRows())
