"""One logical worker's rows, in memory."""

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
        Features, float64 or float32, or uint8 where the loss keeps bytes; n may be 0.
    y : array, shape (n,)
        Labels as numbers: the values of the source, or class numbers where the source has words.
    sample_weight : array, shape (n,), or None
        Weight of each row in the loss; None means 1.
    scale : Fraction
        What the features are still to be multiplied by: 1 but for uint8.
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
    def total_weight(self) -> float:
        """Sum of the row weights: what this shard counts in the objective."""
        return float(self.rows if self.sample_weight is None else self.sample_weight.sum())

    def with_intercept(self) -> Shard:
        """The same rows with a last feature that is always 1."""
        if sparse.issparse(self.X):
            ones = sparse.csr_array(np.ones((self.rows, 1), dtype=self.X.dtype))
            return replace(self, X=sparse.hstack([self.X, ones], format="csr"))
        return replace(self, X=np.hstack([self.X, np.ones((self.rows, 1), dtype=self.X.dtype)]))
