"""Newton's method in coefficients: the rows travel once, and then what the Hessian is made of."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.compress.bits import Entries
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.rows import Rows
from mpinewton.methods.support.known_rows import KnownRowsState, all_rows
from mpinewton.methods.support.method import Method, fail
from mpinewton.methods.support.tasks import gradient_at, linear_model
from mpinewton.settings import setting


@dataclass(frozen=True)
class NewtonCoefficients(Method[KnownRowsState]):
    """Newton's method where the driver knows the rows (Islamov, Qian and Richtarik 2021, Section 2.2): one logit a row.

    Worker i sends its gradient and its m_i coefficients h_ij(x^k), and the driver makes the Hessian of them: the very
    iterates of newton with search=none. The rows are sent once, at the start.

    3 rounds an iteration; floats per worker: d down, d + m up, where it has m rows.
    """

    option: Literal[1, 2] = setting(
        1, help="1: rows are sent; 2: the driver is supposed to know them, and nothing is charged for it"
    )
    rows: Literal["sparse", "dense"] = setting("sparse", help="sparse: as they are stored; dense: d floats each")

    name = "newton-coefficients"
    needs = ("gradient", "hessian", "second_derivatives")
    rows_travel = True

    def start(self, fleet: Fleet, w: Array) -> KnownRowsState:
        with nullcontext() if self.option == 1 else fleet.uncharged():
            rows = all_rows(fleet, self.rows == "dense")
        return KnownRowsState(w, counts=rows.counts, features=rows.features, values=rows.values)

    def step(self, fleet: Fleet, now: KnownRowsState) -> KnownRowsState:
        g = fleet.mean(gradient_at, now.w)
        h = np.concatenate(fleet.gather(self.coefficients))
        X = Entries(now.counts, now.features, now.values).matrix(fleet.dim)
        solved = solve_semidefinite(Rows(X).gram(h) + np.diag(fleet.problem.l2_vector), g)
        if solved.status != "solved":
            return fail(now, "the Hessian has negative eigenvalues: newton-coefficients needs a convex objective")
        return replace(now, w=now.w - solved.x, step=1.0)

    def coefficients(self, worker: Worker) -> Array:
        """h_ij where the worker stands, times what the row counts in the whole; shape (m,)."""
        return np.asarray(worker.share * linear_model(worker).row_weight_array * worker.point.second_derivatives())
