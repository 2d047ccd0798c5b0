"""An objective of your own: a sum of functions, one per rank, as `scipy.optimize.minimize` takes one.

mpiexec -n 3 python examples/own_objective.py
"""

import numpy as np
from mpi4py import MPI

import mpinewton as mn

comm = MPI.COMM_WORLD
terms = np.arange(comm.rank, 9, comm.size)  # of the chained Rosenbrock function in 10 variables, those of this rank


def fun(x):
    """Value and gradient of this rank's terms."""
    left, right = x[terms], x[terms + 1]
    bend = right - left**2
    g = np.zeros(len(x))
    np.add.at(g, terms, -400 * left * bend - 2 * (1 - left))
    np.add.at(g, terms + 1, 200 * bend)
    return np.sum(100 * bend**2 + (1 - left) ** 2), g


result = mn.minimize_function(fun, np.zeros(10), jac=True, method="lbfgs", comm=comm)
if comm.rank == 0:
    print(f"{result.nit} iterations, {result.message}; largest error {abs(result.x - 1).max():.1e}")
