"""Newton Zero: Newton's method with the Hessian of the first iterate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import factor_semidefinite, solve_factored
from mpinewton.linalg.triangle import add_diagonal, pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, gradient_at, hessian_triangle, linear_model, value_and_gradient
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class NewtonZeroState(State):
    """State of a method whose steps all use one matrix.

    Attributes
    ----------
    factor : array, shape (d, d), or None
        Lower Cholesky factor of the matrix; None where it has none.
    """

    factor: Array | None


@dataclass(frozen=True)
class NewtonZero(Method[NewtonZeroState]):
    """Newton Zero, N0 (Safaryan, Islamov, Qian and Richtarik 2022): x^{k+1} = x^k - (H^0)^-1 grad P(x^k).

    The set-up sends H^0, d (d + 1) / 2 floats, and the driver factors it once. The rate is linear, and fast where the
    Hessian changes little. With hessian_start=quarter H^0 is made of the loss's bound of its second derivative (1/4 for
    logistic) instead of the second derivative at x^0. This H^0 majorises every Hessian, so P decreases from any start.
    """

    hessian_start: Literal["exact", "quarter"] = setting(
        "exact", help="H^0: the Hessian at x^0, or its bound for all x", alias="h0"
    )
    search: Backtracking | None = setting(
        None, help="line search, with the objective sent and two more rounds; none: all steps are 1"
    )

    name = "newton-zero"
    matrices = 3.0
    needs = ("gradient", "hessian")
    cost = Cost("2", "d", "d")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.hessian_start == "quarter":
            for what in ("rows", "hessian_bound"):
                self.need(loss, what, "hessian_start=quarter", "set hessian_start=exact")

    def start(self, fleet: Fleet, w: Array) -> NewtonZeroState:
        if self.hessian_start == "exact":
            return NewtonZeroState(w, factor=factor_semidefinite(unpack_triangle(fleet.mean(hessian_triangle, w))))
        H = add_diagonal(unpack_triangle(fleet.mean(bound_triangle)), fleet.problem.l2_vector)
        return NewtonZeroState(w, factor=factor_semidefinite(H))

    def step(self, fleet: Fleet, now: NewtonZeroState) -> NewtonZeroState:
        if now.factor is None:
            return fail(now, "the Hessian at the start has a negative eigenvalue: increase l2, or use newton or dino")
        if self.search is None:
            return take_unit_step(fleet, now, now.factor)
        first = np.isnan(now.step)  # later the workers know the direction of the last search, and are sent the step
        f, g = fleet.mean(value_and_gradient, now.w) if first else fleet.mean(advance, now.step)
        p, here = -solve_factored(now.factor, g), State(now.w, f, g, now.step)
        a = self.search(fleet, here, p)
        return replace(now, w=now.w + a * p, step=a) if a else fail(now, no_step(here, p))


def take_unit_step(fleet: Fleet, now: NewtonZeroState, L: Array) -> NewtonZeroState:
    """The step -(L L')^-1 g. 2 rounds."""
    return replace(now, w=now.w - solve_factored(L, fleet.mean(gradient_at, now.w)), step=1.0)


def bound_triangle(worker: Worker) -> Array:
    """Upper triangle of sum_j weight_j gamma_j a_j a_j', gamma_j a bound of loss'': d (d + 1) / 2 floats."""
    model = linear_model(worker)
    return pack_triangle(model.rows.gram(model.row_weight_array * model.loss.hessian_bound(model.t)))
