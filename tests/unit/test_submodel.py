"""A linear model with some of its weights, against the whole one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mpinewton.data.shard import Shard
from mpinewton.losses import make_loss
from mpinewton.methods.support.submodel import SubModel
from mpinewton.testing.problems import ZOO


def masks(d: int, outputs: int) -> dict[str, np.ndarray]:
    """Weights to keep, (d,) each: regions of all shapes."""
    rng, number = np.random.default_rng(5), np.arange(d)
    return {
        "all": number >= 0,
        "none": number < 0,
        "one": number == d - 2,
        "block": (number > 1) & (number < d - 2),
        "every other": number % 2 == 0,
        "features": (number // outputs) % 3 != 1,
        "an output": number % outputs == outputs - 1,
        "any": rng.random(d) < 0.4,
    }


@pytest.mark.parametrize("kind", masks(6, 1))
@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith(("logistic", "squared", "softmax"))])
def test_gradients_of_kept_weights(name, kind):
    problem = ZOO[name]
    for shard in problem.shards:
        model = problem.loss.on_shard(shard, problem.classes)
        kept = masks(model.dim, model.outputs)[kind]
        w = np.where(kept, problem.start, 0.0)
        some = SubModel(model, kept)
        z = some.logits(w)
        np.testing.assert_allclose(z, model.logits(w), atol=1e-13)
        np.testing.assert_allclose(some.gradient(z), model.at(w).gradient()[kept], atol=1e-14)
        full = model.at(problem.start)
        np.testing.assert_allclose(some.gradient(full.z), full.gradient()[kept], atol=1e-14)


@pytest.mark.parametrize("storage", ["dense", "csr"])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_other_features_are_never_looked_at(storage, loss):
    rng, classes = np.random.default_rng(6), (-1.0, 1.0, 2.0) if loss == "softmax" else (-1.0, 1.0)
    X = rng.standard_normal((20, 6))
    X[:, [0, 3]] = np.nan
    shard = Shard(sparse.csr_array(X) if storage == "csr" else X, rng.choice(classes, 20))
    model = make_loss(loss).on_shard(shard, classes)
    kept = np.repeat([False, True, True, False, True, True], model.outputs)
    some = SubModel(model, kept)
    z = some.logits(np.where(kept, 1.0, 0.0))
    assert np.isfinite(some.gradient(z)).all()
    assert some.work == pytest.approx(4 / 6)


def test_work_is_that_of_the_features_and_outputs_with_a_kept_weight():
    problem = ZOO["softmax-dense"]
    model = problem.loss.on_shard(problem.shards[0], problem.classes)
    number = np.arange(model.dim)
    assert SubModel(model, number % 3 == 1).work == pytest.approx(1 / 3)
    assert SubModel(model, number // 3 < 2).work == pytest.approx(1 / 3)
    assert SubModel(model, number < 4).work == pytest.approx(1 / 3)  # two features, one of them in part
    assert SubModel(model, number < 0).work == 0
    assert SubModel(model, number >= 0).work == 1
