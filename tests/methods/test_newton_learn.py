"""NL1, NL2, CNL and their kin against dense, slow versions written here, and against one another."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fleets import on_many, on_one
from scipy import sparse

from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet import Problem
from mpinewton.fleet.local import local_fleet
from mpinewton.linalg import cholesky as following
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.testing.problems import ZOO

PROBLEMS = ["logistic-dense", "logistic-csr"]


def states(name, settings, fleet, w, count, see=None):
    """The first states; `see(fleet, now, after)` looks at every step."""
    method = make_method(name, settings)
    method.validate(fleet.problem)
    fleet.adopt(method)
    found = [method.start(fleet, w)]
    for fleet.iteration in range(1, count + 1):
        found.append(method.step(fleet, found[-1]))
        assert not found[-1].trouble, found[-1].trouble
        if see:
            see(fleet, found[-2], found[-1])
    return found


def iterates(*arguments):
    return np.array([state.w for state in states(*arguments)])


def kept_h(fleet):
    return [worker.memory["h"].copy() for worker in fleet.host.workers]


def dense(problem):
    """All rows, and what each of them counts."""
    X = np.vstack([shard.X.toarray() if sparse.issparse(shard.X) else shard.X for shard in problem.shards])
    mass = np.concatenate([np.ones(s.rows) if s.sample_weight is None else s.sample_weight for s in problem.shards])
    return X, mass / mass.sum()


def curvature(problem, w):
    X, _ = dense(problem)
    s = 1 / (1 + np.exp(-X @ w))
    return s * (1 - s)


def weighted_gram(problem, h):
    X, share = dense(problem)
    return (X * (share * h)[:, None]).T @ X


# -- special settings are other methods -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_newton_in_coefficients_is_newton(name):
    problem = ZOO[name]
    newton = iterates("newton", {"search": None}, on_many(problem), problem.start, 5)
    for settings in ({}, {"rows": "dense"}, {"option": 2}):
        other = iterates("newton-coefficients", settings, on_many(problem), problem.start, 5)
        np.testing.assert_allclose(other, newton, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_nl1_that_learns_all_at_once(name):
    problem = ZOO[name]
    m = sum(shard.rows for shard in problem.shards)
    whole = {"r": m, "eta": 1.0, "h0": "exact"}
    last = []

    def see(fleet, now, after):
        (h,) = kept_h(fleet)
        worker = fleet.host.workers[0]
        assert np.array_equal(h, worker.model.at(now.w).second_derivatives())  # h^{k+1} = h(x^k), every bit of it
        last.append(h)

    found = states("nl1", whole, on_one(problem), problem.start, 5, see)
    zero = iterates("newton-zero", {}, on_one(problem), problem.start, 2)
    for nl1, n0 in zip(found[:3], zero):
        np.testing.assert_allclose(nl1.w, n0, atol=1e-12)
    fresh = iterates("nl1", whole | {"fresh": True}, on_one(problem), problem.start, 5)
    newton = iterates("newton", {"search": None}, on_one(problem), problem.start, 5)
    np.testing.assert_allclose(fresh, newton, atol=1e-12)


def test_nl1_is_newton_on_a_quadratic_and_so_are_all_that_know_the_hessian():
    problem = ZOO["squared-csr"]
    newton = iterates("newton", {"search": None}, on_many(problem), problem.start, 2)
    for name, settings in [
        ("nl1", {}), ("nl2", {}), ("newton-zero", {}), ("newton-zero", {"h0": "quarter"}), ("newton-star", {}),
        ("max-newton", {}), ("cnl", {}),
    ]:  # fmt: skip
        np.testing.assert_allclose(iterates(name, settings, on_many(problem), problem.start, 2), newton, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic-dense", "softmax-csr", "poisson-csr"])  # where full steps are taken
def test_shipped_data_are_solved_as_newton_solves_them(name):
    problem = ZOO[name]
    fleet = on_many(problem)
    found = states("ship-data", {}, fleet, problem.start, 4)
    newton = iterates("newton", {}, on_many(problem), problem.start, 4)
    np.testing.assert_allclose([state.w for state in found], newton, atol=1e-10)
    assert fleet.ledger.rounds == 1
    for state in found:
        value, gradient, _ = problem.objective(state.w)
        assert state.loss == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(state.gradient, gradient, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name", "settings"),
    [
        ("nl1", "logistic-csr", {}), ("nl1", "logistic-dense", {"choice": "top"}), ("nl2", "logistic-dense", {}),
        ("nl2", "logistic-csr", {"r": 3, "p": 0.5}), ("cnl", "logistic-csr", {"choice": "top"}),
        ("cnl", "logistic-dense", {"r": 3, "p": 0.5}),
    ],
)  # fmt: skip
def test_how_rows_travel_changes_nothing_but_the_cost(method, name, settings):
    problem = ZOO[name]
    ways = [{}, {"rows": "dense"}, {"option": 2}]
    found = [iterates(method, settings | way, on_many(problem), problem.start, 15) for way in ways]
    np.testing.assert_allclose(found[1], found[0], atol=1e-12)
    np.testing.assert_allclose(found[2], found[0], atol=1e-12)


# -- what is learnt --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "settings",
    [{"r": 2}, {"r": 2, "h0": "exact", "p": 0.4}, {"r": 2, "choice": "top"}, {"r": 2, "rows": "dense"}],
    ids=["random", "coin", "top", "dense"],
)
def test_nl1_learns_coefficients_and_the_driver_their_sum(name, settings):
    problem = ZOO[name]
    before = []

    def see(fleet, now, after):
        h = kept_h(fleet)
        if before:
            for worker, old, new in zip(fleet.host.workers, before, h):
                there = worker.model.at(now.w).second_derivatives()
                changed = old != new
                assert changed.sum() <= settings["r"]
                assert np.array_equal(new[changed], there[changed])  # to the last bit
        before[:] = h
        every = np.concatenate(h)
        assert ((every >= 0) & (every <= 0.25)).all()
        H = weighted_gram(problem, every)
        np.testing.assert_allclose(after.H, H, atol=1e-12 * np.abs(H).max())

    states("nl1", settings, on_many(problem), problem.start, 80, see)  # every row of the largest worker, thrice


def test_top_takes_the_coefficients_that_change_the_hessian_most():
    problem = ZOO["logistic-csr"]
    fleet, method = on_many(problem), make_method("nl1", {"choice": "top", "r": 3})
    fleet.adopt(method)
    method.start(fleet, problem.start)
    for worker in fleet.host.workers:
        if worker.rows:
            X = problem.shards[worker.index].X.toarray()
            weight = problem.shards[worker.index].sample_weight
            worker.move_to(problem.start)
            gain = np.abs(worker.point.second_derivatives() - 0.25) * weight * (X**2).sum(axis=1)
            method.coefficient_update(worker)
            assert set(np.flatnonzero(worker.memory["h"] != 0.25)) == set(np.argsort(gain)[-3:])


@pytest.mark.parametrize("eta", [0.01, 0.04])
def test_eta_moves_chosen_coefficients_part_of_the_way(eta):
    problem = ZOO["logistic-dense"]
    fleet = on_many(problem)
    method = make_method("nl1", {"eta": eta, "r": 2, "h0": "quarter"})
    method.validate(fleet.problem)
    fleet.adopt(method)
    fleet.iteration = 0
    now = method.start(fleet, problem.start)
    fleet.iteration = 1
    method.step(fleet, now)
    for worker in fleet.host.workers:
        if worker.rows:
            truth, h = worker.model.at(problem.start).second_derivatives(), worker.memory["h"]
            chosen = h != 0.25
            assert chosen.sum() == 2
            # eta C(h(x) - h) at a chosen place is eta (m / r) times the difference there
            move = eta * worker.rows / 2
            np.testing.assert_allclose(h[chosen], 0.25 + move * (truth[chosen] - 0.25), rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), [("nl2", "logistic-csr"), ("cnl", "logistic-dense")])
@pytest.mark.parametrize("settings", [{}, {"h0": "exact", "p": 0.3}, {"choice": "top", "eta": 0.5}], ids=str)
def test_the_learnt_hessian_majorises_the_true_one(method, name, settings):
    problem, worst = ZOO[name], []

    def see(fleet, now, after):
        h = curvature(problem, now.w)
        beta = max(
            (worker.model.at(now.w).second_derivatives() + 0.5).__truediv__(old + 0.5).max(initial=0.0)
            for worker, old in zip(fleet.host.workers, before)
        )
        before[:] = kept_h(fleet)
        bound = beta * now.H - now.C
        worst.append(np.linalg.eigvalsh(bound - weighted_gram(problem, h))[0])
        if method == "nl2":
            step = np.linalg.solve(bound + problem.l2 * np.eye(6), problem.objective(now.w)[1])
            np.testing.assert_allclose(after.w, now.w - step, atol=1e-12)
        H = weighted_gram(problem, np.concatenate(before) + 0.5)
        np.testing.assert_allclose(after.H, H, atol=1e-12 * np.abs(H).max())

    fleet = on_many(problem)
    made = make_method(method, settings)
    fleet.adopt(made)
    made.start(fleet, problem.start)
    before = kept_h(fleet)
    fleet.iteration = 0
    states(method, settings, fleet, problem.start, 30, see)
    assert min(worst) >= -1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic-csr", "softplus-dense"])
@pytest.mark.parametrize("settings", [{}, {"M": "radius"}, {"M": "adaptive"}, {"p": 0.2, "h0": "exact"}], ids=str)
def test_cnl_never_climbs_from_anywhere(name, settings):
    problem = ZOO[name]  # from the zoo's own start: see `check_descent`
    found = iterates("cnl", settings, on_many(problem), problem.start * 20.0, 25)
    losses = [problem.objective(w)[0] for w in found]
    assert all(after <= before + 1e-14 * abs(before) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]


def test_tight_and_radius_are_lipschitz_constants_of_the_hessian():
    problem, rng = ZOO["logistic-csr"], np.random.default_rng(0)
    tight, radius = (states("cnl", {"M": M}, on_many(problem), problem.start, 0)[0].cube for M in ("tight", "radius"))
    assert tight <= radius
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(50):
            x, y = problem.start + scale * rng.standard_normal((2, 6))
            change = problem.objective(x)[2] - problem.objective(y)[2]
            assert np.linalg.norm(change, 2) <= tight * np.linalg.norm(x - y) * (1 + 1e-9)


@pytest.mark.parametrize("distance", [1.0, 30.0])
@pytest.mark.parametrize("choice", ["random", "top"])
def test_nl1_with_a_search_comes_down_from_far_away(choice, distance):
    problem = ZOO["logistic-dense"]
    found = iterates("nl1", {"choice": choice, "search": {}}, on_many(problem), problem.start * distance, 80)
    losses = [problem.objective(w)[0] for w in found]
    assert all(after <= before + 1e-14 for before, after in itertools.pairwise(losses))
    assert losses[-1] - problem.optimum[1] <= 1e-10


@pytest.mark.slow
def test_nl2_is_a_local_method_where_only_the_whole_is_convex():
    problem = ZOO["softplus-csr"]
    w = states("cnl", {"r": 5}, on_many(problem), problem.start, 400)[-1].w
    _, gradient, hessian = problem.objective(w)
    assert np.linalg.norm(gradient) <= 1e-10
    assert np.linalg.eigvalsh(hessian)[0] > 0
    near = states("nl2", {"r": 5}, on_many(problem), w + 0.1, 300)[-1].w
    np.testing.assert_allclose(near, w, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("nl1", {"r": 5}), ("nl2", {"r": 5, "choice": "top"}), ("cnl", {"r": 5}), ("newton-coefficients", {})],
)
def test_an_intercept_and_narrow_rows(name, settings):
    problem = ZOO["logistic-csr"]
    shards = [Shard(shard.X.astype(np.float32), shard.y, shard.sample_weight) for shard in problem.shards]

    def fleet():
        return local_fleet(shards, problem.loss, problem.classes, problem.l2, intercept=True)

    start = np.zeros(7)
    newton = iterates("newton", {}, fleet(), start, 8)[-1]
    assert newton[-1] != 0
    found = states(name, settings, fleet(), start, 300 if name != "newton-coefficients" else 8)[-1].w
    np.testing.assert_allclose(found, newton, atol=1e-9)


# -- what travels ---------------------------------------------------------------------------------------------------


def adult(rows=(30, 20)):
    """0/1 rows with 4 ones of 40 features, and a fleet of two workers."""
    rng = np.random.default_rng(1)
    shards = []
    for m in rows:
        X = np.zeros((m, 40))
        for row in X:
            row[rng.choice(40, 4, replace=False)] = 1.0
        shards.append(Shard(sparse.csr_array(X), rng.choice([-1.0, 1.0], m)))
    return local_fleet(shards, make_loss("logistic"), (-1.0, 1.0), 0.1, seed=3)


def sent_up(fleet, name, settings, count, w=0.01):
    """Bits up of every worker in every step, beside the gradient, shape (count, m); not from 0, where h is 1/4."""
    bits = []
    fleet.adopt(make_method(name, settings))
    start = fleet.method.start(fleet, np.full(40, w))
    begun = fleet.ledger.bits_up.copy()
    for fleet.iteration in range(1, count + 1):
        before = fleet.ledger.bits_up.copy()
        start = fleet.method.step(fleet, start)
        bits.append(fleet.ledger.bits_up - before - 64 * 40)
    return begun, np.array(bits)


def test_rows_of_zeros_and_ones_travel_as_indices_and_once():
    fleet = adult()
    begun, bits = sent_up(fleet, "nl1", {}, 300)
    assert begun.tolist() == [64 * 820] * 2  # a triangle
    # A row: how many ones (6 bits, up to 40) and where (4 times 6), filled up to bytes; a change is one float.
    assert set(bits.ravel()) == {64, 64 + 32}
    assert ((bits == 96).sum(axis=0) == [30, 20]).all()  # every row once
    assert (bits[0] == 96).all()


def test_greedy_numbers_travel_in_as_many_bits_as_they_need():
    _, bits = sent_up(adult(), "nl1", {"choice": "top", "r": 3, "option": 2}, 5)
    assert (bits == 3 * 64 + 16).all()  # three numbers of five bits, filled up to two bytes
    begun, bits = sent_up(adult(), "nl1", {"r": 3, "option": 2}, 5)
    assert (begun == 0).all()
    assert (bits == 3 * 64).all()  # drawn numbers cost nothing


def test_dense_rows_travel_every_time():
    _, bits = sent_up(adult(), "nl1", {"r": 2, "rows": "dense"}, 5)
    assert (bits == 2 * 64 + 2 * 40 * 64).all()


@pytest.mark.parametrize("settings", [{"h0": "exact"}, {"rows": "dense", "h0": "exact"}, {"choice": "top"}], ids=str)
def test_rows_whose_coefficient_does_not_change_are_not_sent(settings):
    """In the first round no coefficient changes: h^0 = h(x^0), or h(0) = 1/4, the bound."""
    w = 0.01 if "h0" in settings else 0.0
    _, bits = sent_up(adult(), "nl1", {"r": 3, **settings}, 2, w)
    numbers = 16 if "choice" in settings else 0  # three numbers of five bits, filled up to bytes
    assert (bits[0] == 3 * 64 + numbers).all()
    assert (bits[1] > 3 * 64 + numbers).all()


@pytest.mark.parametrize("name", ["nl1", "nl2", "cnl"])
def test_a_worker_with_fewer_than_r_rows_sends_all_its_coefficients(name):
    """With r = 60 and at most 50 rows on a worker, h^{k+1} = h(x^k) on every row: omega is 0 there."""
    problem = ZOO["logistic-csr"]

    def see(fleet, now, after):
        for worker in fleet.host.workers:
            np.testing.assert_array_equal(worker.memory["h"], worker.model.at(now.w).second_derivatives())

    for settings in ({}, {"eta": 1.0}, {"choice": "top"}, {"option": 2}):
        states(name, {"r": 60, **settings}, on_many(problem), problem.start, 3, see)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nl2", {"choice": "top", "h0": "exact"}), ("cnl", {"M": "radius", "choice": "top"}), ("max-newton", {})],
)
def test_rows_of_weight_zero_change_no_step(name, settings):
    """Such a row has h = 0.002 at the start and 1/4 after the first step, so that beta would be 1.5; and it is long."""
    problem = ZOO["logistic-dense"]
    plain = [Shard(shard.X, shard.y, np.ones(shard.rows)) for shard in problem.shards]

    def found(shards):
        return iterates(name, settings, local_fleet(shards, problem.loss, problem.classes, problem.l2), start, 4)

    start = problem.start
    w = (truth := found(plain))[1]
    u = start - (start @ w) / (w @ w) * w
    X, y, weight = plain[0].X, plain[0].y, plain[0].sample_weight
    more = Shard(np.vstack([X, 6 * u / (u @ start)]), np.append(y, y[0]), np.append(weight, 0.0))
    np.testing.assert_allclose(found([more, *plain[1:]]), truth, rtol=1e-10, atol=1e-12)


def test_a_coin_that_falls_the_other_way_costs_nothing():
    _, bits = sent_up(adult(), "nl1", {"p": 0.25, "option": 2}, 400)
    assert set(bits.ravel()) == {0, 64}
    assert abs((bits == 64).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / bits.size)


def test_data_are_shipped_in_few_bits():
    fleet = adult()
    fleet.adopt(make_method("ship-data", {}))
    fleet.method.start(fleet, np.zeros(40))
    # 30 bits a row, one for its label; the two kinds of labels are floats.
    assert fleet.ledger.bits_up.tolist() == [128 + 8 * -(-30 * 31 // 8), 128 + 8 * -(-20 * 31 // 8)]
    assert fleet.ledger.rounds == 1


def test_what_is_supposed_is_shown_and_not_charged():
    fleet = adult()
    fleet.adopt(make_method("newton-star", {}))
    fleet.method.start(fleet, np.zeros(40))
    entries = fleet.ledger.entries()
    assert entries
    assert {entry.round for entry in entries} == {0}
    assert fleet.ledger.rounds == fleet.ledger.bits_up.sum() == fleet.ledger.bits_down.sum() == 0
    fleet.iteration = 1
    with pytest.raises(RuntimeError, match="before the first iteration"), fleet.uncharged():
        pass


# -- on a checkpoint's terms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nl1", {}), ("nl1", {"choice": "top", "search": {}}), ("nl1", {"p": 0.5, "rows": "dense", "fresh": True}),
        ("nl2", {"r": 3}), ("cnl", {"M": "adaptive"}), ("newton-zero", {"search": {}}), ("max-newton", {}),
        ("newton-coefficients", {}), ("ship-data", {}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("small", [500, 0], ids=["factored", "following"])
def test_a_resumed_run_has_the_bits_of_the_undisturbed_one(name, settings, small, monkeypatch):
    monkeypatch.setattr(following, "SMALL", small)
    problem = ZOO["logistic-csr"]
    whole = states(name, settings, on_many(problem), problem.start, 9)
    first, again = on_many(problem), on_many(problem)
    half = states(name, settings, first, problem.start, 4)[-1]
    again.adopt(make_method(name, settings))
    again.restore(first.save(half.w), half.w)
    now = type(half)(**{key: np.array(v) if isinstance(v, np.ndarray) else v for key, v in vars(half).items()})
    for again.iteration in range(5, 10):
        now = again.method.step(again, now)
    for key, value in vars(whole[-1]).items():
        assert np.array_equal(getattr(now, key), value, equal_nan=isinstance(value, float)), key


# -- refusals --------------------------------------------------------------------------------------------------------


def a_problem(loss="logistic", l2=0.1, rows=(20, 0, 10)):
    return Problem(make_loss(loss), (-1.0, 1.0), rows, tuple(map(float, rows)), 5, l2)


@pytest.mark.parametrize(
    ("name", "settings", "problem", "words"),
    [
        ("nl2", {"eta": 0.06}, {}, r"eta = 0.06: expected at most 1/\(omega \+ 1\) = 0.05 for r = 1"),
        ("cnl", {"r": 4, "p": 0.5, "eta": 0.11}, {}, "at most .* = 0.1 for r = 4, p = 0.5"),
        ("nl1", {}, {"l2": 0.0}, "l2 = 0: expected a value greater than 0.*nl2 or newton"),
        ("nl1", {}, {"loss": "softmax"}, "needs second_derivatives, which softmax does not provide"),
        ("nl1", {}, {"loss": "softplus"}, "needs a convex loss"),
        (
            "nl1",
            {},
            {"loss": "poisson"},
            "hessian_start=quarter needs hessian_bound.*poisson does not.*hessian_start=exact.*logistic",
        ),
        ("nl2", {"h0": "exact"}, {"loss": "poisson"}, "needs hessian_bound"),
        ("cnl", {}, {"loss": "huber"}, "M=tight needs hessian_lipschitz.*use M=adaptive.*logistic"),
        ("newton-zero", {"h0": "quarter"}, {"loss": "softmax"}, "set hessian_start=exact. logistic"),
        ("ship-data", {}, {"loss": "softplus"}, "needs a convex loss"),
        ("newton-coefficients", {}, {"loss": "softmax"}, "needs second_derivatives"),
    ],
)
def test_refused_before_the_start(name, settings, problem, words):
    with pytest.raises(ConfigError, match=words):
        make_method(name, settings).validate(a_problem(**problem))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("nl1", {"r": 0}, "at least 1"),
        ("nl1", {"p": 0.0}, "greater than 0 and at most 1"),
        ("nl1", {"eta": 1.5}, "greater than 0 and at most 1"),
        ("nl1", {"h0": "zero"}, "quarter, exact"),
        ("cnl", {"M": 3}, "tight, radius, adaptive"),
    ],
)
def test_settings_out_of_range(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        make_method(name, settings)


@pytest.mark.parametrize(
    ("settings", "r", "p"), [({}, 1, 1.0), ({"r": 4, "p": 0.5}, 4, 0.5), ({"choice": "top"}, 120, 1.0)]
)
def test_largest_eta_is_the_usual_one(settings, r, p):
    """r p/m on one worker with m = 120 rows, and 1 for the largest changes: coefficients sent become those at w."""
    problem, most = ZOO["logistic-dense"], r * p / 120
    fleet, kept = on_one(problem), []
    found = states("nl1", {**settings, "eta": most}, fleet, problem.start, 8, lambda f, *_: kept.append(kept_h(f)[0]))
    truths = np.array([curvature(problem, state.w) for state in found])
    for k, (before, after) in enumerate(itertools.pairwise(kept), start=1):
        sent = before != after
        assert sent.sum() <= settings.get("r", 1)
        np.testing.assert_allclose(after[sent], truths[k][sent], rtol=1e-12)
    assert len(set(map(bytes, kept))) > 2
    with pytest.raises(ConfigError, match=r"eta = .*at most"):
        make_method("nl1", {**settings, "eta": most * 1.01}).validate(fleet.problem)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("newton-zero", {"search": {}}), ("newton-star", {}), ("max-newton", {}), ("nl2", {"r": 60}),
        ("newton-coefficients", {}), ("ranl", {"policy": "full"}),
    ],
)  # fmt: skip
def test_an_unused_feature_does_no_harm(name, settings):
    """A column of zeros and l2 = 0: the Hessian is singular, and its system has a solution. The weight stays 0."""
    problem = ZOO["logistic-dense"]
    optimum = replace(problem, l2=0.0).optimum[0]
    shards = [Shard(np.hstack([shard.X, np.zeros((shard.rows, 1))]), shard.y) for shard in problem.shards]
    fleet = local_fleet(shards, problem.loss, problem.classes, 0.0)
    end = states(name, settings, fleet, np.append(optimum + 0.1, 0.0), 50)[-1].w
    np.testing.assert_allclose(end, np.append(optimum, 0.0), atol=1e-6)


def test_newton_star_needs_no_convex_loss():
    problem = ZOO["softplus-csr"]
    found = states("newton-star", {}, on_many(problem), problem.start, 30)[-1].w
    _, gradient, hessian = problem.objective(found)
    assert np.linalg.norm(gradient) < 1e-10
    assert np.linalg.eigvalsh(hessian)[0] > 0
