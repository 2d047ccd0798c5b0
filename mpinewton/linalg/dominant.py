"""Eigenvalues of largest modulus of a symmetric matrix that changes a little from one call to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dgeqrf, dorgqr

from mpinewton.arrays import Array
from mpinewton.linalg.krylov import EXHAUSTED

BlockProduct = Callable[[Array], Array]


class DominantEigenvectors(NamedTuple):
    """Approximate eigenpairs of a symmetric matrix D, largest moduli first.

    Attributes
    ----------
    e : array, shape (b,)
        Ritz values, diag(V'DV); NaN where D is not finite.
    V : array, shape (d, b)
        Ritz vectors, orthonormal columns.
    after : array, shape (d, b)
        A start for the matrix D - V_r diag(e_r) V_r': its products with V. Columns where these are 0 are those of the
        last `start`.
    """

    e: Array
    V: Array
    after: Array


def dominant(product: BlockProduct, start: Array, r: int, limit: int, accuracy: float) -> DominantEigenvectors:
    """Subspace iteration with the Rayleigh-Ritz method for the r eigenvalues of largest modulus.

    Started from the `after` of the last call, one product is usually enough.

    Parameters
    ----------
    product : function of Q, shape (d, b), that returns D Q
    start : array, shape (d, b)
        Columns that span the first subspace, r <= b <= d.
    r : int
    limit : int
        Maximum number of products, at least 1.
    accuracy : float
        Stops when the Frobenius norm of D V_r - V_r diag(e_r) is at most accuracy |e_1|.
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
    # A column of zeros would stay zero for every later D; random columns, as those of the first `start`, do not.
    dead = np.einsum("db,db->b", after, after) <= (EXHAUSTED * e[0]) ** 2
    after[:, dead] = start[:, dead]
    return DominantEigenvectors(e, V, after)


def _orthonormal(Y: Array) -> Array:
    """Orthonormal columns, shape (d, b), whose span contains the columns of Y, for b <= d and Y of any rank."""
    # 10 us for 300 x 6, where numpy.linalg.qr takes 45.
    return np.asarray(dorgqr(*dgeqrf(Y)[:2])[0])
