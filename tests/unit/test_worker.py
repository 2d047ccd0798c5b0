"""One worker against dense numpy: the zoo's own formulae on the rows of that worker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import on_many
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.fleet import Problem as Objective
from mpinewton.fleet import Worker
from mpinewton.fleet.worker import REFRESH
from mpinewton.testing.problems import ZOO, Problem

SHARD = 3  # the largest


@pytest.fixture(params=ZOO.values(), ids=ZOO)
def problem(request: pytest.FixtureRequest) -> Problem:
    """A problem of the zoo, all its rows but one worker's gone; the sixth feature plays the intercept."""
    zoo: Problem = request.param
    shard = zoo.shards[SHARD]
    X = shard.X.toarray() if sparse.issparse(shard.X) else shard.X.copy()
    X[:, -1] = 1.0
    shard = replace(shard, X=sparse.csr_array(X) if sparse.issparse(shard.X) else X)
    return replace(zoo, shards=[shard])


def alone(problem: Problem, index: int = SHARD) -> Problem:
    """The problem of one of its workers."""
    return replace(problem, shards=[problem.shards[index]])


def worker_of(problem: Problem, intercept: bool = True, seed: int = 5, index: int = SHARD) -> Worker:
    """With an intercept the sixth feature is left to `with_intercept`."""
    (shard,) = problem.shards
    if intercept:
        shard = replace(shard, X=shard.X[:, :-1]).with_intercept()
    total_weights = [0.6, 0.6, 0.6, 0.6]
    total_weights[index] = 0.4 * (sum(total_weights) - 0.6) / 0.6  # a share of 0.4
    objective = Objective(
        problem.loss, problem.classes, (1,) * 4, tuple(total_weights), shard.features, problem.l2, intercept, seed
    )
    return Worker(index, shard, objective)


