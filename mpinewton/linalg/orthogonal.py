"""Approximate orthogonalisation of a matrix without a decomposition."""

from __future__ import annotations

import numpy as np

from mpinewton.arrays import Array

# Coefficients of the odd quintic of Muon (Jordan et al. 2024), which raises small singular values fast and does not
# converge to 1.
A, B, C = 3.4445, -4.7750, 2.0315


def newton_schulz(G: Array, steps: int = 5) -> Array:
    """G (r, c) with its singular values moved towards 1 (Jordan et al. 2024), shape (r, c); 0 for G = 0.

    Five steps map a singular value s |G| with s >= 0.003 to a value between 0.68 and 1.2, |G| the Frobenius norm. So
    the result is near U V' of the singular value decomposition, not equal to it.
    """
    X = G.T if G.shape[0] > G.shape[1] else G
    X = X / (np.linalg.norm(X) + 1e-7)
    for _ in range(steps):
        S = X @ X.T
        X = A * X + (B * S + C * (S @ S)) @ X
    return np.ascontiguousarray(X.T if G.shape[0] > G.shape[1] else X)
