"""Newton Zero: the Hessian of the first iterate for good."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.linalg import LinAlgError, cholesky

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_factored
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, gradient_at, hessian_triangle, linear_model, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class NewtonZeroState(State):
    """An iterate and the one matrix of all steps."""

    factor: Array = field(default_factory=lambda: np.zeros((0, 0)))  # lower Cholesky factor; (0, 0) if there is none


@dataclass(frozen=True)
class NewtonZero(Method[NewtonZeroState]):
    """Newton Zero, N0 (Safaryan, Islamov, Qian and Richtarik 2022): x^{k+1} = x^k - (H^0)^-1 grad P(x^k).

    The set-up sends H^0, d (d + 1) / 2 floats; it is factored once. A linear rate, fast where the Hessian changes
    little. h0=quarter takes the loss's bound of its second derivative (1/4 for logistic) in place of that at x^0:
    H^0 majorises every Hessian, and P falls from any start.
    """

    h0: Literal["exact", "quarter"] = setting("exact", help="")
    search: Backtracking | None = setting(
        None, help="Armijo's rule: the objective travels with the gradient, and two rounds more"
    )

    name = "newton-zero"
    needs = ("gradient", "hessian")
    cost = Cost("2", "d", "d")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.h0 == "quarter":
            self.need(loss, "hessian_bound", "h0=quarter", "h0=exact needs none")

    def start(self, fleet: Fleet, w: Array) -> NewtonZeroState:
        if self.h0 == "exact":
            return NewtonZeroState(w, factor=factored(unpack_triangle(fleet.mean(hessian_triangle, w))))
        H = unpack_triangle(fleet.mean(bounding_curvature)) + np.diag(fleet.problem.l2_vector)
        return NewtonZeroState(w, factor=factored(H))

    def step(self, fleet: Fleet, now: NewtonZeroState) -> NewtonZeroState:
        if not now.factor.size:
            return fail(now, "the Hessian at the start is not positive definite: set l2 > 0, or take newton or dino")
        if self.search is None:
            return unit_step(fleet, now)
        first = np.isnan(now.step)  # later on the workers know the direction they searched, and are told the step
        f, g = fleet.mean(value_and_gradient, now.w) if first else fleet.mean(advance, now.step)
        p, there = -solve_factored(now.factor, g), State(now.w, f, g, now.step)
        a = self.search(fleet, there, p)
        return replace(now, w=now.w + a * p, step=a) if a else fail(now, no_step(there, p))


def unit_step(fleet: Fleet, now: NewtonZeroState) -> NewtonZeroState:
    """The step of length 1 with the one matrix. 2 rounds."""
    g = fleet.mean(gradient_at, now.w)
    return replace(now, w=now.w - solve_factored(now.factor, g), step=1.0)


def factored(H: Array) -> Array:
    """The lower Cholesky factor of H (d, d); (0, 0) where there is none."""
    try:
        return np.ascontiguousarray(cholesky(H, lower=True))
    except (LinAlgError, ValueError):  # ValueError: not finite
        return np.zeros((0, 0))


def bounding_curvature(worker: Worker) -> Array:
    """The upper triangle of sum gamma a a' over the rows of a worker, no ridge."""
    model = linear_model(worker)
    return pack_triangle(model.rows.gram(model.row_weight_array * model.loss.hessian_bound(model.t)))
