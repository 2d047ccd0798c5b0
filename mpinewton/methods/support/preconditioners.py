"""PISA's Q: what a worker solves with, (sigma I + rho Q) D = r. All give y = sigma D, finite for any sigma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Worker
from mpinewton.linalg.cholesky import solve_diagonal_and_rows, solve_positive
from mpinewton.linalg.krylov import cg
from mpinewton.linalg.orthogonal import newton_schulz
from mpinewton.losses.linear import LinearModel
from mpinewton.losses.loss import Shape

DENSE = 1000  # up to here a matrix of d x d is formed and factored
Solver = Literal["auto", "cholesky", "woodbury", "cg"]


def hidden_weights(shapes: Sequence[Shape]) -> Array:
    """Which weights are of matrices between layers, shape (d,), bool."""
    return np.concatenate([np.full(shape.size, shape.hidden) for shape in shapes])


def orthogonalised(v: Array, shapes: Sequence[Shape], steps: int, scale: bool) -> Array:
    """v (d,) with every hidden matrix replaced by its Newton-Schulz, the others as they are: shape (d,).

    With `scale`, times (max(1, rows/columns))^(1/2), so that a step is of one size for any shape.
    """
    out, first = v.copy(), 0
    for shape in shapes:
        if shape.hidden:
            place = slice(first, first + shape.size)
            rows = shape.sizes[0]
            o = newton_schulz(v[place].reshape(rows, -1), steps)
            out[place] = o.ravel() * (max(1.0, rows / o.shape[1]) ** 0.5 if scale else 1.0)
        first += shape.size
    return out


@dataclass(frozen=True)
class SecondMoment:
    """Q = diag(min(sqrt(m), eta)) of r = pi + g, by one of three schemes (4.3 to 4.5 of the paper)."""

    scheme: Literal["sum", "mean", "corrected"] = "corrected"  # I, II, III
    beta: float = 0.999  # memory of mean and corrected
    eta: float | None = None  # cap of sqrt(m)
    eps: float = 1e-8  # added to it

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ConfigError(f"second: beta = {self.beta!r}, but it must be between 0 and 1")
        if self.eta is not None and not self.eta > 0:
            raise ConfigError(f"second: eta = {self.eta!r}, but it must be greater than 0")
        if not self.eps >= 0:
            raise ConfigError(f"second: eps = {self.eps!r}, but it must be 0 or more")

    def root(self, memory: dict[str, Array], r: Array, iteration: int) -> Array:
        """Learn from r (d,): min(sqrt(m), eta) + eps, shape (d,)."""
        before = memory.get("moment", np.zeros_like(r))
        if self.scheme == "sum":
            memory["moment"] = m = before + r * r
        else:
            memory["moment"] = m = self.beta * before + (1.0 - self.beta) * (r * r)
        if self.scheme == "corrected":
            m = m / (1.0 - self.beta**iteration)
        q = np.sqrt(m)
        return np.asarray((q if self.eta is None else np.minimum(q, self.eta)) + self.eps)


@dataclass(frozen=True)
class NewtonSchulz:
    """NSISA's direction (Algorithm 3): the momentum of every hidden matrix, orthogonalised; other weights by SISA."""

    mu: float = 0.95  # of the momentum b = mu b + g
    steps: int = 5
    nesterov: bool = False  # orthogonalise g + mu b instead of b
    scale: bool = True
    moment: Literal["scheme", "current"] = "scheme"  # q by the scheme of `second`, or |r| of this step alone
    other_sigma: float | None = None  # of weights in no hidden matrix; none: estimated, if convex
    other_rho: float = 100.0

    def __post_init__(self) -> None:
        for holds, name, rule in (
            (0 <= self.mu < 1, "mu", "0 or more and less than 1"),
            (3 <= self.steps <= 10, "steps", "3 to 10"),
            (self.other_sigma is None or self.other_sigma > 0, "other_sigma", "greater than 0"),
            (self.other_rho >= 0, "other_rho", "0 or more"),
        ):
            if not holds:
                raise ConfigError(f"schulz: {name} = {getattr(self, name)!r}, but it must be {rule}")

    def direction(self, memory: dict[str, Array], g: Array, shapes: Sequence[Shape]) -> Array:
        """What takes the place of the gradient, shape (d,)."""
        memory["momentum"] = b = self.mu * memory.get("momentum", np.zeros_like(g)) + g
        seen = g + self.mu * b if self.nesterov else b
        o = orthogonalised(seen, shapes, self.steps, self.scale)
        return np.where(hidden_weights(shapes), o, g)


def solve_curved(part: Worker, r: Array, ratio: float, freed: Array, solver: Solver) -> Array:
    """(I + ratio Q)^-1 r, shape (d,), Q the Hessian of f_i on these rows less diag(freed); NaN where it has no factor.

    Cholesky of d x d for small d; for a linear model on fewer rows than weights, the Woodbury formula on rows x rows;
    else conjugate gradients on Hessian-vector products.
    """
    model = part.model
    thin = isinstance(model, LinearModel) and model.outputs == 1 and part.rows < len(r)
    if solver == "auto":
        solver = "cholesky" if len(r) <= DENSE else "woodbury" if thin else "cg"
    if solver == "cholesky":
        M = ratio * part.hessian()
        M[np.diag_indices_from(M)] += 1.0 - ratio * freed
        solved = solve_positive(M, r)
        return solved.x if solved.status == "solved" else np.full_like(r, np.nan)
    if solver == "woodbury" and isinstance(model, LinearModel):
        return solve_diagonal_and_rows(
            1.0 + ratio * (part.l2_vector - freed),
            model.rows.X,
            ratio * model.row_weight * part.point.second_derivatives(),
            r,
        )
    return cg(lambda v: v + ratio * (part.hvp(v) - freed * v), r, 100, 1e-8).x
