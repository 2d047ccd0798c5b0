"""Networks on scikit-learn's digits: label skew (Table 2's design) and equal epochs, NSISA's wrong point.

The figures are an independent implementation's, its weights drawn by another generator. Tolerances: test accuracy 2.5
points; final losses at most 3 times as large, or below 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mpinewton.data.partition import partition
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import Loss, make_loss
from mpinewton.losses.loss import PointRay, Shape
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import evaluate

CLASSES = tuple(float(label) for label in range(10))


@cache
def rows() -> tuple[Shard, Shard]:
    """The first 140 of each class in file order, and the other 397."""
    X, y = load_digits(return_X_y=True)
    number = np.array([(y[:row] == label).sum() for row, label in enumerate(y)])
    first = number < 140
    return tuple(Shard(X[part] / 16, y[part].astype(float)) for part in (first, ~first))


def trained(
    owned: list[np.ndarray], hidden: str, method: str, settings: dict[str, Any], rounds: int
) -> tuple[float, float, float]:
    """Loss and accuracy (%) on the other rows in the end, and the mean loss at rounds 90, 100 and 110."""
    train, test = rows()
    shards = [Shard(train.X[part], train.y[part]) for part in owned]
    fleet, made = local_fleet(shards, make_loss(f"mlp:hidden={hidden}"), CLASSES, 0.0), make_method(method, settings)
    fleet.adopt(made)
    now, early = made.start(fleet, fleet.problem.initial_weights()), []
    for fleet.iteration in range(1, rounds + 1):
        now = made.step(fleet, now)
        assert not now.trouble, now.trouble
        if fleet.iteration in (90, 100, 110):
            early.append(fleet.mean(evaluate, now.w)[0])
    right = fleet.problem.loss.on_shard(test, CLASSES).predict(now.w) == test.y
    return fleet.mean(evaluate, now.w)[0], 100 * right.mean(), float(np.mean(early)) if early else np.nan


def test_rows():
    train, test = rows()
    assert (train.rows, test.rows) == (1400, 397)


# -- label skew: ten workers with 1, 2 or 3 labels each, 100 rounds ---------------------------------------------------

SISA = {"sigma": 1, "rho": 100, "gamma": 0.997, "every": 10}
SKEW = {
    (1, "sisa"): (SISA, 89.7),
    (1, "sgdm"): ({"lr": 0.1}, 90.7),
    (1, "adam"): ({"lr": 0.01}, 89.7),
    (1, "fedavg"): ({"lr": 0.1}, 89.2),
    (1, "fedprox"): ({"lr": 0.1, "mu": 0.01}, 89.2),
    (1, "fednova"): ({"lr": 0.1}, 89.2),
    (1, "scaffold"): ({"lr": 0.1}, 89.4),
    (2, "sisa"): (SISA, 90.9),
    (2, "sgdm"): ({"lr": 0.1}, 90.7),
    (2, "fedavg"): ({"lr": 0.1}, 90.9),
    (2, "fednova"): ({"lr": 0.1}, 90.9),
    (3, "sisa"): (SISA, 90.9),
    (3, "fedprox"): ({"lr": 0.1, "mu": 0.01}, 90.9),
    (3, "fednova"): ({"lr": 0.1}, 91.7),
    (3, "scaffold"): ({"lr": 0.1}, 89.7),
}


def skewed(labels: int) -> list[np.ndarray]:
    return partition(rows()[0].y, 10, f"label-skew:{labels}", 0)


@pytest.mark.parametrize(("labels", "method"), SKEW)
def test_label_skew(labels, method):
    settings, wanted = SKEW[labels, method]
    assert trained(skewed(labels), "32", method, settings, 100)[1] == pytest.approx(wanted, abs=2.5)


def test_a_small_lr_is_what_fedavg_fails_by():
    """Its accuracy then is a matter of the first weights, 24 to 43 % for six seeds; the reference has 41.3."""
    assert trained(skewed(1), "32", "fedavg", {"lr": 0.001}, 100)[1] < 50


# -- equal epochs: four workers, batches of 16, 440 steps -------------------------------------------------------------

COMMON = {"batch": 16, "sampling": "epochs", "decay": {"kind": "linear", "total": 440, "hold": 0.7}}
STEADY = {"gamma": 1.0, **COMMON}
EPOCHS = {
    "adam": ({"lr": 0.01, **COMMON}, 3 * 9.9e-4, 92.2),
    "sgdm": ({"lr": 0.1, **COMMON}, 3 * 1.4e-3, 93.2),
    "muon": ({"lr": 0.02, "other_lr": 0.003, **COMMON}, 1e-4, 94.2),
    "sisa": ({"sigma": 1, "rho": 1000, **STEADY}, 3 * 5.4e-4, 91.9),
    "nsisa": ({"sigma": 20, "schulz": {"other_sigma": 1}, **STEADY}, 1e-4, 92.9),
}


def test_equal_epochs():
    owned, early = partition(rows()[0].y, 4, "iid", 0), {}
    for method, (settings, most, accuracy) in EPOCHS.items():
        loss, right, early[method] = trained(owned, "64-64-64", method, settings, 440)
        assert loss < most, method
        assert right == pytest.approx(accuracy, abs=2.5), method
    assert early["nsisa"] < 0.7 * early["adam"]


def test_nsisa_settles_at_a_wrong_point_on_sorted_shards():
    """Its loss there is 8.8e-2, where SISA's is 2.0e-3 and its own on shards that resemble one another below 1e-5."""
    owned = np.array_split(np.argsort(rows()[0].y, kind="stable"), 4)
    nsisa, sisa = (
        trained(owned, "64-64-64", method, {**settings, **STEADY}, 440)[0]
        for method, settings in (("nsisa", EPOCHS["nsisa"][0]), ("sisa", {"sigma": 1, "rho": 100}))
    )
    assert 8.8e-2 / 3 < nsisa < 3 * 8.8e-2
    assert sisa < 3 * 2.0e-3


