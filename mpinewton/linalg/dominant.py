"""The eigenvalues of largest modulus of a symmetric matrix that changes a little from one call to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dgeqrf, dorgqr

from mpinewton.arrays import Array
from mpinewton.linalg.krylov import EXHAUSTED

BlockProduct = Callable[[Array], Array]


class DominantEigenvectors(NamedTuple):
    """What a subspace knows of the eigenvalues of D, largest moduli first.

    Attributes
    ----------
    e : array, shape (b,)
        NaN where D is not finite.
    V : array, shape (d, b)
        Orthonormal columns, with e = diag(V'DV).
    after : array, shape (d, b)
        A start for D - V_r diag(e_r) V_r': its products with V; columns of `start` where these are 0.
    """

    e: Array
    V: Array
    after: Array


def dominant(product: BlockProduct, start: Array, r: int, limit: int, accuracy: float) -> DominantEigenvectors:
    """Subspace iteration with Rayleigh and Ritz, from the columns of `start`, shape (d, b), r <= b <= d.

    At most `limit` >= 1 products D Q with b orthonormal columns; ends where the r largest have |D v - e v| of together
    at most `accuracy` |e_1|. From where the last call left off, one product is most often enough.
    """
    Y = start
    for _ in range(limit):
        Q = _orthonormal(Y)
        Y = product(Q)
        T = Q.T @ Y
        if not np.isfinite(T).all():
            return DominantEigenvectors(np.full(len(T), np.nan), Q, start)
        e, Z = np.linalg.eigh(T)
        order = np.argsort(-np.abs(e), kind="stable")
        e, Z = e[order], Z[:, order]
        V, Y = Q @ Z, Y @ Z
        left = Y[:, :r] - V[:, :r] * e[:r]
        if np.vdot(left, left) <= (accuracy * e[0]) ** 2:
            break
    after = np.hstack([left, Y[:, r:]])
    # Of a column of zeros nothing would ever come, were D to change: what was drawn once has a part in every direction.
    dead = np.einsum("db,db->b", after, after) <= (EXHAUSTED * e[0]) ** 2
    after[:, dead] = start[:, dead]
    return DominantEigenvectors(e, V, after)


def _orthonormal(Y: Array) -> Array:
    """Orthonormal columns whose span has the columns of Y in it, shape (d, b), b <= d, whatever the rank of Y."""
    # numpy.linalg.qr takes 45 us for 300 x 6, these two take 10.
    return np.asarray(dorgqr(*dgeqrf(Y)[:2])[0])
