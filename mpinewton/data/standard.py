"""Standardisation: features with mean 0 and standard deviation 1, or only the latter if the rows are sparse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.data.spool import Spool
from mpinewton.errors import DataError

Numbers = tuple[float, ...] | None


def standardize(X: Any, shift: Numbers, factor: Numbers) -> Any:
    """(X - shift) * factor, in float64, shape (n, p); X itself if `factor` is None.

    Sparse rows stay sparse if `shift` is None; otherwise the result is dense.
    """
    if factor is None:
        return X
    if sparse.issparse(X) and shift is None:
        return sparse.csr_array((X.data * np.asarray(factor)[X.indices], X.indices, X.indptr), shape=X.shape)
    X = X.toarray() if sparse.issparse(X) else X
    return (X - np.asarray(shift if shift is not None else 0.0)) * np.asarray(factor)


def measure(rows: Spool, features: int, numbers: NDArray[np.bool_] | None, centre: bool) -> tuple[Numbers, Numbers]:
    """Shift and factor of each feature: mean, and 1 / standard deviation (divided by n), in two passes over the rows.

    Parameters
    ----------
    rows : Spool
    features : int
    numbers : array of bool, shape (features,), or None
        The features to standardise; the others get 0 and 1. None: all.
    centre : bool
        False: the shift is None.

    Notes
    -----
    A feature that is constant gets the factor 1, and its value as shift.
    """
    n = rows.rows
    total, low, high = np.zeros(features), np.full(features, np.inf), np.full(features, -np.inf)
    for values, columns in _entries(rows, features):
        total += np.bincount(columns, values, features)
        np.minimum.at(low, columns, values)
        np.maximum.at(high, columns, values)
    mean = total / n
    squares, rest, stored = np.zeros(features), np.zeros(features), np.zeros(features)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for values, columns in _entries(rows, features):
            difference = values - mean[columns]
            squares += np.bincount(columns, difference**2, features)
            rest += np.bincount(columns, difference, features)
            stored += np.bincount(columns, minlength=features)
        absent = n - stored  # zeros of sparse rows
        low, high = np.where(absent > 0, np.minimum(low, 0), low), np.where(absent > 0, np.maximum(high, 0), high)
        variance = (squares + absent * mean**2 - (rest - absent * mean) ** 2 / n) / n
        if not np.isfinite(variance).all():
            raise DataError("--standardize: the square of a feature overflows; pack with a small --scale, too")
        factor = 1 / np.sqrt(np.maximum(variance, 0))
    constant = (low == high) | ~np.isfinite(factor)
    shift, factor = np.where(constant & (low == high), low, mean), np.where(constant, 1.0, factor)
    if numbers is not None:
        shift, factor = np.where(numbers, shift, 0.0), np.where(numbers, factor, 1.0)
    return tuple(shift.tolist()) if centre else None, tuple(factor.tolist())


def _entries(rows: Spool, features: int) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Values and columns of the entries of some rows: all of dense rows, the stored ones of sparse rows."""
    for piece in rows.pieces(np.arange(rows.rows), features, "float64", not rows.dense):
        X = piece.X
        if isinstance(X, np.ndarray):
            yield X.ravel(), np.tile(np.arange(features), len(X))
        else:
            yield X.data, X.indices.astype(np.int64)
