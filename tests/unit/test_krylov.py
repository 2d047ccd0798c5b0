"""Krylov solvers against dense algebra and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import linalg as sparse_linalg

from mpinewton.linalg.krylov import FLAT, cg, lanczos, lsmr


def symmetric(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues, and a right-hand side."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2, rng.standard_normal(len(eigenvalues))


class Counted:
    """The product with H, counted."""

    def __init__(self, H):
        self.H, self.calls = H, 0

    def __call__(self, v):
        self.calls += 1
        return self.H @ v


POSITIVE = np.geomspace(1e-3, 1.0, 30)
INDEFINITE = np.linspace(-1.0, 2.0, 30)
SINGULAR = np.r_[np.zeros(20), np.linspace(0.5, 2.0, 10)]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-10])
def test_cg_stops_at_the_first_residual_below_the_tolerance(tolerance):
    H, b = symmetric(POSITIVE)
    product = Counted(H)
    solved = cg(product, b, 500, tolerance)
    assert solved.status == "solved"
    assert solved.iterations == product.calls
    assert np.linalg.norm(H @ solved.x - b) <= 1.01 * tolerance * np.linalg.norm(b)
    before = cg(H.__matmul__, b, solved.iterations - 1, tolerance)
    assert before.status == "limit"
    assert np.linalg.norm(H @ before.x - b) > tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_cg_iterates_are_scipys(k):
    H, b = symmetric(POSITIVE)
    reference, _ = sparse_linalg.cg(H, b, rtol=0.0, maxiter=k)
    solved = cg(H.__matmul__, b, k, 0.0)
    assert (solved.status, solved.iterations) == ("limit", k)
    np.testing.assert_allclose(solved.x, reference, rtol=1e-10, atol=1e-12)


def test_cg_on_negative_curvature_gives_the_iterate_before():
    H, b = symmetric(np.linspace(-0.2, 2.0, 30))
    solved = cg(H.__matmul__, b, 50, 1e-10)
    assert solved.status == "negative curvature"
    assert solved.iterations > 1
    np.testing.assert_array_equal(solved.x, cg(H.__matmul__, b, solved.iterations, 1e-10).x)
    assert solved.x @ b > 0


@pytest.mark.parametrize("H", [-np.eye(3), np.zeros((3, 3))], ids=["negative", "zero"])
def test_cg_on_negative_curvature_at_step_one_gives_b(H):
    b = np.array([1.0, -2.0, 3.0])
    solved = cg(H.__matmul__, b, 5, 1e-4)
    assert (solved.status, solved.iterations) == ("negative curvature", 0)
    np.testing.assert_array_equal(solved.x, b)
    assert solved.x is not b


@pytest.mark.parametrize("eigenvalues", [POSITIVE, INDEFINITE, SINGULAR], ids=["positive", "indefinite", "singular"])
@pytest.mark.parametrize("damp", [0.0, 1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_lsmr_iterates_are_scipys(eigenvalues, damp, k):
    H, b = symmetric(eigenvalues)
    reference = sparse_linalg.lsmr(H, b, damp=damp, atol=0.0, btol=0.0, conlim=0.0, maxiter=k)[0]
    product = Counted(H)
    solved = lsmr(product, b, damp, k, 0.0)
    assert solved.iterations == k
    assert product.calls == 2 * k + 1
    np.testing.assert_allclose(solved.x, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eigenvalues", [POSITIVE, INDEFINITE, SINGULAR], ids=["positive", "indefinite", "singular"])
@pytest.mark.parametrize("damp", [1e-6, 1e-2])
def test_lsmr_stops_on_the_gradient_of_the_damped_problem(eigenvalues, damp):
    H, b = symmetric(eigenvalues)

    def gradient(x):
        return np.linalg.norm(H @ (H @ x - b) + damp**2 * x) / np.linalg.norm(H @ b)

    solved = lsmr(H.__matmul__, b, damp, 500, 1e-4)
    assert solved.status == "solved"
    assert gradient(solved.x) <= 1.0001e-4
    before = lsmr(H.__matmul__, b, damp, solved.iterations - 1, 1e-4)
    assert before.status == "limit"
    assert gradient(before.x) > 0.9999e-4


def test_lsmr_solves_the_stacked_problem():
    H, b = symmetric(INDEFINITE)
    stacked = np.vstack([H, 0.1 * np.eye(30)])
    reference = np.linalg.lstsq(stacked, np.r_[b, np.zeros(30)])[0]
    np.testing.assert_allclose(lsmr(H.__matmul__, b, 0.1, 500, 1e-14).x, reference, rtol=1e-9)


@pytest.mark.parametrize("eigenvalues", [POSITIVE, INDEFINITE, SINGULAR], ids=["positive", "indefinite", "singular"])
@pytest.mark.parametrize("limit", [1, 6, 30, 99])
def test_lanczos_relation(eigenvalues, limit):
    H, b = symmetric(eigenvalues)
    product = Counted(H)
    found = lanczos(product, b, limit)
    k = found.Q.shape[1]
    assert k == product.calls
    if eigenvalues is SINGULAR and limit > 11:  # ten eigenvalues besides 0: 11 dimensions, and one that rounding adds
        assert k in (11, 12)
    else:
        assert k == min(limit, 30)
    assert found.status == ("limit" if k == limit < 30 else "solved")
    assert found.T.shape == (k + 1, k)
    np.testing.assert_allclose(found.Q.T @ found.Q, np.eye(k), atol=1e-13)
    np.testing.assert_allclose(found.Q.T @ H @ found.Q, found.T[:-1], atol=1e-13)
    np.testing.assert_allclose(found.beta * found.Q[:, 0], b, rtol=1e-14)
    beyond = H @ found.Q - found.Q @ found.T[:-1]
    np.testing.assert_allclose(np.linalg.norm(beyond, axis=0)[-1], found.T[-1, -1], atol=1e-13)
    np.testing.assert_allclose(beyond[:, :-1], 0.0, atol=1e-13)


def test_lanczos_keeps_orthogonality_where_the_plain_recurrence_loses_it():
    H, b = symmetric(np.geomspace(1e-8, 1e4, 200))
    Q = lanczos(H.__matmul__, b, 120).Q
    assert Q.shape[1] == 120
    np.testing.assert_allclose(Q.T @ Q, np.eye(120), atol=1e-13)


@given(st.integers(1, 20), st.integers(1, 4), st.floats(-8, 8), st.integers(0, 999))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_lanczos_ends_when_the_space_does(d, distinct, exponent, seed):
    # The space has as many dimensions as H has distinct eigenvalues, whatever the scale of H. Where entries of T are
    # small, rounding may add others; the entry of T that leads to these is then a rounding error, amplified.
    values = np.array([1.0, -2.0, 3.0, 4.0])[np.arange(d) % distinct] * 10.0**exponent
    H, b = symmetric(values, seed)
    found = lanczos(H.__matmul__, b, d + 3)
    assert found.status == "solved"
    assert found.T[-1, -1] == 0.0
    k = min(d, distinct)
    assert found.Q.shape[1] == k or found.T[k, k - 1] <= 1e-9 * 10.0**exponent
    expected = np.linalg.solve(absolute(H), b)
    np.testing.assert_allclose(found.solve_absolute(1e-3), expected, rtol=0, atol=1e-9 * np.linalg.norm(expected))


def absolute(H, floor=0.0):
    e, S = np.linalg.eigh(H)
    return (S * np.maximum(abs(e), floor * abs(e).max())) @ S.T


@pytest.mark.parametrize("eigenvalues", [POSITIVE, INDEFINITE, SINGULAR], ids=["positive", "indefinite", "singular"])
@pytest.mark.parametrize("damp", [1e-6, 1e-3, 0.5])
def test_lanczos_solves_in_the_whole_space(eigenvalues, damp):
    H, b = symmetric(eigenvalues)
    found = lanczos(H.__matmul__, b, 30)
    e, S = np.linalg.eigh(H)
    v1, v2 = S @ (e / (e**2 + damp**2) * (S.T @ b)), S @ (S.T @ b / (e**2 + damp**2))
    # An eigenvalue 0 is rounding, some ulps of |H| = 2: what it adds to v1 is that over damp^2.
    rounding = 1e-14 / damp**2 * np.linalg.norm(b)
    np.testing.assert_allclose(found.solve_damped(damp), v1, rtol=0, atol=1e-9 * np.linalg.norm(v1) + rounding)
    np.testing.assert_allclose(found.solve_squared(damp), v2, rtol=0, atol=1e-7 * np.linalg.norm(v2))
    for floor in (1e-3, 0.1):
        expected = np.linalg.solve(absolute(H, floor), b)
        np.testing.assert_allclose(found.solve_absolute(floor), expected, rtol=0, atol=1e-9 * np.linalg.norm(expected))


@pytest.mark.parametrize("damp", [1e-6, 0.1])
def test_lanczos_minimises_in_its_space(damp):
    H, b = symmetric(INDEFINITE)
    found = lanczos(H.__matmul__, b, 7)
    krylov = np.linalg.qr(np.column_stack([np.linalg.matrix_power(H, k) @ b for k in range(7)]))[0]
    stacked = np.vstack([H @ krylov, damp * krylov])
    y = np.linalg.lstsq(stacked, np.r_[b, np.zeros(30)])[0]
    np.testing.assert_allclose(found.solve_damped(damp), krylov @ y, rtol=1e-8, atol=1e-10)
    inner = (H @ krylov).T @ (H @ krylov) + damp**2 * np.eye(7)
    v2 = krylov @ np.linalg.solve(inner, krylov.T @ b)
    np.testing.assert_allclose(found.solve_squared(damp), v2, rtol=1e-7, atol=1e-9)
    assert found.solve_squared(damp) @ b > 0
    assert found.solve_absolute(1e-3) @ b > 0


@pytest.mark.parametrize("k", [1, 3, 8])
def test_absolute_solve_is_conjugate_gradients_on_a_positive_matrix(k):
    H, b = symmetric(np.linspace(0.5, 2.0, 30))
    x = cg(H.__matmul__, b, k, 0.0).x
    np.testing.assert_allclose(lanczos(H.__matmul__, b, k).solve_absolute(1e-3), x, rtol=1e-10)


def test_lanczos_meets_condition_4a_with_fewer_products_than_lsmr():
    H, b = symmetric(np.geomspace(0.1, 1.0, 200))
    product = Counted(H)
    assert lsmr(product, b, 1e-6, 200, 1e-4).status == "solved"
    v = lanczos(H.__matmul__, b, product.calls // 2).solve_damped(1e-6)
    assert np.linalg.norm(H @ (H @ v - b) + 1e-12 * v) <= 1e-4 * np.linalg.norm(H @ b)


def test_nothing_to_solve():
    product = Counted(np.eye(3))
    zero = np.zeros(3)
    for solved in (cg(product, zero, 9, 1e-4), lsmr(product, zero, 1e-6, 9, 1e-4)):
        assert (solved.status, solved.iterations) == ("solved", 0)
        np.testing.assert_array_equal(solved.x, zero)
    found = lanczos(product, zero, 9)
    assert found.status == "solved"
    for x in (found.solve_damped(1e-6), found.solve_squared(1e-6), found.solve_absolute(1e-3)):
        np.testing.assert_array_equal(x, zero)
    assert product.calls == 0


def test_zero_matrix():
    b, H = np.array([1.0, 2.0]), np.zeros((2, 2))
    np.testing.assert_array_equal(lsmr(H.__matmul__, b, 1e-6, 9, 1e-4).x, 0.0)
    found = lanczos(H.__matmul__, b, 9)
    np.testing.assert_array_equal(found.solve_damped(0.5), 0.0)
    np.testing.assert_allclose(found.solve_squared(0.5), 4 * b)
    np.testing.assert_allclose(found.solve_absolute(1e-3), b)


def test_right_hand_side_is_left_alone():
    H, b = symmetric(np.linspace(0.5, 2.0, 30))
    b.flags.writeable = False
    kept = b.copy()
    for solved in (
        cg(H.__matmul__, b, 100, 1e-10).x,
        lsmr(H.__matmul__, b, 0.0, 100, 1e-10).x,
        lanczos(H.__matmul__, b, 30).solve_shortest(),
    ):
        np.testing.assert_allclose(solved, np.linalg.solve(H, kept), rtol=1e-6)
        assert not np.shares_memory(solved, b)
    np.testing.assert_array_equal(b, kept)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_preconditioned_cg_iterates_are_scipys(k):
    H, b = symmetric(POSITIVE)
    inverse = np.diag(1.0 / (np.diag(H) + 0.1))
    reference, _ = sparse_linalg.cg(H, b, rtol=0.0, maxiter=k, M=inverse)
    solved = cg(H.__matmul__, b, k, 0.0, precondition=inverse.__matmul__)
    np.testing.assert_allclose(solved.x, reference, rtol=1e-8, atol=1e-10)


def test_cg_takes_flat_directions_for_none():
    # b has a part outside the range of H: curvature falls towards 0 from above, and the iterates grow without bound.
    H, b = symmetric(SINGULAR)
    held = cg(H.__matmul__, b, 100, 1e-12, flat=FLAT)
    assert held.status == "negative curvature"
    assert held.iterations <= 12  # as many as there are eigenvalues, and the direction that is flat
    assert held.x @ b > 0
    assert np.linalg.norm(held.x) <= held.iterations * np.linalg.norm(b) / (FLAT * 2.0)


def test_flat_changes_nothing_where_the_curvature_is_not():
    H, b = symmetric(POSITIVE)
    assert np.array_equal(cg(H.__matmul__, b, 25, 1e-8, flat=FLAT).x, cg(H.__matmul__, b, 25, 1e-8).x)


@pytest.mark.parametrize("eigenvalues", [POSITIVE, INDEFINITE, SINGULAR])
def test_shortest_least_squares_solution_is_the_pseudo_inverse(eigenvalues):
    H, b = symmetric(eigenvalues)
    x = lanczos(H.__matmul__, b, 30).solve_shortest()
    if eigenvalues is SINGULAR:  # in the space, which holds a part of b that H does not see
        assert np.linalg.norm(H @ (H @ x - b)) < 1e-8
    else:
        np.testing.assert_allclose(x, np.linalg.pinv(H) @ b, atol=1e-6)
