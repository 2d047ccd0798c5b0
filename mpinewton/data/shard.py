"""The rows of one logical worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.linalg.stored import StoredMatrix


@dataclass(frozen=True)
class Shard:
    """Rows, labels and row weights of one logical worker.

    Attributes
    ----------
    X : array, csr_array or StoredMatrix, shape (n, p)
        Features, float64 or float32, or uint8 if the loss keeps bytes; n may be 0. A StoredMatrix stays on disk.
    y : array, shape (n,)
        Labels: the numbers of the source, or the numbers of its class names.
    sample_weight : array, shape (n,), or None
        Weight of each row; None: all are 1.
    scale : Fraction
        Factor that the features must be multiplied by; 1 unless they are uint8.
    """

    X: Matrix
    y: Array
    sample_weight: Array | None = None
    scale: Fraction = Fraction(1)

    @property
    def rows(self) -> int:
        return int(self.X.shape[0])

    @property
    def features(self) -> int:
        return int(self.X.shape[1])

    @property
    def entries(self) -> int:
        """Number of stored entries."""
        return self.rows * self.features if isinstance(self.X, np.ndarray) else int(self.X.nnz)

    @property
    def total_weight(self) -> float:
        """Sum of the row weights, the weight of this shard in the objective."""
        return float(self.rows if self.sample_weight is None else self.sample_weight.sum())

    def with_intercept(self) -> Shard:
        """The same rows with a last feature that is always 1."""
        return replace(self, X=self.X.with_intercept() if isinstance(self.X, StoredMatrix) else add_ones(self.X))


def add_ones(X: Any) -> Any:
    """Rows, dense or sparse, with a last feature that is always 1."""
    n, p = X.shape
    if not sparse.issparse(X):
        return np.hstack([X, np.ones((n, 1), dtype=X.dtype)])
    starts = X.indptr + np.arange(n + 1, dtype=X.indptr.dtype)
    data, indices = np.ones(X.nnz + n, X.dtype), np.full(X.nnz + n, p, X.indices.dtype)
    old = np.ones(X.nnz + n, dtype=bool)
    old[starts[1:] - 1] = False
    data[old], indices[old] = X.data, X.indices
    return sparse.csr_array((data, indices, starts), (n, p + 1))
