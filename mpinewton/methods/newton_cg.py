"""Truncated Newton: conjugate gradients on products with the Hessian, whose matrix is never formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.fleet.calls import Task
from mpinewton.linalg.cholesky import GRADIENT_NOISE
from mpinewton.linalg.krylov import EXHAUSTED, Solution, cg
from mpinewton.losses import Loss
from mpinewton.methods.support.linesearch import Backtracking, descend_by_gradient, no_step, polyak
from mpinewton.methods.support.method import UNKNOWN, Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, hvp, majorant_product, value_and_gradient
from mpinewton.methods.support.units import ALPHA, preconditioner
from mpinewton.settings import setting

MAJORANT = 1e-3  # tolerance for the majorant of a loss: by trial on huber with residuals of 1e4 delta
LOOSEST = 0.5  # tolerance of conjugate gradients far from the optimum
REACH = 4.0  # the next step may be so many times as long as one that was shortened


@dataclass(frozen=True, eq=False, kw_only=True)
class NewtonCGState(State):
    """An iterate, the diagonal of the Hessian there, the length of the first gradient, and the reach of a step."""

    diagonal: Array  # shape (d,); empty without a preconditioner
    first: float  # in the norm of M^-1
    reach: float  # length in the norm of M at which conjugate gradients stop; inf until a step is shortened


@dataclass(frozen=True)
class NewtonCG(Method[NewtonCGState]):
    """Truncated Newton with a line search: any smooth loss, convex or not, and any number of weights.

    The driver solves H s = -g by conjugate gradients; the workers multiply, two rounds a step. The algorithm is that of
    LIBLINEAR since version 2.40 (Galli and Lin 2022), distributed as in Zhuang, Chin, Juan and Lin (2015).

    The preconditioner is M = alpha diag(H) + (1 - alpha) L, where L is the diagonal matrix of l2 (Hsia, Chiang and Lin
    2018; their objective is this one divided by l2, so that their L is the identity). Entries of M that are 0 count as
    1, and negative ones by modulus. diag(H) travels with f and g.

    Conjugate gradients stop by the setting `forcing`:

    - `model`: after step j if j (Q_j - Q_{j-1}) <= Q_j / 2, Q the quadratic model of the objective (Nash and Sofer);
    - `residual`: if |H s + g| <= min(1/2, sqrt(|g| / |g_0|)) |g|, in the norm of M^-1, g_0 the first gradient
      (Dembo, Eisenstat and Steihaug 1982): superlinear convergence;
    - a number eta: if |H s + g| <= eta |g|, in the same norm;

    and after `cg_steps` steps, or on a direction of negative curvature: s is then what has been found before it, and
    at the first step -M^-1 g. The norm of s in M grows from step to step (Steihaug 1983). Once the line search has
    shortened a step, conjugate gradients also stop where that norm reaches a radius: 4 times the length of the step,
    and, after a step that is not shortened, the larger of this and the radius before (Nocedal and Yuan 1998).
    """

    forcing: float | Literal["model", "residual"] = setting(
        "residual", gt=0, lt=1, help="when conjugate gradients stop: model, residual, or a relative tolerance"
    )
    preconditioner: Literal["auto", "diagonal", "none"] = setting(
        "auto", help="preconditioner of conjugate gradients; auto: diagonal where the loss provides diag(H)"
    )
    alpha: float = setting(
        ALPHA,
        gt=0,
        le=1,
        alias="a",
        help="weight of diag(H) in the preconditioner, against l2",
        only_if={"preconditioner": ("auto", "diagonal")},
    )
    cg_steps: int | None = setting(
        None, ge=1, help="maximum number of steps of conjugate gradients; none: max(50, 2 sqrt(d)), at most d"
    )
    search: Backtracking = setting(factory=Backtracking, help="line search")

    name = "newton-cg"
    any_units = True
    needs = ("gradient", "hvp")
    cost = Cost(
        "2*k + 4",
        "(k + 1)*d + 1",
        "(k + 2)*d + 9",
        "d less up without preconditioner; for huber about twice as much where step 1 is refused",
    )

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.preconditioner == "diagonal":
            self.need(loss, "hessian_diagonal", "preconditioner=diagonal", "use preconditioner=none")

    def start(self, fleet: Fleet, w: Array) -> NewtonCGState:
        f, g, D = self.evaluate(fleet, w, self.move_to, value_and_gradient)
        first = g / self.root(fleet, D)
        return NewtonCGState(w, f, g, diagonal=D, first=sqrt(first @ first), reach=inf)

    def step(self, fleet: Fleet, now: NewtonCGState) -> NewtonCGState:
        g, root = now.gradient, self.root(fleet, now.diagonal)
        # In the variables M^(1/2) s the preconditioner is the identity, and the norm of M^-1 is the Euclidean one.
        solved = self.solve(lambda v: fleet.mean(hvp, v / root) / root, g / root, now)
        p = -solved.x / root
        if solved.status == "negative curvature" and not solved.iterations and fleet.problem.loss.convex:
            step = polyak(now.loss, g, -p, GRADIENT_NOISE)  # the curvature is 0 to rounding
            p = step if step.any() else p
        a = self.search(fleet, now, p)
        if a < self.search.largest and "majorant" in fleet.problem.loss.provides:
            # Far from the labels the loss is linear: a step of iteratively reweighted least squares.
            limit = self.cg_steps or 2 * fleet.dim
            tolerance = MAJORANT if isinstance(self.forcing, str) else min(MAJORANT, self.forcing)
            solved = cg(lambda v: fleet.mean(majorant_product, v / root) / root, g / root, limit, tolerance, EXHAUSTED)
            p = -solved.x / root
            a = self.search(fleet, now, p)
        if not a:
            a, p = descend_by_gradient(fleet, self.search, now)
        if not a:
            return fail(now, no_step(now, p))
        f, g, D = self.evaluate(fleet, a, self.advance, advance)
        reach = REACH * a * sqrt((p * root) @ (p * root))
        if a >= 1:
            reach = max(now.reach, reach)
        note = f"{solved.iterations} steps of conjugate gradients"
        if solved.status == "negative curvature":
            note += ", then negative curvature"
        return replace(now, w=now.w + a * p, loss=f, gradient=g, diagonal=D, step=a, reach=reach, note=note)

    def solve(self, product: Callable[[Array], Array], b: Array, now: NewtonCGState) -> Solution:
        """H^-1 b in the scaled variables, shape (d,), as far as `forcing` and the reach allow."""
        d, last = len(b), 0.0

        def enough(j: int, x: Array, r: Array) -> bool:
            nonlocal last
            if sqrt(x @ x) >= now.reach:
                return True
            if self.forcing != "model":
                return False
            before, last = last, -0.5 * float(x @ (b + r))  # Q_j = x'Hx / 2 - b'x, and H x = b - r
            return j * (last - before) >= LOOSEST * last

        tolerance = 0.0
        if self.forcing == "residual":
            tolerance = min(LOOSEST, sqrt(sqrt(b @ b) / now.first)) if now.first else LOOSEST
        elif self.forcing != "model":
            tolerance = self.forcing
        limit = self.cg_steps or min(d, int(max(50, 2 * sqrt(d))))
        return cg(product, b, limit, tolerance, EXHAUSTED, enough=enough)

    def root(self, fleet: Fleet, D: Array) -> Array:
        """Square root of the preconditioner M, a diagonal, shape (d,)."""
        if not D.size:
            return np.ones(fleet.dim)
        return np.sqrt(preconditioner(fleet, D, self.alpha))

    def evaluate(
        self, fleet: Fleet, to: Array | float, with_diagonal: Task, without: Task
    ) -> tuple[float, Array, Array]:
        """Loss, gradient and diagonal of the Hessian; `UNKNOWN` in its place without a preconditioner."""
        provided = "hessian_diagonal" in fleet.problem.loss.provides
        if self.preconditioner == "diagonal" or (self.preconditioner == "auto" and provided):
            f, g, D = fleet.mean(with_diagonal, to)
            return f, g, D
        return *fleet.mean(without, to), UNKNOWN

    def move_to(self, worker: Worker, w: Array) -> tuple[float, Array, Array]:
        """Move to w; f_i, its gradient and the diagonal of its Hessian there: 2 d + 1 floats."""
        return *value_and_gradient(worker, w), worker.hessian_diagonal()

    def advance(self, worker: Worker, step: float) -> tuple[float, Array, Array]:
        """Take the step; f_i, its gradient and the diagonal of its Hessian there: 2 d + 1 floats."""
        return *advance(worker, step), worker.hessian_diagonal()
