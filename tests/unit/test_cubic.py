"""The cubic step and the projection, against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mpinewton.linalg.cholesky import project_spectrum
from mpinewton.linalg.cubic import cubic_step


def symmetric(rng, d, low, high):
    """Eigenvalues between low and high, the ends included."""
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    e = np.concatenate([[low, high], rng.uniform(low, high, max(0, d - 2))])[:d]
    H = (Q * e) @ Q.T
    return (H + H.T) / 2, Q, e


def model(H, g, M, S):
    """<g, s> + s'H s / 2 + M/6 |s|^3 for every row of S."""
    return S @ g + 0.5 * np.einsum("kd,de,ke->k", S, H, S) + M / 6 * np.linalg.norm(S, axis=1) ** 3


def certify(H, g, M, found):
    s, t = found.s, found.t
    assert found.mismatch <= 1e-12
    assert abs(np.linalg.norm(s) - t) <= 1e-12 * t
    assert found.stationarity <= 1e-12
    shifted = H + M * t / 2 * np.eye(len(g))
    size = np.linalg.norm(g) + (np.linalg.norm(H, 2) + M * t / 2) * np.linalg.norm(s)
    assert np.linalg.norm(shifted @ s + g) <= 1e-12 * size
    assert np.linalg.eigvalsh(shifted)[0] >= -1e-12 * (np.linalg.norm(H, 2) + M * t / 2)
    assert found.model <= 0
    assert found.model == pytest.approx(model(H, g, M, s[None])[0], rel=1e-9, abs=1e-14 * size)


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.sampled_from([-1.0, -1e-6, 0.0, 1e-8, 1e-3, 0.5]),
    st.sampled_from([1e-10, 1e-3, 1.0, 1e4]),
    st.sampled_from([1e-6, 1.0, 100.0]),
)
@settings(max_examples=200)
def test_the_step_is_certified_and_no_random_step_is_better(seed, d, low, scale, M):
    rng = np.random.default_rng(seed)
    H, _, _ = symmetric(rng, d, low, 2.0)
    g = scale * rng.standard_normal(d)
    found = cubic_step(H, g, M)
    certify(H, g, M, found)
    lengths = found.t * rng.uniform(0, 3, (1000, 1))
    others = rng.standard_normal((1000, d))
    others *= lengths / np.linalg.norm(others, axis=1, keepdims=True)
    others[:500] = found.s + 0.01 * others[:500]
    assert found.model <= model(H, g, M, others).min() + 1e-13 * (scale + found.t**2) * found.t


def test_agrees_with_a_general_minimiser():
    rng = np.random.default_rng(3)
    H, _, _ = symmetric(rng, 6, -0.5, 2.0)
    g, M = rng.standard_normal(6), 3.0
    starts = rng.standard_normal((20, 6))
    least = min((minimize(lambda s: model(H, g, M, s[None])[0], s) for s in starts), key=lambda r: r.fun)
    found = cubic_step(H, g, M)
    assert found.model == pytest.approx(least.fun, abs=1e-9)
    np.testing.assert_allclose(found.s, least.x, atol=1e-4)


def test_with_small_m_it_is_newton():
    rng = np.random.default_rng(4)
    H, _, _ = symmetric(rng, 8, 0.1, 2.0)
    g = rng.standard_normal(8)
    newton = -np.linalg.solve(H, g)
    for M in (1e-3, 1e-6, 1e-12):
        found = cubic_step(H, g, M)
        certify(H, g, M, found)
        # |s - newton| <= |H^-1| M t / 2 |newton|
        assert np.linalg.norm(found.s - newton) <= (M * found.t / 2 / 0.1 + 1e-13) * np.linalg.norm(newton)


@pytest.mark.parametrize("tilt", [0.0, 1e-300, 1e-17, 1e-9])
def test_hard_case_and_its_neighbours(tilt):
    rng = np.random.default_rng(5)
    H = np.diag([-1.0, -1.0, 0.5, 2.0])
    g = np.array([tilt, 0.0, 1e-3, 1e-3])
    found = cubic_step(H, g, 1.0)
    certify(H, g, 1.0, found)
    assert found.t >= 2.0
    assert found.t == pytest.approx(2.0, abs=1e-8)
    others = rng.standard_normal((1000, 4))
    assert found.model <= model(H, g, 1.0, others).min() + 1e-14


def test_indefinite_but_not_hard_with_orthogonal_gradient():
    # The rest alone is longer than the least length: no eigenvector is added.
    H, g = np.diag([-0.1, 1.0]), np.array([0.0, 10.0])
    found = cubic_step(H, g, 1.0)
    certify(H, g, 1.0, found)
    assert found.s[0] == 0
    assert found.t > 0.2


def test_no_gradient():
    assert not cubic_step(np.eye(3), np.zeros(3), 1.0).s.any()
    found = cubic_step(np.diag([1.0, -2.0]), np.zeros(2), 4.0)
    np.testing.assert_allclose(np.abs(found.s), [0.0, 1.0])
    certify(np.diag([1.0, -2.0]), np.zeros(2), 4.0, found)


@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([-1.0, 0.0, 0.3, 3.0]))
@settings(max_examples=60)
def test_projection_lifts_eigenvalues(seed, d, mu):
    H, Q, e = symmetric(np.random.default_rng(seed), d, -2.0, 2.0)
    kept = H.copy()
    P = project_spectrum(H, mu)
    np.testing.assert_array_equal(H, kept)
    np.testing.assert_allclose(P, (Q * np.maximum(e, mu)) @ Q.T, atol=1e-13)


def test_projection_leaves_alone_what_is_high_enough():
    H, _, _ = symmetric(np.random.default_rng(6), 5, 0.2, 2.0)
    assert np.array_equal(project_spectrum(H, 0.1), H)
    assert np.array_equal(project_spectrum(np.eye(3), 0.5), np.eye(3))
