"""The fleet in one process: means and sums are those of dense numpy, failures are named, arrays are safe."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError, WorkerError
from mpinewton.fleet import Fleet, Worker
from mpinewton.fleet.local import local_fleet
from mpinewton.testing.problems import ZOO, Problem

EMPTY = 2  # the worker of the zoo without rows
BAD = 3


def fleet_on(problem: Problem, seed: int = 0) -> Fleet:
    return local_fleet(problem.shards, problem.loss, problem.classes, problem.l2, seed=seed)


@pytest.fixture
def fleet() -> Fleet:
    return fleet_on(ZOO["squared-dense"])


def mass(problem: Problem) -> Array:
    return np.array([shard.total_weight for shard in problem.shards])


# -- tasks ----------------------------------------------------------------------------------------------------------


def everything(worker: Worker, w: Array) -> tuple[float, Array, Array]:
    worker.move_to(w)
    return worker.value(), worker.gradient(), worker.hessian()


def index(worker: Worker) -> int:
    return worker.index


def twice(worker: Worker, number: float, whole: int, matrix: Array) -> tuple[float, int, Array]:
    return 2 * number, 2 * whole, 2 * matrix


def nan_where_there_are_no_rows(worker: Worker) -> Array:
    return np.array([1.0, np.nan if worker.rows == 0 else 2.0])


def write(worker: Worker, a: Array) -> None:
    a[0] = 1.0


def keep(worker: Worker, a: Array) -> None:
    worker.memory["a"] = a


def count(worker: Worker) -> Array:
    """The reply is the worker's own memory, which it goes on writing to."""
    worker.memory["n"] = worker.memory.get("n", np.zeros(1))
    worker.memory["n"] += 1
    return worker.memory["n"]


def counted(worker: Worker) -> float:
    return float(worker.memory["n"][0])


def failing(worker: Worker) -> None:
    count(worker)
    if worker.index >= BAD:
        raise ZeroDivisionError(f"planted on {worker.index}")


def leaving(worker: Worker) -> None:
    raise SystemExit(3)


def uneven(worker: Worker) -> Array:
    return np.ones(2 + (worker.index >= BAD))


def turned(worker: Worker) -> Array:
    return np.ones((2, 3) if worker.index < BAD else (3, 2))


def words(worker: Worker) -> str:
    return "words"


def iteration(worker: Worker) -> tuple[int, float]:
    return worker.iteration, float(worker.rng(1).random())


@dataclass(frozen=True)
class Part:
    factor: float = 3.0

    def times(self, worker: Worker) -> float:
        return self.factor


@dataclass(frozen=True)
class Plain:
    """Not a method of the package: the fleet does not care."""

    part: Part = field(default_factory=Part)
    shift: float = 0.5

    def shifted(self, worker: Worker, x: float) -> float:
        return x + self.shift

    @staticmethod
    def static(worker: Worker) -> float:
        return 1.0

    def __call__(self, worker: Worker) -> float:
        return 1.0


# -- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_mean_over_the_workers_is_the_objective(name: str) -> None:
    problem = ZOO[name]
    got = fleet_on(problem).mean(everything, problem.start)
    for mine, truth in zip(got, problem.objective(problem.start), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=1e-10, atol=1e-12)


def test_the_shares_are_those_of_the_row_weights() -> None:
    problem = ZOO["logistic-csr"]
    np.testing.assert_allclose(fleet_on(problem).worker_share, mass(problem) / mass(problem).sum(), rtol=1e-15)


def test_a_mean_over_some_is_weighted_by_their_shares_alone() -> None:
    problem = ZOO["logistic-csr"]
    some = [4, 0]
    truth = mass(problem)[some] @ np.array(some) / mass(problem)[some].sum()
    assert fleet_on(problem).mean(index, among=some) == pytest.approx(truth, rel=1e-14)


