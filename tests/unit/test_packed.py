"""Numbers and rows in as few bits as they need: exact both ways, and not a bit more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mpinewton.compress.bits import Bits, entries_of, join_entries, pack_bits, pack_rows, unpack_rows, width_of


@pytest.mark.parametrize(("count", "width"), [(0, 0), (1, 0), (2, 1), (3, 2), (128, 7), (129, 8), (350, 9)])
def test_width(count, width):
    assert width_of(count) == width


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=4), st.integers(0, 9))
def test_fields_come_back_and_take_their_bits(fields, seed):
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(0, 1 << width, size=count) for count, width in fields]
    data = pack_bits(*((n, width) for n, (_, width) in zip(numbers, fields)))
    assert data.dtype == np.uint8
    assert data.size == -(-sum(count * width for count, width in fields) // 8)
    bits = Bits(data)
    for n, (count, width) in zip(numbers, fields):
        np.testing.assert_array_equal(bits.take(count, width), n)


def sparse_rows(rng, n, p, ones=False, dtype=np.float64):
    X = (rng.standard_normal((n, p)) * (rng.random((n, p)) < 0.4)).astype(dtype)
    return sparse.csr_array((X != 0).astype(dtype) if ones else X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("chosen", [[], [3], [6, 0, 2]], ids=len)
def test_rows_come_back(dtype, ones, dense, chosen):
    X = sparse_rows(np.random.default_rng(4), 7, 9, ones, dtype)
    rows = np.array(chosen, dtype=np.int64)
    fields, values = pack_rows(X.toarray() if dense else X, rows)
    back = unpack_rows(Bits(pack_bits(*fields)), values, len(rows), 9)
    np.testing.assert_array_equal(back.matrix(9).toarray(), X.toarray()[rows])
    assert values.dtype == dtype
    assert values.size == (9 * len(rows) if dense else 0 if ones else X.toarray()[rows].astype(bool).sum())


def test_a_row_of_a9a_takes_14_indices_of_7_bits_and_their_count():
    X = sparse.csr_array(np.arange(123)[None] < 14, dtype=np.float64)
    fields, values = pack_rows(X, np.arange(1))
    assert sum(len(n) * width for n, width in fields) == 14 * 7 + 7
    assert values.size == 0


def test_entries_met_twice_are_added_up():
    X = sparse.csr_array((np.array([1.0, 1.0, 1.0]), np.array([2, 2, 0]), np.array([0, 2, 3])), shape=(2, 3))
    fields, values = pack_rows(X, np.arange(2))
    back = unpack_rows(Bits(pack_bits(*fields)), values, 2, 3)
    np.testing.assert_array_equal(back.matrix(3).toarray(), X.toarray())
    assert X.nnz == 3, "the shard was written to"


def test_rows_stored_empty():
    X = sparse.csr_array((3, 5))
    fields, values = pack_rows(X, np.array([1, 2]))
    assert unpack_rows(Bits(pack_bits(*fields)), values, 2, 5).matrix(5).nnz == 0


def test_joined_rows_are_the_rows_in_turn():
    rng = np.random.default_rng(5)
    X, Z = sparse_rows(rng, 4, 6), sparse_rows(rng, 5, 6).toarray()
    both = join_entries([entries_of(X, np.array([2, 0])), entries_of(Z, np.array([1]))]).matrix(6)
    np.testing.assert_array_equal(both.toarray(), np.vstack([X.toarray()[[2, 0]], Z[[1]]]))
    assert join_entries([]).matrix(6).shape == (0, 6)
