"""Products with the rows of one shard: X v, X'r and X'diag(h)X, dense or sparse, float64 sums whatever the storage."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from mpinewton.data.shard import Array, Matrix

# float32 rows are widened a block at a time: the block of float64 stays in cache, and every sum is a float64 sum.
BLOCK_NUMBERS = 1 << 17
# X'diag(h)X through the table of products x_j x_k, entry by entry, where that is cheaper than dense arithmetic: about
# 1.4 ns an entry (memory) against 1/30 ns a dense multiply-add (BLAS), and at most this many bytes of table a shard.
ENTRY_COST = 40
TABLE_BYTES = 256 << 20


class Rows:
    """The rows of one shard and their products.

    Parameters
    ----------
    X : array or csr_array, shape (n, p)
    """

    def __init__(self, X: Matrix) -> None:
        self.X = X
        self.n, self.p = X.shape
        self.sparse = bool(sparse.issparse(X))
        self.narrow = X.dtype != np.float64

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        if self.narrow and not self.sparse:
            return np.concatenate([block @ v for block in self._wide_blocks()] or [np.zeros((0, *v.shape[1:]))])
        return np.asarray(self.X @ v)

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return np.asarray(self._transposed @ r)
        if self.narrow:
            total, first = np.zeros((self.p, *r.shape[1:])), 0
            for block in self._wide_blocks():
                total += block.T @ r[first : first + len(block)]
                first += len(block)
            return total
        return np.asarray(self.X.T @ r)

    def gram(self, h: Array) -> Array:
        """X'diag(h)X, shape (p, p), for row coefficients h of any sign, shape (n,)."""
        if self.sparse and self._table is not None:
            H = np.zeros((self.p, self.p))
            upper, table = self._table
            H[upper] = table @ h
            H.T[upper] = H[upper]
            return H
        if self.sparse:
            return np.asarray((self._transposed @ self.X.multiply(h[:, None]).tocsr()).toarray(), dtype=np.float64)
        H, first = np.zeros((self.p, self.p)), 0
        for block in self._wide_blocks() if self.narrow else [self.X]:
            part = h[first : first + len(block)]
            if np.all(part >= 0):  # W'W goes to the symmetric kernel: half the work, and exactly symmetric
                W = block * np.sqrt(part)[:, None]
                H += W.T @ W
            else:
                G = block.T @ (block * part[:, None])
                H += (G + G.T) / 2
            first += len(block)
        return H

    def _wide_blocks(self) -> list[Array]:
        size = max(1, BLOCK_NUMBERS // max(1, self.p))
        return [self.X[first : first + size].astype(np.float64) for first in range(0, self.n, size)]

    @cached_property
    def _transposed(self) -> sparse.csr_array:
        # A stored transpose makes X'r three times faster than the column view of the same arrays.
        return sparse.csr_array(self.X.T.tocsr())

    @cached_property
    def _table(self) -> tuple[tuple[Array, Array], sparse.csr_array] | None:
        """Rows: pairs j <= k that occur; columns: data rows; entries x_j x_k. X'diag(h)X is then one product with h."""
        counts = np.diff(self.X.indptr).astype(np.int64)
        entries = int((counts * (counts + 1) // 2).sum())
        if entries * ENTRY_COST > self.n * self.p**2 / 2 or entries * 12 > TABLE_BYTES:
            return None
        # All pairs (a, b) with a <= b of the stored entries of one row, for every row at once.
        X = self.X.sorted_indices()
        partners = np.repeat(counts, counts) - (np.arange(X.nnz) - np.repeat(X.indptr[:-1], counts))
        a = np.repeat(np.arange(X.nnz), partners)
        b = a + np.arange(entries) - np.repeat(np.cumsum(partners) - partners, partners)
        row = np.repeat(np.arange(self.n), counts)[a]
        pair = X.indices[a].astype(np.int64) * self.p + X.indices[b]
        present, number = np.unique(pair, return_inverse=True)
        values = X.data[a].astype(np.float64) * X.data[b]
        table = sparse.coo_array((values, (number, row)), shape=(len(present), self.n)).tocsr()
        return (present // self.p, present % self.p), table
