"""A linear model with some of its weights alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.losses.linear import LinearModel


class SubModel:
    """Products of a linear model for some of its weights, at the cost of these: the others count as 0.

    Weights are a matrix (p, C); worked with are the features and the outputs of which any weight is kept.

    Parameters
    ----------
    model : LinearModel
    kept : bool array, shape (d,)
    """

    def __init__(self, model: LinearModel, kept: NDArray[np.bool_]) -> None:
        self.model = model
        grid = kept.reshape(-1, model.outputs)
        features: NDArray[np.bool_] = np.asarray(grid.any(axis=1))
        self.outputs = np.flatnonzero(grid.any(axis=0))
        # Neighbouring features are one product.
        turns = np.flatnonzero(features[1:] != features[:-1]) + 1
        self.runs = [slice(a, b) for a, b in pairwise([0, *turns.tolist(), len(features)]) if features[a]]
        self.within = grid[features][:, self.outputs]
        self.work = self.within.size / kept.size  # of a product with all weights

    def logits(self, w: Array) -> Array:
        """X w, shape (n,) or (n, C), for w of shape (d,) whose other weights are 0."""
        rows, C = self.model.rows, self.model.outputs
        if C == 1:
            return sum((rows.times_some(w[run], run) for run in self.runs), np.zeros(rows.n))
        z, W = np.zeros((rows.n, C)), w.reshape(-1, C)[:, self.outputs]
        for run in self.runs:
            z[:, self.outputs] += rows.times_some(W[run], run)
        return z

    def gradient(self, z: Array) -> Array:
        """What the mean loss, without l2, has as gradient for the kept weights where the logits are z: shape (k,)."""
        if not self.runs:
            return np.zeros(0)
        weight, r = self.model.row_weight, self.model.loss.derivatives(z, self.model.t)
        if r.ndim == 2:
            r = r[:, self.outputs]
        if not isinstance(weight, float):
            weight, r = 1.0, (weight * r.T).T
        G = np.concatenate([self.model.rows.transpose_times_some(r, run) for run in self.runs])
        return np.asarray(G[self.within] if G.ndim == 2 else G) * weight
