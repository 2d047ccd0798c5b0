"""Preconditioners Q of PISA: a worker solves (sigma I + rho Q) D = r. All return y = sigma D, finite for any sigma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Worker
from mpinewton.linalg.cholesky import solve_diagonal_and_rows, solve_positive
from mpinewton.linalg.krylov import cg
from mpinewton.linalg.orthogonal import newton_schulz
from mpinewton.losses.linear import LinearModel
from mpinewton.losses.loss import Shape
from mpinewton.methods.support.inner import DENSE
from mpinewton.settings import Configured, setting

Solver = Literal["auto", "cholesky", "woodbury", "cg"]


def hidden_weights(shapes: Sequence[Shape]) -> Array:
    """Mask of the weights in matrices between hidden layers, shape (d,)."""
    return np.concatenate([np.full(shape.size, shape.hidden) for shape in shapes])


def orthogonalise(v: Array, shapes: Sequence[Shape], steps: int, scale: bool) -> Array:
    """Replace every hidden matrix in v (d,) by its approximate orthogonal factor, from Newton-Schulz iterations.

    Parameters
    ----------
    v : array, shape (d,)
    shapes : sequence of Shape
        Shapes of the weights, in the order in which v holds them.
    steps : int
        Number of Newton-Schulz iterations.
    scale : bool
        Multiply by max(1, rows/columns)^(1/2), so that steps have the same size for matrices of any shape (Muon).

    Returns
    -------
    array, shape (d,)
        Other weights are those of v.
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
class SecondMoment(Configured):
    """Q = diag(min(sqrt(m), eta) + eps), m a second moment of r = pi + g (PISA paper, equations 4.3 to 4.5)."""

    scheme: Literal["sum", "mean", "corrected"] = setting("corrected", help="the paper's scheme I, II or III for m")
    beta: float = setting(0.999, gt=0, lt=1, only_if={"scheme": ("mean", "corrected")}, help="decay rate of m")
    eta: float | None = setting(None, gt=0, help="upper bound of sqrt(m); none: no bound")
    eps: float = setting(1e-8, ge=0, help="number added to sqrt(m)")

    name = "second"

    def root(self, memory: dict[str, Array], r: Array, iteration: int) -> Array:
        """Update m in the worker's memory with r (d,) and return the diagonal of Q, shape (d,)."""
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
class NewtonSchulz(Configured):
    """The direction of NSISA (PISA paper, Algorithm 3): orthogonalised momentum b <- mu b + g of hidden matrices."""

    mu: float = setting(0.95, ge=0, lt=1, help="momentum")
    steps: int = setting(5, ge=3, le=10, help="number of Newton-Schulz iterations")
    nesterov: bool = setting(False, help="orthogonalise g + mu b instead of b")
    scale: bool = setting(True, help="multiply by sqrt(max(1, rows/columns)), as Muon does")
    moment: Literal["scheme", "current"] = setting("scheme", help="Q: by the scheme of `second`, or |r| of this step")
    other_sigma: float | None = setting(None, gt=0, help="sigma of the other weights; none: estimated if convex")
    other_rho: float = setting(100.0, ge=0, help="rho of the other weights")

    name = "schulz"

    def direction(self, memory: dict[str, Array], g: Array, shapes: Sequence[Shape]) -> Array:
        """Update the momentum in the worker's memory with g (d,); the vector used in place of g, shape (d,)."""
        memory["momentum"] = b = self.mu * memory.get("momentum", np.zeros_like(g)) + g
        o = orthogonalise(g + self.mu * b if self.nesterov else b, shapes, self.steps, self.scale)
        return np.where(hidden_weights(shapes), o, g)


def solve_hessian(part: Worker, r: Array, ratio: float, l2_driver: Array, solver: Solver) -> Array:
    """Solve (I + ratio Q) y = r, where Q is the Hessian of f_i on some rows minus diag(l2_driver).

    Parameters
    ----------
    part : Worker
        The worker on these rows, moved to the weights.
    r : array, shape (d,)
    ratio : float
        rho / sigma.
    l2_driver : array, shape (d,)
        The part of l2 that the driver handles.
    solver : str
        `cholesky` factors the d x d matrix; `woodbury` a rows x rows matrix, for linear models of one output; `cg` uses
        Hessian-vector products; `auto` chooses cholesky for d <= 1000, else woodbury where rows < d, else cg.

    Returns
    -------
    array, shape (d,)
        NaN where the matrix has no Cholesky factor.
    """
    model = part.model
    is_thin = isinstance(model, LinearModel) and model.outputs == 1 and part.rows < len(r)
    if solver == "auto":
        solver = "cholesky" if len(r) <= DENSE else "woodbury" if is_thin else "cg"
    if solver == "cholesky":
        M = ratio * part.hessian()
        M[np.diag_indices_from(M)] += 1.0 - ratio * l2_driver
        solved = solve_positive(M, r)
        return solved.x if solved.status == "solved" else np.full_like(r, np.nan)
    if solver == "woodbury" and isinstance(model, LinearModel):
        return solve_diagonal_and_rows(
            1.0 + ratio * (part.l2_vector - l2_driver),
            model.rows.X,
            ratio * model.row_weight * part.point.second_derivatives(),
            r,
        )
    return cg(lambda v: v + ratio * (part.hvp(v) - l2_driver * v), r, 100, 1e-8).x
