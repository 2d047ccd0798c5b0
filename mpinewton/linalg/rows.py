"""Products with the rows of one shard: X v, X'r and X'diag(h)X, dense or sparse, float64 sums whatever the storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from mpinewton import kernels
from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.span import Span

# Dense rows are processed in blocks: a float64 block stays in cache, and every sum is a float64 sum.
BLOCK_NUMBERS = 1 << 17
# In coordinates of the span of the rows, a Krylov space of 50 products takes 0.45 of the time at 100 rows of 784
# features, 0.8 at 300, 1.1 at 390; to compute the coordinates costs as much as one to six such spaces, once.
FEW = 5  # least number of features per row


# To turn an entry of sparse rows into one of a dense block costs as much as 64 multiply-adds of BLAS: 8 ns and 0.12 ns
# (10 to 800 features, one thread of OpenBLAS).
ENTRY_COST = 64


class Formula(Protocol):
    """A loss of a linear model on the rows of one shard, with their labels and weights; `scale` is left out of sums.

    Attributes
    ----------
    scale : float
        The weight of every row, where all are equal; else 1.
    compiled : bool
        Whether `mpinewton.kernels` evaluates it.
    """

    scale: float
    compiled: bool

    def terms(self, z: Array, part: slice, order: int) -> tuple[float, Any, Any]:
        """Sum of the values, derivatives, and second derivatives times `scale`, weighted, of some rows with logits z.

        Derivatives have the shape of z and are computed up to `order`.
        """

    def second(self, z: Array) -> Array:
        """Second derivatives without weights, shape of z."""

    def line(self, z: Array, dz: Array, steps: Array) -> Array:
        """Sums of the values at the logits z + a dz for every a of `steps`, shape (len(steps),)."""


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
        if self.sparse:
            self.X = canonical(X)
        self.narrow = X.dtype != np.float64

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        if self.sparse:
            return np.asarray(self._products.times(v))
        z = np.empty((self.n, *v.shape[1:]))
        for rows, block in self._blocks():
            z[rows] = block @ v
        return z

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return np.asarray(self._products.transpose_times(r))
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += block.T @ r[rows]
        return total

    def squares_transpose_times(self, r: Array) -> Array:
        """X.^2'r, squares entry by entry, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return np.asarray(self._products.squares_transpose_times(r))
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += (block * block).T @ r[rows]
        return total

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v, shape (p,), in one pass over the rows."""
        if self.sparse:
            return np.asarray(self._products.hvp(h, v))
        total = np.zeros(self.p)
        for rows, block in self._blocks():
            total += block.T @ (h[rows] * (block @ v))
        return total

    def evaluate(
        self, formula: Formula, w: Array | None, z: Array, order: int
    ) -> tuple[float, Array | None, Array | None]:
        """Sum of the values of a loss, X'r and X'diag(h)X, in one pass over the rows.

        r and h are the derivatives of the loss with respect to the logits, as in `Formula.terms`.

        Parameters
        ----------
        formula : Formula
        w : array, shape (p,) or (p, C), or None
            If given, z is set to X w. The sums are the same bits with z given.
        z : array, shape (n,) or (n, C)
            Logits.
        order : int
            0: the value; 1: X'r too; 2: also X'diag(h)X, for one logit per row.

        Returns
        -------
        value : float
        gradient : array, shape of w, or None
        hessian : array, shape (p, p), or None
        """
        if self.sparse:
            if formula.compiled and not (order > 1 and self._full):
                return self._products.evaluate(formula, w, z, order)  # type: ignore[no-any-return]
            if w is not None:
                z[...] = self.times(w)
            f, r, h = formula.terms(z, slice(None), order)
            return f, None if r is None else self.transpose_times(r), None if h is None else self.gram(h)
        if order == 0 and w is None:
            return sum(formula.terms(z[rows], rows, 0)[0] for rows in self._parts), None, None
        f, g, H = (
            0.0,
            np.zeros((self.p, *z.shape[1:])) if order else None,
            np.zeros((self.p,) * 2) if order > 1 else None,
        )
        for rows, block in self._blocks():
            if w is not None:
                z[rows] = block @ w
            value, r, h = formula.terms(z[rows], rows, order)
            f += value
            if g is not None:
                g += block.T @ r
            if H is not None:
                H += _square(block, h)
        return f, g, H

    def times_some(self, v: Array, columns: slice) -> Array:
        """X[:, columns] v, shape (n,) or (n, C) for v of shape (k,) or (k, C), at the cost of these columns only."""
        if self.sparse:
            return np.asarray(self._some(columns)[1] @ v)
        if not self.narrow:
            return np.asarray(self.X[:, columns] @ v)
        z = np.empty((self.n, *v.shape[1:]))
        for rows, block in self._converted(columns):
            z[rows] = block @ v
        return z

    def transpose_times_some(self, r: Array, columns: slice) -> Array:
        """X[:, columns]'r, shape (k,) or (k, C) for r of shape (n,) or (n, C), at the cost of these columns only."""
        if self.sparse:
            return np.asarray(self._some(columns)[0] @ r)
        if not self.narrow:
            return np.asarray(self.X[:, columns].T @ r)
        total = np.zeros((len(range(self.p)[columns]), *r.shape[1:]))
        for rows, block in self._converted(columns):
            total += block.T @ r[rows]
        return total

    def gram(self, h: Array) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric, for row coefficients h of any sign, shape (n,)."""
        if self.sparse and not self._full:
            return np.asarray(self._products.gram(h))
        H = np.zeros((self.p, self.p))
        for rows, block in self._blocks():
            H += _square(block, h[rows])
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

    @cached_property
    def _parts(self) -> list[slice]:
        """The rows, block by block."""
        size = max(1, BLOCK_NUMBERS // max(1, self.p))
        return [slice(first, first + size) for first in range(0, self.n, size)]

    @cached_property
    def _one_block(self) -> list[tuple[slice, Array]] | None:
        """Few dense rows, float64, as the only block."""
        return [(self._parts[0], self.X)] if len(self._parts) == 1 and not self.sparse and not self.narrow else None

    def _blocks(self) -> Iterable[tuple[slice, Array]]:
        """Consecutive rows, dense and float64."""
        return self._one_block or self._converted()

    def _converted(self, columns: slice = slice(None)) -> Iterator[tuple[slice, Array]]:
        """Consecutive rows, dense and float64; for dense X, some of their columns."""
        for rows in self._parts:
            # Some columns are copied before the conversion: strided conversion takes up to 3 times longer.
            block = self.X[rows].toarray() if self.sparse else np.ascontiguousarray(self.X[rows, columns])
            yield rows, block.astype(np.float64, copy=False)

    @cached_property
    def _products(self) -> Any:
        return kernels.SparseRows(self.X)

    @cached_property
    def _full(self) -> bool:
        """Whether sparse rows have so many stored entries that X'diag(h)X is faster with dense blocks."""
        counts = np.diff(self.X.indptr).astype(np.int64)
        pairs = int((counts * (counts + 1) // 2).sum())
        return bool(pairs * kernels.SparseRows.PAIR_COST >= self.n * self.p * (self.p / 2 + ENTRY_COST))

    @cached_property
    def _transposed(self) -> sparse.csr_array:
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


def canonical(X: Any) -> Any:
    """X, or a copy with sorted indices and without repeated ones."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _square(block: Array, h: Array) -> Array:
    """B'diag(h)B, exactly symmetric, for h of any sign."""
    positive = h >= 0
    if positive.all():
        return _symmetric_product(block, h)
    return _symmetric_product(block[positive], h[positive]) - _symmetric_product(block[~positive], -h[~positive])


def _symmetric_product(block: Array, h: Array) -> Array:
    """B'diag(h)B for h >= 0, as W'W: the symmetric kernel of BLAS does half the work, exactly symmetric."""
    W = block * np.sqrt(h)[:, None]
    return np.asarray(W.T @ W)
