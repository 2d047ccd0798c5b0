"""Newton's method, exact and distributed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import value_gradient_hessian
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class NewtonState(State):
    """An iterate and the curvature there."""

    triangle: Array = field(
        default_factory=lambda: np.zeros(0)
    )  # upper triangle of the Hessian at w, shape (d (d + 1) / 2,)


@dataclass(frozen=True)
class Newton(Method[NewtonState]):
    """Newton's method with Armijo's rule: any loss whose Hessian has no negative eigenvalue where it goes.

    The workers send f_i, g_i and the upper triangle of H_i together; the driver solves H p = -g by Cholesky,
    or by eigenvectors where H is singular. `search=none` is the naive method, step 1 and only g_i and H_i sent.
    """

    search: Backtracking | None = setting(factory=Backtracking, help="")

    name = "newton"
    needs = ("gradient", "hessian")
    cost = Cost("4", "d + 1", "d*(d + 1)/2 + d + 9")

    def start(self, fleet: Fleet, w: Array) -> NewtonState:
        if self.search is None:
            return NewtonState(w)
        f, g, H = fleet.mean(value_gradient_hessian, w)
        return NewtonState(w, f, g, triangle=H)

    def step(self, fleet: Fleet, now: NewtonState) -> NewtonState:
        g, H = (now.gradient, now.triangle) if self.search else fleet.mean(self.slope_and_curvature, now.w)
        solved = solve_semidefinite(unpack_triangle(H), g)
        if solved.status != "solved":
            return fail(
                now, "the Hessian has negative eigenvalues: newton needs a convex objective; dino and lbfgs do not"
            )
        p = -solved.x
        if self.search is None:
            return replace(now, w=now.w + p, step=1.0)
        a = self.search(fleet, now, p)
        if not a:
            return fail(now, no_step(now, p))
        f, g, H = fleet.mean(self.advance, a)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, triangle=H, step=a)

    def slope_and_curvature(self, worker: Worker, w: Array) -> tuple[Array, Array]:
        return value_gradient_hessian(worker, w)[1:]

    def advance(self, worker: Worker, step: float) -> tuple[float, Array, Array]:
        worker.advance(step)
        return worker.value(), worker.gradient(), pack_triangle(worker.hessian())
