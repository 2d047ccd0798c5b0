"""SGD with momentum, Adam, AdamW and Muon against their formulae on the whole gradient."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import on_many, states

from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet.local import local_fleet
from mpinewton.linalg.orthogonal import newton_schulz
from mpinewton.losses import make_loss
from mpinewton.methods.optimisers import Adam, AdamW, Muon, Sgdm
from mpinewton.methods.support.schedules import Decay
from mpinewton.testing.problems import ZOO

NAMES = ["squared-dense", "logistic-csr", "softmax-csr"]
HALVED = Decay(kind="step", length=4)


def iterates(method, fleet, w, count=10):
    """The first iterates, shape (count + 1, d)."""
    return np.array([state.w for state in states(method, fleet, w, count)])


@pytest.mark.parametrize("name", NAMES)
def test_sgdm(name):
    problem, w, a = ZOO[name], [ZOO[name].start], 0
    for step in range(10):
        a = 0.8 * a + problem.objective(w[-1])[1]
        w.append(w[-1] - 0.05 * 0.5 ** (step // 4) * a)
    method = Sgdm(learning_rate=0.05, momentum=0.8, decay=HALVED)
    np.testing.assert_allclose(iterates(method, on_many(problem), problem.start), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_and_adamw(name, decay):
    problem, w, m, v = ZOO[name], [ZOO[name].start], 0, 0
    for step in range(1, 11):
        g, lr = problem.objective(w[-1])[1], 0.02 * 0.5 ** ((step - 1) // 4)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        p = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
        w.append(w[-1] - lr * decay * w[-1] - lr * p)
    settings = {"learning_rate": 0.02, "beta2": 0.99, "decay": HALVED}
    method = AdamW(weight_decay=decay, **settings) if decay else Adam(**settings)
    np.testing.assert_allclose(iterates(method, on_many(problem), problem.start), w, rtol=0, atol=1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_moves_hidden_matrices_by_newton_schulz_and_the_rest_by_adam(nesterov):
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((40, 5)), rng.integers(3, size=40).astype(float)
    loss, classes = make_loss("mlp:hidden=7,activation=tanh"), (0.0, 1.0, 2.0)
    shards = [Shard(X[:25], y[:25]), Shard(X[:0], y[:0]), Shard(X[25:], y[25:])]
    fleet, whole = local_fleet(shards, loss, classes, 0.0), loss.on_shard(Shard(X, y), classes)
    w = fleet.problem.initial_weights()
    found = iterates(Muon(nesterov=nesterov), fleet, w, 5)
    adam, b, m, v = w, np.zeros((7, 5)), 0, 0
    for step in range(1, 6):
        g = whole.at(w).gradient()
        G = g[:35].reshape(7, 5)
        b = 0.95 * b + G
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = w - 0.003 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        W = w[:35].reshape(7, 5) - 0.02 * newton_schulz(G + 0.95 * b if nesterov else b) * np.sqrt(7 / 5)
        w = np.concatenate([W.ravel(), adam[35:]])
        np.testing.assert_allclose(found[step], w, rtol=0, atol=1e-9)


def test_muon_refuses_a_model_without_hidden_matrices():
    with pytest.raises(ConfigError, match="squared has none; use adam"):
        Muon().validate(on_many(ZOO["squared-dense"]).problem)
