"""RANL against Newton Zero, against its algorithm written out slowly, and what its masks and budgets come to."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import on_many, on_one

from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.fleet.problem import Problem
from mpinewton.losses import make_loss
from mpinewton.losses.loss import Shape
from mpinewton.methods import ranl as ranl_module
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations
from mpinewton.testing.problems import ZOO

PROBLEMS = ["logistic-dense", "logistic-csr", "squared-csr", "softmax-csr"]
MATRIX = (Shape("w", (6, 3)),)  # of softmax in the zoo
NOTE = re.compile(r"coverage (\d\.\d\d), fewest (\d+), staleness (\d+)$")


def states(fleet, w, count, name="ranl", **settings):
    """The states of the first iterations, the start included."""
    method, found = make_method(name, settings), []
    method.validate(fleet.problem)
    fleet.adopt(method)
    run(method, fleet, w, [Iterations(count)], watchers=[lambda _, state: found.append(state)])
    return found


def weights(found):
    return np.array([state.w for state in found])


# -- against other methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "full"},
        {"keep": 1.0, "step": 1.0},
        {"policy": "round-robin", "keep": 1.0, "as_printed": True},
        {"policy": "resources", "budget": "18"},
        {"policy": "full", "batch": 50},  # more rows than any worker has
    ],
    ids=str,
)
def test_whole_masks_are_newton_zero(name, settings):
    problem = ZOO[name]
    zero = weights(states(on_many(problem), problem.start, 20, "newton-zero"))
    ours = weights(states(on_many(problem), problem.start, 20, **settings))
    np.testing.assert_allclose(ours, zero, rtol=1e-12, atol=1e-12)


def test_whole_masks_are_newton_zero_with_an_intercept():
    # Where it is not regularised, [H]_mu with mu = l2 may be more than H: a least eigenvalue below it all is given.
    problem = ZOO["logistic-csr"]
    zero, ours = (
        weights(states(fleet, np.zeros(fleet.dim), 20, name, **settings))
        for name, settings in (("newton-zero", {}), ("ranl", {"policy": "full", "mu": 1e-9}))
        for fleet in [local_fleet(problem.shards, problem.loss, problem.classes, problem.l2, intercept=True)]
    )
    np.testing.assert_allclose(ours, zero, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_hessian_a_round_is_newton(name):
    problem = ZOO[name]
    newton = weights(states(on_many(problem), problem.start, 6, "newton", search=None))
    ours = weights(states(on_many(problem), problem.start, 6, policy="full", refresh=1))
    np.testing.assert_allclose(ours, newton, rtol=1e-11, atol=1e-11)


def test_the_hessian_is_new_every_so_many_rounds():
    problem = ZOO["softmax-csr"]
    found = states(on_many(problem), problem.start, 7, refresh=3)
    changed = [not np.array_equal(a.factor, b.factor) for a, b in pairwise(found)]
    assert changed == [False, False, False, True, False, False, True]
    for k in (4, 7):
        hessian = problem.objective(found[k - 1].w)[2]
        np.testing.assert_allclose(found[k].factor @ found[k].factor.T, hessian, atol=1e-13)


def test_a_large_mu_is_gradient_descent():
    problem = ZOO["logistic-dense"]
    w, found = problem.start, states(on_many(problem), problem.start, 5, policy="full", mu=50.0)
    for state in found:
        np.testing.assert_allclose(state.w, w, atol=1e-14)
        w = w - problem.objective(w)[1] / 50.0


# -- against the algorithm, slowly -------------------------------------------------------------------------------------


def shard_gradient(problem, i, w):
    """Gradient of F_i at w, from the formulae of the zoo."""
    alone = type(problem)("", problem.loss, [problem.shards[i]], problem.classes, problem.l2, w, problem.formula)
    return alone.objective(w)[1]


def slowly(problem, masks, count, step, printed):
    """Algorithm 1 block by block, masks(i, t) being that of worker i in round t, of the weights (d,)."""
    mass = np.array([shard.total_weight for shard in problem.shards])
    having_rows = np.flatnonzero(mass)
    share = {i: mass[i] / mass.sum() for i in having_rows}
    H = problem.objective(problem.start)[2]
    x, C, found = problem.start, {}, [problem.start]
    for t in range(count):
        kept = {i: masks(i, t) if t else np.ones(len(x), dtype=bool) for i in having_rows}
        at = {i: np.where(kept[i], x, 0.0) if printed else x for i in having_rows}
        sent = {i: shard_gradient(problem, i, at[i]) for i in having_rows}
        g = np.zeros(len(x))
        for j in range(len(x)):
            senders = [i for i in having_rows if kept[i][j]]
            if printed and senders:
                g[j] = sum(share[i] * sent[i][j] for i in senders) / sum(share[i] for i in senders)
            elif printed:
                g[j] = sum(share[i] * C[i][j] for i in having_rows)
        C = {i: np.where(kept[i], sent[i], C.get(i)) if t else sent[i] for i in having_rows}
        if not printed:
            g = sum(share[i] * C[i] for i in having_rows)
        x = x - step * np.linalg.solve(H, g)
        found.append(x)
    return np.array(found)


def mask_of(policy, fleet, i, t, Q, kept):
    """Which regions, written from the description of the policy."""
    if policy == "bernoulli":
        fleet.iteration = t + 1
        return fleet.rng_of(i, 0).random(Q) < 0.5
    first = {"fixed": i, "round-robin": i + t}[policy]
    mask = np.zeros(Q, dtype=bool)
    mask[[(first + k) % Q for k in range(kept)]] = True
    return mask


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("policy", ["bernoulli", "fixed", "round-robin"])
@pytest.mark.parametrize("printed", [False, True])
def test_is_the_algorithm_written_out(name, policy, printed):
    problem, Q = ZOO[name], 4
    d = len(problem.start)
    numbers = np.concatenate([np.full(len(part), q) for q, part in enumerate(np.array_split(np.arange(d), Q))])
    fleet = on_many(problem)
    truth = slowly(problem, lambda i, t: mask_of(policy, fleet, i, t, Q, 2)[numbers], 6, 0.7, printed)
    settings = {"policy": policy, "keep": 0.5, "regions": Q, "step": 0.7, "as_printed": printed}
    ours = weights(states(on_many(problem), problem.start, 6, **settings))
    np.testing.assert_allclose(ours, truth, rtol=1e-11, atol=1e-11)


def test_by_magnitude_the_largest_weights_are_kept():
    problem = ZOO["softmax-dense"]
    fleet = on_many(problem)
    found = states(fleet, problem.start, 3, policy="magnitude", regions=6, keep=0.3)
    w = found[2].w
    sent = (found[3].age == 0).all(axis=0)
    norms = np.linalg.norm(w.reshape(6, 3), axis=1)
    assert sent.sum() == 2
    assert norms[sent].min() > norms[~sent].max()


# -- regions -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "regions"),
    [
        ({"regions": 4}, [range(5), range(5, 10), range(10, 14), range(14, 18)]),
        ({"regions": 4, "split": "features"}, [range(6), range(6, 12), range(12, 15), range(15, 18)]),
        ({"split": "features", "groups": "1,3,2"}, [range(3), range(3, 12), range(12, 18)]),
        ({"split": "layers"}, [range(0, 18, 3), range(1, 18, 3), range(2, 18, 3)]),  # one a class
        ({"split": "features", "regions": 6}, [range(3 * j, 3 * j + 3) for j in range(6)]),  # one a feature
        ({}, np.array_split(range(18), 8)),
    ],
    ids=str,
)
def test_regions_of_a_matrix(settings, regions):
    problem = ZOO["softmax-csr"]
    numbers = make_method("ranl", settings).numbers(MATRIX)
    for q, region in enumerate(regions):
        assert np.array_equal(np.flatnonzero(numbers == q), region)
    fleet = on_many(problem)
    found = states(fleet, problem.start, 150, **settings)
    assert found[-1].age.shape == (4, len(regions))
    assert np.linalg.norm(problem.objective(found[-1].w)[1]) < 1e-10


def test_a_vector_of_few_weights_has_a_region_each():
    assert np.array_equal(make_method("ranl", {}).numbers((Shape("w", (6,)),)), np.arange(6))


# -- what travels, and what the history says ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bernoulli", "round-robin", "fixed", "magnitude"])
def test_kept_blocks_and_mask_bits_alone_travel(policy):
    problem = ZOO["softmax-csr"]
    fleet = on_many(problem)
    found = states(fleet, problem.start, 5, policy=policy)
    d, sizes = fleet.dim, np.bincount(make_method("ranl", {}).numbers(MATRIX))
    up = [entry for entry in fleet.ledger.entries() if entry.direction == "up" and entry.iteration > 0]
    assert len(up) == 5
    for entry, state in zip(up, found[1:]):
        floats = (state.age == 0) @ sizes
        assert entry.bits == 64 * floats.max() + 8  # 8 regions: a byte
        assert entry.bits_total == 64 * floats.sum() + 4 * 8
        assert entry.workers == 4  # the fifth has no rows
    assert up[0].floats == d


def test_the_note_says_coverage_and_staleness():
    problem = ZOO["logistic-dense"]
    found = states(on_many(problem), problem.start, 30, keep=0.4)
    share = np.array([40, 13, 50, 17]) / 120
    age = np.zeros((4, 6))
    for before, state in pairwise(found):
        sent = state.age == 0
        age = np.where(sent, 0, age + 1)
        assert np.array_equal(state.age, age)
        coverage, fewest, staleness = NOTE.match(state.note).groups()
        assert float(coverage) == pytest.approx(share @ sent.mean(axis=1), abs=0.00501)
        trained = sent.sum(axis=0)[sent.any(axis=0)]
        assert int(fewest) == (trained.min() if len(trained) else 0)
        assert int(staleness) == age.max()
        unsent = ~sent
        assert before.note == "" or np.array_equal(state.memory[unsent], before.memory[unsent])


@pytest.mark.parametrize(
    ("policy", "keep", "step"), [("bernoulli", 0.3, 0.6), ("round-robin", 0.7, 1), ("full", 0.5, 1)]
)
def test_the_step_is_twice_what_is_kept_and_1_at_most(policy, keep, step):
    problem = ZOO["logistic-dense"]
    found = states(on_many(problem), problem.start, 3, policy=policy, keep=keep)
    assert [state.step for state in found[1:]] == [pytest.approx(step)] * 3
    assert states(on_many(problem), problem.start, 2, policy=policy, keep=keep, as_printed=True)[-1].step == 1.0
    assert states(on_many(problem), problem.start, 2, policy=policy, keep=keep, step="0.25")[-1].step == 0.25


# -- resources ---------------------------------------------------------------------------------------------------------


def test_budgets_are_kept_and_all_regions_heard_in_turn():
    problem, budgets = ZOO["softmax-csr"], (18, 7, 18, 3, 5)
    fleet = on_many(problem)
    found = states(fleet, problem.start, 40, policy="resources", budget="18,7,18,3,5", step=0.2)
    sizes = np.bincount(make_method("ranl", {}).numbers(MATRIX))
    asked = [0, 1, 3, 4]
    for state in found[2:]:
        floats = (state.age == 0) @ sizes
        assert all(floats <= np.array(budgets)[asked])
        # A worker that can send k regions at least is through with all 8 in 8 / k rounds.
        assert all(state.age.max(axis=1) <= np.ceil(8 / (np.array(budgets)[asked] // sizes.max())) - 1)
        assert state.step == 0.2
    assert np.linalg.norm(problem.objective(found[-1].w)[1]) < np.linalg.norm(problem.objective(problem.start)[1])


def test_with_budgets_the_step_goes_by_what_was_sent():
    problem = ZOO["logistic-dense"]
    found = states(on_many(problem), problem.start, 4, policy="resources", budget="1,2")
    for state in found[2:]:
        sent = np.array([40, 13, 50, 17]) / 120 @ (state.age == 0).mean(axis=1)
        assert state.step == pytest.approx(2 * sent)


def test_a_deadline_is_met_by_the_measured_pace(monkeypatch):
    problem, clock = ZOO["logistic-dense"], [0.0]
    monkeypatch.setattr(ranl_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(ranl_module.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    slowdown = "1,4,2,1,4"
    found = states(on_many(problem), problem.start, 30, policy="resources", deadline=2.5, slowdown=slowdown)
    # Half of the work are the logits: 4 (1 + k/6) / 2 <= 2.5 for k = 1 of 6 regions, and 1 second is time for all.
    assert np.array_equal((found[-1].age == 0).sum(axis=1), [6, 1, 6, 1])
    assert found[-1].age.max() <= 5


@pytest.mark.parametrize(("printed", "work"), [(False, lambda k: (1 + k) / 2), (True, lambda k: k)])
def test_the_slowdown_is_in_proportion_to_the_products_done(printed, work, monkeypatch):
    problem, slept = ZOO["softmax-csr"], []
    monkeypatch.setattr(ranl_module.time, "sleep", slept.append)
    settings = {"split": "features", "regions": 6, "as_printed": printed, "step": 0.1}
    found = states(on_many(problem), problem.start, 6, keep=0.5, slowdown="1,3", **settings)
    sent = np.concatenate([(state.age == 0).mean(axis=1) for state in found[1:]])
    assert (sent < 1).any()
    factor = np.tile([1, 3, 3, 1], 6)  # of the workers 0, 1, 3, 4
    busy = sent > 0  # who keeps nothing does nothing
    np.testing.assert_allclose(slept, (factor * work(sent))[busy])


# -- trouble and refusals ----------------------------------------------------------------------------------------------


def test_a_hessian_with_a_negative_eigenvalue_is_said():
    problem = replace(ZOO["softplus-dense"], l2=0.0)
    fleet, far = on_many(problem), problem.start / 2
    (state,) = states(fleet, far, 3)
    assert state.factor is None
    ended = run(fleet.method, fleet, far, [Iterations(3)])
    assert ended.kind == "trouble"
    assert "set mu > 0" in ended.reason
    assert states(fleet, far, 3, mu=1e-3)[-1].factor is not None


def test_a_gradient_that_is_not_finite_ends_the_run_with_a_sentence():
    problem = ZOO["poisson-dense"]
    fleet, method = on_many(problem), make_method("ranl", {})
    fleet.adopt(method)
    with np.errstate(all="ignore"):
        ended = run(method, fleet, problem.start, [Iterations(200)])
    assert ended.kind == "diverged"
    assert "nonfinite" in ended.reason


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 0.0}, {"keep": 1.1}, {"regions": 0}, {"step": 0.0}, {"mu": 0.0}, {"refresh": -1}, {"batch": 0},
        {"deadline": -1.0}, {"budget": "a,b", "policy": "resources"}, {"slowdown": "-1"},
        {"split": "features", "groups": "1,0,5"}, {"split": "features", "groups": "1.5,4.5"},
        {"split": "layers", "regions": 7},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=r"ranl: \w+ = .*: expected"):
        make_method("ranl", settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"budget": "5"}, "has no effect with policy = 'bernoulli'"),
        ({"deadline": 1.0}, "has no effect with policy = 'bernoulli'"),
        ({"policy": "resources", "deadline": 1.0, "budget": "5"}, "deadline = 1.0: expected 0 if budget"),
        ({"policy": "full", "keep": 0.2}, "keep = 0.2: expected 0.5"),
        ({"groups": "3,3"}, "has no effect with split = 'blocks'"),
        ({"groups": "3,3", "split": "features", "regions": 2}, "regions = 2: expected none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_method("ranl", settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"regions": 19}, "regions = 19: expected at most 18, the number of weights"),
        ({"regions": 7, "split": "features"}, "regions = 7: expected at most 6, the number of features"),
        ({"split": "features", "groups": "3,4"}, "groups have 7 features in total: expected 6"),
        ({"policy": "resources", "budget": "18,2"}, "expected at least 3, the weights in the largest region"),
    ],
)
def test_a_problem_that_does_not_fit_is_refused(settings, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_method("ranl", settings).validate(on_many(ZOO["softmax-csr"]).problem)


def test_regions_of_several_layers():
    shapes = (Shape("W1", (2, 3)), Shape("b1", (2,)), Shape("W2", (2, 2)))
    layers = make_method("ranl", {"split": "layers"}).numbers(shapes)
    assert np.array_equal(layers, [0] * 6 + [1] * 2 + [2] * 4)
    blocks = make_method("ranl", {"regions": 3}).numbers(shapes)
    assert np.array_equal(blocks, [0] * 4 + [1] * 4 + [2] * 4)
    with pytest.raises(ConfigError, match="split=features needs one vector or matrix"):
        make_method("ranl", {"split": "features"}).numbers(shapes)


def test_layers_of_one_vector_are_refused():
    problem = Problem(make_loss("squared"), None, (5,), (5.0,), 3, 0.1)
    with pytest.raises(ConfigError, match="split=layers needs several layers"):
        make_method("ranl", {"split": "layers"}).validate(problem)


# -- chance and resuming -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_minibatches_are_drawn_anew_and_right_in_the_mean():
    problem = ZOO["logistic-csr"]
    fleet = on_one(problem)
    method = make_method("ranl", {"batch": 10, "policy": "full"})
    worker, draws = fleet.host.workers[0], []
    for worker.iteration in range(600):
        draws.append(method.full_gradient(worker, problem.start)[0])
    worker.move_to(problem.start)
    error = np.mean(draws, axis=0) - worker.gradient()
    # Rows have weights: the mean of a few is off by a second order, 1 / 10 of the deviation at the most.
    deviation = np.std(draws, axis=0)
    assert (deviation > 0).all()
    assert (np.abs(error) < deviation * (5 / np.sqrt(len(draws)) + 0.1)).all()


@pytest.mark.parametrize("settings", [{"batch": 0.5, "refresh": 2}, {"as_printed": True}], ids=str)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(settings):
    problem = ZOO["softmax-csr"]
    fleet, method = on_many(problem), make_method("ranl", settings)
    fleet.adopt(method)
    state = method.start(fleet, problem.start)
    for fleet.iteration in range(1, 9):
        if fleet.iteration == 5:
            other = on_many(problem)
            other.adopt(method)
            other.restore(fleet.save(state.w), state.w)
            again = state
        state = method.step(fleet, state)
        if fleet.iteration >= 5:
            other.iteration = fleet.iteration
            again = method.step(other, again)
            assert np.array_equal(again.w, state.w)
            assert np.array_equal(again.memory, state.memory)
            assert again.note == state.note
