"""Products with the rows of a shard, against plain dense numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mpinewton import kernels
from mpinewton.kernels import twins
from mpinewton.linalg import rows as rows_module
from mpinewton.linalg.rows import Rows

STORAGES = ("dense", "dense32", "sparse", "sparse32", "scipy", "scipy32", "dense blocks of csr")


def stored(storage, X, monkeypatch):
    """`Rows` that hold X as `storage` says and take that kernel; and X as stored, in float64."""
    dtype = np.float32 if storage.endswith("32") else np.float64
    X = X.astype(dtype)
    kind = twins.SparseRows if storage.startswith("scipy") else kernels.SparseRows
    monkeypatch.setattr(kernels, "SparseRows", kind)
    monkeypatch.setattr(kind, "PAIR_COST", 1e9 if storage == "dense blocks of csr" else 0)
    monkeypatch.setattr(rows_module, "BLOCK_NUMBERS", 64)  # several blocks even here
    held = X if storage in ("dense", "dense32") else sparse.csr_array(X)
    return Rows(held), X.astype(np.float64)


def sample(n=50, p=7, density=0.4, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * (rng.random((n, p)) < density)
    if n:
        X[n // 2] = 0.0  # a row without a feature
    X[:, p - 1] = 0.0  # a feature without a row
    return X, rng


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("columns", [(), (3,)])
def test_products(storage, columns, monkeypatch):
    X, rng = sample()
    rows, X = stored(storage, X, monkeypatch)
    v, r = rng.standard_normal((7, *columns)), rng.standard_normal((50, *columns))
    h = rng.standard_normal(50)
    pairs = [(rows.times(v), X @ v), (rows.transpose_times(r), X.T @ r)]
    pairs.append((rows.product(lambda some, z: r[some] * np.tanh(z), v), X.T @ (r * np.tanh(X @ v))))
    if not columns:
        pairs.append((rows.hvp(h, v), X.T @ (h * (X @ v))))
    for got, truth in pairs:
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, truth, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("outputs", [(), (3,)])
@pytest.mark.parametrize("columns", [slice(0, 7), slice(2, 5), slice(5, 7), slice(3, 3), slice(None)], ids=str)
def test_products_with_some_columns_leave_the_others_alone(storage, outputs, columns, monkeypatch):
    X, rng = sample()
    rest = np.ones(7, dtype=bool)
    rest[columns] = False
    X[3, rest] = np.nan
    rows, X = stored(storage, X, monkeypatch)
    X = X[:, columns]
    v, r = rng.standard_normal((X.shape[1], *outputs)), rng.standard_normal((50, *outputs))
    for _ in range(2):  # views are kept
        pairs = ((rows.times_some(v, columns), X @ v), (rows.transpose_times_some(r, columns), X.T @ r))
        for got, truth in pairs:
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, truth, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("storage", STORAGES)
def test_parts_of_sparse_rows_are_views(storage, monkeypatch):
    rows, _ = stored(storage, sample()[0], monkeypatch)
    if rows.sparse:
        rows.transpose_times_some(np.ones(50), slice(2, 5))
        ((part, _),) = rows._views.values()
        assert np.shares_memory(part.data, rows._transposed.data)
        assert np.shares_memory(part.indices, rows._transposed.indices)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sign", ["positive", "mixed", "negative", "zero"])
def test_gram(storage, sign, monkeypatch):
    X, rng = sample()
    rows, X = stored(storage, X, monkeypatch)
    h = {"positive": abs, "mixed": np.copy, "negative": lambda h: -abs(h), "zero": np.zeros_like}[sign](
        rng.normal(size=50)
    )
    H = rows.gram(h)
    assert H.dtype == np.float64
    np.testing.assert_allclose(H, (X * h[:, None]).T @ X, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(H, H.T)
    np.testing.assert_array_equal(H, rows.gram(h))
    np.testing.assert_array_equal(H, Rows(rows.X.copy()).gram(h.copy()))


@pytest.mark.parametrize("storage", STORAGES)
def test_no_rows(storage, monkeypatch):
    rows, _ = stored(storage, np.zeros((0, 4)), monkeypatch)
    assert rows.times(np.ones(4)).shape == (0,)
    assert rows.times(np.ones((4, 2))).shape == (0, 2)
    np.testing.assert_array_equal(rows.transpose_times(np.zeros(0)), np.zeros(4))
    np.testing.assert_array_equal(rows.gram(np.zeros(0)), np.zeros((4, 4)))


@pytest.mark.parametrize("storage", STORAGES)
def test_trouble_in_a_coefficient_is_not_lost(storage, monkeypatch):
    X, _ = sample(density=1.0)
    rows, _ = stored(storage, X, monkeypatch)
    h = np.ones(50)
    h[3] = np.nan
    assert np.isnan(rows.gram(h)[0, 0])


@given(st.integers(0, 30), st.integers(1, 9), st.floats(0, 1), st.integers(0, 999))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_kernels_agree(n, p, density, seed):
    X, rng = sample(n, p, density, seed)
    h = rng.standard_normal(n)
    truth = (X * h[:, None]).T @ X
    for storage in STORAGES:
        with pytest.MonkeyPatch.context() as patch:
            rows, _ = stored(storage, X, patch)
            tolerance = 1e-5 if storage.endswith("32") else 1e-12
            H = rows.gram(h)
            np.testing.assert_allclose(H, truth, rtol=tolerance, atol=10 * tolerance)
            np.testing.assert_array_equal(H, H.T)
            diagonal = rows.squares_transpose_times(h)
            np.testing.assert_allclose(diagonal, np.diag(truth), rtol=tolerance, atol=10 * tolerance)
            both = rows.squares_transpose_times(np.column_stack([h, -h]))
            np.testing.assert_allclose(both, np.column_stack([diagonal, -diagonal]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("storage", ["sparse", "scipy", "dense blocks of csr"])
def test_unsorted_and_repeated_entries(storage, monkeypatch):
    # Row 0 is [5, 2, 0]: its first feature comes last, in two pieces.
    X = sparse.csr_array((np.array([2.0, 1.0, 4.0, 7.0]), np.array([1, 0, 0, 2]), np.array([0, 3, 4])), shape=(2, 3))
    dense = np.array([[5.0, 2.0, 0.0], [0.0, 0.0, 7.0]])
    stored(storage, dense, monkeypatch)
    rows, data, indices = Rows(X), X.data.copy(), X.indices.copy()
    np.testing.assert_allclose(rows.gram(np.array([1.0, -2.0])), dense.T @ np.diag([1.0, -2.0]) @ dense, rtol=1e-14)
    np.testing.assert_array_equal(rows.transpose_times(np.array([1.0, 1.0])), [5.0, 2.0, 7.0])
    np.testing.assert_array_equal(rows.squares_transpose_times(np.array([1.0, 1.0])), [25.0, 4.0, 49.0])
    np.testing.assert_array_equal(X.data, data)
    np.testing.assert_array_equal(X.indices, indices)


@pytest.mark.parametrize("density, full", [(0.04, False), (0.9, True)])
def test_hessians_of_full_sparse_rows_use_dense_blocks(density, full, monkeypatch):
    rng, dense = np.random.default_rng(0), []
    monkeypatch.setattr(kernels, "gram", lambda X, h: dense.append(X.shape) or twins.gram(X, h))
    rows = Rows(sparse.csr_array(rng.random((350, 300)) * (rng.random((350, 300)) < density)))
    rows.gram(np.ones(350))
    assert bool(dense) is full


def test_float32_sums_are_float64_sums():
    # 2^24 + 1 is no float32: a float32 sum of these rows stays at 2^24.
    rows = Rows(np.array([[4096.0, 1.0], [1.0, 0.0]], dtype=np.float32))
    assert rows.gram(np.ones(2))[0, 0] == 2**24 + 1
    assert rows.transpose_times(np.array([4096.0, 1.0]))[0] == 2**24 + 1
    assert rows.squares_transpose_times(np.ones(2))[0] == 2**24 + 1
    exact = np.float64(np.float32(0.1)) ** 2
    for X in (np.array([[0.1]], dtype=np.float32), sparse.csr_array(np.array([[0.1]], dtype=np.float32))):
        assert Rows(X).squares_transpose_times(np.ones(1))[0] == exact
