"""The compiled loops, as classes that allocate what the loops write to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array, Integers
from mpinewton.kernels import rows, twins
from mpinewton.kernels import text as readers

if TYPE_CHECKING:
    from mpinewton.kernels import Kernel


__all__ = ["Formula", "Group", "SparseRows", "gram", "readers", "ritz", "use_level"]

WIDEST = 16  # most columns of a block in `ritz`; wider ones are for LAPACK


def use_level(name: str | None) -> str:
    """The instruction set in use, after a change to this one. Raises ValueError if the processor does not have it."""
    return str(rows.level(name))


class SparseRows:
    """Products with the rows of a sparse matrix.

    Parameters
    ----------
    X : csr_array, shape (n, p)
        In canonical form. Its indices are copied, in 2 bytes where p <= 65536; its values are referred to, and not
        stored where all are 1.
    """

    # Cost of a pair of stored entries in `gram`, in multiply-adds of BLAS: 1.1 ns and 0.12 ns (one core).
    PAIR_COST = 9

    def __init__(self, X: sparse.csr_array) -> None:
        self.n, self.p = X.shape
        values = X.data if X.dtype == np.float32 else X.data.astype(np.float64, copy=False)
        self._matrix = rows.Matrix(X.indptr, X.indices, None if (values == 1.0).all() else values, self.p)

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        out = np.empty((self.n, *v.shape[1:]))
        rows.times((self._matrix,), _numbers(v), out, *(v.shape[1:] or (1,)))
        return out

    def transpose_times(self, r: Array) -> Array:
        """X'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        out = np.empty((self.p, *r.shape[1:]))
        self._matrix.transpose_times(_numbers(r), out, *(r.shape[1:] or (1,)))
        return out

    def squares_transpose_times(self, r: Array) -> Array:
        """X.^2'r, shape (p,) or (p, C) for r of shape (n,) or (n, C)."""
        out = np.empty((self.p, *r.shape[1:]))
        self._matrix.squares_transpose_times(_numbers(r), out, *(r.shape[1:] or (1,)))
        return out

    def gram(self, h: Array, packed: bool = False) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric; packed: its upper triangle."""
        H = _hessian(self.p, packed)
        self._matrix.gram(_numbers(h), H)
        return H

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v, shape (p,) or (p, C) for v of shape (p,) or (p, C), in one pass over the rows."""
        out = np.empty(v.shape)
        rows.hvp((self._matrix,), _numbers(h), _numbers(v), out, v.shape[1] if v.ndim > 1 else 1, False)
        return out

    def evaluate(
        self, formula: Formula, w: Array | None, z: Array, order: int, part: slice = slice(None), packed: bool = False
    ) -> tuple[float, Array | None, Array | None]:
        """The loss with all it is asked for in one pass over a part of the formula's rows; see `Rows.evaluate`."""
        f, g = np.empty(1), np.empty((self.p, *z.shape[1:])) if order > 0 else None
        H = _hessian(self.p, packed) if order > 1 else None
        loss = formula.arguments(part if len(z) < formula.n else None)
        rows.evaluate((self._matrix,), (loss,), None if w is None else _numbers(w), z, f, g, H)
        return float(f[0]), g, H


class Formula:
    """A loss of the compiled loops on the rows of one shard; see `mpinewton.linalg.rows.Formula`."""

    compiled = True

    def __init__(self, kernel: Kernel, outputs: int, t: Any, weight: Array | float) -> None:
        self._about = rows.LOSSES.index(kernel.name), float(kernel.parameter), outputs
        self.n, self._t = len(t), np.ascontiguousarray(t, dtype=np.int64 if kernel.name == "softmax" else np.float64)
        self._constants = None if kernel.constants is None else _numbers(kernel.constants)
        self.scale = weight if isinstance(weight, float) else 1.0
        self._weight = None if isinstance(weight, float) else _numbers(weight)
        self._whole = (*self._about, self._t, self._constants, self._weight, self.scale)

    def arguments(self, part: slice | None = None) -> tuple[Any, ...]:
        """The formula on some rows, or on all, as the compiled loops take it."""
        if part is None:
            return self._whole
        constants, weight = (None if x is None else x[part] for x in (self._constants, self._weight))
        return *self._about, self._t[part], constants, weight, self.scale

    @property
    def unweighted(self) -> tuple[Any, ...]:
        """The formula without weights, as the compiled loops take it."""
        return *self._about, self._t, None, None, 1.0

    def terms(self, z: Array, part: slice, order: int) -> tuple[float, Any, Any]:
        z, f = _numbers(z), np.empty(1)
        r, h = np.empty(z.shape) if order > 0 else None, np.empty(z.shape) if order > 1 else None
        rows.terms((self.arguments(part if len(z) < self.n else None),), z, f, r, h)
        return float(f[0]), r, h

    def second(self, z: Array) -> Array:
        return _second((self,), z)

    def line(self, z: Array, dz: Array, steps: Array) -> Array:
        return np.asarray(_line((self,), z, dz, steps)[0])


