"""Units of the variables, for methods that start from a multiple of the identity."""

from __future__ import annotations

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import UNKNOWN

# The iteration in which the units are looked at, if a run lasts so long: twice the pairs that L-BFGS remembers. On
# well-scaled problems it has then learnt the curvature that matters, or is done.
LOOK = 20
# Where entries of diag(H) differ by more than this factor, units differ by more than its root. On sparse binary data,
# whose entries are frequencies, it is 1e3 to 1e5, and scaling was measured to slow conjugate gradients down.
SPREAD = 1e6
# They are looked at only if the curvatures that the method has met differ by this factor. After 20 iterations of L-BFGS
# it is 50 to 600 on a9a, w8a, splice and digits, 2e4 on raw columns of scikit-learn's wine and breast cancer, and 4e6
# where one column has a unit 1e3 times smaller than the others.
CURVATURES = 1e4
ALPHA = 0.01  # weight of diag(H) in a preconditioner, against l2 (Hsia, Chiang and Lin 2018)


def is_time_to_look(fleet: Fleet, largest: float, least: float) -> bool:
    """Whether to call `measure_units` in this iteration: the loss provides it, and curvatures met differ so much."""
    return fleet.iteration == LOOK and provides_units(fleet) and largest > CURVATURES * least


def provides_units(fleet: Fleet) -> bool:
    """Whether the loss provides the diagonal of the Hessian."""
    return "hessian_diagonal" in fleet.problem.loss.provides


def measure_units(fleet: Fleet) -> Array:
    """diag(H) where the workers stand, (d,), entries of 0 replaced; `UNKNOWN` where units are alike. One round."""
    D: Array = np.abs(fleet.mean(hessian_diagonal))
    positive = D[D > 0]
    if not positive.size or positive.max() <= SPREAD * positive.min():
        return UNKNOWN
    return np.where(D > 0, D, positive.max())


def preconditioner(fleet: Fleet, D: Array, alpha: float = ALPHA) -> Array:
    """|alpha D + (1 - alpha) L|, (d,), with 1 in place of 0, for D = diag(H) and the diagonal L of l2."""
    M = np.abs(alpha * D + (1.0 - alpha) * fleet.problem.l2_vector)
    return np.where(M > 0, M, 1.0)


def hessian_diagonal(worker: Worker) -> Array:
    """The diagonal of the Hessian of f_i at the worker's weights, shape (d,): d floats."""
    return worker.hessian_diagonal()
