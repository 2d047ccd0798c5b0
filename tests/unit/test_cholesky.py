"""Systems with a matrix that changes a little, against numpy on the matrix itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mpinewton.linalg import cholesky as following
from mpinewton.linalg.cholesky import add_outer_products, solve_factored, solve_with_stale_factor
from mpinewton.linalg.rows import Rows

NONE = None


def definite(rng, d):
    A = rng.standard_normal((3 * d, d))
    return A.T @ A / (3 * d) + 0.01 * np.eye(d)


def few_rows(rng, k, d):
    return sparse.csr_array(rng.standard_normal((k, d)) * (rng.random((k, d)) < 0.2))


def test_rows_are_added_where_they_meet():
    rng = np.random.default_rng(0)
    H, X, c = definite(rng, 12), few_rows(rng, 5, 12), rng.standard_normal(5)
    kept = H.copy()
    after = add_outer_products(H, X, c)
    np.testing.assert_allclose(after, H + X.toarray().T @ np.diag(c) @ X.toarray(), atol=1e-14)
    np.testing.assert_array_equal(H, kept)
    assert np.array_equal(add_outer_products(H, X[:0], c[:0]), H)
    untouched = ~(abs(X.T) @ abs(X)).toarray().astype(bool)
    assert np.array_equal(after[untouched], H[untouched])


@pytest.mark.parametrize("small", [0, 1000])
def test_solutions_while_the_matrix_changes(small, monkeypatch):
    monkeypatch.setattr(following, "SMALL", small)
    rng = np.random.default_rng(1)
    d = 60
    H, L, factored = definite(rng, d), NONE, 0
    for k in range(40):
        g = rng.standard_normal(d)
        before = L
        solved, L = solve_with_stale_factor(H, g, L)
        assert solved.status == "solved"
        assert np.linalg.norm(H @ solved.x - g) <= 1e-8 * np.linalg.norm(g)
        again, M = solve_with_stale_factor(H, g, before)  # the same bits whenever it is asked the same
        assert np.array_equal(again.x, solved.x)
        assert np.array_equal(M, L)
        factored += not np.array_equal(before, L)
        H = add_outer_products(H, few_rows(rng, 3, d), rng.uniform(0, 0.02, 3))
        if k == 20:
            H = 7 * H + definite(rng, d)  # far from the factor
    assert factored == 0 if small else 2 <= factored < 20


def test_no_positive_definite_matrix_is_a_status(monkeypatch):
    monkeypatch.setattr(following, "SMALL", 0)
    g = np.ones(3)
    for H in (np.diag([1.0, -1.0, 1.0]), np.full((3, 3), np.nan)):
        for L in (NONE, np.eye(3)):
            solved, after = solve_with_stale_factor(H, g, L)
            assert solved.status == "not positive definite"
            assert after is None


def test_solve_factored():
    H = definite(np.random.default_rng(2), 8)
    np.testing.assert_allclose(solve_factored(np.linalg.cholesky(H), np.ones(8)), np.linalg.solve(H, np.ones(8)))


def test_squares_of_rows():
    X = few_rows(np.random.default_rng(3), 6, 9)
    for rows in (X, X.toarray(), X.astype(np.float32), X.toarray().astype(np.float32)):
        np.testing.assert_allclose(Rows(rows).squares, (X.toarray() ** 2).sum(axis=1), rtol=1e-6)