class Group:
    """Rows of several shards with as many features, and a loss on each: what is asked of all is done in one call.

    Arrays of rows hold those of all shards, one after the other.

    Parameters
    ----------
    shards : sequence of SparseRows, k of them
    formulas : sequence of Formula
    """

    def __init__(self, shards: Sequence[SparseRows], formulas: Sequence[Formula]) -> None:
        self._matrices, self._formulas = tuple(part._matrix for part in shards), tuple(formulas)
        self._losses = tuple(formula.arguments() for formula in formulas)
        self.n, self.p = sum(part.n for part in shards), shards[0].p

    def times(self, v: Array) -> Array:
        """X v, shape (n,) or (n, C) for v of shape (p,) or (p, C)."""
        out = np.empty((self.n, *v.shape[1:]))
        rows.times(self._matrices, _numbers(v), out, *(v.shape[1:] or (1,)))
        return out

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v of every shard, shape (k, p)."""
        out = np.empty((len(self._matrices), self.p))
        rows.hvp(self._matrices, _numbers(h), _numbers(v), out, 1, False)
        return out

    def hvps(self, h: Array, V: Array, some: Sequence[int]) -> Array:
        """X'diag(h)X V of some shards, with their rows' h and their own V, of shape (k, p, C), as the result."""
        out = np.empty(V.shape)
        rows.hvp(tuple(self._matrices[i] for i in some), _numbers(h), _numbers(V), out, V.shape[2], True)
        return out

    def evaluate(
        self, w: Array | None, z: Array, order: int, sums: tuple[Array, Array, Integers] | None = None
    ) -> tuple[Array, Array | None, Array | None]:
        """Sum of the values of every shard, shape (k,), and X'r, shape (k, p) or (k, p, C); see `Rows.evaluate`.

        With sums = (diagonal, scales, merged) also sums of scales[i] (X_i'diag(h_i)X_i + diag(diagonal)) as packed
        triangles, shape (s, p (p + 1) / 2): the last two are added merged[i] times after that of shard i.
        """
        k, H, asked = len(self._matrices), None, None
        f, g = np.empty(k), np.empty((k, self.p, *z.shape[1:])) if order > 0 else None
        if sums is not None:
            diagonal, scales, merged = sums
            H = np.empty((k - int(merged.sum()), self.p * (self.p + 1) // 2))
            asked = _numbers(diagonal), _numbers(scales), merged, H
        w = None if w is None else _numbers(w)
        rows.evaluate(self._matrices, self._losses, w, z, f, g, asked)
        return f, g, H

    def second(self, z: Array) -> Array:
        """Second derivatives without weights, shape of z."""
        return _second(self._formulas, z)

    def line(self, z: Array, dz: Array, steps: Array) -> Array:
        """Sums of the values of every shard at z + a dz for every a of `steps`, shape (k, len(steps))."""
        return _line(self._formulas, z, dz, steps)


def gram(X: Array, h: Array) -> Array:
    """As `twins.gram`."""
    n, p = X.shape
    if not 0 < p <= rows.NARROW:
        return twins.gram(X, h)
    H = np.empty((p, p))
    rows.gram(_numbers(X), _numbers(h), H, n, p)
    return H


def ritz(Q: Array, Y: Array, r: int) -> tuple[Array, Array, Array, Array]:
    """As `twins.ritz`."""
    *stack, d, b = Q.shape
    if b > WIDEST:
        return twins.ritz(Q, Y, r)
    e, squares, Q, Y = np.empty((*stack, b)), np.empty((*stack, b)), _numbers(Q), _numbers(Y)
    rows.ritz(Q, Y, e, squares, d, b, r)
    return e, Q, Y, squares


def _second(formulas: tuple[Formula, ...], z: Array) -> Array:
    h = np.empty(z.shape)
    rows.terms(tuple(formula.unweighted for formula in formulas), _numbers(z), None, None, h)
    return h


def _line(formulas: tuple[Formula, ...], z: Array, dz: Array, steps: Array) -> Array:
    out = np.empty((len(formulas), len(steps)))
    losses = tuple(formula.arguments() for formula in formulas)
    rows.line(losses, _numbers(z), _numbers(dz), len(steps), _numbers(steps), out)
    return out


def _hessian(p: int, packed: bool) -> Array:
    return np.empty(p * (p + 1) // 2 if packed else (p, p))


def _numbers(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float64)
