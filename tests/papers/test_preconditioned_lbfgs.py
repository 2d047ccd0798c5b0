"""`preconditioned-lbfgs`: rounds within 1.5 times the best method of every problem that the reference has figures of.

The best are of all methods and settings of the reference, gap by gap: no single method has all these numbers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from reference import blocks, digits, logistic, loss_at, needs_shared, recorded, rounds_to, shuffled, squares
from sklearn.datasets import load_digits

from mpinewton.runs.stopping import GapBelow, GradientBelow, Iterations, Rounds

GAPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
RELATIVE = (0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6, 1e-8)


def by_label():
    """Rows sorted by label: about two classes a shard."""
    X, y = load_digits(return_X_y=True)
    order = shuffled(1797)
    order = order[np.argsort(y[order], kind="stable")]
    shards = blocks(X[order] / 16, y[order].astype(float), [360, 360, 359, 359, 359])
    return digits(5)._replace(shards=shards)


@pytest.mark.parametrize(
    ("split", "best"),
    [(lambda: digits(5), (8, 14, 18, 22, 30, 38)), (by_label, (26, 66, 110, 118, 160, 220))],
    ids=["round-robin", "by-label"],
)
def test_softmax(split, best):
    ended, rows, _ = recorded("preconditioned-lbfgs", {}, split(), [GapBelow(1e-8), Rounds(400)])
    assert ended.converged
    for gap, rounds in zip(GAPS, best):
        assert rounds_to(rows, gap) <= 1.5 * rounds, gap


@pytest.mark.parametrize(
    ("data", "permuted", "best"),
    [
        ("ijcnn1", True, (2, 2, 4, 10, 16, 28, 34)),
        ("w8a", True, (26, 42, 58, 90, 122, 186, 218)),
        ("a9a", True, (2, 2, 8, 28, 64, 336, 336)),
        ("ijcnn1", False, (22, 34, 38, 46, 58, 74, 90)),
    ],
)
@pytest.mark.parametrize("_", [pytest.param(None, marks=needs_shared, id="shared")])
def test_logistic(data, permuted, best, _):
    split = logistic(data, permuted)
    ended, rows, _ = recorded("preconditioned-lbfgs", {}, split, [GapBelow(1e-8 * split.optimum), Rounds(400)])
    assert ended.converged
    for gap, rounds in zip(RELATIVE, best):
        assert rounds_to(rows, gap * split.optimum) <= 1.5 * rounds, gap


@pytest.mark.parametrize(
    ("scale", "start", "best"),
    [
        (1.0, None, {60: 3.357}),
        (1.0, "random", {60: 3.357, 120: 3.344}),
        (0.3, None, {60: 0.3023, 120: 0.3009}),
    ],
)
def test_nonlinear_least_squares(scale, start, best):
    w = np.random.default_rng(1).standard_normal(64) if start else None
    _, rows, _ = recorded("preconditioned-lbfgs", {}, squares(scale=scale), [Rounds(3 * max(best) // 2)], w)
    losses = [row.loss for row in rows]
    assert all(after <= before for before, after in pairwise(losses))
    for rounds, loss in best.items():
        assert loss_at(rows, int(1.5 * rounds)) <= loss


def test_the_history_says_which_phase_made_the_rounds():
    _, rows, _ = recorded("preconditioned-lbfgs", {}, by_label(), [Rounds(40)])
    assert [row.note for row in rows[1:5]] == ["models", "models", "Hessians", "Hessians"]
    assert {row.note for row in rows[5:]} == {"pairs"}
    spent = np.diff([row.rounds for row in rows])
    assert list(spent[:2]) == [2, 2]
    assert min(spent[4:]) == 2


def test_needs_nothing_but_the_tolerance():
    ended, _, _ = recorded("preconditioned-lbfgs", {}, digits(5), [GradientBelow(1e-10), Iterations(100)])
    assert ended.converged
