"""PISA's presets given all that the reference drew: its first weights (numpy's default_rng), its kind of minibatches.

With draws of our own three of its figures are missed: SISA's at 200 rounds, FedAvg's with a small lr, and NSISA's with
sigma = 80 at equal epochs. These tests show that the draws are the reason. NSISA's with sigma = 20 says nothing: over
ten draws of minibatches its last loss is 1e-6 to 6e-4, on the reference's batches as on fixed shards.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods import pisa
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import evaluate

CLASSES = tuple(float(label) for label in range(10))


@pytest.fixture(scope="module")
def rows():
    """The first 140 of each class in file order, and the other 397."""
    X, y = load_digits(return_X_y=True)
    first = np.array([(y[:row] == label).sum() for row, label in enumerate(y)]) < 140
    return Shard(X[first] / 16, y[first].astype(float)), Shard(X[~first] / 16, y[~first].astype(float))


def first_weights(*widths):
    """He's, drawn as the reference draws them: matrices (inputs, outputs), one after the other, biases 0."""
    rng = np.random.default_rng(0)
    return [part for a, b in pairwise(widths) for part in (rng.standard_normal((a, b)) * np.sqrt(2 / a), np.zeros(b))]


def ours(parts):
    """The same weights in our order: matrices (outputs, inputs)."""
    return np.concatenate([part.T.ravel() for part in parts])


def begun(shards, loss, method, settings, w):
    fleet, made = local_fleet(shards, make_loss(loss), CLASSES, 0.0), make_method(method, settings)
    fleet.adopt(made)
    return fleet, made, made.start(fleet, w)


# -- SISA, ten workers with one label each ----------------------------------------------------------------------------


def gradient(parts, X, y):
    """Of the mean cross-entropy of a perceptron with one hidden layer, written out."""
    W1, b1, W2, b2 = parts
    a = np.maximum(X @ W1 + b1, 0)
    z = a @ W2 + b2
    e = np.exp(z - z.max(1, keepdims=True))
    G = (e / e.sum(1, keepdims=True) - np.eye(10)[y.astype(int)]) / len(y)
    H = (G @ W2.T) * (a > 0)
    return [X.T @ H, H.sum(0), a.T @ G, G.sum(0)]


def recipe(shards, parts, rounds):
    """SISA as (2.9) to (2.14) and scheme III have it, sigma = 1, rho = 100, gamma = 0.997 every 10: all iterates."""
    pi, n = ([[np.zeros_like(part) for part in parts] for _ in shards] for _ in range(2))
    total = sum(shard.rows for shard in shards)
    for l in range(1, rounds + 1):  # noqa: E741
        sigma, step = 0.997 ** -(l // 10), [np.zeros_like(part) for part in parts]
        for i, shard in enumerate(shards):
            for k, g in enumerate(gradient(parts, shard.X, shard.y)):
                r = pi[i][k] + g
                n[i][k] = 0.999 * n[i][k] + 0.001 * r * r
                q = np.sqrt(n[i][k] / (1 - 0.999**l)) + 1e-8
                moved = -r / (sigma + 100 * q)  # w_i - w
                pi[i][k] = pi[i][k] + sigma * moved
                step[k] += shard.rows / total * (moved + pi[i][k] / sigma)
        parts = [part + more for part, more in zip(parts, step)]
        yield parts


def test_sisa_is_the_reference_on_its_weights(rows):
    """90.9 % at 200 rounds, as the reference; from weights of our own 83.4 to 90.9 % (six seeds).

    In rounds 151 to 220 the recipe itself is between 66 and 92 % (twelve draws; in a spike 0 to 24 % of the time, else
    at 88 to 91), and from one draw it has 89.4 % at 200 in float32, 84.9 % in float64.
    """
    train, test = rows
    shards = [Shard(train.X[train.y == label], train.y[train.y == label]) for label in range(10)]
    parts, settings = first_weights(64, 32, 10), {"sigma": 1, "rho": 100, "gamma": 0.997, "every": 10}
    fleet, made, now = begun(shards, "mlp:hidden=32", "sisa", settings, ours(parts))
    for fleet.iteration, wanted in enumerate(recipe(shards, parts, 200), 1):
        now = made.step(fleet, now)
        if fleet.iteration == 100:
            assert now.w == pytest.approx(ours(wanted), rel=1e-6, abs=1e-6)
    right = fleet.problem.loss.on_shard(test, CLASSES).predict(now.w) == test.y
    assert 100 * right.mean() == pytest.approx(90.9, abs=2.5)


def test_fedavg_is_the_reference_on_its_weights(rows):
    """41.3 % with lr = 0.001 after 100 rounds, as the reference; from weights of our own 24 to 43 % (six seeds)."""
    train, test = rows
    shards = [Shard(train.X[train.y == label], train.y[train.y == label]) for label in range(10)]
    w = ours(first_weights(64, 32, 10))
    fleet, made, now = begun(shards, "mlp:hidden=32", "fedavg", {"lr": 0.001}, w)
    for fleet.iteration in range(1, 101):
        now = made.step(fleet, now)
    right = fleet.problem.loss.on_shard(test, CLASSES).predict(now.w) == test.y
    assert 100 * right.mean() == pytest.approx(41.3, abs=2.5)


# -- NSISA at equal epochs: 20 passes in steps of 64 rows, four workers -----------------------------------------------


def cut(worker, batch, sampling):
    """The reference's minibatch: a permutation of all rows an epoch, in slices of 64, of which each worker has 16."""
    epoch, step = divmod(worker.iteration - 1, 22)
    order = np.random.default_rng([0, epoch]).permutation(worker.rows)[64 * step : 64 * step + 64]
    return worker.subset(np.array_split(order, 4)[worker.index])


AS_IN_THE_CODE = {"rho": 100, "dual_leak": 0.25, "schulz": {"other_sigma": 1, "nesterov": True, "moment": "current"}}


@pytest.mark.parametrize("settings", [{}, AS_IN_THE_CODE], ids=["as in the paper", "as in the code"])
def test_nsisa_is_below_1e_4_on_the_reference_s_batches(rows, settings, monkeypatch):
    """The reference has 2e-5 and less; on fixed shards of 350 rows the loss ends at 2e-4 to 2e-3."""
    monkeypatch.setattr(pisa, "minibatch", cut)
    settings = {"sigma": 80, "gamma": 1.0, "schulz": {"other_sigma": 1}, "batch": 16} | settings
    settings["decay"] = {"kind": "linear", "total": 440, "hold": 0.7}
    w = ours(first_weights(64, 64, 64, 64, 10))
    fleet, made, now = begun([rows[0]] * 4, "mlp:hidden=64-64-64", "nsisa", settings, w)
    for fleet.iteration in range(1, 441):
        now = made.step(fleet, now)
    assert fleet.mean(evaluate, now.w)[0] < 1e-4
