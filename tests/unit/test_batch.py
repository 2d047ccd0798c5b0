"""Tasks that run on all workers of a host in one call: the bits of the workers one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mpinewton import kernels
from mpinewton.data.shard import Shard
from mpinewton.errors import WorkerError
from mpinewton.fleet.batch import Reply, Summed
from mpinewton.fleet.host import Host
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.methods.support import tasks
from mpinewton.testing.simulation import _Ranks

pytestmark = pytest.mark.skipif(kernels.NAME == "numpy", reason="batches need compiled loops")
COUNTS = (7, 0, 30, 1, 12, 40, 9)  # rows of the workers


def fleet_of(named="logistic", ranks=1):
    rng = np.random.default_rng(3)
    loss, shards = make_loss(named), []
    classes = {"softmax": (0.0, 1.0, 2.0), "logistic": (-1.0, 1.0)}.get(named)
    for i, n in enumerate(COUNTS):
        X = sparse.csr_array(rng.standard_normal((n, 6)) * (rng.random((n, 6)) < 0.5))
        shards.append(Shard(X, rng.choice(classes or (0.5, 2.0), n), rng.random(n) if i % 2 else None))
    fleet = local_fleet(shards, loss, classes, 0.01, intercept=True, seed=5)
    return fleet if ranks == 1 else LocalFleet(_Ranks(fleet.host, ranks))


@pytest.fixture
def alone(monkeypatch):
    """A function after which every task runs on the workers one by one."""
    return lambda: monkeypatch.setattr(Host, "_together", lambda self, *call: None)


@pytest.fixture
def batches(monkeypatch):
    """The tasks that ran on all workers in one call."""
    run, original = [], Host._together

    def together(self, call, *about):
        found = original(self, call, *about)
        if found is not None:
            run.append(call.task.split(":")[-1].split(".")[-1])
        return found

    monkeypatch.setattr(Host, "_together", together)
    return run


def calls(fleet):
    """Replies of all batched tasks, in an order in which some need what others left."""
    method = make_method("newton", {})
    fleet.adopt(method)
    rng = np.random.default_rng(1)
    w, p, v = rng.standard_normal((3, fleet.dim))
    found = [fleet.mean(tasks.value_and_gradient, w), fleet.mean(tasks.hvp, v)]
    found += [fleet.mean(tasks.derivatives), fleet.sum(tasks.current_gradient)]
    found.append(fleet.mean(method.search.try_first, p))
    found.append(fleet.gather(tasks.hvp, p, among=[2, 5]))  # asks some only
    found += [fleet.mean(method.search.try_others, 8.0), fleet.mean(tasks.advance, 0.25)]
    fleet.send(method.search.try_first, p)
    fleet.send(tasks.move, 0.125)
    found += [fleet.gather(tasks.current_gradient), fleet.mean(tasks.gradient_at, v), fleet.mean(tasks.value_at, p)]
    fleet.send(tasks.move_to, w)
    found += [fleet.gather(tasks.hvp, p), fleet.sum(tasks.hessian_triangle, v)]
    found.append(fleet.gather(tasks.value_gradient_hessian, p))  # is not summed: one by one
    return found + fleet.save(w)


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, (list, tuple)):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for one, other in zip(a, b):
            same(one, other)
    else:
        assert type(a) is type(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("named", ["logistic", "softmax", "poisson"])
def test_replies_and_states_are_those_of_the_workers_one_by_one(named, alone, batches):
    together = calls(fleet_of(named))
    hessians = {"derivatives", "hessian_triangle"} if named != "softmax" else set()  # of several outputs one by one
    assert set(batches) == {
        "value_and_gradient", "hvp", "current_gradient", "try_first", "try_others", "advance", "move",
        "gradient_at", "value_at", "move_to", *hessians,
    }  # fmt: skip
    for ranks in (2, 3, 5):
        same(calls(fleet_of(named, ranks)), together)
    alone()
    same(calls(fleet_of(named)), together)


def steps(fleet, method, count, state=None):
    fleet.adopt(method)
    first = fleet.iteration
    state = method.start(fleet, np.zeros(fleet.dim)) if state is None else state
    for fleet.iteration in range(first + 1, first + count + 1):
        state = method.step(fleet, state)
    return state


@pytest.mark.parametrize("name", ["newton", "lbfgs", "fednl", "fednl-ls", "newton-cg", "pisa", "sisa"])
def test_a_run_has_the_same_bits_with_and_without_batches_and_after_a_restart(name, alone, batches):
    method, whole = make_method(name, {}), fleet_of()
    after = steps(whole, method, 6)
    assert batches
    assert ("learn_by_products" in batches) == name.startswith("fednl")
    assert ("local_on_all_rows" in batches) == name.endswith("isa")
    half = fleet_of(ranks=3)
    middle = steps(half, method, 3)
    again = fleet_of(ranks=2)
    again.adopt(method)
    for host in again.host.hosts:
        for worker in host.workers:
            worker.restore(half.save(middle.w)[worker.index], middle.w.copy())
    again.iteration = 3
    batches.clear()
    same(steps(again, method, 3, middle).w, after.w)
    assert batches
    alone()
    same(steps(fleet_of(), method, 6).w, after.w)


def test_workers_at_different_weights_are_asked_one_by_one(batches):
    fleet = fleet_of()
    fleet.adopt(make_method("newton", {}))
    for worker in fleet.host.workers:
        worker.move_to(np.full(fleet.dim, 0.1 * worker.index))
    found = fleet.gather(tasks.current_gradient)
    assert not batches
    same(found, [worker.gradient() for worker in fleet.host.workers])
    fleet.mean(tasks.value_and_gradient, np.ones(fleet.dim))
    assert batches == ["value_and_gradient"]


def test_only_the_last_part_of_a_reply_may_be_summed():
    sums = Summed(np.ones((2, 3)))
    assert Reply.of((1.0, sums)).sums is sums.sums
    assert Reply.of(sums).single
    with pytest.raises(TypeError, match="not Summed"):
        Reply.of((sums, 1.0))


def test_a_task_that_fails_names_the_worker():
    fleet = fleet_of()
    fleet.adopt(make_method("newton", {}))
    with pytest.raises(WorkerError, match="no weights yet") as caught:
        fleet.mean(tasks.current_gradient)
    assert caught.value.worker == 0
    with pytest.raises(WorkerError, match="needs a direction"):
        fleet.send(tasks.move_to, np.zeros(fleet.dim))
        fleet.mean(tasks.advance, 1.0)
