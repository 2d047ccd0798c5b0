"""Symmetric matrices as packed upper triangles."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Indices


def pack_triangle(H: Array) -> Array:
    """The upper triangle of H (d, d), row by row, shape (d (d + 1) / 2,)."""
    return np.concatenate([H[:0, 0:0].ravel(), *(row[j:] for j, row in enumerate(H))])


def add_packed_diagonal(t: Array, v: Array) -> Array:
    """The triangle t (d (d + 1) / 2,) of H, with diag(v) added in place, for v (d,)."""
    t[_diagonal(len(v))] += v
    return t


def unpack_triangle(t: Array) -> Array:
    """The symmetric matrix (d, d) whose upper triangle, row by row, is t. Inverse of `pack_triangle`, bit for bit.

    Raises
    ------
    ValueError
        If len(t) is not d (d + 1) / 2 for any d.
    """
    d = (isqrt(8 * len(t) + 1) - 1) // 2
    if d * (d + 1) // 2 != len(t):
        raise ValueError(f"{len(t)} numbers are no triangle: expected d (d + 1) / 2, {d * (d + 1) // 2} for d = {d}")
    H, upper = np.empty((d, d), dtype=t.dtype), _upper(d)
    H[upper] = t
    H.T[upper] = t
    return H


def add_diagonal(H: Array, v: Array) -> Array:
    """H + diag(v), shape (d, d), for v (d,): no second matrix is made for diag(v)."""
    H = H.copy()
    H[np.diag_indices_from(H)] += v
    return H


@lru_cache(maxsize=8)
def _diagonal(d: int) -> Indices:
    j = np.arange(d)
    return np.asarray(j * d - j * (j - 1) // 2)


def _upper(d: int) -> NDArray[np.bool_]:
    return ~np.tri(d, k=-1, dtype=bool)
