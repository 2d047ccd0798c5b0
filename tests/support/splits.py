"""a2a, a7a, a9a and w8a as the NEWTON-LEARN figures split them: blocks in file order, surplus rows dropped."""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods import Method
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SPLITS = {"a2a": (15, 151, 123), "a7a": (100, 161, 123), "a9a": (80, 407, 123), "w8a": (142, 350, 300)}


@cache
def split(name: str, dense: bool) -> list[Shard]:
    """Rows of a worker one block after another; surplus rows are dropped."""
    n, m, d = SPLITS[name]
    with lzma.open(SHARED / f"{name}.xz") as file:
        X, y = load_svmlight_file(file, n_features=d)
    X = X.toarray() if dense else sparse.csr_array(X)
    return [Shard(X[i * m : (i + 1) * m], y[i * m : (i + 1) * m]) for i in range(n)]


def placed(name: str, l2: float, method: Method, seed: int = 0, dense: bool = False) -> LocalFleet:
    """The workers of a split, with the method."""
    fleet = local_fleet(split(name, dense), make_loss("logistic"), (-1.0, 1.0), l2, seed=seed)
    method.validate(fleet.problem)
    fleet.adopt(method)
    return fleet


@cache
def optimum(name: str, l2: float) -> tuple[Array, float]:
    """w* and P*."""
    method = make_method("newton", {})
    ended = run(method, placed(name, l2, method), np.zeros(SPLITS[name][2]), [Iterations(12)])
    return ended.state.w, ended.row.loss
