"""Products with the rows of one shard: X v, X'r and X'diag(h)X, dense or sparse, float64 sums whatever the storage."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton import kernels
from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.span import Span
from mpinewton.linalg.stored import StoredMatrix, affine
from mpinewton.linalg.triangle import pack_triangle

# Sums over sparse rows are added up in parts of about so many stored entries, in memory or not: a part fits in 32 MB.
SEGMENT_ENTRIES = 1 << 20
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
    X : array, csr_array or StoredMatrix, shape (n, p)
        It is never written to. A StoredMatrix is read anew for every product; the bits are those of a matrix in memory.
    """

    def __init__(self, X: Matrix | StoredMatrix) -> None:
        self.X: Any = X
        self.n, self.p = X.shape
        self.stored = isinstance(X, StoredMatrix)
        self.sparse = X.starts is not None if isinstance(X, StoredMatrix) else bool(sparse.issparse(X))
        self._loaded: list[tuple[slice, Any]] = []  # products with each segment of sparse rows in memory
        if self.sparse and not self.stored:
            self.X = canonical(X)
            parts = [self.X] if len(self._segments) == 1 else [_view(self.X, rows) for rows in self._segments]
            self._loaded = [(rows, kernels.SparseRows(part)) for rows, part in zip(self._segments, parts)]
        self.narrow = X.dtype != np.float64

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Some of the rows, whose numbers have shape (k,), in memory."""
        return Rows(self.X.take(rows, axis=0) if isinstance(self.X, np.ndarray) else self.X[rows])

    def affine(self, shift: Array, factor: Array) -> Rows:
        """Rows of (X - shift) * factor, computed in float64 and stored as X is; sparse rows have no shift."""
        return Rows(self.X.affine(shift, factor) if self.stored else affine(self.X, shift, factor))

    def facts(self, limit: int) -> tuple[Array, Array, Array, Array]:
        """Of about `limit` rows: least and largest entry, sum of squares and number of entries that are not 0, (p,)."""
        X = self.X[np.arange(0, self.n, max(1, self.n // limit))].astype(np.float64)
        with np.errstate(over="ignore"):
            if not X.shape[0]:
                return np.full(self.p, np.inf), np.full(self.p, -np.inf), np.zeros(self.p), np.zeros(self.p)
            if not self.sparse:
                return X.min(axis=0), X.max(axis=0), (X * X).sum(axis=0), np.count_nonzero(X, axis=0).astype(np.float64)
            squares, stored = (np.bincount(X.indices, some, self.p) for some in (X.data**2, X.data != 0.0))
        return np.zeros(self.p), np.zeros(self.p), squares.astype(np.float64), stored.astype(np.float64)

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        if self.sparse:
            return _joined([part.times(v) for _, part in self._products])
        z = np.empty((self.n, *v.shape[1:]))
        for rows, block in self._blocks():
            z[rows] = block @ v
        return z

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return _added(part.transpose_times(r[rows]) for rows, part in self._products)
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += block.T @ r[rows]
        return total

    def squares_transpose_times(self, r: Array) -> Array:
        """X.^2'r, squares entry by entry, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        if self.sparse:
            return _added(part.squares_transpose_times(r[rows]) for rows, part in self._products)
        total = np.zeros((self.p, *r.shape[1:]))
        for rows, block in self._blocks():
            total += (block * block).T @ r[rows]
        return total

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v, shape (p,) or (p, C) for v of shape (p,) or (p, C), in one pass over the rows."""
        if self.sparse:
            return _added(part.hvp(h[rows], v) for rows, part in self._products)
        return self.product(lambda rows, z: (h[rows] * z.T).T, v)

    def product(self, change: Callable[[slice, Array], Array], v: Array) -> Array:
        """X'r, shape (p,) or (p, C), of r = change(rows, X v) for some rows at a time, in one pass over them."""
        if self.sparse:
            return _added(part.transpose_times(change(rows, part.times(v))) for rows, part in self._products)
        total = np.zeros(v.shape)
        for rows, block in self._blocks():
            total += block.T @ change(rows, block @ v)
        return total

    def evaluate(
        self, formula: Formula, w: Array | None, z: Array, order: int, packed: bool = False
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
        packed : bool
            Whether X'diag(h)X is returned as its upper triangle, row by row.

        Returns
        -------
        value : float
        gradient : array, shape of w, or None
        hessian : array, shape (p, p) or (p (p + 1) / 2,), or None
        """
        if self.sparse:
            if formula.compiled and not (order > 1 and self.dense_gram):
                return self._evaluate_compiled(formula, w, z, order, packed)
            if w is not None:
                z[...] = self.times(w)
            f, r, h = formula.terms(z, slice(None), order)
            return f, None if r is None else self.transpose_times(r), None if h is None else self.gram(h, packed)
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
                H += kernels.gram(block, h)
        return f, g, pack_triangle(H) if packed and H is not None else H

    def _evaluate_compiled(
        self, formula: Formula, w: Array | None, z: Array, order: int, packed: bool
    ) -> tuple[float, Array | None, Array | None]:
        if order == 0 and w is None:
            return sum(formula.terms(z[rows], rows, 0)[0] for rows in self._segments), None, None
        f, g, H = 0.0, None, None
        for rows, part in self._products:
            value, more_g, more_H = part.evaluate(formula, w, z[rows], order, rows, packed)
            f, g, H = f + value, more_g if g is None else _add(g, more_g), more_H if H is None else _add(H, more_H)
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

    def gram(self, h: Array, packed: bool = False) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric, for row coefficients h of any sign, shape (n,).

        Packed: its upper triangle, row by row, shape (p (p + 1) / 2,).
        """
        if self.sparse and not self.dense_gram:
            return _added(part.gram(h[rows], packed) for rows, part in self._products)
        H = self.grams(lambda rows: [h[rows]], 1)[0]
        return pack_triangle(H) if packed else H

    def grams(self, coefficients: Callable[[slice], Iterable[Array]], count: int) -> Array:
        """X'diag(h)X for `count` vectors h, shape (count, p, p), in one pass over the rows.

        `coefficients` gives these vectors for some of the rows.
        """
        total = np.zeros((count, self.p, self.p))
        if self.sparse and not self.dense_gram:
            for rows, part in self._products:
                for H, h in zip(total, coefficients(rows)):
                    H += part.gram(h)
        else:
            for rows, block in self._blocks():
                for H, h in zip(total, coefficients(rows)):
                    H += kernels.gram(block, h)
        return total

    @cached_property
    def squares(self) -> Array:
        """|x_j|^2 of every row, shape (n,)."""
        parts = self.X.blocks(self._parts or [slice(0, 0)]) if self.stored else [(slice(None), self.X)]
        return _joined([_squares(block) for _, block in parts])

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
        few = len(self._parts) == 1 and not (self.sparse or self.narrow or self.stored)
        return [(self._parts[0], self.X)] if few else None

    def _blocks(self) -> Iterable[tuple[slice, Array]]:
        """Consecutive rows, dense and float64."""
        return self._one_block or self._converted()

    def _converted(self, columns: slice = slice(None)) -> Iterator[tuple[slice, Array]]:
        """Consecutive rows, dense and float64; for dense X, some of their columns."""
        if self.stored:
            for rows, block in self.X.blocks(self._parts):
                yield rows, (block.toarray() if self.sparse else block).astype(np.float64, copy=False)[:, columns]
            return
        for rows in self._parts:
            # Some columns are copied before the conversion: strided conversion takes up to 3 times longer.
            block = self.X[rows].toarray() if self.sparse else np.ascontiguousarray(self.X[rows, columns])
            yield rows, block.astype(np.float64, copy=False)

    @property
    def _starts(self) -> NDArray[np.int64]:
        """Where the stored entries of each row start, and the number of all, shape (n + 1,)."""
        return np.asarray(self.X.starts if self.stored else self.X.indptr)

    @cached_property
    def _segments(self) -> list[slice]:
        """Sparse rows in parts of about SEGMENT_ENTRIES entries. The sum over all rows is that of their sums."""
        starts = self._starts
        cuts = np.unique(np.searchsorted(starts, np.arange(SEGMENT_ENTRIES, int(starts[-1]), SEGMENT_ENTRIES)))
        ends = [0, *(int(cut) for cut in cuts if 0 < cut < self.n), self.n]
        return [slice(first, last) for first, last in itertools.pairwise(ends)]

    @property
    def _products(self) -> Iterable[tuple[slice, Any]]:
        """Products with each segment."""
        if self.stored:
            return ((rows, kernels.SparseRows(block)) for rows, block in self.X.blocks(self._segments))
        return self._loaded

    @property
    def in_one(self) -> Any:
        """Products with all rows, where they are sparse, in memory and few enough for one part; else None."""
        return self._loaded[0][1] if len(self._loaded) == 1 else None

    @cached_property
    def dense_gram(self) -> bool:
        """Whether sparse rows have so many stored entries that X'diag(h)X is faster with dense blocks."""
        counts = np.diff(self._starts).astype(np.int64)
        pairs = int((counts * (counts + 1) // 2).sum())
        return bool(pairs and pairs * kernels.SparseRows.PAIR_COST >= self.n * self.p * (self.p / 2 + ENTRY_COST))

    @cached_property
    def _transposed(self) -> sparse.csr_array:
        return self.X.T.tocsr()

    def _some(self, columns: slice) -> tuple[sparse.csr_array, sparse.csc_array]:
        """X[:, columns]' and X[:, columns], as views of the stored transpose."""
        first, end, _ = columns.indices(self.p)
        if (first, end) not in self._views:
            T = _view(self._transposed, slice(first, max(first, end)))
            X = sparse.csc_array((self.n, T.shape[0]), dtype=T.dtype)
            X.data, X.indices, X.indptr = T.data, T.indices, T.indptr
            self._views[first, end] = T, X
        return self._views[first, end]

    @cached_property
    def _views(self) -> dict[tuple[int, int], tuple[sparse.csr_array, sparse.csc_array]]:
        # Kept, since to make them costs more than the product of a small shard.
        return {}


def _joined(parts: list[Array]) -> Array:
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def _added(parts: Iterable[Array]) -> Array:
    """The sum of arrays, in their order, the first of which is written to."""
    return functools.reduce(_add, parts)


def _add(total: Array, more: Array) -> Array:
    total += more
    return total


def _squares(block: Any) -> Array:
    X = block.astype(np.float64, copy=False)
    return np.asarray((X * X).sum(axis=1)) if sparse.issparse(X) else np.einsum("np,np->n", X, X)


def _view(X: Any, rows: slice) -> Any:
    """Some consecutive rows, without a copy of their entries."""
    starts = X.indptr[rows.start : rows.stop + 1]
    entries = slice(starts[0], starts[-1])
    part = sparse.csr_array((rows.stop - rows.start, X.shape[1]), dtype=X.dtype)
    # Set as attributes, since the constructor copies arrays smaller than half of their base.
    part.data, part.indices, part.indptr = X.data[entries], X.indices[entries], starts - starts[0]
    return part


def canonical(X: Any) -> Any:
    """X, or a copy with sorted indices and without repeated ones."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X
