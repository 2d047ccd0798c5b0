"""Methods that solve linear systems on the way: the settings they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpinewton.data.shard import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Worker
from mpinewton.linalg.krylov import Solved, cg
from mpinewton.linalg.symmetric import solve_semidefinite
from mpinewton.losses import Loss
from mpinewton.methods.base import Method


@dataclass(frozen=True)
class Inner(Method):
    """Base of the methods with a Krylov solver inside."""

    limit: int = 50  # iterations of the inner solver
    tolerance: float = 1e-4  # of the inner solver, relative to the right-hand side

    def __post_init__(self) -> None:
        self.require(self.limit >= 1, "limit", "at least 1")
        self.require(0 < self.tolerance < 1, "tolerance", "between 0 and 1")


@dataclass(frozen=True)
class LocalNewtonSystem(Inner):
    """Base of the methods whose workers solve H_i v = g: `exact` by Cholesky, `cg` without forming H_i."""

    solver: Literal["cg", "exact"] = "cg"

    def fit_loss(self, loss: Loss) -> None:
        super().fit_loss(loss)
        if self.solver == "exact" and "hessian" not in loss.provides:
            raise ConfigError(
                f"{self.name} with solver=exact needs hessian, which {loss.name} does not provide; use solver=cg"
            )

    def solve(self, worker: Worker, g: Array, flat: float = 0.0) -> Solved:
        """H_i^-1 g where the worker stands, shape (d,); a status but "solved" and "limit" says curvature <= 0."""
        if self.solver == "exact":
            return solve_semidefinite(worker.hessian(), g)
        return cg(worker.hessian_product, g, self.limit, self.tolerance, flat)
