"""The multilayer perceptron: a slow one written here, differences, and what a loss that is not linear must do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse
from scipy.special import log_softmax

from mpinewton.api import minimize
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

CLASSES = (2.0, 3.0, 7.0)
TEXTS = ["mlp:hidden=4,activation=tanh", "mlp:hidden=5-4,activation=tanh", "mlp:hidden=5-4-3,activation=relu"]


def shard_of(n=30, storage="dense", weighted=False, dtype=np.float64):
    rng = np.random.default_rng(4)
    X = (rng.standard_normal((n, 6)) * (rng.random((n, 6)) < 0.7)).astype(dtype)
    weight = rng.uniform(0.1, 3.0, n) if weighted else None
    return Shard(sparse.csr_array(X) if storage == "csr" else X, rng.choice(CLASSES, n), weight)


def slow(text, w, shard):
    """The mean loss, one row at a time."""
    loss = make_loss(text)
    act = np.tanh if loss.activation == "tanh" else lambda z: z * (z > 0)
    widths = [6, *map(int, loss.hidden.split("-")), 3]
    X = shard.X.toarray() if sparse.issparse(shard.X) else shard.X
    total, mass = 0.0, np.ones(len(X)) if shard.sample_weight is None else shard.sample_weight
    for x, y, m in zip(X, shard.y, mass):
        first, a = 0, x.astype(float)
        for k, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            W = w[first : first + inputs * outputs].reshape(outputs, inputs)
            first += inputs * outputs
            z = W @ a + w[first : first + outputs]
            first += outputs
            a = act(z) if k < len(widths) - 2 else z
        total -= m * log_softmax(a)[CLASSES.index(y)]
    assert first == len(w)
    return total / mass.sum()


def model_of(text, **kwargs):
    loss, shard = make_loss(text), shard_of(**kwargs)
    model = loss.on_shard(shard, CLASSES)
    rng = np.random.default_rng(9)
    w = loss.initial_weights(6, CLASSES, 3) + 0.1 * rng.standard_normal(
        model.dim
    )  # no pre-activation at the kink of a relu
    return model, shard, w, rng.standard_normal(model.dim)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("storage", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_value_and_derivatives(text, weighted, storage, dtype):
    model, shard, w, v = model_of(text, weighted=weighted, storage=storage, dtype=dtype)
    there, step = model.at(w), 1e-6
    ahead, behind = model.at(w + step * v), model.at(w - step * v)
    assert there.value() == pytest.approx(slow(text, w, shard), rel=1e-13)
    assert there.gradient() @ v == pytest.approx((ahead.value() - behind.value()) / (2 * step), rel=1e-7)
    bent = (ahead.gradient() - behind.gradient()) / (2 * step)
    np.testing.assert_allclose(there.hvp(v), bent, rtol=0, atol=1e-7 * np.abs(bent).max())


@pytest.mark.parametrize("text", TEXTS)
def test_hessian_products_are_symmetric_and_linear(text):
    model, _, w, v = model_of(text, weighted=True)
    u, there = np.random.default_rng(5).standard_normal(model.dim), model.at(w)
    Hu, Hv = there.hvp(u), there.hvp(v)
    assert u @ Hv == pytest.approx(v @ Hu, rel=1e-11)
    np.testing.assert_allclose(there.hvp(2 * u - v), 2 * Hu - Hv, atol=1e-13)


def test_the_start_depends_on_the_seed_alone_and_is_he():
    loss = make_loss("mlp:hidden=400-300")
    w, shapes = loss.initial_weights(200, CLASSES, 1), loss.shapes(200, CLASSES)
    np.testing.assert_array_equal(w, loss.initial_weights(200, CLASSES, 1))
    assert not np.array_equal(w, loss.initial_weights(200, CLASSES, 2))
    parts = np.split(w, np.cumsum([shape.size for shape in shapes])[:-1])
    for shape, part in zip(shapes, parts):
        if shape.name.startswith("b"):
            assert not part.any()
        else:
            assert part.std() == pytest.approx(np.sqrt(2 / shape.sizes[1]), rel=0.05)
    assert [(s.name, s.sizes, s.hidden) for s in shapes] == [
        ("W1", (400, 200), True), ("b1", (400,), False), ("W2", (300, 400), True), ("b2", (300,), False),
        ("W3", (3, 300), False), ("b3", (3,), False),
    ]  # fmt: skip


def test_biases_and_intercept_are_not_regularised():
    loss = make_loss("mlp:hidden=2")
    free = ~loss.l2_mask(3, CLASSES, True)
    W1 = np.array([[False, False, True]] * 2)
    np.testing.assert_array_equal(free, [*W1.ravel(), True, True, *[False] * 6, True, True, True])
    assert loss.l2_mask(3, CLASSES, False).sum() == 12
    fleet = local_fleet([shard_of()], loss, CLASSES, 0.5)
    np.testing.assert_array_equal(fleet.problem.l2_vector, 0.5 * loss.l2_mask(6, CLASSES, False))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("mlp:hidden=64-", "expected widths of layers"),
        ("mlp:hidden=0", "expected widths of layers"),
        ("mlp:hidden=a", "expected widths of layers"),
        ("mlp:activation=sine", "expected one of relu, tanh"),
        ("mlp:width=3", "no setting 'width'"),
    ],
)
def test_settings_that_are_refused(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_loss(text)


def test_who_names_no_start_gets_the_loss_s_own():
    X, y = np.eye(6), np.array([0.0, 1.0, 2.0] * 2)
    found = minimize("lbfgs", (X, y), loss="mlp:hidden=4", max_iterations=0, seed=3)
    np.testing.assert_array_equal(found.x, make_loss("mlp:hidden=4").initial_weights(6, (0.0, 1.0, 2.0), 3))
    assert not minimize("lbfgs", (X, y), loss="softmax", max_iterations=0, seed=3).x.any()


def test_labels_must_be_classes():
    with pytest.raises(DataError, match="mlp: expected class labels; found real numbers"):
        make_loss("mlp").on_shard(Shard(np.ones((1, 2)), np.array([0.5])), None)


@pytest.mark.parametrize(("method", "sentence"), [("newton", "mlp does not provide"), ("pisa", "set sigma")])
def test_methods_that_cannot_train_it_say_so(method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_method(method, {}).validate_loss(make_loss("mlp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [("dino", {}), ("giant", {"negative": "abs"}), ("lbfgs", {}), ("gradient-descent", {})],
)
def test_second_order_methods_train_it(method, settings):
    shard = shard_of(60)
    shards = [Shard(shard.X[i::3], shard.y[i::3]) for i in range(3)]
    fleet = local_fleet(shards, make_loss("mlp:hidden=6,activation=tanh"), CLASSES, 1e-3)
    made, losses = make_method(method, settings), []
    fleet.adopt(made)
    begun = fleet.problem.initial_weights()
    run(made, fleet, begun, [Iterations(25)], watchers=[lambda row, _: losses.append(row.loss)])
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.95 * losses[0]  # labels drawn at random: there is not much to learn
