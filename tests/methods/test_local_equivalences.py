"""The methods of the DINO and LocalNewton papers and their rivals: with these settings one of them is another."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import iterates, on_many, on_one

from mpinewton.errors import ConfigError
from mpinewton.methods.dane import Aide, Dane, InexactDane
from mpinewton.methods.dingo import Dingo
from mpinewton.methods.dino import Dino
from mpinewton.methods.disco import Disco
from mpinewton.methods.giant import Giant
from mpinewton.methods.local_newton import AdaptiveLocalNewton, LocalNewton
from mpinewton.methods.newton import Newton
from mpinewton.methods.preconditioned_lbfgs import LOCAL_STEPS, PreconditionedLbfgs
from mpinewton.methods.settings import make_method
from mpinewton.methods.sgd import LocalSgd, Sgd
from mpinewton.methods.support import inner, tasks
from mpinewton.methods.support.linesearch import Backtracking
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations
from mpinewton.testing.problems import ZOO

PROBLEMS = ["logistic-dense", "squared-csr", "softmax-csr", "poisson-dense"]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("method", "rho"),
    [
        (Giant(solver="exact"), 1e-4),
        (LocalNewton(local_steps=1), 0.1),
        (LocalNewton(local_steps=1, solver="cg", limit=60, tolerance=1e-14), 0.1),
        (Disco(forcing=False, tolerance=1e-13, limit=100), 1e-4),
    ],
    ids=["giant", "local-newton", "local-newton-cg", "disco"],
)
def test_on_one_worker_it_is_newton(method, rho, name):
    problem = ZOO[name]
    newton = iterates(Newton(search=Backtracking(rho=rho)), on_one(problem), problem.start, 4)
    other = iterates(method, on_one(problem), problem.start, 4)
    np.testing.assert_allclose(other, newton, atol=2e-8)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("mu", [None, 0.3])
def test_disco_with_exact_conjugate_gradients_is_newton_on_any_split(name, mu):
    problem = ZOO[name]
    newton = iterates(Newton(), on_many(problem), problem.start, 4)
    disco = iterates(Disco(forcing=False, tolerance=1e-13, limit=100, mu=mu), on_many(problem), problem.start, 4)
    np.testing.assert_allclose(disco, newton, atol=2e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_damped_disco_is_newton_by_the_decrement(name):
    problem, w = ZOO[name], ZOO[name].start
    found = iterates(Disco(step_rule="damped", forcing=False, tolerance=1e-13, limit=100), on_many(problem), w, 3)
    for after in found[1:]:
        _, g, H = problem.objective(w)
        v = np.linalg.solve(H, g)
        w = w - v / (1 + np.sqrt(v @ H @ v))
        np.testing.assert_allclose(after, w, atol=1e-8)


def test_giant_with_exact_solves_is_giant_with_exact_conjugate_gradients():
    problem = ZOO["softmax-csr"]
    exact = iterates(Giant(solver="exact"), on_many(problem), problem.start)
    cg = iterates(Giant(limit=60, tolerance=1e-14), on_many(problem), problem.start)
    np.testing.assert_allclose(cg, exact, atol=1e-9)


@pytest.mark.parametrize("check", ["delayed", "at_once", "multi"])
def test_adaptive_local_newton_ends_as_giant(check):
    # A decrease that no average makes: after L = 2, 1 the method is GIANT. `multi` needs none: it ends by itself.
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    method = AdaptiveLocalNewton(check=check, local_steps=2, **({} if check == "multi" else {"delta": 1e9}))
    fleet.adopt(method)
    state = method.start(fleet, problem.start)
    while state.L:
        fleet.iteration += 1
        state = method.step(fleet, state)
    begin = state.w
    found = [begin]
    for _ in range(4):
        fleet.iteration += 1
        state = method.step(fleet, state)
        found.append(state.w)
    giant = iterates(Giant(solver="exact"), on_many(problem), begin, 4)
    np.testing.assert_allclose(found, giant, atol=1e-12)


def test_local_newton_averages_the_workers_models():
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    method = LocalNewton(local_steps=2)
    fleet.adopt(method)
    after = method.step(fleet, method.start(fleet, problem.start))
    mean = 0.0
    for worker in fleet.host.workers:
        worker.move_to(problem.start)
        for _ in range(2 if worker.rows else 0):
            f, g = worker.value(), worker.gradient()
            v = np.linalg.solve(worker.hessian(), g)
            a = next(a for a in 0.5 ** np.arange(20) if worker.evaluate(worker.w - a * v)[0] <= f - 0.1 * a * (v @ g))
            worker.move_to(worker.w - a * v)
        mean += worker.share * worker.w
    np.testing.assert_allclose(after.w, mean, atol=1e-12)


def test_local_newton_stops_at_its_floor_and_gives_the_best_average_back():
    problem = ZOO["squared-dense"]  # where one round is all there is to move
    fleet, method = on_many(problem), LocalNewton()
    fleet.adopt(method)
    states = [method.start(fleet, problem.start)]
    while not states[-1].finished:
        fleet.iteration += 1
        states.append(method.step(fleet, states[-1]))
    losses = [problem.objective(state.w)[0] for state in states]
    assert "no longer decreases" in states[-1].finished
    assert losses[-1] == min(losses)
    assert len(states) <= 5


def test_local_newton_can_run_all_its_iterations():
    problem = ZOO["squared-dense"]
    stopped, on = (iterates(LocalNewton(until_rise=rise), on_many(problem), problem.start, 9) for rise in (True, False))
    np.testing.assert_array_equal(on[:2], stopped[:2])
    fleet = on_many(problem)
    for before, after in pairwise(on):  # as published: every iterate is the average of models from the one before
        fleet.adopt(method := LocalNewton())
        np.testing.assert_array_equal(method.step(fleet, method.start(fleet, before)).w, after)


@pytest.mark.parametrize("check", ["delayed", "at_once"])
def test_adaptive_local_newton_with_delta_0_takes_fewer_steps_only_after_a_rise(check):
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    fleet.adopt(method := AdaptiveLocalNewton(check=check, delta=0.0))
    states = [method.start(fleet, problem.start)]
    while states[-1].L:
        fleet.iteration += 1
        states.append(method.step(fleet, states[-1]))
    assert states[1].L == 3
    for now, after in pairwise(states):
        f = fleet.mean(tasks.value_at, now.w if check == "delayed" else after.w)
        assert now.L - (not f < now.least) == after.L or not np.isfinite(now.least)


@pytest.mark.parametrize(("largest", "formed"), [(6, 1), (5, 0)])
def test_solver_auto_forms_no_large_hessian(largest, formed, monkeypatch):
    monkeypatch.setattr(inner, "DENSE", largest)
    worker, calls = on_one(ZOO["logistic-dense"]).host.workers[0], []
    monkeypatch.setattr(worker, "hessian", lambda: calls.append("formed") or np.eye(6))
    worker.move_to(np.zeros(6))
    LocalNewton().solve(worker, np.ones(6))
    assert len(calls) == formed


@pytest.mark.parametrize("name", ["squared-dense", "squared-csr"])
def test_dane_on_one_worker_with_a_quadratic_is_newton(name):
    problem = ZOO[name]
    dane = iterates(Dane(tolerance=1e-13), on_one(problem), problem.start, 1)
    newton = iterates(Newton(), on_one(problem), problem.start, 1)
    np.testing.assert_allclose(dane, newton, atol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS)
def test_dane_on_one_worker_arrives_in_one_step(name):
    problem = ZOO[name]
    w, _ = problem.optimum
    np.testing.assert_allclose(iterates(Dane(), on_one(problem), problem.start, 1)[-1], w, atol=1e-6)


def test_dane_minimises_the_tilted_losses():
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    method = Dane(mu=0.2, eta=0.7, tolerance=1e-12)
    fleet.adopt(method)
    now = method.start(fleet, problem.start)
    for worker in fleet.host.workers:
        w = worker.w
        tilt = worker.gradient() - 0.7 * now.gradient
        v = method.minimise(worker, now.gradient)
        assert np.linalg.norm(worker.evaluate(v)[1] - tilt + 0.2 * (v - w)) < 1e-11


@pytest.mark.parametrize("name", ["logistic-csr", "softplus-dense"])
def test_aide_without_its_distance_is_inexact_dane(name):
    problem, settings = ZOO[name], {"learning_rate": 0.05, "steps": 9, "mu": 0.1}
    aide = iterates(Aide(tau=0.0, **settings), on_many(problem), problem.start, 3)
    dane = iterates(InexactDane(**settings), on_many(problem), problem.start, 3)
    np.testing.assert_allclose(aide, dane, rtol=1e-12)


def test_aide_follows_its_recursion():
    problem, method = ZOO["logistic-dense"], Aide(learning_rate=0.05, steps=5, tau=0.3, lam=0.1)
    fleet = on_many(problem)
    fleet.adopt(method)
    now = method.start(fleet, problem.start)
    for fleet.iteration in (1, 2, 3):
        after = method.step(fleet, now)
        root = np.roots([1.0, now.zeta**2 - 0.25, -(now.zeta**2)]).max()
        assert after.zeta == pytest.approx(root, rel=1e-12)
        beta = now.zeta * (1 - now.zeta) / (now.zeta**2 + root)
        np.testing.assert_allclose(after.centre, after.w + beta * (after.w - now.w), atol=1e-14)
        now = after


def test_inexact_dane_with_many_small_steps_is_dane():
    # SVRG at a small step follows the mean of its steps; where it ends is the minimum, that DANE finds exactly.
    problem = ZOO["squared-dense"]
    exact = iterates(Dane(mu=0.5), on_many(problem), problem.start, 1)[-1]
    walked = iterates(InexactDane(mu=0.5, learning_rate=0.01, steps=600), on_many(problem), problem.start, 1)[-1]
    assert np.linalg.norm(walked - exact) < 0.1 * np.linalg.norm(exact - problem.start)


@pytest.mark.parametrize(
    "method", [Sgd(learning_rate=0.3, batch_fraction=1.0), LocalSgd(learning_rate=0.3, batch_size=1000)]
)
@pytest.mark.parametrize("name", ["logistic-csr", "softplus-dense"])
def test_a_step_on_all_rows_is_a_gradient_step(method, name):
    problem, w = ZOO[name], ZOO[name].start
    for after in iterates(method, on_many(problem), w, 3)[1:]:
        w = w - 0.3 * problem.objective(w)[1]
        np.testing.assert_allclose(after, w, atol=1e-13)


@pytest.mark.parametrize("name", ["logistic-csr", "softmax-dense"])
def test_minibatches_are_right_in_the_mean(name):
    problem, method = ZOO[name], Sgd(learning_rate=1.0, batch_fraction=0.1)
    fleet = on_many(problem)
    fleet.adopt(method)
    w, g = problem.start, problem.objective(problem.start)[1]
    drawn = []
    for fleet.iteration in range(1, 101):
        drawn.append(w - method.step(fleet, method.start(fleet, w)).w)
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (abs(np.mean(drawn, axis=0) - g) < 4.5 * error).all()


@pytest.mark.parametrize("draw", ["sgd", "fresh", "epochs"])
def test_every_row_is_in_as_many_minibatches(draw, monkeypatch):
    worker, drawn = on_one(ZOO["logistic-csr"]).host.workers[0], []  # of 120 rows
    for name in ("subset", "sampled_gradient"):
        monkeypatch.setattr(worker, name, lambda rows, *_: drawn.append(rows))
    for worker.iteration in range(1, 1001):
        if draw == "sgd":
            Sgd(batch_fraction=0.1).minibatch_gradient(worker, np.zeros(6))
        else:
            tasks.minibatch(worker, 12, draw)
    assert {len(set(rows)) for rows in drawn} == {12}
    counts = np.bincount(np.concatenate(drawn), minlength=120)
    assert len(counts) == 120 and (abs(counts - 100) < 45).all()  # 4.7 standard deviations of the binomial
    assert draw != "epochs" or set(counts) == {100}


def test_local_sgd_is_the_textbook():
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    method = LocalSgd(learning_rate=0.5)
    fleet.adopt(method)
    fleet.iteration = 3
    after = method.step(fleet, method.start(fleet, problem.start))
    mean = 0.0
    for worker, shard in zip(fleet.host.workers, problem.shards):
        v = problem.start
        for j in worker.rng().permutation(worker.rows):
            x, share = shard.X.toarray()[j], shard.sample_weight[j] / shard.sample_weight.mean()
            slope = problem.formula((x @ v)[None, None], (shard.y[j : j + 1] > 0) * 1.0)[1][0, 0]
            v = v - 0.5 / worker.rows * (share * slope * x + problem.l2 * v)
        mean += worker.share * v
    np.testing.assert_allclose(after.w, mean, atol=1e-12)


def test_dingo_goes_where_dense_pseudo_inverses_say():
    problem, method = ZOO["softplus-dense"], Dingo(theta=0.5, phi=0.1, limit=60)
    fleet = on_many(problem)
    fleet.adopt(method)
    w, cases = problem.start, set()
    for _ in range(8):
        now = method.start(fleet, w)
        after = method.step(fleet, now)
        g, gg, parts = now.gradient, now.gradient @ now.gradient, []
        Hs = []
        for worker in fleet.host.workers:
            worker.move_to(w)
            Hs.append(worker.hessian())
        Hg = sum(s * H @ g for s, H in zip(fleet.worker_share, Hs))
        c1 = sum(s * np.linalg.pinv(H) @ g for s, H in zip(fleet.worker_share, Hs))
        damped = [np.linalg.solve(H @ H + 0.01 * np.eye(len(g)), H @ g) for H in Hs]
        c2 = sum(s * c for s, c in zip(fleet.worker_share, damped))
        for s, H, c in zip(fleet.worker_share, Hs, damped):
            q = np.linalg.solve(H @ H + 0.01 * np.eye(len(g)), Hg)
            parts.append(s * (-c - max(0.0, 0.5 * gg - c @ Hg) / (q @ Hg) * q))
        case = 1 if c1 @ Hg >= 0.5 * gg else 2 if c2 @ Hg >= 0.5 * gg else 3
        p = {1: -c1, 2: -c2, 3: sum(parts)}[case]
        assert after.note == f"case {case}"
        np.testing.assert_allclose(after.w, w + after.step * p, atol=1e-8)
        assert np.linalg.norm(after.gradient) < np.linalg.norm(g)
        cases.add(case)
        w = after.w
    assert len(cases) > 1, "the problem was chosen to meet more than one case"


def test_dingo_batched_and_staged_agree():
    problem = ZOO["softplus-csr"]
    a, b = (iterates(Dingo(search=Backtracking(first=n)), on_many(problem), problem.start, 8) for n in (51, 2))
    assert np.array_equal(a, b)


def test_preconditioned_lbfgs_begins_with_local_newton_and_goes_on_from_the_best_average():
    problem, fleet = ZOO["logistic-csr"], on_many(ZOO["logistic-csr"])
    method = PreconditionedLbfgs()
    fleet.adopt(method)
    states = [method.start(fleet, problem.start)]
    for fleet.iteration in range(1, 4):
        states.append(method.step(fleet, states[-1]))
    assert [state.phase for state in states] == ["models", "models", "models", "Hessians"]
    for k, steps in enumerate(LOCAL_STEPS):
        local = iterates(LocalNewton(local_steps=steps, beta=1e-4), on_many(problem), states[k].w, 1)
        np.testing.assert_allclose(states[k + 1].w, local[-1], atol=1e-6)
    best = min((state.w for state in states[:3]), key=lambda w: problem.objective(w)[0])
    # Without pairs the direction is GIANT's, on Hessians scaled to a unit diagonal.
    _, g, _ = problem.objective(best)
    p = 0.0
    for worker in fleet.host.workers:
        worker.move_to(best)
        H = worker.hessian()
        root = np.sqrt(np.diagonal(H))
        e, Q = np.linalg.eigh(H / root[:, None] / root)
        p = p - worker.share * (Q @ (Q.T @ (g / root) / np.maximum(abs(e), 1e-3 * abs(e).max()))) / root
    np.testing.assert_allclose(states[3].w, best + states[3].step * p, atol=1e-10)


@pytest.mark.parametrize("name", ["softplus-dense", "softplus-csr", "logistic-dense"])
def test_preconditioned_lbfgs_knows_the_gradient_it_was_brought(name):
    problem, fleet = ZOO[name], on_many(ZOO[name])
    method = PreconditionedLbfgs()
    fleet.adopt(method)
    state = method.start(fleet, problem.start)
    for fleet.iteration in range(1, 9):
        state = method.step(fleet, state)
        if state.gradient.size:
            value, gradient, _ = problem.objective(state.w)
            assert state.loss == pytest.approx(value, rel=1e-12)
            np.testing.assert_allclose(state.gradient, gradient, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "settings", "rule"),
    [
        (Giant, {"solver": "exact", "negative": "abs"}, "cg with negative=abs"),
        (Giant, {"negative": "abs", "tolerance": 0.1}, "tolerance = 0.1 has no effect with negative = 'abs'"),
        (Giant, {"floor": 0.1}, "no effect with negative = 'stop'"),
        (Dino, {"solver": "lanczos", "tolerance": 0.1}, "no effect with solver = 'lanczos'"),
        (Dino, {"adaptive": True, "phi": 0.1}, "no effect with adaptive = True"),
        (Disco, {"tolerance": 0.1}, "set forcing to false"),
        (LocalNewton, {"limit": 3}, "no effect with solver = 'auto'"),
        (AdaptiveLocalNewton, {"check": "multi", "delta": 0.1}, "no effect with check = 'multi'"),
        (Giant, {"limit": 0}, "at least 1"),
        (Disco, {"mu": 0.0}, "greater than 0"),
        (Dane, {"eta": 0.0}, "greater than 0"),
        (InexactDane, {"steps": 0}, "at least 1"),
        (Aide, {"tau": -1.0}, "at least 0"),
        (LocalNewton, {"beta": 0.6}, "at most 0.5"),
        (AdaptiveLocalNewton, {"delta": -1.0}, "at least 0"),
        (Sgd, {"batch_fraction": 0.0}, "at most 1"),
        (LocalSgd, {"batch_size": 0}, "at least 1"),
        (Dingo, {"phi": 0.0}, "greater than 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, rule):
    with pytest.raises(ConfigError, match=rule):
        kind(**settings)


def test_inexact_dane_says_when_it_diverges():
    problem = ZOO["squared-dense"]
    fleet, method = on_many(problem), InexactDane(learning_rate=1.0, steps=20)
    fleet.adopt(method)
    ended = run(method, fleet, problem.start, [Iterations(100)])
    assert ended.kind == "diverged"
    assert "lower learning_rate" in ended.reason


@pytest.mark.parametrize("partition", ["iid", "", "blocks", "round-robin", "label-skew:2"])
@pytest.mark.parametrize("name", ["giant", "local-newton", "adaptive-local-newton", "aide", "dino"])
def test_who_averages_warns_of_shards_that_may_be_unlike(name, partition, caplog):
    problem = replace(on_many(ZOO["logistic-dense"]).problem, partition=partition)
    make_method(name, {}).validate(problem)
    unlike = partition in ("blocks", "round-robin", "label-skew:2") and name != "dino"
    assert (f"dealt out by {partition}" in caplog.text) == unlike
