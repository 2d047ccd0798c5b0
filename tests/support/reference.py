"""The problems of the reference figures: digits from scikit-learn, the larger sets from beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mpinewton.arrays import Array, Matrix
from mpinewton.data.columns import Schema
from mpinewton.data.loading import load_rows
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.runs.history import Row
from mpinewton.runs.loop import Evaluation, Outcome, run

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the checkout"),
]
ALL_AT_ONCE = {"search": {"first": 53}}  # as the papers count: every loss of the grid in the one reduce
LBFGS = {"trial": "search", "preconditioner": "none"}  # of the reference: a search in every iteration


class Split(NamedTuple):
    """Rows as they lie on the workers, and what is made of them."""

    shards: list[Shard]
    loss: str
    classes: tuple[float, ...] | None
    l2: float
    optimum: float = np.nan


def dealt(X: Matrix, y: Array, workers: int) -> list[Shard]:
    """Row j on worker j mod m."""
    return [Shard(X[i::workers], y[i::workers]) for i in range(workers)]


def blocks(X: Matrix, y: Array, sizes: list[int]) -> list[Shard]:
    ends = np.cumsum(sizes)
    return [Shard(X[end - size : end], y[end - size : end]) for size, end in zip(sizes, ends)]


def shuffled(rows: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(rows)


def digits(workers: int) -> Split:
    """Softmax on the digits, features over 16, round robin."""
    X, y = load_digits(return_X_y=True)
    return Split(
        dealt(X / 16, y.astype(float), workers), "softmax", tuple(map(float, range(10))), 1 / 1797, 0.2022856202387
    )


def squares(workers: int = 50, scale: float = 1.0) -> Split:
    """Nonlinear least squares on the digits, labels as numbers: not convex, fewer rows than features."""
    X, y = load_digits(return_X_y=True)
    return Split(dealt(X / 16, y * scale, workers), "softplus", None, 0.0)


LOGISTIC = {"ijcnn1": (22, 0.1881201046), "w8a": (300, 0.1261806865), "a9a": (123, 0.3233795825)}


def logistic(name: str, permuted: bool = True) -> Split:
    """Logistic loss on 100 workers, round robin."""
    features, optimum = LOGISTIC[name]
    whole, _ = load_rows(str(SHARED / f"{name}.xz"), Schema(features))
    order = shuffled(whole.rows) if permuted else np.arange(whole.rows)
    shards = dealt(whole.X[order], whole.y[order], 100)
    return Split(shards, "logistic", (-1.0, 1.0), 1 / whole.rows, optimum)


def recorded(
    name: str, settings: dict, split: Split, stops: list, start: Array | None = None
) -> tuple[Outcome, list[Row], LocalFleet]:
    """How a run from zero ended, its rows, and the fleet."""
    method, rows = make_method(name, settings), []
    fleet = local_fleet(split.shards, make_loss(split.loss), split.classes, split.l2)
    fleet.adopt(method)
    watch = [lambda row, _: rows.append(row)]
    w = np.zeros(fleet.dim) if start is None else start
    ended = run(method, fleet, w, stops, evaluation=Evaluation(split.optimum), watchers=watch)
    return ended, rows, fleet


def rounds_to(rows: list[Row], gap: float) -> int | None:
    """Rounds to the first iterate that is so close to the optimum."""
    return next((row.rounds for row in rows if row.gap <= gap), None)


def loss_at(rows: list[Row], rounds: int) -> float:
    """Objective at the last iterate within so many rounds."""
    return [row.loss for row in rows if row.rounds <= rounds][-1]
