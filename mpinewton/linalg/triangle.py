"""Symmetric matrices: packed triangles and positive definite systems."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array


def pack_triangle(H: Array) -> Array:
    """Upper triangle of H (d, d), row by row: shape (d (d + 1) / 2,)."""
    return H[_upper(len(H))]


def unpack_triangle(t: Array) -> Array:
    """The symmetric matrix (d, d) whose upper triangle, row by row, is t: bit by bit what `pack_triangle` was given.

    Raises
    ------
    ValueError
        If no triangle has len(t) numbers.
    """
    d = (isqrt(8 * len(t) + 1) - 1) // 2
    if d * (d + 1) // 2 != len(t):
        raise ValueError(f"{len(t)} numbers are no triangle: d (d + 1) / 2 are needed, {d * (d + 1) // 2} for d = {d}")
    H, upper = np.empty((d, d), dtype=t.dtype), _upper(d)
    H[upper] = t
    H.T[upper] = t
    return H


def _upper(d: int) -> NDArray[np.bool_]:
    return ~np.tri(d, k=-1, dtype=bool)
