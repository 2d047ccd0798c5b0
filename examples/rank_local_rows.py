"""Rows that are on the ranks already: every rank brings its own, and none of them travels.

mpiexec -n 3 python examples/rank_local_rows.py
"""

import numpy as np
from mpi4py import MPI

import mpinewton as mn

comm = MPI.COMM_WORLD
rng = np.random.default_rng([7, comm.rank])  # a simulation, a reader of files, ...
X = rng.standard_normal((100, 5))
y = X @ np.arange(5.0) + 0.1 * rng.standard_normal(100)

result = mn.minimize("newton", (X, y), loss="squared", intercept=True, comm=comm)
print(f"rank {comm.rank}: {np.array2string(result.x, precision=3)}")  # the same on every rank
if comm.rank == 0:
    print(f"{result.ledger.rounds} rounds, {result.ledger.totals()['bits_up']} bits up on the busiest link")
