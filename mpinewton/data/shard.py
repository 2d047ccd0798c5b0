"""The rows of one logical worker, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array, Matrix


@dataclass(frozen=True)
class Shard:
    """Rows, labels and row weights of one logical worker.

    Attributes
    ----------
    X : array or csr_array, shape (n, p)
        Features, float64 or float32, or uint8 if the loss keeps bytes; n may be 0.
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
        return int(self.X.nnz) if isinstance(self.X, sparse.csr_array) else self.rows * self.features

    @property
    def total_weight(self) -> float:
        """Sum of the row weights, the weight of this shard in the objective."""
        return float(self.rows if self.sample_weight is None else self.sample_weight.sum())

    def with_intercept(self) -> Shard:
        """The same rows with a last feature that is always 1."""
        if sparse.issparse(self.X):
            ones = sparse.csr_array(np.ones((self.rows, 1), dtype=self.X.dtype))
            return replace(self, X=sparse.hstack([self.X, ones], format="csr"))
        return replace(self, X=np.hstack([self.X, np.ones((self.rows, 1), dtype=self.X.dtype)]))
