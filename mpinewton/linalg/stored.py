"""Matrices whose rows stay on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix


class StoredMatrix(ABC):
    """A matrix on disk, read block by block, in order.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        Of the blocks.
    starts : array, shape (n + 1,), or None
        Where the stored entries of each row start; None for dense rows.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    starts: NDArray[np.int64] | None

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.shape[0] * self.shape[1] if self.starts is None else int(self.starts[-1])

    @abstractmethod
    def blocks(self, parts: Sequence[slice]) -> Iterator[tuple[slice, Matrix]]:
        """Consecutive parts of the rows; the next one is read while the last is in use."""

    @abstractmethod
    def __getitem__(self, rows: NDArray[np.intp]) -> Matrix:
        """Some rows in memory, whose numbers have shape (k,)."""

    @abstractmethod
    def with_intercept(self) -> StoredMatrix:
        """The same rows with a last column of ones."""

    @abstractmethod
    def affine(self, shift: Array, factor: Array) -> StoredMatrix:
        """The same rows with columns as `affine` changes them."""


def affine(X: Any, shift: Array, factor: Array) -> Matrix:
    """(X - shift) * factor, shift and factor of shape (p,), with the dtype of X; sparse rows have no shift."""
    if sparse.issparse(X):
        data = np.asarray(X.data * factor[X.indices], dtype=X.dtype)
        return sparse.csr_array((data, X.indices, X.indptr), shape=X.shape)
    if X.dtype == np.float64:
        changed = X - shift
        changed *= factor
        return np.asarray(changed)
    return np.asarray((X - shift) * factor, dtype=X.dtype)
