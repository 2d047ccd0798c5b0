"""NL1 and NL2: Newton's method with a Hessian that is learnt a few coefficients a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import solve_with_stale_factor
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.support.learning import Learning, LearningState
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import current_gradient, gradient_at, linear_model, move, value_at
from mpinewton.settings import setting


@dataclass(frozen=True)
class Nl1(Learning[LearningState]):
    """NL1 (Islamov, Qian and Richtarik 2021, Algorithm 1): convex losses of one logit, l2 > 0.

    x^{k+1} = x^k - (H^k + l2 I)^-1 grad P(x^k), where H^k holds the coefficients learnt before this round; the set-up
    sends H^0, d (d + 1) / 2 floats. Without a search it is local, as published; with `search` and h0=quarter it has
    come down from everywhere it was tried.
    """

    search: Backtracking | None = setting(None, help="")
    fresh: bool = setting(False, help="step with H^{k+1}: what is learnt at x^k arrives with the gradient there")

    name = "nl1"
    convex_only = True
    cost = Cost("3", "d", "2*d + 1")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not problem.l2 > 0:
            raise ConfigError(
                "nl1: l2 = 0, but it must be greater than 0: H^k + l2 I is solved with, and H^k alone may be singular; "
                "set --l2, or take nl2 or newton"
            )

    def start(self, fleet: Fleet, w: Array) -> LearningState:
        now = self.informed(fleet, LearningState(w))
        with self.charged(fleet):
            H = fleet.mean(self.first_curvature, *self.told_first(w))
        return replace(now, H=unpack_triangle(H), value=fleet.mean(value_at, w) if self.search else now.value)

    def step(self, fleet: Fleet, now: LearningState) -> LearningState:
        g = fleet.mean(current_gradient) if self.search else fleet.mean(gradient_at, now.w)
        later = self.learnt(fleet, now, fleet.gather(self.lesson))
        H = (later if self.fresh else now).H
        solved, L = solve_with_stale_factor(H + np.diag(fleet.problem.l2_vector), g, now.factor)
        if solved.status != "solved":
            return fail(now, "H^k + l2 I is not positive definite to rounding: a larger l2, or newton, goes on")
        p = -solved.x
        if self.search is None:
            return replace(later, w=now.w + p, factor=L, step=1.0)
        there = State(now.w, now.value, g, now.step)
        a, f = self.search.found(fleet, there, p)
        if not a:
            return fail(now, no_step(there, p))
        fleet.send(move, a)
        return replace(later, w=now.w + a * p, factor=L, step=a, value=f)

    def first_curvature(self, worker: Worker, *w: Array) -> Array:
        h, model = self.first_h(worker, *w), linear_model(worker)
        return pack_triangle(model.rows.gram(model.row_weight_array * h))


@dataclass(frozen=True, eq=False)
class Nl2State(LearningState):
    """H is A^k = sum (h_ij + 2 gamma) a_ij a_ij' here."""

    C: Array = field(default_factory=lambda: np.zeros((0, 0)))  # sum 2 gamma a_ij a_ij', shape (d, d)


Begun = TypeVar("Begun", bound=Nl2State)


@dataclass(frozen=True)
class Majorising(Learning[Begun]):
    """H^k = beta A^k - C majorises the Hessian at x^k: beta is the largest (h(x^k) + 2 gamma) / (h^k + 2 gamma)."""

    needs = (*Learning.needs, "hessian_bound")

    def begun(self, fleet: Fleet, now: Begun) -> Begun:
        """The state with A^0 and C; where h^0 is gamma, A^0 = 3/2 C need not travel."""
        now = self.informed(fleet, now)
        with self.charged(fleet):
            if self.h0 == "quarter":
                C = unpack_triangle(fleet.mean(self.first_bound))
                return replace(now, H=1.5 * C, C=C)
            A, C = fleet.mean(self.first_two, now.w)
        return replace(now, H=unpack_triangle(A), C=unpack_triangle(C))

    def majorised(self, fleet: Fleet, now: Nl2State, ratios: Sequence[float]) -> Array:
        """H^k with the ridge, shape (d, d), of the state before the lessons."""
        beta = max(ratios)
        return np.asarray(beta * now.H - now.C + np.diag(fleet.problem.l2_vector))

    def first_bound(self, worker: Worker) -> Array:
        self.first_h(worker)
        return pack_triangle(self.bound(worker))

    def first_two(self, worker: Worker, w: Array) -> tuple[Array, Array]:
        h, model = self.first_h(worker, w), linear_model(worker)
        C = self.bound(worker)
        return pack_triangle(model.rows.gram(model.row_weight_array * h) + C), pack_triangle(C)

    def bound(self, worker: Worker) -> Array:
        """Sum of 2 gamma a a' over the rows of a worker."""
        model = linear_model(worker)
        return model.rows.gram(model.row_weight_array * 2.0 * model.loss.hessian_bound(model.t))

    def ratio_and_lesson(self, worker: Worker) -> tuple[float, Array, Bytes, NDArray[Any]]:
        model = linear_model(worker)
        twice = 2.0 * model.loss.hessian_bound(model.t)
        ratio = (worker.point.second_derivatives() + twice) / (worker.memory["h"] + twice)
        return float(ratio.max(initial=0.0)), *self.lesson(worker)


@dataclass(frozen=True)
class Nl2(Majorising[Nl2State]):
    """NL2 (Islamov, Qian and Richtarik 2021, Algorithm 2): losses of one logit with a bounded second derivative.

    P must be strongly convex, phi need not be convex: on a loss that is not convex all is as long as P is so where x^k
    goes, and gamma bounds |phi''|. x^{k+1} = x^k - (beta A^k - C + l2 I)^-1 grad P(x^k). beta is a maximum over all
    rows: one stale coefficient slows everybody. Local, as published.
    """

    name = "nl2"
    cost = Cost("3", "d", "2*d + 2")

    def start(self, fleet: Fleet, w: Array) -> Nl2State:
        return self.begun(fleet, Nl2State(w))

    def step(self, fleet: Fleet, now: Nl2State) -> Nl2State:
        g = fleet.mean(gradient_at, now.w)
        lessons = fleet.gather(self.ratio_and_lesson)
        H = self.majorised(fleet, now, [lesson[0] for lesson in lessons])
        solved, L = solve_with_stale_factor(H, g, now.factor)
        if solved.status != "solved":
            return fail(now, "P is not strongly convex here: beta A - C + l2 I is not positive definite; dino goes on")
        later = self.learnt(fleet, now, [lesson[1:] for lesson in lessons])
        return replace(later, w=now.w - solved.x, factor=L, step=1.0)