def test_sums_and_gathers(fleet: Fleet) -> None:
    assert fleet.sum(index) == 10.0
    assert fleet.sum(index, among=[1, 4]) == 5.0
    assert fleet.gather(index) == [0, 1, 2, 3, 4]
    assert fleet.gather(index, among=iter([4, 1])) == [1, 4]
    assert fleet.send(keep, np.ones(1)) is None


def test_numbers_arrive_as_numbers_and_replies_keep_their_form(fleet: Fleet) -> None:
    replies = fleet.gather(twice, 0.25, 3, np.arange(6.0).reshape(2, 3))
    number, whole, matrix = replies[0]
    assert (type(number), number, type(whole), whole) == (float, 0.5, int, 6)
    assert matrix.tolist() == [[0, 2, 4], [6, 8, 10]]
    number, whole, matrix = fleet.mean(twice, 0.25, 3, np.arange(6.0).reshape(2, 3))
    assert (number, whole) == pytest.approx((0.5, 6.0)) and matrix.shape == (2, 3)


def test_a_worker_without_rows_does_not_matter_not_even_by_nan(fleet: Fleet) -> None:
    assert fleet.mean(nan_where_there_are_no_rows).tolist() == pytest.approx([1.0, 2.0])
    assert np.isnan(fleet.sum(nan_where_there_are_no_rows)[1])  # a sum has no weights
    assert fleet.mean(nan_where_there_are_no_rows, among=[EMPTY]).tolist() == [0.0, 0.0]


def test_a_call_to_nobody_is_refused(fleet: Fleet) -> None:
    for call in (fleet.mean, fleet.sum, fleet.gather, fleet.send):
        with pytest.raises(ValueError, match=r":index: `among` is empty"):
            call(index, among=[])


# -- arrays are nobody else's ---------------------------------------------------------------------------------------


def test_what_a_task_is_given_cannot_be_written_to(fleet: Fleet) -> None:
    mine = np.zeros(2)
    with pytest.raises(WorkerError, match="read-only"):
        fleet.send(write, mine)
    assert mine.tolist() == [0.0, 0.0] and mine.flags.writeable


def test_what_a_worker_keeps_does_not_follow_the_driver_nor_the_other_way(fleet: Fleet) -> None:
    sent = np.zeros(1)
    fleet.send(keep, sent)
    sent += 5
    assert fleet.save(np.zeros(6))[0]["memory/a"].tolist() == [0.0]
    replies, total = fleet.gather(count), fleet.sum(count)
    fleet.send(count)
    assert [reply.tolist() for reply in replies] == [[1.0]] * 5 and total.tolist() == [10.0]
    replies[0] += 100
    assert fleet.gather(counted) == [3.0] * 5


def test_what_was_saved_stays_and_can_be_restored_twice(fleet: Fleet) -> None:
    w = np.zeros(6)
    fleet.send(count)
    states = fleet.save(w)
    for _ in range(2):
        fleet.send(count)
        fleet.send(count)
        fleet.restore(states, w)
        assert fleet.gather(counted) == [1.0] * 5


def keep_columns(worker: Worker) -> None:
    worker.memory["columns"] = np.arange(6.0).reshape(2, 3).T


def test_what_a_worker_keeps_has_the_order_it_is_restored_in(fleet: Fleet) -> None:
    fleet.send(keep_columns)
    assert fleet.save(np.zeros(6))[0]["memory/columns"].flags.c_contiguous


def test_a_restored_fleet_goes_on_bit_by_bit() -> None:
    problem = ZOO["softmax-csr"]
    one, other = fleet_on(problem), fleet_on(problem)
    one.mean(everything, problem.start)
    other.restore(one.save(problem.start), problem.start)
    assert other.mean(gradient).tobytes() == one.mean(gradient).tobytes()


