"""NEWTON-STAR and MAX-NEWTON, which know the Hessian at the optimum: what learning it could come to at best."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_positive, solve_semidefinite
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.newton_zero import NewtonZeroState, factored, unit_step
from mpinewton.methods.support.linesearch import SLACK
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import (
    gradient_at,
    hessian_triangle,
    linear_model,
    value_at,
    value_gradient_hessian,
)

# Iterations for the optimum, and the gradient, relative to the first, with which it counts as found.
LIMIT, FOUND = 200, 1e-8


@dataclass(frozen=True)
class NewtonStar(Method[NewtonZeroState]):
    """NEWTON-STAR (Islamov, Qian and Richtarik 2021): x^{k+1} = x^k - (Hessian of P at x*)^-1 grad P(x^k).

    Locally quadratic at the traffic of gradient descent. x* is supposed to be known: it is found before the method
    begins, and not charged; so this is for diagnosis alone.
    """

    name = "newton-star"
    needs = ("gradient", "hessian")
    convex_only = True
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> NewtonZeroState:
        with fleet.uncharged():
            best = optimum(fleet, w)
            H = None if best is None else unpack_triangle(fleet.mean(hessian_triangle, best))
        return NewtonZeroState(w) if H is None else NewtonZeroState(w, factor=factored(H))

    def step(self, fleet: Fleet, now: NewtonZeroState) -> NewtonZeroState:
        if not now.factor.size:
            return fail(now, "there is no optimum to know, or its Hessian is singular: newton-star needs l2 > 0")
        return unit_step(fleet, now)


@dataclass(frozen=True, eq=False)
class MaxNewtonState(State):
    """An iterate and the curvature at the optimum."""

    H: Array = field(default_factory=lambda: np.zeros((0, 0)))  # at x*, no ridge, (d, d); (0, 0) where x* is not found


@dataclass(frozen=True)
class MaxNewton(Method[MaxNewtonState]):
    """MAX-NEWTON (Islamov, Qian and Richtarik 2021): derived, since their Section H, which has it, was not to be found.

    x^{k+1} = x^k - (beta H(x*) + l2 I)^-1 grad P(x^k), beta the largest h_ij(x^k) / h_ij(x*): the matrix majorises the
    Hessian at x^k. Near x* locally quadratic; far away beta explodes where some h_ij(x*) is nearly 0, and steps shrink.
    h(x*) is supposed to be known and not charged: for diagnosis alone.
    """

    name = "max-newton"
    needs = ("gradient", "hessian", "second_derivatives")
    convex_only = True
    cost = Cost("3", "d", "d + 1")

    def start(self, fleet: Fleet, w: Array) -> MaxNewtonState:
        with fleet.uncharged():
            best = optimum(fleet, w)
            return (
                MaxNewtonState(w)
                if best is None
                else MaxNewtonState(w, H=unpack_triangle(fleet.mean(self.remember, best)))
            )

    def step(self, fleet: Fleet, now: MaxNewtonState) -> MaxNewtonState:
        if not now.H.size:
            return fail(now, "there is no optimum to know: max-newton needs a convex loss and l2 > 0")
        g = fleet.mean(gradient_at, now.w)
        beta = max(fleet.gather(self.ratio))
        if not np.isfinite(beta):
            return fail(now, "a row that bends the objective here is flat at the optimum: beta is infinite; take nl1")
        solved = solve_positive(beta * now.H + np.diag(fleet.problem.l2_vector), g)
        if solved.status != "solved":
            return fail(now, "beta H(x*) + l2 I is not positive definite: set l2 > 0")
        return replace(now, w=now.w - solved.x, step=1.0)

    def remember(self, worker: Worker, best: Array) -> Array:
        worker.move_to(best)
        worker.memory["h"] = worker.point.second_derivatives()
        return pack_triangle(worker.point.hessian())

    def ratio(self, worker: Worker) -> float:
        """The largest h(x) / h(x*) of rows that count and bend."""
        h, best = worker.point.second_derivatives(), worker.memory["h"]
        seen = (h > 0) & (linear_model(worker).row_weight_array > 0)
        with np.errstate(divide="ignore"):
            return float((h[seen] / best[seen]).max(initial=0.0))


def optimum(fleet: Fleet, w: Array) -> Array | None:
    """x*, to the last digits, by Newton's method from w; None if it is not found."""
    f, g, H = fleet.mean(value_gradient_hessian, w)
    first = max(1.0, float(np.sqrt(g @ g)))
    for _ in range(LIMIT):
        p, step, noise = -solve_semidefinite(unpack_triangle(H), g).x, 1.0, SLACK * max(1.0, abs(f))
        while not fleet.mean(value_at, w + step * p) <= f + 1e-4 * step * (g @ p) + noise and step > 1e-15:
            step /= 2
        before, w = float(np.sqrt(g @ g)), w + step * p
        f, g, H = fleet.mean(value_gradient_hessian, w)
        if before <= FOUND * first and not np.sqrt(g @ g) < 0.5 * before:  # rounding is all that is left
            return w
    return None
