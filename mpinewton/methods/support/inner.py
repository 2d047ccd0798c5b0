"""Linear systems that workers solve with their own Hessians H_i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mpinewton.arrays import Array
from mpinewton.fleet import Problem, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.krylov import EXHAUSTED, Lanczos, Solution, cg, lanczos
from mpinewton.losses import Loss
from mpinewton.losses.linear import LinearPoint
from mpinewton.methods.support.method import Method, S
from mpinewton.settings import setting

DENSE = (
    1000  # largest d for which a d x d matrix is formed and factored where nobody asked; chosen by trial on one core
)
SOLVER = "solver of the workers: conjugate gradients or Cholesky (exact); auto: exact for d <= 1000, else cg"


def krylov(worker: Worker, b: Array, limit: int) -> Lanczos:
    """At most `limit` steps of Lanczos from b (d,) with the Hessian of f_i at the worker's weights.

    A shard of few dense rows with one logit each works in the span of its rows. With an intercept, which is not
    regularised, that span is not invariant, and products with all d weights are used.
    """
    point, l2 = worker.point, worker.l2_vector
    if isinstance(point, LinearPoint) and point.model.outputs == 1 and (l2 == l2[0]).all():
        span = point.model.rows.span
        if span is not None:
            return span.lanczos(point.model.row_weight * point.second, float(l2[0]), b, limit)
    return lanczos(worker.hvp, b, limit)


def solver_tolerance(**only_if: Any) -> float:
    """The setting `tolerance` of a solver that stops on its residual, under these other settings."""
    return setting(1e-4, gt=0, lt=1, help="relative tolerance of the solver on the residual", only_if=only_if)


@dataclass(frozen=True)
class LocalNewtonSystem(Method[S]):
    """Base of the methods whose workers solve H_i v = g: `exact` by Cholesky, `cg` by products with H_i."""

    solver: Literal["auto", "cg", "exact"] = setting("cg", help=SOLVER)
    limit: int = setting(50, ge=1, help="maximum number of iterations of the solver", only_if={"solver": "cg"})
    tolerance: float = solver_tolerance(solver="cg")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.solver != "cg":
            self.need(loss, "hessian", f"solver={self.solver}", "use solver=cg")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if self.solver == "exact":
            self.require_memory(problem, 3.5)

    def solve(self, worker: Worker, g: Array, flat: float = 0.0) -> Solution:
        """H_i^-1 g at the worker's weights, shape (d,); a status other than "solved" and "limit" means H_i is not > 0.

        `flat` is that of `cg`.
        """
        if self.solver == "exact" or (self.solver == "auto" and len(g) <= DENSE):
            return solve_semidefinite(worker.hessian(), g)
        return cg(worker.hvp, g, self.limit, self.tolerance, max(flat, EXHAUSTED))
