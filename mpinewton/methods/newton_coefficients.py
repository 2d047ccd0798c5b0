"""Newton's method where the workers send the coefficients of the Hessian and the driver has the rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.rows import Rows
from mpinewton.linalg.triangle import add_diagonal
from mpinewton.methods.support.known_rows import KnownRowsState, gather_rows
from mpinewton.methods.support.method import Cost, Method, fail
from mpinewton.methods.support.tasks import gradient_at, linear_model
from mpinewton.settings import setting


@dataclass(frozen=True)
class NewtonCoefficients(Method[KnownRowsState]):
    """Newton's method in coefficients (Islamov, Qian and Richtarik 2021, Section 2.2): losses with one logit a row.

    The rows are sent once, at the start. Worker i then sends its gradient and its m_i coefficients h_ij(x^k), from
    which the driver computes the Hessian. The iterates are those of newton with search=none.
    """

    option: Literal[1, 2] = setting(1, help="1: rows are sent; 2: the driver is assumed to know them, at no charge")
    rows: Literal["sparse", "dense"] = setting("sparse", help="sent as stored, or as d floats", only_if={"option": 1})

    name = "newton-coefficients"
    matrices = 3.5
    needs = ("gradient", "hessian", "second_derivatives", "rows")
    rows_travel = True
    cost = Cost("3", "d", "d + m")

    def start(self, fleet: Fleet, w: Array) -> KnownRowsState:
        with nullcontext() if self.option == 1 else fleet.uncharged():
            rows = gather_rows(fleet, self.rows == "dense")
        return KnownRowsState(w, place=np.arange(len(rows.counts)), **rows._asdict())

    def step(self, fleet: Fleet, now: KnownRowsState) -> KnownRowsState:
        g = fleet.mean(gradient_at, now.w)
        h = np.concatenate(fleet.gather(self.coefficients))
        X = now.entries.matrix(fleet.dim)
        solved = solve_semidefinite(add_diagonal(Rows(X).gram(h), fleet.problem.l2_vector), g)
        if solved.status != "solved":
            return fail(now, "the Hessian has a negative eigenvalue: newton-coefficients needs a convex objective")
        return replace(now, w=now.w - solved.x, step=1.0)

    def coefficients(self, worker: Worker) -> Array:
        """h_ij at the worker's weights, times the row's weight in the whole objective, shape (m_i,): m_i floats."""
        return np.asarray(worker.share * linear_model(worker).row_weight_array * worker.point.second_derivatives())
