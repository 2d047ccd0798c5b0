"""Methods that solve linear systems on the way: the settings they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.krylov import Lanczos, Solution, cg, lanczos
from mpinewton.losses import Loss
from mpinewton.losses.linear import LinearPoint
from mpinewton.methods.support.method import Method, S
from mpinewton.settings import setting


def krylov(worker: Worker, b: Array, limit: int) -> Lanczos:
    """At most `limit` steps of Lanczos from b with the Hessian of f_i where the worker stands.

    A shard of few dense rows, one logit each, works in the span of its rows; where an intercept goes free the ridge
    does not map that span into itself.
    """
    point, ridge = worker.point, worker.l2_vector
    if isinstance(point, LinearPoint) and point.model.outputs == 1 and (ridge == ridge[0]).all():
        span = point.model.rows.span
        if span is not None:
            return span.lanczos(point.model.row_weight * point.second, float(ridge[0]), b, limit)
    return lanczos(worker.hvp, b, limit, 0.0)


@dataclass(frozen=True)
class Inner(Method[S]):
    """Base of the methods with a Krylov solver inside."""

    limit: int = setting(50, ge=1, help="iterations of the inner solver")
    tolerance: float = setting(0.0001, gt=0, lt=1, help="of the inner solver, relative to the right-hand side")


@dataclass(frozen=True)
class LocalNewtonSystem(Inner[S]):
    """Base of the methods whose workers solve H_i v = g: `exact` by Cholesky, `cg` without forming H_i."""

    solver: Literal["cg", "exact"] = setting("cg", help="")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.solver == "exact" and "hessian" not in loss.provides:
            raise ConfigError(
                f"{self.name} with solver=exact needs hessian, which {loss.name} does not provide; use solver=cg"
            )

    def solve(self, worker: Worker, g: Array, flat: float = 0.0) -> Solution:
        """H_i^-1 g where the worker stands, shape (d,); a status but "solved" and "limit" says curvature <= 0."""
        if self.solver == "exact":
            return solve_semidefinite(worker.hessian(), g)
        return cg(worker.hvp, g, self.limit, self.tolerance, flat)
