"""Newton's method in coefficients: the rows travel once, and then what the Hessian is made of."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.compress.bits import Entries
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.rows import Rows
from mpinewton.methods.support.known_rows import Informed, all_rows
from mpinewton.methods.support.method import Iterate, Method, stuck
from mpinewton.methods.support.tasks import linear, slope


@dataclass(frozen=True)
class NewtonCoefficients(Method):
    """Newton's method where the driver knows the rows (Islamov, Qian and Richtarik 2021, Section 2.2): one logit a row.

    Worker i sends its gradient and its m_i coefficients h_ij(x^k), and the driver makes the Hessian of them: the very
    iterates of newton with search=none. The rows are sent once, at the start.

    3 rounds an iteration; floats per worker: d down, d + m up, where it has m rows.
    """

    option: Literal[1, 2] = 1  # 1: rows are sent; 2: the driver is supposed to know them, and nothing is charged for it
    rows: Literal["sparse", "dense"] = "sparse"  # sparse: as they are stored; dense: d floats each

    name: ClassVar[str] = "newton-coefficients"
    needs: ClassVar[tuple[str, ...]] = ("gradient", "hessian", "curvature")
    rows_travel: ClassVar[bool] = True
    state: ClassVar[type[Iterate]] = Informed

    def start(self, fleet: Fleet, w: Array) -> Informed:
        with nullcontext() if self.option == 1 else fleet.supposed():
            rows = all_rows(fleet, self.rows == "dense")
        return Informed(w, counts=rows.counts, features=rows.features, values=rows.values)

    def step(self, fleet: Fleet, now: Informed) -> Informed:
        g = fleet.mean(slope, now.w)
        h = np.concatenate(fleet.gather(self.coefficients))
        X = Entries(now.counts, now.features, now.values).matrix(fleet.size)
        solved = solve_semidefinite(Rows(X).gram(h) + np.diag(fleet.problem.ridge), g)
        if solved.status != "solved":
            return stuck(now, "the Hessian has negative eigenvalues: newton-coefficients needs a convex objective")
        return replace(now, w=now.w - solved.x, step=1.0)

    def coefficients(self, worker: Worker) -> Array:
        """h_ij where the worker stands, times what the row counts in the whole; shape (m,)."""
        return np.asarray(worker.weight * linear(worker).shares * worker.point.curvatures())
