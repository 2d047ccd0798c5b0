"""The two-loop recursion against the BFGS matrix, formed; and the preconditioner of L-BFGS."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import mpinewton
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.methods.lbfgs import log_cosine


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("given", [True, False])
def test_the_recursion_is_the_product_with_the_bfgs_matrix(count, given):
    rng = np.random.default_rng(count)
    A = rng.standard_normal((6, 6))
    H, M, g = A @ A.T + np.eye(6), np.diag(rng.uniform(0.5, 2.0, 6)), rng.standard_normal(6)
    S = rng.standard_normal((count, 6))
    Y = S @ H
    B = M if given else np.eye(6) * (S[-1] @ Y[-1]) / (Y[-1] @ Y[-1])
    S, Y = tuple(S), tuple(Y)
    for s, y in zip(S, Y):
        V = np.eye(6) - np.outer(s, y) / (s @ y)
        B = V @ B @ V.T + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(apply_inverse(S, Y, g, M.__matmul__ if given else None), B @ g, rtol=1e-9)


def test_without_pairs_the_first_step_is_no_longer_than_1():
    np.testing.assert_allclose(apply_inverse((), (), np.array([3.0, 0.0, 4.0])), [0.6, 0.0, 0.8])
    np.testing.assert_allclose(apply_inverse((), (), np.array([0.3, 0.0, 0.4])), [0.3, 0.0, 0.4])


def test_pairs_without_curvature_are_left_out_and_old_ones_dropped():
    S = Y = tuple(np.arange(1.0, 7.0).reshape(2, 3))
    assert append_pair(S, Y, np.ones(3), -np.ones(3), 5) == (S, Y)
    S2, Y2 = append_pair(S, Y, np.ones(3), 2 * np.ones(3), 2)
    assert np.array_equal(S2, [S[1], np.ones(3)])
    assert np.array_equal(Y2, [Y[1], 2 * np.ones(3)])


def test_the_cosine_is_1_where_the_matrix_explains_the_pairs():
    rng = np.random.default_rng(1)
    M, S = rng.uniform(0.1, 10.0, 6), tuple(rng.standard_normal((3, 6)))
    Y = tuple(2 * M * s for s in S)
    assert log_cosine(S, Y, M) == pytest.approx(0.0, abs=1e-14)
    cosines = [(s @ y) / np.sqrt((s @ s) * (y @ y)) for s, y in zip(S, Y)]
    assert log_cosine(S, Y) == pytest.approx(np.mean(2 * np.log(cosines)))


def categories(rows=4000, features=12, values=100, seed=0):
    """0/1 rows of some categorical features whose values have frequencies of a power law; labels of a linear model."""
    rng = np.random.default_rng(seed)
    chosen = np.minimum(rng.zipf(1.5, (rows, features)) - 1, values - 1) + values * np.arange(features)
    X = sparse.csr_array(
        (np.ones(rows * features), chosen.ravel(), np.arange(0, rows * features + 1, features)),
        shape=(rows, values * features),
    )
    return X, rng.random(rows) < 1 / (1 + np.exp(-X @ rng.standard_normal(values * features)))


def test_the_preconditioner_halves_the_iterations_on_rare_and_frequent_categories():
    iterations = {}
    for word in ("auto", "none"):
        found = mpinewton.minimize(
            "lbfgs",
            categories(),
            loss="logistic",
            l2=1e-5,
            rtol=1e-6,
            max_iterations=3000,
            settings={"preconditioner": word},
        )
        assert found.kind == "converged"
        iterations[word] = found.nit
    assert iterations["auto"] < 0.5 * iterations["none"]
