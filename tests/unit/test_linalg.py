"""Packed triangles and Cholesky."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpinewton.linalg.cholesky import solve_positive, solve_semidefinite
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle


def test_triangle_goes_row_by_row():
    H = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    np.testing.assert_array_equal(pack_triangle(H), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(pack_triangle(H + np.tril(np.ones((3, 3)), -1)), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(unpack_triangle(np.arange(1.0, 7.0)), H)


@given(st.integers(0, 40).flatmap(lambda d: arrays.arrays(np.float64, d * (d + 1) // 2)))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_round_trip_is_exact(t):
    H = unpack_triangle(t)
    assert pack_triangle(H).tobytes() == t.tobytes()
    assert H.tobytes() == H.T.tobytes()


@pytest.mark.parametrize("length", [2, 4, 5, 11])
def test_no_triangle(length):
    with pytest.raises(ValueError, match=f"{length} numbers are no triangle"):
        unpack_triangle(np.zeros(length))


def test_solve_positive():
    rng = np.random.default_rng(0)
    A, g = rng.standard_normal((9, 5)), rng.standard_normal(5)
    H = A.T @ A
    kept = H.copy()
    solved = solve_positive(H, g)
    assert solved.status == "solved"
    np.testing.assert_allclose(solved.x, np.linalg.inv(H) @ g, rtol=1e-10)
    np.testing.assert_array_equal(H, kept)


@pytest.mark.parametrize(
    "H", [np.diag([1.0, -1.0]), np.zeros((2, 2)), np.full((2, 2), np.nan)], ids=["indefinite", "zero", "nan"]
)
def test_not_positive_definite_is_a_status(H):
    g = np.array([1.0, 2.0])
    solved = solve_positive(H, g)
    assert (solved.status, solved.iterations) == ("not positive definite", 0)
    np.testing.assert_array_equal(solved.x, g)
    assert solved.x is not g


def test_semidefinite_systems_get_the_shortest_solution():
    B = np.random.default_rng(5).normal(size=(4, 9))
    H = B.T @ B  # rank 4 of 9
    g = H @ np.random.default_rng(6).normal(size=9)
    solved = solve_semidefinite(H, g)
    assert solved.status == "solved"
    np.testing.assert_allclose(H @ solved.x, g, atol=1e-10)
    root = np.sqrt(np.diagonal(H))  # the shortest in the units in which H has a unit diagonal
    scaled = np.linalg.pinv(H / root[:, None] / root, rcond=1e-12)
    np.testing.assert_allclose(solved.x, scaled @ (g / root) / root, atol=1e-8)
    units = 10.0 ** np.arange(-8.0, 10.0, 2.0)
    np.testing.assert_allclose(solve_semidefinite(H * units[:, None] * units, g * units).x * units, solved.x, rtol=1e-6)
    refused = solve_semidefinite(H - 0.1 * np.eye(9), g)
    assert (refused.status, refused.iterations) == ("not positive definite", 0)
    np.testing.assert_array_equal(refused.x, g)
    assert solve_semidefinite(np.full((2, 2), np.nan), np.ones(2)).status == "not positive definite"


def test_a_gradient_outside_the_range_is_followed_by_polyaks_step():
    H, g = np.diag([2.0, 0.0]), np.array([1.0, 4.0])
    np.testing.assert_array_equal(solve_semidefinite(H, g).x, [0.5, 0.0])
    np.testing.assert_array_equal(solve_semidefinite(H, g, 8.0).x, [0.5, 2.0])  # |f| / |g_2|^2 g_2
    np.testing.assert_array_equal(solve_semidefinite(H, np.array([1.0, 0.1]), 8.0).x, [0.5, 0.0])  # Newton first
    np.testing.assert_array_equal(solve_semidefinite(0 * H, g, -34.0).x, 2 * g)


def test_one_negative_eigenvalue_is_enough():
    Q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    H = (Q * [-1e-3, 1.0, 2.0, 3.0, 4.0]) @ Q.T
    assert solve_semidefinite(H, np.ones(5)).status == "not positive definite"
    almost = (Q * [-1e-17, 1.0, 2.0, 3.0, 4.0]) @ Q.T  # negative by rounding
    assert solve_semidefinite(almost, H @ np.ones(5)).status == "solved"


def test_definite_systems_are_solved_by_cholesky():
    B = np.random.default_rng(7).normal(size=(20, 9))
    assert np.array_equal(solve_semidefinite(B.T @ B, B[0]).x, solve_positive(B.T @ B, B[0]).x)
