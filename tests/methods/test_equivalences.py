"""Method A with special settings is method B, iterate by iterate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from fleets import iterates, on_many, on_one

from mpinewton.methods.dino import Dino
from mpinewton.methods.giant import Giant
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.testing.problems import ZOO

PROBLEMS = ["logistic-dense", "squared-csr", "softmax-csr", "poisson-dense"]
EXACT = {"limit": 60, "tolerance": 1e-14}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "method",
    [
        Giant(**EXACT),
        Giant(negative="abs", floor=1e-12, limit=60),
        Dino(solver="lanczos", phi=1e-9, theta=1e-12, limit=60),
        Dino(phi=1e-9, theta=1e-12, limit=400, tolerance=1e-14),
    ],
    ids=["giant", "giant-abs", "dino-lanczos", "dino-lsmr"],
)
def test_exact_local_methods_on_one_worker_are_newton(method, name):
    problem = ZOO[name]
    newton = iterates(Newton(), on_one(problem), problem.start, 4)
    other = iterates(method, on_one(problem), problem.start, 4)
    np.testing.assert_allclose(other, newton, atol=2e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_newton_is_the_textbook(name):
    problem = ZOO[name]
    w = problem.start
    for now, after in pairwise(iterates(Newton(), on_many(problem), w, 3)):
        _, gradient, hessian = problem.objective(now)
        p = after - now
        full = -np.linalg.solve(hessian, gradient)
        if np.linalg.norm(full) < 1e-9:  # there already: what is left is rounding
            break
        step = (p @ full) / (full @ full)
        assert step == pytest.approx(2.0 ** np.round(np.log2(step)))  # a step of the grid
        np.testing.assert_allclose(p, step * full, atol=1e-11)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", [Newton(), Lbfgs()], ids=["newton", "lbfgs"])
def test_global_methods_do_not_see_the_split(method, name):
    problem = ZOO[name]
    many = iterates(method, on_many(problem), problem.start)
    one = iterates(method, on_one(problem), problem.start)
    np.testing.assert_allclose(many, one, rtol=1e-9, atol=1e-11)


def test_giant_averages_the_workers_newton_directions():
    problem = ZOO["logistic-csr"]
    fleet, method = on_many(problem), Giant(**EXACT)
    fleet.adopt(method)
    now = method.start(fleet, problem.start)
    after = method.step(fleet, now)
    p = np.zeros(fleet.dim)
    for worker in fleet.host.workers:
        if worker.rows:
            worker.move_to(problem.start)
            p -= worker.share * np.linalg.solve(worker.hessian(), now.gradient)
    np.testing.assert_allclose(after.w, problem.start + after.step * p, atol=1e-9)


def test_dino_tilts_to_exactly_the_asked_descent():
    problem, method = ZOO["softplus-dense"], Dino(theta=5.0, phi=0.1, solver="lanczos", limit=60)
    fleet = on_many(problem)
    fleet.adopt(method)
    now = method.start(fleet, problem.start)
    g, gg, tilts = now.gradient, now.gradient @ now.gradient, 0
    for worker in fleet.host.workers:
        sent, tilted = method.direction(worker, g)
        if not worker.rows:
            assert not sent.any()
            continue
        H, p = worker.hessian(), sent / worker.share
        v1 = np.linalg.lstsq(np.vstack([H, 0.1 * np.eye(len(g))]), np.concatenate([g, 0 * g]), rcond=None)[0]
        v2 = np.linalg.solve(H @ H + 0.01 * np.eye(len(g)), g)
        lack = 5.0 * gg - v1 @ g
        assert tilted == (lack > 0)
        np.testing.assert_allclose(p, -v1 - max(lack, 0) / (v2 @ g) * v2, atol=1e-9)
        assert p @ g <= -5.0 * gg * (1 - 1e-12)
        tilts += bool(tilted)
    assert tilts, "the case was chosen so that some worker is tilted"


def test_dino_solvers_agree_when_exact():
    problem = ZOO["softplus-csr"]
    lsmr = Dino(theta=1.0, phi=0.1, limit=400, tolerance=1e-13)
    lanczos = Dino(theta=1.0, phi=0.1, limit=60, solver="lanczos")
    a, b = (iterates(m, on_many(problem), problem.start, 5) for m in (lsmr, lanczos))
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_lbfgs_remembering_everything_on_a_quadratic_is_conjugate_gradients():
    # With exact steps both minimise over the same Krylov spaces; a fine grid of steps makes the search nearly exact.
    problem = ZOO["squared-dense"]
    w, _ = problem.optimum
    found = iterates(Lbfgs(memory=50), on_one(problem), problem.start, 25)
    assert np.linalg.norm(found[-1] - w) < 1e-6 * np.linalg.norm(found[0] - w)


def test_staged_search_finds_what_the_whole_grid_finds():
    problem = ZOO["softplus-dense"]
    whole, staged = (Dino(search=Backtracking(first=first)) for first in (51, 2))
    a, b = (iterates(m, on_many(problem), problem.start, 8) for m in (whole, staged))
    assert np.array_equal(a, b)
