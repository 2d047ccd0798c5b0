"""NL1 and NL2: Newton's method with a Hessian that is learnt a few coefficients a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import solve_following
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.support.learning import Learned, Learning
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Iterate, stuck
from mpinewton.methods.support.tasks import go, linear, loss_at, slope, slope_here


@dataclass(frozen=True)
class Nl1(Learning):
    """NL1 (Islamov, Qian and Richtarik 2021, Algorithm 1): convex losses of one logit, l2 > 0.

    x^{k+1} = x^k - (H^k + l2 I)^-1 grad P(x^k), where H^k holds the coefficients learnt before this round; the set-up
    sends H^0, d (d + 1) / 2 floats. Without a search it is local, as published; with `search` and h0=quarter it has
    come down from everywhere it was tried.

    3 rounds an iteration; floats per worker: d down, 2*d + 1 up.
    """

    search: Backtracking | None = None
    fresh: bool = False  # step with H^{k+1}: what is learnt at x^k arrives with the gradient there

    name: ClassVar[str] = "nl1"
    convex_only: ClassVar[bool] = True

    def fit(self, problem: Problem) -> None:
        super().fit(problem)
        if not problem.l2 > 0:
            raise ConfigError(
                "nl1: l2 = 0, but it must be greater than 0: H^k + l2 I is solved with, and H^k alone may be singular; "
                "set --l2, or take nl2 or newton"
            )

    def start(self, fleet: Fleet, w: Array) -> Learned:
        now = self.informed(fleet, Learned(w))
        with self.charged(fleet):
            H = fleet.mean(self.first_curvature, *self.told_first(w))
        return replace(now, H=unpack_triangle(H), value=fleet.mean(loss_at, w) if self.search else now.value)

    def step(self, fleet: Fleet, now: Learned) -> Learned:
        g = fleet.mean(slope_here) if self.search else fleet.mean(slope, now.w)
        later = self.learnt(fleet, now, fleet.gather(self.lesson))
        H = (later if self.fresh else now).H
        solved, L = solve_following(H + np.diag(fleet.problem.ridge), g, now.factor)
        if solved.status != "solved":
            return stuck(now, "H^k + l2 I is not positive definite to rounding: a larger l2, or newton, goes on")
        p = -solved.x
        if self.search is None:
            return replace(later, w=now.w + p, factor=L, step=1.0)
        there = Iterate(now.w, now.value, g, now.step)
        a, f = self.search.found(fleet, there, p)
        if not a:
            return stuck(now, no_step(there, p))
        fleet.send(go, a)
        return replace(later, w=now.w + a * p, factor=L, step=a, value=f)

    def first_curvature(self, worker: Worker, *w: Array) -> Array:
        h, model = self.first_h(worker, *w), linear(worker)
        return pack_triangle(model.rows.gram(model.shares * h))


@dataclass(frozen=True, eq=False)
class Shifted(Learned):
    """H is A^k = sum (h_ij + 2 gamma) a_ij a_ij' here."""

    C: Array = field(default_factory=lambda: np.zeros((0, 0)))  # sum 2 gamma a_ij a_ij', shape (d, d)


Begun = TypeVar("Begun", bound=Shifted)


@dataclass(frozen=True)
class Majorising(Learning):
    """H^k = beta A^k - C majorises the Hessian at x^k: beta is the largest (h(x^k) + 2 gamma) / (h^k + 2 gamma)."""

    needs: ClassVar[tuple[str, ...]] = (*Learning.needs, "curvature_bound")
    state: ClassVar[type[Iterate]] = Shifted

    def begun(self, fleet: Fleet, now: Begun) -> Begun:
        """The state with A^0 and C; where h^0 is gamma, A^0 = 3/2 C need not travel."""
        now = self.informed(fleet, now)
        with self.charged(fleet):
            if self.h0 == "quarter":
                C = unpack_triangle(fleet.mean(self.first_bound))
                return replace(now, H=1.5 * C, C=C)
            A, C = fleet.mean(self.first_two, now.w)
        return replace(now, H=unpack_triangle(A), C=unpack_triangle(C))

    def majorised(self, fleet: Fleet, now: Shifted, ratios: Sequence[float]) -> Array:
        """H^k with the ridge, shape (d, d), of the state before the lessons."""
        beta = max(ratios)
        return np.asarray(beta * now.H - now.C + np.diag(fleet.problem.ridge))

    def first_bound(self, worker: Worker) -> Array:
        self.first_h(worker)
        return pack_triangle(self.bound(worker))

    def first_two(self, worker: Worker, w: Array) -> tuple[Array, Array]:
        h, model = self.first_h(worker, w), linear(worker)
        C = self.bound(worker)
        return pack_triangle(model.rows.gram(model.shares * h) + C), pack_triangle(C)

    def bound(self, worker: Worker) -> Array:
        """Sum of 2 gamma a a' over the rows of a worker."""
        model = linear(worker)
        return model.rows.gram(model.shares * 2.0 * model.loss.gamma(model.t))

    def ratio_and_lesson(self, worker: Worker) -> tuple[float, Array, Bytes, NDArray[Any]]:
        model = linear(worker)
        twice = 2.0 * model.loss.gamma(model.t)
        ratio = (worker.point.curvatures() + twice) / (worker.memory["h"] + twice)
        return float(ratio.max(initial=0.0)), *self.lesson(worker)


@dataclass(frozen=True)
class Nl2(Majorising):
    """NL2 (Islamov, Qian and Richtarik 2021, Algorithm 2): losses of one logit with a bounded second derivative.

    P must be strongly convex, phi need not be convex: on a loss that is not convex all is as long as P is so where x^k
    goes, and gamma bounds |phi''|. x^{k+1} = x^k - (beta A^k - C + l2 I)^-1 grad P(x^k). beta is a maximum over all
    rows: one stale coefficient slows everybody. Local, as published.

    3 rounds an iteration; floats per worker: d down, 2*d + 2 up.
    """

    name: ClassVar[str] = "nl2"

    def start(self, fleet: Fleet, w: Array) -> Shifted:
        return self.begun(fleet, Shifted(w))

    def step(self, fleet: Fleet, now: Shifted) -> Shifted:
        g = fleet.mean(slope, now.w)
        lessons = fleet.gather(self.ratio_and_lesson)
        H = self.majorised(fleet, now, [lesson[0] for lesson in lessons])
        solved, L = solve_following(H, g, now.factor)
        if solved.status != "solved":
            return stuck(now, "P is not strongly convex here: beta A - C + l2 I is not positive definite; dino goes on")
        later = self.learnt(fleet, now, [lesson[1:] for lesson in lessons])
        return replace(later, w=now.w - solved.x, factor=L, step=1.0)
