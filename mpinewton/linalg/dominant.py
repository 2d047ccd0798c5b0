"""Eigenvalues of largest modulus of symmetric matrices that change a little from one call to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mpinewton import kernels
from mpinewton.arrays import Array
from mpinewton.linalg.krylov import EXHAUSTED

ALL: Any = ...  # the index of all matrices of a stack
BlockProduct = Callable[[Array, Any], Array]


class DominantEigenvectors(NamedTuple):
    """Approximate eigenpairs of a symmetric matrix D, or of each of a stack of them, largest moduli first.

    Attributes
    ----------
    e : array, shape (..., b)
        Ritz values, diag(V'DV); NaN where a D is not finite.
    V : array, shape (..., d, b)
        Ritz vectors, orthonormal columns.
    after : array, shape (..., d, b)
        A start for the matrix D - V_r diag(e_r) V_r': its products with V. Columns where these are 0 are those of the
        last `start`.
    """

    e: Array
    V: Array
    after: Array


def dominant(product: BlockProduct, start: Array, r: int, limit: int, accuracy: float) -> DominantEigenvectors:
    """Subspace iteration with the Rayleigh-Ritz method for the r eigenvalues of largest modulus.

    Started from the `after` of the last call, one product is usually enough. The results for a matrix of a stack are
    those for it alone, bit by bit.

    Parameters
    ----------
    product : function of (Q, some)
        D Q for Q of shape (..., d, b); for a stack, Q is that of the matrices with the indices `some`, or ALL.
    start : array, shape (..., d, b)
        Columns that span the first subspace, r <= b <= d.
    r : int
    limit : int
        Maximum number of products, at least 1.
    accuracy : float
        Stops when the Frobenius norm of D V_r - V_r diag(e_r) is at most accuracy |e_1|.
    """
    Y, some, found = start, ALL, None
    for _ in range(limit):
        Q = np.linalg.qr(Y)[0]
        e, V, after, squares = kernels.ritz(Q, product(Q, some), r)
        if not np.isfinite(e).all():
            return DominantEigenvectors(np.full_like(start[..., 0, :], np.nan), start, start)
        # A column of zeros would stay zero for every later D; random columns, as those of the first `start`, do not.
        dead = squares <= (EXHAUSTED * e[..., :1]) ** 2
        after = np.where(dead[..., None, :], start[some], after) if dead.any() else after
        if found is None:
            found = DominantEigenvectors(e, V, after)
        else:
            found.e[some], found.V[some], found.after[some] = e, V, after
        again = squares[..., :r].sum(axis=-1) > (accuracy * e[..., 0]) ** 2
        if not again.any():
            break
        again = np.flatnonzero(again) if start.ndim > 2 else ALL
        some = again if some is ALL else some[again]
        Y = np.array(after[again])
        Y[..., :r] += (V[..., :r] * e[..., None, :r])[again]
    assert found is not None
    return found