def gradient(worker: Worker) -> Array:
    return worker.gradient()


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "sum", "gather", "send"])
def test_a_failure_names_worker_and_task_and_the_fleet_goes_on(fleet: Fleet, kind: str) -> None:
    with pytest.raises(WorkerError) as caught:
        getattr(fleet, kind)(failing)
    error = caught.value
    assert (error.worker, error.rank, error.exit_code) == (BAD, 0, 1)  # the first of two
    assert error.task == f"{__name__}:failing" and f"planted on {BAD}" in error.trace and "in failing" in error.trace
    assert str(error).startswith(f"worker {BAD} (rank 0) failed in {__name__}:failing:\nTraceback")
    assert fleet.gather(counted) == [1.0] * 5  # nobody was left out
    assert fleet.ledger.rounds == 1  # what failed is not counted


@pytest.mark.parametrize("task", [uneven, turned])
def test_replies_that_cannot_be_added_up_are_a_failure_of_the_odd_worker(fleet: Fleet, task: Any) -> None:
    with pytest.raises(WorkerError, match=r"its reply has the shapes .*3.*, the first worker's has \[\(2,") as caught:
        fleet.mean(task)
    assert caught.value.worker == BAD
    assert len(fleet.gather(task)) == 5


def test_an_exit_in_a_task_is_a_failure(fleet: Fleet) -> None:
    with pytest.raises(WorkerError, match="SystemExit: 3"):
        fleet.sum(leaving)
    assert fleet.gather(index) == [0, 1, 2, 3, 4]


def test_a_reply_that_is_no_number_is_a_failure(fleet: Fleet) -> None:
    with pytest.raises(WorkerError, match=r"only numbers and arrays of numbers travel .*, not str"):
        fleet.mean(words)
    with pytest.raises(TypeError, match="not str"):
        fleet.mean(index, "words")


def test_no_rows_at_all_are_refused() -> None:
    problem = ZOO["squared-dense"]
    with pytest.raises(DataError, match="no rows"):
        local_fleet([Shard(np.zeros((0, 6)), np.zeros(0))] * 2, problem.loss, None, 0.1)


# -- tasks by name --------------------------------------------------------------------------------------------------


def test_tasks_of_the_method_and_of_its_parts(fleet: Fleet) -> None:
    method = Plain()
    fleet.adopt(method)
    assert fleet.mean(method.shifted, 1.0) == pytest.approx(1.5)
    assert fleet.mean(method.part.times) == pytest.approx(3.0)
    assert [entry.task for entry in fleet.ledger.entries()] == ["shifted", "shifted", "part.times"]


def test_what_the_workers_could_not_find_is_refused(fleet: Fleet) -> None:
    def nested(worker: Worker) -> float:
        return 1.0

    method = Plain()
    fleet.adopt(method)
    foreign = replace(method, shift=1.0)
    strangers = [nested, lambda worker: 1.0, foreign.shifted, functools.partial(index), foreign, method.static, len]
    for task in strangers:
        with pytest.raises(ConfigError, match="workers find tasks by name, so use a function of a module"):
            fleet.mean(task)
    # A part is the method's own whoever else has it.
    assert fleet.mean(foreign.part.times) == pytest.approx(3.0)
    assert fleet.ledger.rounds == 1


def test_chance_follows_seed_and_iteration_not_the_call() -> None:
    fleets = [fleet_on(ZOO["squared-dense"], seed) for seed in (1, 1, 2)]
    drawn = []
    for fleet in fleets:
        fleet.iteration = 4
        fleet.send(count)
        drawn.append(fleet.gather(iteration))
    assert drawn[0] == drawn[1] != drawn[2]
    assert [number for number, _ in drawn[0]] == [4] * 5 and len(set(drawn[0])) == 5
    fleets[0].iteration = 5
    assert not set(fleets[0].gather(iteration)) & set(drawn[0])


def test_the_driver_can_draw_what_a_worker_draws() -> None:
    fleet = fleet_on(ZOO["logistic-dense"], seed=3)
    for fleet.iteration in (0, 5):
        drawn = fleet.gather(some_numbers)
        for index, numbers in enumerate(drawn):
            assert np.array_equal(fleet.rng_of(index, 4).random(3), numbers)


def some_numbers(worker: Worker) -> Array:
    return worker.rng(4).random(3)
