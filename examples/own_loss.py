"""A loss of your own: the squared hinge.

mpinewton run lbfgs FOLDER --loss examples/own_loss.py:SquaredHinge:margin=2
mpiexec -n 3 python examples/own_loss.py
"""

from dataclasses import dataclass

import numpy as np

import mpinewton as mn
from mpinewton.losses import BinaryLoss


@dataclass(frozen=True)
class SquaredHinge(BinaryLoss):
    """max(0, margin - t z)^2 / 2, t = -1 for the first of two classes and 1 for the second; z = X w."""

    margin: float = mn.setting(1.0, gt=0, help="rows beyond it cost nothing")

    name = "squared-hinge"
    convex = True

    def values(self, z, t):  # row by row; z has shape (..., n), t has shape (n,)
        return 0.5 * np.maximum(0.0, self.margin - t * z) ** 2

    def derivatives(self, z, t):
        return -t * np.maximum(0.0, self.margin - t * z)

    def second_derivatives(self, z, t):
        return np.where(t * z < self.margin, 1.0, 0.0)


if __name__ == "__main__":
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 10))
    y = X[:, 0] + rng.standard_normal(300) > 0
    mine = slice(comm.rank, None, comm.size)
    for method in ("lbfgs", "newton", "dino"):
        result = mn.minimize(method, (X[mine], y[mine]), loss=SquaredHinge(margin=2.0), comm=comm)
        if comm.rank == 0:
            print(f"{method}: {result.nit} iterations, objective {result.fun:.10f}")
