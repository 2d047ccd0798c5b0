"""Columns of very different units, large offsets, and huber with residuals far beyond delta."""

import numpy as np
import pytest
from scipy.optimize import linprog

import mpinewton
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.runs.columns import change_columns
from mpinewton.runs.ends import evaluate

RNG = np.random.default_rng(8)
ROWS = RNG.standard_normal((120, 4))
Z = ROWS @ np.array([1.0, -2.0, 0.5, 0.0])
LABELS = {
    "logistic": (RNG.standard_normal(120) + Z > 0).astype(float),
    "softmax": np.digitize(Z + RNG.standard_normal(120), [-1.0, 1.0]).astype(float),
    "squared": Z + RNG.standard_normal(120),
    "huber": Z + RNG.standard_normal(120),
    "poisson": RNG.poisson(np.exp(Z / 4)).astype(float),
}
OFFSET = np.array([1e9, 0.0, -2010.0, 0.0])
LINE_SEARCH = ["auto", "newton", "newton-cg", "lbfgs", "dino", "giant", "disco", "bfgs", "quantised-bfgs", "fednl-ls"]


def minimum(method, loss, X, y, **more):
    return mpinewton.minimize(method, (X, y), loss=loss, intercept=True, workers=3, **more)


@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("method", ["auto", "newton", "newton-cg", "lbfgs"])
def test_offsets_of_columns_change_nothing_but_rounding(method, loss):
    X = ROWS + OFFSET
    plain = minimum("newton", loss, X - OFFSET, LABELS[loss], l2=0.0)
    moved = minimum(method, loss, X, LABELS[loss], l2=0.0)
    assert moved.kind == "converged"
    assert moved.fun == pytest.approx(plain.fun, rel=1e-10)
    # The weights of the columns as they are: their own predictions, to the rounding of 1e9.
    W, V = (found.x.reshape(5, -1) for found in (moved, plain))
    if loss == "softmax":  # the same number may be added to all logits of a row
        W, V = W - W.mean(axis=1, keepdims=True), V - V.mean(axis=1, keepdims=True)
    assert X @ W[:4] + W[4] == pytest.approx((X - OFFSET) @ V[:4] + V[4], abs=1e-4)


@pytest.mark.parametrize("method", LINE_SEARCH)
def test_units_of_columns_keep_no_method_from_the_minimum(method):
    units = np.array([1e-4, 1.0, 1e3, 1e5])
    best = minimum("newton", "logistic", ROWS, LABELS["logistic"], l2=0.0)
    found = minimum(method, "logistic", ROWS * units, LABELS["logistic"], l2=0.0, max_iterations=200)
    assert found.kind == "converged"
    assert found.fun == pytest.approx(best.fun, rel=1e-9)
    assert found.x == pytest.approx(best.x / np.append(units, 1.0), rel=1e-4)


@pytest.mark.parametrize("loss", ["squared", "huber"])
@pytest.mark.parametrize("method", ["newton", "newton-cg", "lbfgs", "disco"])
def test_labels_far_from_0(method, loss):
    best = minimum("newton", loss, ROWS, LABELS[loss])
    far = 2.0**30 + np.round(LABELS[loss] * 2**20) / 2**20
    found = minimum(method, loss, ROWS, far)
    assert found.kind == "converged"
    assert found.fun == pytest.approx(best.fun, rel=1e-5)
    assert found.x[-1] == pytest.approx(2.0**30 + best.x[-1], rel=1e-12)


@pytest.mark.parametrize("loss", LABELS)
def test_the_objective_is_the_same_function(loss):
    """f and its gradient at w, of a fleet in other variables, are those of the fleet as it is."""
    y, known = LABELS[loss], tuple(np.unique(LABELS[loss])) if make_loss(loss).classifies else None
    shards = [Shard((ROWS * [1e-3, 1, 1, 1e3] + OFFSET)[part], y[part]) for part in np.split(np.arange(120), 3)]
    one, other = (local_fleet(shards, make_loss(loss), known, 0.1, True) for _ in range(2))
    columns = change_columns(other, make_method("newton", {}))
    assert columns.shift is not None
    w = RNG.standard_normal(one.dim) / 1e3
    w[: -one.dim // 5] /= np.repeat([1e9, 1.0, 2e3, 1e3], one.dim // 5)
    assert columns.outside(columns.inside(w)) == pytest.approx(w, rel=1e-9)
    (f, g), (h, s) = one.mean(evaluate, w), other.mean(evaluate, columns.inside(w))
    assert h == pytest.approx(f, rel=1e-6)
    assert columns.gradient(s) == pytest.approx(g, rel=1e-5, abs=1e-6 * np.abs(g).max())
    assert change_columns(one, make_method("gradient-descent", {})).shift is None


def test_columns_that_are_alike_are_left_alone():
    shards = [Shard(ROWS + 1.0, LABELS["squared"])]
    fleet = local_fleet(shards, make_loss("squared"), None, 0.1, True)
    assert change_columns(fleet, make_method("newton", {})).shift is None
    assert fleet.ledger.rounds == 0


@pytest.mark.parametrize("method", ["auto", "newton", "newton-cg"])
def test_huber_far_beyond_delta_is_the_least_sum_of_absolute_residuals(method):
    y = 2e5 + 1e5 * LABELS["huber"]
    found = minimum(method, "huber:delta=1.0", ROWS, y, l2=0.0)
    A = np.column_stack([ROWS, np.ones(120)])
    sums = np.append(np.zeros(5), np.full(240, 1 / 120))
    bounds = [(None, None)] * 5 + [(0, None)] * 240
    absolute = linprog(sums, A_eq=np.hstack([A, np.eye(120), -np.eye(120)]), b_eq=y, bounds=bounds).fun
    assert found.kind == "converged"
    assert absolute - 0.5 <= found.fun <= absolute  # |r| - delta / 2 is below huber, and that below |r|
