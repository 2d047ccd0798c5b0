"""Newton's method, exact and distributed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker, batched
from mpinewton.linalg.cholesky import solve_absolute, solve_semidefinite
from mpinewton.linalg.triangle import unpack_triangle
from mpinewton.methods.support.linesearch import Backtracking, no_step, search_or_descend
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import derivatives, majorant_triangle, move_to, value_gradient_hessian
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class NewtonState(State):
    """State of Newton's method.

    Attributes
    ----------
    triangle : array, shape (d (d + 1) / 2,), or None
        Upper triangle of the Hessian at w; None with search=none.
    """

    triangle: Array | None


@dataclass(frozen=True)
class Newton(Method[NewtonState]):
    """Newton's method with Armijo's rule: any loss with a Hessian, convex or not.

    The driver solves H p = -g by Cholesky, or by eigenvectors where H is singular: the part of g outside its range is
    then followed by a gradient step. The workers move by the largest step of the search, 1 by default, and send f_i,
    g_i and the upper triangle of H_i there in the same round trip. Only if Armijo's rule refuses that step they go back
    and search; for losses that are linear far from the label, as huber, then along the step of a quadratic majorant, by
    the triangle of its Hessian (iteratively reweighted least squares). With search=none all steps are 1 and only g_i
    and H_i are sent.

    Where H has a negative eigenvalue, |H| takes its place, with the moduli of its eigenvalues, at least 1e-6 times the
    largest of them (Paternain, Mokhtari and Ribeiro 2019): -|H|^-1 g leads away from saddle points.
    """

    search: Backtracking | None = setting(factory=Backtracking, help="line search; none: all steps are 1")

    name = "newton"
    any_units = True
    matrices = 3.5
    needs = ("gradient", "hessian")
    cost = Cost(
        "2", "d", "d*(d + 1)/2 + d + 1",
        "5 rounds more where the largest step is refused, and for huber another with d*(d + 1)/2 floats up",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = self.search is None or self.search.choose == "largest"
        self.require(largest, "search.choose", "largest, since the Hessian is sent with the largest step")

    def start(self, fleet: Fleet, w: Array) -> NewtonState:
        if self.search is None:
            return NewtonState(w, triangle=None)
        f, g, H = fleet.mean(value_gradient_hessian, w)
        return NewtonState(w, f, g, triangle=H)

    def step(self, fleet: Fleet, now: NewtonState) -> NewtonState:
        g, H = now.gradient, now.triangle
        if H is None:
            g, H = fleet.mean(self.gradient_and_hessian, now.w)
        solved = solve_semidefinite(unpack_triangle(H), g, now.loss if self.search else 0.0, fleet.problem.loss.convex)
        p = -solved.x if solved.status == "solved" else -solve_absolute(unpack_triangle(H), g)
        if self.search is None:
            if solved.status != "solved":
                return fail(now, "the Hessian has a negative eigenvalue: set search")
            if g.any() and not p.any():
                return fail(now, "the gradient is outside the range of the Hessian, which is singular: set search")
            return replace(now, w=now.w + p, step=1.0)
        if not now.gradient @ p < 0:
            return fail(now, no_step(now, p))
        a = self.search.largest
        f, g, H = fleet.mean(value_gradient_hessian, now.w + a * p)
        if not self.search.accepts(a, f, now, p):
            fleet.send(move_to, now.w)
            if "majorant" in fleet.problem.loss.provides:
                p = -solve_semidefinite(unpack_triangle(fleet.mean(majorant_triangle)), now.gradient).x
            a, p = search_or_descend(fleet, self.search, now, p)
            if not a:
                return fail(now, no_step(now, p))
            f, g, H = fleet.mean(self.advance, a)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, triangle=H, step=a)

    @batched
    def gradient_and_hessian(self, worker: Worker, w: Array) -> tuple[Array, Array]:
        """Move to w; gradient and upper triangle of the Hessian of f_i there: d + d (d + 1) / 2 floats."""
        return value_gradient_hessian(worker, w)[1:]

    @batched
    def advance(self, worker: Worker, step: float) -> tuple[float, Array, Array]:
        """Take the step; f_i, gradient and upper triangle of its Hessian there: 1 + d + d (d + 1) / 2 floats."""
        worker.advance(step)
        return derivatives(worker)
