"""The compiled loops, as classes that allocate what the loops write to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.kernels import rows
from mpinewton.kernels import text as readers

if TYPE_CHECKING:
    from mpinewton.kernels import Kernel


__all__ = ["Formula", "SparseRows", "readers", "use_level"]


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
        self._matrix.times(_numbers(v), out, *(v.shape[1:] or (1,)))
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

    def gram(self, h: Array) -> Array:
        """X'diag(h)X, shape (p, p), exactly symmetric."""
        H = np.empty((self.p, self.p))
        self._matrix.gram(_numbers(h), H)
        return H

    def hvp(self, h: Array, v: Array) -> Array:
        """X'diag(h)X v, shape (p,), in one pass over the rows."""
        out = np.empty(self.p)
        self._matrix.hvp(_numbers(h), _numbers(v), out)
        return out

    def evaluate(
        self, formula: Formula, w: Array | None, z: Array, order: int, part: slice = slice(None)
    ) -> tuple[float, Array | None, Array | None]:
        """The loss with all it is asked for in one pass over a part of the formula's rows; see `Rows.evaluate`."""
        g = np.empty((self.p, *z.shape[1:])) if order > 0 else None
        H = np.empty((self.p, self.p)) if order > 1 else None
        return formula.on(self._matrix, part, w, z, g, H), g, H


class Formula:
    """A loss of the compiled loops on the rows of one shard; see `mpinewton.linalg.rows.Formula`."""

    compiled = True

    def __init__(self, kernel: Kernel, outputs: int, t: Any, weight: Array | float) -> None:
        self._number, self._parameter, self._outputs = rows.LOSSES.index(kernel.name), float(kernel.parameter), outputs
        self._t = np.ascontiguousarray(t, dtype=np.int64 if kernel.name == "softmax" else np.float64)
        self._constants = None if kernel.constants is None else _numbers(kernel.constants)
        self.scale = weight if isinstance(weight, float) else 1.0
        self._weight = None if isinstance(weight, float) else _numbers(weight)

        self._whole = self._arguments(slice(None))

    def _arguments(self, part: slice) -> tuple[Any, ...]:
        """The formula on some rows, as the compiled loops take it."""
        constants, weight = (None if x is None else x[part] for x in (self._constants, self._weight))
        return self._number, self._parameter, self._outputs, self._t[part], constants, weight, self.scale

    def terms(self, z: Array, part: slice, order: int) -> tuple[float, Any, Any]:
        z = _numbers(z)
        r, h = np.empty(z.shape) if order > 0 else None, np.empty(z.shape) if order > 1 else None
        whole = len(z) == len(self._t)
        return rows.terms(self._whole if whole else self._arguments(part), len(z), z, r, h), r, h

    def second(self, z: Array) -> Array:
        h = np.empty(z.shape)
        rows.terms((*self._whole[:4], None, None, 1.0), len(z), _numbers(z), None, h)
        return h

    def line(self, z: Array, dz: Array, steps: Array) -> Array:
        out = np.empty(len(steps))
        rows.line(self._whole, len(z), _numbers(z), _numbers(dz), len(steps), _numbers(steps), out)
        return out

    def on(
        self, matrix: rows.Matrix, part: slice, w: Array | None, z: Array, g: Array | None, H: Array | None
    ) -> float:
        """The sum of the values, with what belongs to it, in one pass over some rows, a sparse matrix."""
        loss = self._whole if len(z) == len(self._t) else self._arguments(part)
        return matrix.evaluate(loss, None if w is None else _numbers(w), z, g, H)


def _numbers(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float64)
