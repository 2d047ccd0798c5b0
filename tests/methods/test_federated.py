"""The federated baselines: what each is with special settings, and where their fixed points are."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import on_many, on_one, states

from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.methods.federated import FedAvg, FedNova, FedProx, Scaffold
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations
from mpinewton.testing.problems import ZOO, Problem

LR = {"learning_rate": 0.05}


def iterates(method, fleet, w, count=6):
    """The first iterates, shape (count + 1, d)."""
    return np.array([state.w for state in states(method, fleet, w, count)])


def evenly(problem: Problem):
    """As many rows on each of four workers."""
    X, y = (np.concatenate([getattr(shard, name) for shard in problem.shards]) for name in ("X", "y"))
    shards = [Shard(X[i::4], y[i::4]) for i in range(4)]
    return local_fleet(shards, problem.loss, problem.classes, problem.l2)


@pytest.mark.parametrize("name", ["squared-dense", "logistic-csr", "softmax-dense"])
def test_fedprox_without_mu_is_fedavg(name):
    problem = ZOO[name]
    avg, prox = (iterates(m, on_many(problem), problem.start) for m in (FedAvg(**LR), FedProx(**LR, mu=0.0)))
    np.testing.assert_array_equal(prox, avg)
    assert not np.allclose(iterates(FedProx(**LR, mu=1.0), on_many(problem), problem.start), avg)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_with_as_many_steps_everywhere_is_fedavg(momentum):
    problem = ZOO["squared-dense"]
    avg, nova = (
        iterates(m(**LR, momentum=momentum, batch_size=8), evenly(problem), problem.start) for m in (FedAvg, FedNova)
    )
    np.testing.assert_allclose(nova, avg, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["squared-dense", "logistic-csr"])
def test_scaffold_on_one_worker_is_fedavg(name):
    problem = ZOO[name]
    avg, scaffold = (iterates(m(**LR, momentum=0.0), on_one(problem), problem.start) for m in (FedAvg, Scaffold))
    np.testing.assert_allclose(scaffold, avg, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["squared-dense", "logistic-csr", "softmax-csr"])
@pytest.mark.parametrize("kind", [FedAvg, FedProx, FedNova, Scaffold])
def test_one_full_step_is_gradient_descent(kind, name):
    problem, w = ZOO[name], [ZOO[name].start]
    for _ in range(6):
        w.append(w[-1] - 0.05 * problem.objective(w[-1])[1])
    found = iterates(kind(**LR, momentum=0.0, batch_size=None), on_many(problem), problem.start)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_fednova_is_its_formulae(momentum):
    """Unequal shards, two epochs of full steps: as many gradients, weighed by hand."""
    problem, lr = ZOO["squared-csr"], 0.05
    fleet, w = on_many(problem), problem.start
    found = iterates(FedNova(learning_rate=lr, momentum=momentum, epochs=2, batch_size=20), on_many(problem), w, 1)[1]
    top = bottom = 0.0
    for worker in fleet.host.workers:
        worker.iteration = 1
        v, heavy, weights, tau = w, 0 * w, [], 0
        for epoch in range(2):
            order = worker.rng(epoch).permutation(worker.rows)
            for rows in (order[i : i + 20] for i in range(0, worker.rows, 20)):
                heavy = momentum * heavy + worker.subset(rows).evaluate(v)[1]
                v = v - lr * heavy
                tau += 1
        if tau:
            weights = [sum(momentum**k for k in range(tau - j)) for j in range(tau)]
            top = top + worker.share * (w - v) / sum(weights)
            bottom += worker.share * sum(weights)
    np.testing.assert_allclose(found, w - bottom * top, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_scaffold_arrives_on_unequal_shards_and_fedavg_does_not():
    problem = ZOO["squared-csr"]
    settings = {"learning_rate": 0.1, "momentum": 0.0, "epochs": 4, "batch_size": None}
    (w, _), far = problem.optimum, []
    for kind in (Scaffold, FedAvg):
        found = iterates(kind(**settings), on_many(problem), problem.start, 250 if kind is Scaffold else 60)
        far.append(np.linalg.norm(found[-1] - w))
    assert far[0] < 1e-8
    assert far[1] > 1e-4


@pytest.mark.parametrize("kind", ["fedavg", "scaffold", "sgdm"])
def test_a_step_too_long_ends_the_run_with_advice(kind):
    problem = ZOO["squared-dense"]
    fleet, method = on_many(problem), make_method(kind, {"lr": 8})
    fleet.adopt(method)
    ended = run(method, fleet, problem.start, [Iterations(500)])
    assert ended.kind == "diverged"
    assert ended.reason.startswith("diverged: the ")
    assert "lower learning_rate" in ended.reason
    assert ended.row.iteration < 100
    assert ended.best_row.iteration == 0


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fedavg", {"lr": 0}), ("fedavg", {"momentum": 1}), ("fedavg", {"epochs": 0}), ("fedavg", {"batch": 0}),
        ("fedprox", {"mu": -1}), ("sgdm", {"momentum": 1}), ("sgdm", {"batch": 0}), ("adam", {"beta1": 1}),
        ("adam", {"beta2": 1}), ("adam", {"eps": 0}), ("adamw", {"weight_decay": -1}), ("muon", {"steps": 2}),
        ("muon", {"momentum": 1}), ("muon", {"other_lr": 0}), ("muon", {"lr": 0}), ("sgdm", {"decay": {"kind": "no"}}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(method, settings):
    with pytest.raises(ConfigError, match=method):
        make_method(method, settings)
