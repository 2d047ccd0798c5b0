"""NEWTON-STAR and MAX-NEWTON, which know the Hessian at the optimum: the limit for methods that learn the Hessian."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import factor_semidefinite, solve_semidefinite
from mpinewton.linalg.triangle import add_diagonal, pack_triangle, unpack_triangle
from mpinewton.methods.newton_zero import NewtonZeroState, take_unit_step
from mpinewton.methods.support import tasks
from mpinewton.methods.support.linesearch import SLACK
from mpinewton.methods.support.method import Cost, Method, State, fail

# Maximum number of iterations for the optimum; and the gradient norm, relative to the first, below which a gradient
# that no longer halves is at rounding level.
LIMIT, FOUND = 200, 1e-8


@dataclass(frozen=True)
class NewtonStar(Method[NewtonZeroState]):
    """NEWTON-STAR (Islamov, Qian and Richtarik 2021): x^{k+1} = x^k - (Hessian of P at x*)^-1 grad P(x^k).

    Locally quadratic with the communication of gradient descent. The Hessian at x* is assumed to be known: it is
    computed before the method starts, and not charged. The objective need not be convex (Theorem 2.1): x* is the local
    minimum that Newton's method with a line search finds from the start. For diagnosis only.
    """

    name = "newton-star"
    matrices = 3.0
    needs = ("gradient", "hessian")
    cost = Cost("2", "d", "d")

    def start(self, fleet: Fleet, w: Array) -> NewtonZeroState:
        with fleet.uncharged():
            best = find_optimum(fleet, w)
            H = None if best is None else unpack_triangle(fleet.mean(tasks.hessian_triangle, best))
        return NewtonZeroState(w, factor=None if H is None else factor_semidefinite(H))

    def step(self, fleet: Fleet, now: NewtonZeroState) -> NewtonZeroState:
        if now.factor is None:
            return fail(now, "no local minimum was found near the start: use newton-star on another start, or dino")
        return take_unit_step(fleet, now, now.factor)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxNewtonState(State):
    """State of MAX-NEWTON.

    Attributes
    ----------
    H : array, shape (d, d), or None
        Hessian at x*, without l2; None where no optimum was found.
    """

    H: Array | None


@dataclass(frozen=True)
class MaxNewton(Method[MaxNewtonState]):
    """MAX-NEWTON (Islamov, Qian and Richtarik 2021), reconstructed: its section of the paper, H, was not available.

    x^{k+1} = x^k - (beta H(x*) + l2 I)^-1 grad P(x^k), beta the largest h_ij(x^k) / h_ij(x*). This matrix majorises the
    Hessian at x^k. The rate is locally quadratic. Far from x* beta is huge where some h_ij(x*) is nearly 0, and steps
    are short. h(x*) is assumed to be known, and not charged. For diagnosis only.
    """

    name = "max-newton"
    matrices = 4.0
    needs = ("gradient", "hessian", "second_derivatives", "rows")
    convex_only = True
    cost = Cost("3", "d", "d + 1")

    def start(self, fleet: Fleet, w: Array) -> MaxNewtonState:
        with fleet.uncharged():
            best = find_optimum(fleet, w)
            return MaxNewtonState(w, H=None if best is None else unpack_triangle(fleet.mean(self.remember, best)))

    def step(self, fleet: Fleet, now: MaxNewtonState) -> MaxNewtonState:
        if now.H is None:
            return fail(now, "no optimum was found: max-newton needs a convex loss and l2 > 0")
        g = fleet.mean(tasks.gradient_at, now.w)
        beta = max(fleet.gather(self.largest_ratio))
        if not np.isfinite(beta):
            return fail(now, "beta is infinite: a row with h_ij(x*) = 0 has h_ij(x^k) > 0; use nl1")
        solved = solve_semidefinite(add_diagonal(beta * now.H, fleet.problem.l2_vector), g)
        if solved.status != "solved":
            return fail(now, "beta H(x*) + l2 I has a negative eigenvalue: increase l2")
        return replace(now, w=now.w - solved.x, step=1.0)

    def remember(self, worker: Worker, best: Array) -> Array:
        """Keep h_i(x*), x* = best; upper triangle of the Hessian there, without l2: d (d + 1) / 2 floats."""
        worker.move_to(best)
        worker.memory["h"] = worker.point.second_derivatives()
        return pack_triangle(worker.point.hessian())

    def largest_ratio(self, worker: Worker) -> float:
        """The largest h_ij(x) / h_ij(x*) over rows of positive weight with h_ij(x) > 0: 1 float."""
        h, best = worker.point.second_derivatives(), worker.memory["h"]
        used = (h > 0) & (tasks.linear_model(worker).row_weight_array > 0)
        with np.errstate(divide="ignore"):
            return float((h[used] / best[used]).max(initial=0.0))


def find_optimum(fleet: Fleet, w: Array) -> Array | None:
    """x* to rounding error, shape (d,), by Newton's method with a line search from w; None if it is not found."""
    f, g, H = fleet.mean(tasks.value_gradient_hessian, w)
    first = max(1.0, float(np.sqrt(g @ g)))
    for _ in range(LIMIT):
        p, step, noise = -solve_semidefinite(unpack_triangle(H), g).x, 1.0, SLACK * max(1.0, abs(f))
        while not fleet.mean(tasks.value_at, w + step * p) <= f + 1e-4 * step * (g @ p) + noise and step > 1e-15:
            step /= 2
        before, w = float(np.sqrt(g @ g)), w + step * p
        f, g, H = fleet.mean(tasks.value_gradient_hessian, w)
        if before <= FOUND * first and not np.sqrt(g @ g) < 0.5 * before:  # only rounding errors are left
            return w
    return None
