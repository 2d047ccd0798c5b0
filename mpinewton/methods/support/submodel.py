"""A linear model restricted to some of its weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.losses.linear import LinearModel


class SubModel:
    """Products of a linear model with some of its weights kept and the others 0, at the cost of those kept.

    The weights are a matrix (p, C). The products use the features and outputs that have any kept weight.

    Parameters
    ----------
    model : LinearModel
    kept : bool array, shape (d,)

    Attributes
    ----------
    outputs : int array
        Outputs with a kept weight.
    runs : list of slice
        Runs of neighbouring features with a kept weight.
    within : bool array, shape (number of such features, number of such outputs)
        Which weights are kept.
    work : float
        Cost of a product, relative to one with all weights.
    """

    def __init__(self, model: LinearModel, kept: NDArray[np.bool_]) -> None:
        self.model = model
        grid = kept.reshape(-1, model.outputs)
        features: NDArray[np.bool_] = np.asarray(grid.any(axis=1))
        self.outputs = np.flatnonzero(grid.any(axis=0))
        # Neighbouring features make one product.
        turns = np.flatnonzero(features[1:] != features[:-1]) + 1
        self.runs = [slice(a, b) for a, b in pairwise([0, *turns.tolist(), len(features)]) if features[a]]
        self.within = grid[features][:, self.outputs]
        self.work = self.within.size / kept.size

    def logits(self, w: Array) -> Array:
        """X w, shape (n,) or (n, C), for w (d,) whose other weights are 0."""
        rows, C = self.model.rows, self.model.outputs
        if C == 1:
            return sum((rows.times_some(w[run], run) for run in self.runs), np.zeros(rows.n))
        z, W = np.zeros((rows.n, C)), w.reshape(-1, C)[:, self.outputs]
        for run in self.runs:
            z[:, self.outputs] += rows.times_some(W[run], run)
        return z

    def gradient(self, z: Array) -> Array:
        """Gradient of the mean loss, without l2, in the k kept weights at logits z (n,) or (n, C): shape (k,)."""
        if not self.runs:
            return np.zeros(0)
        weight, r = self.model.row_weight, self.model.loss.derivatives(z, self.model.t)
        if r.ndim == 2:
            r = r[:, self.outputs]
        if not isinstance(weight, float):
            weight, r = 1.0, (weight * r.T).T
        G = np.concatenate([self.model.rows.transpose_times_some(r, run) for run in self.runs])
        return np.asarray(G[self.within] if G.ndim == 2 else G) * weight
