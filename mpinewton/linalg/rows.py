"""Products with the rows of one shard: X v, X'r and X'diag(h)X, dense or sparse, float64 sums whatever the storage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.span import Span

# Dense rows are processed in blocks: a float64 block stays in cache, and every sum is a float64 sum.
BLOCK_NUMBERS = 1 << 17
# The table of products x_j x_k costs 10-30 ns per entry to build and 1 ns per entry to use, 3-5 ns over 7 Hessians;
# dense arithmetic costs 0.06 ns per multiply-add (a9a and w8a, 350 to 50000 rows, one thread of OpenBLAS).
ENTRY_COST = 60
# In coordinates of the span of the rows, a Krylov space of 50 products takes 0.45 of the time at 100 rows of 784
# features, 0.8 at 300, 1.1 at 390; to compute the coordinates costs as much as one to six such spaces, once.
FEW = 5  # least number of features per row
TABLE_BYTES = 128 << 20  # per shard


class Rows:
    """The rows of one shard and their products.

    Parameters
    ----------
    X : array or csr_array, shape (n, p)
        It is never written to.
    """

    def __init__(self, X: Matrix) -> None:
        self.X: Any = X
        self.n, self.p = X.shape
        self.sparse = bool(sparse.issparse(X))
        self.narrow = X.dtype != np.float64

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        if self.sparse or not self.narrow:
            return np.asarray(self.X @ v)
        z = np.empty((self.n, *v.shape[1:]))
        for rows, block in self._blocks():
            z[rows] = block @ v
        return z

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return np.asarray(self._transposed @ r)
        if not self.narrow:
            return np.asarray(self.X.T @ r)
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += block.T @ r[rows]
        return total

    def squares_transpose_times(self, r: Array) -> Array:
        """X.^2'r, squares entry by entry, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            T = self._transposed
            if not T.has_canonical_format:  # an entry in two pieces is squared as their sum
                T = T.copy()
                T.sum_duplicates()
            return np.asarray(sparse.csr_array((T.data.astype(np.float64) ** 2, T.indices, T.indptr), T.shape) @ r)
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += (block * block).T @ r[rows]
        return total

    def times_some(self, v: Array, columns: slice) -> Array:
        """X[:, columns] v, shape (n,) or (n, C) for v of shape (k,) or (k, C), at the cost of these columns only."""
        if self.sparse:
            return np.asarray(self._some(columns)[1] @ v)
        if not self.narrow:
            return np.asarray(self.X[:, columns] @ v)
        z = np.empty((self.n, *v.shape[1:]))
        for rows, block in self._blocks(columns):
            z[rows] = block @ v
        return z

    def transpose_times_some(self, r: Array, columns: slice) -> Array:
        """X[:, columns]'r, shape (k,) or (k, C) for r of shape (n,) or (n, C), at the cost of these columns only."""
        if self.sparse:
            return np.asarray(self._some(columns)[0] @ r)
        if not self.narrow:
            return np.asarray(self.X[:, columns].T @ r)
        total = np.zeros((len(range(self.p)[columns]), *r.shape[1:]))
        for rows, block in self._blocks(columns):
            total += block.T @ r[rows]
        return total

    def gram(self, h: Array) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric, for row coefficients h of any sign, shape (n,)."""
        if self.sparse and self._entries * ENTRY_COST < self.n * self.p**2 / 2:
            return self._gram_by_table(h) if self._entries * 12 <= TABLE_BYTES else self._gram_by_product(h)
        H = np.zeros((self.p, self.p))
        for rows, block in self._blocks():
            part = h[rows]
            positive = part >= 0
            if positive.all():
                H += _square(block, part)
            else:
                H += _square(block[positive], part[positive])
                H -= _square(block[~positive], -part[~positive])
        return H

    @cached_property
    def squares(self) -> Array:
        """|x_j|^2 of every row, shape (n,)."""
        X = self.X.astype(np.float64, copy=False)
        return np.asarray((X * X).sum(axis=1)) if self.sparse else np.einsum("np,np->n", X, X)

    @cached_property
    def span(self) -> Span | None:
        """Coordinates of the span of the rows, for shards of few dense rows; None if they would save no time."""
        few = not self.sparse and 0 < FEW * self.n <= self.p
        return Span(self.X.astype(np.float64, copy=False)) if few else None

    def _blocks(self, columns: slice = slice(None)) -> Iterator[tuple[slice, Array]]:
        """Consecutive rows, dense and float64; for dense X, some of their columns."""
        size = max(1, BLOCK_NUMBERS // max(1, self.p))
        for first in range(0, self.n, size):
            rows = slice(first, first + size)
            # Some columns are copied before the conversion: strided conversion takes up to 3 times longer.
            block = self.X[rows].toarray() if self.sparse else np.ascontiguousarray(self.X[rows, columns])
            yield rows, block.astype(np.float64, copy=False)

    def _gram_by_table(self, h: Array) -> Array:
        upper = (self._table @ h).reshape(self.p, self.p)
        H = upper + upper.T
        np.fill_diagonal(H, np.diagonal(upper))
        return np.asarray(H)

    def _gram_by_product(self, h: Array) -> Array:
        # (sqrt|h| x_j)(sign h sqrt|h| x_k) rounds the same with j and k exchanged: exactly symmetric.
        X, T, root = self.X, self._transposed, np.sqrt(np.abs(h))
        left = sparse.csr_array((T.data * root[T.indices], T.indices, T.indptr), shape=T.shape)
        right = sparse.csr_array((X.data * np.repeat(np.copysign(root, h), self._counts), X.indices, X.indptr), X.shape)
        return np.asarray((left @ right).toarray())

    @cached_property
    def _transposed(self) -> sparse.csr_array:
        # X'r is three times faster with a stored transpose than with the column view of the same arrays.
        return self.X.T.tocsr()

    def _some(self, columns: slice) -> tuple[sparse.csr_array, sparse.csc_array]:
        """X[:, columns]' and X[:, columns], as views of the stored transpose."""
        first, end, _ = columns.indices(self.p)
        if (first, end) not in self._views:
            T, k = self._transposed, max(0, end - first)
            ends = T.indptr[first : first + k + 1]
            entries = slice(ends[0], ends[-1])
            parts = (T.data[entries], T.indices[entries], ends - ends[0])
            views = (sparse.csr_array((k, self.n), dtype=T.dtype), sparse.csc_array((self.n, k), dtype=T.dtype))
            for view in views:  # set as attributes, since the constructor copies arrays smaller than half of their base
                view.data, view.indices, view.indptr = parts
            self._views[first, end] = views
        return self._views[first, end]

    @cached_property
    def _views(self) -> dict[tuple[int, int], tuple[sparse.csr_array, sparse.csc_array]]:
        # Kept, since to make them costs more than the product of a small shard.
        return {}

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Stored entries of each row, shape (n,)."""
        return np.asarray(np.diff(self.X.indptr), dtype=np.int64)

    @cached_property
    def _entries(self) -> int:
        """Entries of the table: pairs j <= k of stored features, over all rows."""
        return int((self._counts * (self._counts + 1) // 2).sum())

    @cached_property
    def _table(self) -> sparse.csc_array:
        """Products x_j x_k of the pairs j <= k of stored features, by position in H and row: shape (p^2, n).

        X'diag(h)X is then one product of the table with h.
        """
        X = self.X.sorted_indices()  # a copy: duplicates are summed without changing the shard
        X.sum_duplicates()
        counts = np.diff(X.indptr).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(counts * (counts + 1) // 2)])
        places, products = np.empty(ends[-1], dtype=np.int32 if self.p**2 < 2**31 else np.int64), np.empty(ends[-1])
        # In blocks of rows: first access to memory costs more than the arithmetic.
        first = 0
        while first < self.n:
            end = max(first + 1, int(np.searchsorted(ends, ends[first] + BLOCK_NUMBERS)) - 1)
            block, out = slice(X.indptr[first], X.indptr[end]), slice(ends[first], ends[end])
            features, values = X.indices[block].astype(places.dtype), X.data[block].astype(np.float64)
            count = counts[first:end]
            # Every stored entry is multiplied by the entries from itself to the end of its row.
            here = np.arange(len(features))
            partners = np.repeat(np.cumsum(count), count) - here
            met = np.arange(ends[end] - ends[first]) - np.repeat(np.cumsum(partners) - partners - here, partners)
            np.add(np.repeat(features * self.p, partners), features[met], out=places[out])
            np.multiply(np.repeat(values, partners), values[met], out=products[out])
            first = end
        return sparse.csc_array((products, places, ends), shape=(self.p**2, self.n))


def _square(block: Array, h: Array) -> Array:
    """B'diag(h)B for h >= 0, as W'W: the symmetric kernel of BLAS does half the work, exactly symmetric."""
    W = block * np.sqrt(h)[:, None]
    return np.asarray(W.T @ W)
