"""The compiled loops over rows against their twins in numpy and scipy, in one process on one thread.

    python benchmarks/kernels.py

Both take turns; a figure is the smallest processor time of the turns. The rows are random, those named a9a and w8a with
as many features and entries, all 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402

from mpinewton import kernels  # noqa: E402
from mpinewton.data.shard import Shard  # noqa: E402
from mpinewton.kernels import twins  # noqa: E402
from mpinewton.losses import make_loss  # noqa: E402
from mpinewton.losses.formula import RowFormula  # noqa: E402
from mpinewton.losses.linear import LinearModel, LinearPoint  # noqa: E402

TURNS = 15
SHAPES = {"a9a": (32_561, 123, 14), "w8a": (49_749, 300, 12), "dense": (60_000, 100, 0)}  # rows, features, entries
STEPS = 2.0 ** -np.arange(8.0)


def main() -> None:
    """Print the table."""
    if kernels.NAME == "numpy":
        sys.exit("this installation has no compiled kernels")
    print(f"compiled loops ({kernels.LEVEL}) and numpy's: ms, and their ratio")
    for rows in SHAPES:
        for loss, classes in (("logistic", 2), ("softmax", 10)):
            models = models_of(rows, loss, classes)
            for task, run in tasks(models[0].dim).items():
                if not (task.endswith("Hessian") and loss == "softmax"):
                    fast, slow = times(run, models)
                    print(f"{rows:6} {loss:9} {task:24} {fast:9.3f} {slow:9.3f}  {slow / fast:5.1f}")


def models_of(rows: str, loss: str, classes: int) -> list[LinearModel]:
    """The same loss on the same rows, compiled and not."""
    n, p, entries = SHAPES[rows]
    rng = np.random.default_rng(0)
    X: Any = rng.standard_normal((n, p))
    if entries:
        indices = np.sort(rng.permuted(np.tile(np.arange(p), (n, 1)), axis=1)[:, :entries], axis=1).ravel()
        X = sparse.csr_array((np.ones(n * entries), indices, np.arange(n + 1) * entries), (n, p))
    shard = Shard(X, rng.integers(0, classes, n).astype(float))
    fast, slow = (LinearModel(make_loss(loss), shard, range(classes)) for _ in range(2))
    slow.formula = RowFormula(slow.loss, slow.t, slow.row_weight)
    if entries:
        slow.rows._loaded = [(slice(None), twins.SparseRows(slow.rows.X))]
    return [fast, slow]


def tasks(d: int) -> dict[str, Callable[[LinearModel], object]]:
    """What is timed."""
    rng = np.random.default_rng(1)
    w, v = 0.1 * rng.standard_normal(d), rng.standard_normal(d)
    points: dict[LinearModel, LinearPoint] = {}

    def at(model: LinearModel) -> LinearPoint:
        return points.setdefault(model, model.at(w))

    def derivatives(model: LinearModel) -> object:
        point = model.at(w)
        return point.hessian(), point.gradient(), point.value()

    def line(model: LinearModel) -> object:
        return at(model).along(v).losses(STEPS)

    return {
        "value, gradient": lambda model: model.at(w).gradient(),
        "value, gradient, Hessian": derivatives,
        "Hessian product": lambda model: at(model).hvp(v),
        "8 trial losses": line,
    }


def times(run: Callable[[LinearModel], object], models: list[LinearModel]) -> list[float]:
    """Milliseconds of either model."""
    best = [np.inf, np.inf]
    for _ in range(TURNS):
        for i, model in enumerate(models):
            start = time.thread_time()
            run(model)
            best[i] = min(best[i], 1e3 * (time.thread_time() - start))
    return best


if __name__ == "__main__":
    main()
