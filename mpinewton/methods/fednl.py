"""FedNL: every worker learns its Hessian by compressed differences, and the driver learns the mean of the estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress import Compressor, Eigenpairs, make_compressor
from mpinewton.fleet import Fleet, Problem, Worker, batched
from mpinewton.linalg.cholesky import project_spectrum, solve_positive
from mpinewton.linalg.cubic import cubic_step
from mpinewton.linalg.lowrank import GrowingMatrix
from mpinewton.linalg.triangle import add_diagonal, pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.losses.linear import LinearPoint
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import (
    advance,
    current_gradient,
    initial_state,
    linear_model,
    linear_point,
    move_to,
)
from mpinewton.settings import setting, shown

EXTRA = 5  # vectors in the subspace iteration beyond the r that are sent: the next ones to be sent
SMALLEST_M = 1e-12  # Lipschitz constant of the Hessian of a quadratic, since `cubic_step` needs M > 0

START = "first H_i; exact: Hess f_i(w), which is sent; zero: nothing is sent"

Arrays = tuple[AnyArray, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FedNLState(State):
    """The weights and the driver's estimate of the Hessian.

    Attributes
    ----------
    H : array, shape (d, d)
        Mean of the H_i, without l2.
    """

    H: Array


F = TypeVar("F", bound=FedNLState)


@dataclass(frozen=True)
class HessianLearner(Method[F]):
    """Base of the FedNL methods: H_i is an estimate of the Hessian of f_i without l2.

    Worker i sends S_i = C(D_i), D_i = Hess f_i(w) - H_i, and both sides add alpha S_i to their estimates. C is any
    compressor: `rank` works on matrices; `top`, `random`, `natural`, `dithering` on their triangle.
    """

    compressor: str = setting("rank", help="compressor C with its settings, as rank:r=1, top:r=9, dithering:levels=11")
    r: int | None = setting(None, help="the setting r of the compressor; none: its default")
    hessian_start: Literal["exact", "zero"] = setting("exact", alias="h0", help=START)
    alpha: float | None = setting(None, gt=0, le=1, help="learning rate of H_i; none: 1/(omega + 1), or 1 if biased")

    needs = ("gradient", "hessian", "hvp", "rows")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.C  # raises ConfigError for a compressor that does not exist

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        self.C.validate(problem.dim)

    @property
    def C(self) -> Compressor:
        return make_compressor(self.compressor, self.r, matrices=True)

    # -- on the driver ----------------------------------------------------------------------------------------------

    def initial_hessian(self, fleet: Fleet) -> Array:
        """The first H, shape (d, d); the workers have moved to the first w."""
        if self.hessian_start == "exact":
            return unpack_triangle(fleet.mean(self.start_exactly))
        fleet.send(self.start_at_zero)
        return np.zeros((fleet.dim, fleet.dim))

    def update(self, fleet: Fleet, H: Array, messages: list[Arrays]) -> Array:
        """H + alpha mean S_i, shape (d, d)."""
        return H + self.learning_rate(fleet.dim) * self.C.mean(messages, fleet.worker_share, fleet.dim)

    def learning_rate(self, dim: int) -> float:
        """alpha."""
        return self.C.rate(dim) if self.alpha is None else self.alpha

    # -- on the workers ---------------------------------------------------------------------------------------------

    def start_exactly(self, worker: Worker) -> Array:
        """H_i = Hess f_i(w): its upper triangle, d (d + 1)/2 floats."""
        H = worker.point.hessian()
        self.keep(worker, H)
        return pack_triangle(H)

    def start_at_zero(self, worker: Worker) -> None:
        """H_i = 0; no reply."""
        self.keep(worker, np.zeros((0, 0)))

    def keep(self, worker: Worker, H: Array) -> None:
        """Store the first H_i, shape (d, d); (0, 0) stands for zeros."""
        worker.memory["base"] = H

    def learn(self, worker: Worker, *w: Array) -> tuple[float, *Arrays]:
        """Move to w, if given, and add alpha S_i to H_i: |D_i|, 1 float, and S_i, as many floats as C sends."""
        if w:
            worker.move_to(*w)
        D = worker.point.hessian() - self.estimate(worker)
        message = self.C.compress(D, worker.rng())
        worker.memory["base"] = self.estimate(worker) + self.learning_rate(len(D)) * message.value
        return float(np.linalg.norm(D)), *message.arrays

    def estimate(self, worker: Worker) -> Array:
        """H_i of a worker that keeps it dense, shape (d, d)."""
        H, d = worker.memory["base"], len(worker.w)
        return H if H.size else np.zeros((d, d))


@dataclass(frozen=True)
class ProjectedLearner(HessianLearner[FedNLState]):
    """Base of the FedNL methods that step with [H + l2 I]_mu and need no |D_i|.

    With C = rank a worker then needs no D_i: it follows its dominant eigenvectors by subspace iteration on products.
    """

    mu: float | None = setting(None, gt=0, help="smallest eigenvalue of [H + l2 I]_mu; none: l2, or 1/N for l2 = 0")
    products: int = setting(3, ge=0, help="for rank: maximum number of products of D_i with r + 5 vectors; 0: form D_i")
    accuracy: float = setting(0.3, ge=0, help="relative residual of accepted eigenvectors; 0: use all products")

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = isinstance(self.C, Eigenpairs)
        for name, default, used in (("mu", None, True), ("products", 3, pairs), ("accuracy", 0.3, pairs)):
            rule = f"{shown(default)}, as it has an effect only with option=1{'' if used else ' and compressor=rank'}"
            self.require((self.projects and used) or getattr(self, name) == default, name, rule)

    @property
    def projects(self) -> bool:
        """Whether the step uses [H + l2 I]_mu."""
        return True

    @property
    def pairs(self) -> Eigenpairs | None:
        """C, where a worker follows dominant eigenvectors of D_i and does not form it; else None."""
        C = self.C
        return C if self.projects and isinstance(C, Eigenpairs) and self.products else None

    def direction(self, fleet: Fleet, H: Array, g: Array) -> Array:
        """-[H + l2 I]_mu^-1 g, shape (d,); NaN where H is not finite."""
        # Slightly less than l2, or a Cholesky factor of H + l2 I - mu I would not exist where H is singular.
        problem = fleet.problem
        mu = (1 - 1e-6) * (problem.l2 or 1.0 / sum(problem.rows)) if self.mu is None else self.mu
        if not np.isfinite(H).all():
            return np.full_like(g, np.nan)
        return -solve_positive(project_spectrum(add_l2(fleet, H), mu), g).x

    def keep(self, worker: Worker, H: Array) -> None:
        super().keep(worker, H)
        if pairs := self.pairs:
            d, point = len(worker.w), linear_point(worker)
            worker.memory["start"] = worker.rng().standard_normal((d, min(pairs.r + EXTRA, d)))
            if H.size and point.model.outputs == 1:  # H_i as the curvature of its rows: no matrix
                worker.memory["rows"], H = point.curvature, np.zeros((0, 0))
            worker.memory |= vars(GrowingMatrix(np.zeros(0), np.zeros((0, d)), H))

    @property
    def learn_alone(self) -> Callable[..., Arrays]:
        """The task `learn` without |D_i|: S_i alone."""
        return self.learn_by_products if self.pairs else self.learn_without_norm

    @batched
    def learn_by_products(self, worker: Worker, *w: Array) -> Arrays:
        """`learn` without |D_i|, from products with D_i: S_i alone."""
        if w:
            worker.move_to(*w)
        memory, point, pairs = worker.memory, cast(LinearPoint, worker.point), self.pairs
        assert pairs is not None
        H, rows = GrowingMatrix(*(memory[name] for name in ("e", "V", "base"))), memory.get("rows", 0.0)
        sent, after = pairs.pack_product(
            lambda V, some: point.hvps(V, some, rows) - H.times(V, some),
            memory["start"],
            self.products,
            self.accuracy,
        )
        if sent:
            e, V = sent
            H = H.plus(self.learning_rate(V.shape[-1]) * e, V.astype(np.float64))
        memory.update(start=after, **vars(H))
        return sent

    def learn_without_norm(self, worker: Worker, *w: Array) -> Arrays:
        """`learn` without |D_i|: S_i alone."""
        _, *arrays = self.learn(worker, *w)
        return tuple(arrays)


@dataclass(frozen=True)
class FedNL(ProjectedLearner):
    """FedNL (Safaryan, Islamov, Qian and Richtarik 2021, Algorithm 1): smooth convex objectives, near the optimum.

    Every worker sends its gradient and S_i. The driver steps with the mean H of the estimates before this update.
    Option 1 is w - [H + l2 I]_mu^-1 g, where no eigenvalue is below mu; option 2 is w - (H + (l + l2) I)^-1 g, where l
    is the mean of the |D_i|. The method is local; `fednl-ls` converges from any start.
    """

    option: Literal[1, 2] = setting(1, help="the paper's option; 1: projection of H; 2: H + l I, l the mean of |D_i|")

    name = "fednl"
    matrices = 9.0
    cost = Cost("3", "d", "2*d + 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "exact with option=1, whose first step from H = 0 is -g / mu; use option=2, fednl-ls or fednl-cr"
        self.require(not self.projects or self.hessian_start == "exact", "hessian_start", rule)

    @property
    def projects(self) -> bool:
        return self.option == 1

    def start(self, fleet: Fleet, w: Array) -> FedNLState:
        fleet.send(move_to, w)
        return FedNLState(w, H=self.initial_hessian(fleet))

    def step(self, fleet: Fleet, now: FedNLState) -> FedNLState:
        if self.projects:
            messages = fleet.gather(self.learn_alone, now.w)
            p = self.direction(fleet, now.H, fleet.mean(current_gradient))
        else:
            messages, lack = split_replies(fleet, fleet.gather(self.learn, now.w))
            solved = solve_positive(add_l2(fleet, now.H, lack), fleet.mean(current_gradient))
            if solved.status != "solved":
                return fail(now, "H + (l + l2) I is not positive definite: fednl needs a convex objective")
            p = -solved.x
        return replace(now, w=now.w + p, step=1.0, H=self.update(fleet, now.H, messages))


@dataclass(frozen=True)
class FedNLSearch(ProjectedLearner):
    """FedNL-LS (Safaryan et al. 2021, Algorithm 3): FedNL's option 1 with Armijo's rule, from any start.

    H_i starts at 0, so no Hessian and no rows are sent. With C = rank a worker keeps H_i in factors, never a d x d
    matrix, and approximates its six dominant eigenvectors, mostly with one product of D_i and six vectors. Iterations
    to a gap of 1e-12, by seed, against exact eigenvectors: a2a 31 to 36 and 36 (l2 = 1e-3), 46 to 67 and 61 (1e-4);
    w8a 22 to 29 and 26.
    """

    hessian_start: Literal["exact", "zero"] = setting("zero", alias="h0", help=START)
    search: Backtracking = setting(factory=Backtracking, help="line search")

    name = "fednl-ls"
    any_units = True
    matrices = 7.0
    cost = Cost("5", "d + 1", "2*d + 10")

    def start(self, fleet: Fleet, w: Array) -> FedNLState:
        at = initial_state(fleet, w)
        return FedNLState(w, at.loss, at.gradient, H=self.initial_hessian(fleet))

    def step(self, fleet: Fleet, now: FedNLState) -> FedNLState:
        p = self.direction(fleet, now.H, now.gradient)
        a = self.search(fleet, now, p)
        if not a:
            return fail(now, no_step(now, p))
        H = self.update(fleet, now.H, fleet.gather(self.learn_alone))  # at w, before the step
        f, g = fleet.mean(advance, a)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, H=H)


@dataclass(frozen=True, eq=False, kw_only=True)
class FedNLCubicState(FedNLState):
    """The state of FedNL and the cubic coefficient.

    Attributes
    ----------
    M : float
        A Lipschitz constant of the Hessian.
    """

    M: float


@dataclass(frozen=True)
class FedNLCubic(HessianLearner[FedNLCubicState]):
    """FedNL-CR (Safaryan et al. 2021, Algorithm 4): cubic steps with H + (l + l2) I, no line search, from any start.

    l, the mean of the |D_i|, makes the cubic model an upper bound on the objective, so that every step decreases it.
    The bound is conservative: `fednl-ls` takes a fifth of the rounds. M is the mean of nu |a|^3 over the rows a, nu the
    loss's bound on the third derivative.
    """

    M: float | None = setting(None, gt=0, help="Lipschitz constant of the Hessian; none: computed at the start")

    name = "fednl-cr"
    matrices = 9.0
    cost = Cost("3", "d", "2*d + 2")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.M is None:
            self.need(loss, "hessian_lipschitz", "M=none", "set M, or use fednl-ls")

    def start(self, fleet: Fleet, w: Array) -> FedNLCubicState:
        fleet.send(move_to, w)
        H = self.initial_hessian(fleet)
        return FedNLCubicState(w, H=H, M=fleet.mean(third_derivative) if self.M is None else self.M)

    def step(self, fleet: Fleet, now: FedNLCubicState) -> FedNLCubicState:
        messages, lack = split_replies(fleet, fleet.gather(self.learn, now.w))
        g, H = fleet.mean(current_gradient), add_l2(fleet, now.H, lack)
        s = cubic_step(H, g, now.M).s if np.isfinite(H).all() and np.isfinite(g).all() else np.full_like(g, np.nan)
        return replace(now, w=now.w + s, step=1.0, H=self.update(fleet, now.H, messages))


def add_l2(fleet: Fleet, H: Array, more: float = 0.0) -> Array:
    """H + (l2 + more) I, shape (d, d); an intercept has no l2."""
    return add_diagonal(H, fleet.problem.l2_vector + more)


def split_replies(fleet: Fleet, replies: list[Any]) -> tuple[list[Arrays], float]:
    """The messages S_i, and l, the mean of the |D_i|."""
    return [arrays for _, *arrays in replies], float(fleet.worker_share @ np.array([lack for lack, *_ in replies]))


def third_derivative(worker: Worker) -> float:
    """The mean of nu |a|^3 over the rows a, a Lipschitz constant of the Hessian of f_i, 1 float; at least 1e-12."""
    model = linear_model(worker)
    return max(SMALLEST_M, float(model.mean(model.loss.hessian_lipschitz(model.t) * model.rows.squares**1.5)))