def truth(problem: Problem, w: Array) -> tuple[float, Array, Array]:
    """f_i, its gradient and Hessian, dense, the last feature not regularised."""
    f, g, H = replace(problem, l2=0.0).objective(w)
    ridge = np.full((6, w.size // 6), problem.l2)
    ridge[-1] = 0.0
    l2 = ridge.ravel()
    return f + l2 @ w**2 / 2, g + l2 * w, H + np.diag(l2)


def test_the_objective_is_that_of_dense_numpy_and_the_intercept_is_free(problem: Problem) -> None:
    worker, w = worker_of(problem), problem.start
    v = np.random.default_rng(1).standard_normal(w.size)
    worker.move_to(w)
    f, g, H = truth(problem, w)
    assert worker.value() == pytest.approx(f, rel=1e-12)
    np.testing.assert_allclose(worker.gradient(), g, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(worker.hessian(), H, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(worker.hvp(v), H @ v, rtol=1e-10, atol=1e-12)


def test_without_an_intercept_every_weight_is_regularised(problem: Problem) -> None:
    worker = worker_of(problem, intercept=False)
    worker.move_to(problem.start)
    f, g, H = problem.objective(problem.start)
    assert worker.value() == pytest.approx(f, rel=1e-12)
    np.testing.assert_allclose(worker.gradient(), g, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(worker.hessian(), H, rtol=1e-10, atol=1e-12)


def test_trial_steps_and_the_step_taken(problem: Problem) -> None:
    worker, w = worker_of(problem), problem.start
    p = np.random.default_rng(2).standard_normal(w.size)
    steps = np.array([0.0, 1.0, -0.5, 1e-3, 0.25])
    worker.move_to(w)
    worker.set_direction(p)
    np.testing.assert_allclose(worker.losses(steps), [truth(problem, w + a * p)[0] for a in steps], rtol=1e-11)
    worker.advance(0.25)
    f, g, _ = truth(problem, w + 0.25 * p)
    assert np.array_equal(worker.w, w + 0.25 * p)
    assert worker.value() == pytest.approx(f, rel=1e-11)
    np.testing.assert_allclose(worker.gradient(), g, rtol=1e-9, atol=1e-11)


def walked(worker: Worker, steps: int, seed: int = 3) -> Worker:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        worker.set_direction(rng.standard_normal(worker.w.size))
        worker.advance(float(rng.uniform(0, 0.1)))
    return worker


def placed(problem: Problem) -> Worker:
    worker = worker_of(problem)
    worker.move_to(problem.start)
    return worker


def test_the_logits_are_formed_afresh_after_so_many_steps() -> None:
    problem = alone(ZOO["logistic-dense"])
    before, after = (walked(placed(problem), steps) for steps in (REFRESH - 1, REFRESH))
    exact = [worker_of(problem).model.logits(worker.w) for worker in (before, after)]
    # Sums of steps differ from the product in the last bits, until the product is formed again.
    assert not np.array_equal(before.point.cache()["z"], exact[0])
    np.testing.assert_allclose(before.point.cache()["z"], exact[0], rtol=0, atol=1e-12)
    assert np.array_equal(after.point.cache()["z"], exact[1])


def bits(worker: Worker) -> bytes:
    return worker.gradient().tobytes() + worker.w.tobytes() + np.float64(worker.value()).tobytes()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["at-the-drivers-w", "at-its-own"])
def test_a_restored_worker_goes_on_bit_by_bit(problem: Problem, elsewhere: bool) -> None:
    worker = walked(placed(problem), 7)
    worker.memory |= {"H": np.arange(3.0), "count": 2}  # type: ignore[dict-item]  # a number, as people write it
    driver = worker.w + elsewhere
    state = {name: a.copy() for name, a in worker.save(driver.copy()).items()}
    assert ("w" in state) == elsewhere
    again = worker_of(problem)
    again.restore(state, driver.copy())
    assert again.memory["H"].tolist() == [0.0, 1.0, 2.0] and again.memory["count"] == 2
    assert bits(again) == bits(worker)
    # Past the refresh too: the steps taken before count.
    assert bits(walked(again, REFRESH)) == bits(walked(worker, REFRESH))


def test_a_direction_is_kept_until_it_is_taken(problem: Problem) -> None:
    worker, again = placed(problem), worker_of(problem)
    assert "p" not in worker.save(worker.w)
    p, steps = np.random.default_rng(2).standard_normal(worker.w.size), 0.5 ** np.arange(4.0)
    worker.set_direction(p)
    again.restore({name: a.copy() for name, a in worker.save(worker.w).items()}, worker.w)
    assert again.losses(steps).tobytes() == worker.losses(steps).tobytes()
    worker.advance(0.5), again.advance(0.5)
    assert bits(again) == bits(worker)
    assert "p" not in worker.save(worker.w)


def test_what_is_kept_has_the_order_it_is_restored_in(problem: Problem) -> None:
    worker = worker_of(problem)
    H = np.arange(6.0).reshape(2, 3)
    worker.memory |= {"H": H.T, "all": H[:, ::2]}
    worker.normalise_memory()
    assert all(a.flags.c_contiguous for a in worker.memory.values())
    assert np.array_equal(worker.memory["H"], H.T) and np.array_equal(worker.memory["all"], H[:, ::2])


def test_a_worker_that_stands_nowhere_is_restored_to_that(problem: Problem) -> None:
    again = worker_of(problem)
    again.restore(worker_of(problem).save(problem.start), problem.start)
    with pytest.raises(RuntimeError, match=r"call move_to\(w\) first"):
        again.value()


def test_what_must_come_first_is_said() -> None:
    worker = placed(alone(ZOO["squared-dense"]))
    with pytest.raises(RuntimeError, match=r"call set_direction\(p\) first"):
        worker.losses(np.ones(1))
    with pytest.raises(RuntimeError, match=r"call set_direction\(p\) first"):
        worker.advance(1.0)
    worker.set_direction(np.ones(6))
    worker.advance(1.0)
    for call in (worker.advance, worker.losses, worker.gradients):  # the line began where the worker no longer is
        with pytest.raises(RuntimeError, match=r"call set_direction\(p\) first"):
            call(np.ones(1))
    worker.set_direction(np.ones(6))
    worker.move_to(np.zeros(6))
    with pytest.raises(RuntimeError, match=r"call set_direction\(p\) first"):
        worker.losses(np.ones(1))


def test_chance_depends_on_seed_worker_iteration_and_key_alone() -> None:
    problem = alone(ZOO["squared-dense"])

    def draws(seed: int, index: int, iteration: int, *key: int) -> float:
        worker = worker_of(problem, seed=seed, index=index)
        worker.iteration = iteration
        worker.rng(9).random()  # another stream, drawn from or not
        return float(worker.rng(*key).random())

    assert draws(0, 1, 2, 3) == draws(0, 1, 2, 3)
    settings = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4), (1, 0, 2, 3)]
    settings += [(0, 1, 2), (0, 1, 2, 0), (0, 1, 2, 0, 0)]  # a key of zeros is a key
    assert len({draws(*setting) for setting in settings}) == len(settings)


def test_trial_gradients_are_those_of_the_places(problem: Problem) -> None:
    worker, w = worker_of(problem), problem.start
    p = np.linspace(-1.0, 1.0, len(w))
    worker.move_to(w)
    with pytest.raises(RuntimeError, match="set_direction"):
        worker.gradients(np.ones(1))
    worker.set_direction(p)
    steps = np.array([2.0, 0.5, 0.125])
    expected = [truth(problem, w + a * p)[1] for a in steps]
    np.testing.assert_allclose(worker.gradients(steps), expected, atol=1e-11)


def test_sampled_gradients_add_up_to_the_gradient(problem: Problem) -> None:
    worker, w = worker_of(problem), problem.start
    each = [worker.sampled_gradient(np.array([j]), w) for j in range(worker.rows)]
    np.testing.assert_allclose(np.mean(each, axis=0), truth(problem, w)[1], atol=1e-12)
    halves = [worker.sampled_gradient(rows, w) for rows in np.split(np.arange(worker.rows), 2)]
    np.testing.assert_allclose(np.mean(halves, axis=0), truth(problem, w)[1], atol=1e-12)


def test_a_worker_without_rows_has_the_regulariser_alone() -> None:
    zoo = ZOO["logistic-csr"]
    worker = worker_of(alone(zoo, 2), intercept=False)
    w = zoo.start
    worker.move_to(w)
    assert worker.rows == 0
    assert worker.value() == pytest.approx(zoo.l2 / 2 * w @ w)
    np.testing.assert_allclose(worker.gradient(), zoo.l2 * w)
    np.testing.assert_allclose(worker.hessian(), zoo.l2 * np.eye(6))


def test_a_part_is_the_mean_of_its_rows(problem: Problem) -> None:
    worker, w = worker_of(problem), problem.start
    rows = np.array([3, 7, 8, 11, 40])
    (shard,) = problem.shards
    few = Shard(shard.X[rows], shard.y[rows], None if shard.sample_weight is None else shard.sample_weight[rows])
    part = worker.subset(rows)
    with pytest.raises(RuntimeError, match="move_to"):
        part.value()
    part.move_to(w)
    f, g, H = truth(replace(problem, shards=[few]), w)
    assert part.value() == pytest.approx(f, rel=1e-12)
    np.testing.assert_allclose(part.gradient(), g, atol=1e-13)
    np.testing.assert_allclose(part.hessian(), H, atol=1e-13)
    assert (part.rows, worker.rows) == (5, shard.rows)


def test_the_driver_draws_unlike_any_worker_and_alike_for_the_same_key() -> None:
    fleet = on_many(ZOO["squared-dense"])
    fleet.iteration = 3
    driver = fleet.rng(1).random(4)
    assert np.array_equal(fleet.rng(1).random(4), driver)
    others = [fleet.rng().random(4), fleet.rng(2).random(4)]
    others += fleet.gather(drawn)
    assert not any(np.isclose(driver, other).any() for other in others)


def drawn(worker: Worker) -> Array:
    return worker.rng(1).random(4)