@dataclass(frozen=True)
class Nearest(Loss):
    """c/2 |W - A|^2 for a matrix W, A and c from the shard: to be seen without noise."""

    name: ClassVar[str] = "nearest"
    convex: ClassVar[bool] = True
    provides: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def shapes(self, features, classes):
        return (Shape("W", (8, 8), hidden=True),)

    def l2_mask(self, features, classes, intercept):
        return np.ones(64, dtype=bool)

    def on_shard(self, shard, classes):
        return NearestModel(shard)


class NearestModel:
    size = 64

    def __init__(self, shard):
        self.A, self.c = shard.X.ravel(), shard.y[0]

    def at(self, w, **kept):
        return NearestPoint(self, w)


class NearestPoint:
    def __init__(self, model, w):
        self.model, self.w = model, w

    def value(self):
        return 0.5 * self.model.c * float((self.w - self.model.A) @ (self.w - self.model.A))

    def gradient(self):
        return self.model.c * (self.w - self.model.A)

    def along(self, p):
        return PointRay(self.model, self.w, p)

    def kept(self):
        return {}


def test_nsisa_forgets_how_large_a_gradient_is():
    """Three workers, A_i normal, c = 1, 1, 10, gamma = 0.995: SISA is there after 200 rounds, NSISA never will be."""
    rng, c = np.random.default_rng(0), (1.0, 1.0, 10.0)
    A = [rng.standard_normal((8, 8)) for _ in c]
    best = sum(weight * a for weight, a in zip(c, A)) / sum(c)
    shards = [Shard(a, np.full(8, weight)) for a, weight in zip(A, c)]

    def gap(w):
        return sum(weight * np.sum((w - a) ** 2 - (best - a) ** 2) / 6 for weight, a in zip(c, A))

    gaps = {}
    for method, settings, rounds in (
        ("sisa", {"rho": 1}, 200),
        ("nsisa", {"rho": 1, "schulz": {"mu": 0.9, "other_sigma": 1}}, 1000),
    ):
        fleet, made = (
            local_fleet(shards, Nearest(), None, 0.0),
            make_method(method, {"sigma": 20, "gamma": 0.995} | settings),
        )
        fleet.adopt(made)
        now = made.start(fleet, np.zeros(64))
        for fleet.iteration in range(1, rounds + 1):
            now = made.step(fleet, now)
            gaps[method, fleet.iteration] = gap(now.w.reshape(8, 8))
    assert gap(np.zeros((8, 8))) == pytest.approx(82.8, rel=1e-3)
    assert gaps["sisa", 50] == pytest.approx(6e-6, rel=0.1)  # printed to one digit
    assert gaps["sisa", 100] == pytest.approx(2e-11, rel=0.25)
    assert abs(gaps["sisa", 200]) < 1e-13
    assert 55 < gaps["nsisa", 1000] < 65  # the reference: 59.6 at 2000, with exact polar factors
