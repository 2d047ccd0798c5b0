"""A shard of few dense rows works in the span of its rows: where it leads is the same, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import iterates
from reference import Split, squares

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.linalg import rows, span
from mpinewton.linalg.krylov import lanczos
from mpinewton.linalg.rows import Rows
from mpinewton.losses import make_loss
from mpinewton.methods.dingo import Dingo
from mpinewton.methods.dino import Dino
from mpinewton.methods.giant import Giant
from mpinewton.methods.support.inner import krylov

METHODS = {
    "giant": Giant(negative="abs"),
    # With phi = 1e-6 and no ridge, 1/phi^2 times the rounding of what is outside the span would be compared.
    "dino": Dino(solver="lanczos", theta=0.1, phi=0.1),
    "dino-adaptive": Dino(solver="lanczos", adaptive=True),
    "dingo": Dingo(phi=0.1),
}
NEVER = 10**9


def few_rows(loss: str) -> Split:
    """Unequal shards of 0 to 8 rows with 40 features and weights, two rows equal, a column of zeros."""
    rng = np.random.default_rng(3)
    shards = []
    for n in (8, 0, 3, 5):
        X = rng.standard_normal((n, 40)) / 4
        X[:, 7], X[:2] = 0, X[:1]
        y = np.sign(rng.standard_normal(n)) if loss == "logistic" else rng.uniform(0, 3, n)
        shards.append(Shard(X, y, rng.uniform(0.5, 2, n)))
    return Split(shards, loss, (-1.0, 1.0) if loss == "logistic" else None, 0.05)


def fleet_of(split: Split, intercept: bool = False) -> LocalFleet:
    return local_fleet(split.shards, make_loss(split.loss), split.classes, split.l2, intercept=intercept)


# Not DINGO without a ridge: on which side of its cutoff a singular value of 0 falls is rounding.
CASES = [(p, m) for p in ("digits", "softplus", "logistic") for m in METHODS if (p, m) != ("digits", "dingo")]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "name"), CASES)
def test_iterates_are_those_of_products_with_all_features(name, problem, monkeypatch):
    split = squares() if problem == "digits" else few_rows(problem)
    found = {}
    for few in (1, NEVER):
        monkeypatch.setattr(rows, "FEW", few)
        fleet = fleet_of(split)
        found[few] = iterates(METHODS[name], fleet, np.zeros(fleet.dim), 5)
        used = [worker.model.rows.span is not None for worker in fleet.host.workers if worker.rows]
        assert all(used) if few == 1 else not any(used)
    np.testing.assert_allclose(found[1], found[NEVER], atol=1e-9 * max(1.0, np.abs(found[1]).max()))


@pytest.mark.parametrize("inside", [False, True], ids=["b anywhere", "b in the span"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solutions_are_those_of_dense_algebra(inside, ridge):
    rng = np.random.default_rng(0)
    X, h = rng.standard_normal((6, 40)).astype(np.float32), np.array([1.0, -2.0, 0.5, 0.0, 3.0, -0.1])
    b = X.astype(float).T @ rng.standard_normal(6) if inside else rng.standard_normal(40)
    H = X.astype(float).T * h @ X.astype(float) + ridge * np.eye(40)
    coordinates = Rows(X).span
    assert coordinates is not None
    found = coordinates.lanczos(h, ridge, b, 50)
    np.testing.assert_allclose(found.solve_damped(0.7), np.linalg.solve(H @ H + 0.49 * np.eye(40), H @ b), atol=1e-12)
    np.testing.assert_allclose(found.solve_squared(0.7), np.linalg.solve(H @ H + 0.49 * np.eye(40), b), atol=1e-12)
    plain = lanczos(lambda v: H @ v, b, 50)
    np.testing.assert_allclose(found.solve_absolute(0.01), plain.solve_absolute(0.01), atol=1e-10)


def test_an_intercept_many_rows_and_sparse_rows_go_without(monkeypatch):
    monkeypatch.setattr(span.Span, "lanczos", lambda *_: pytest.fail("the span was used"))
    worker = fleet_of(few_rows("logistic"), intercept=True).host.workers[0]
    worker.move_to(np.zeros(41))
    H = worker.hessian()
    np.testing.assert_allclose(
        H @ krylov(worker, worker.gradient(), 50).solve_damped(1e-9), worker.gradient(), atol=1e-6
    )
    assert Rows(np.ones((9, 40))).span is None
    assert Rows(np.ones((0, 40))).span is None
