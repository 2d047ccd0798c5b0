"""FedNL: every worker learns its Hessian by compressed differences, and the driver learns the mean of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress import Compressor, Eigenpairs, make_compressor
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import project_spectrum, solve_positive
from mpinewton.linalg.cubic import cubic_step
from mpinewton.linalg.lowrank import GrowingMatrix
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.losses.linear import LinearPoint
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, current_gradient, initial_state, linear_model
from mpinewton.settings import setting

MORE = 5  # eigenvectors that are followed beside those that are sent: the next ones to be sent
LEAST = 1e-12  # M of a quadratic, whose cubic steps are Newton's


@dataclass(frozen=True, eq=False)
class FedNLState(State):
    """An iterate and what the driver has learnt of the Hessian."""

    H: Array = field(default_factory=lambda: np.zeros((0, 0)))  # mean of the H_i, without the ridge, shape (d, d)


F = TypeVar("F", bound=FedNLState)


@dataclass(frozen=True)
class HessianLearner(Method[F]):
    """What the family shares: H_i, an estimate of the Hessian of f_i without its ridge, and how it is learnt.

    Worker i sends S_i = C(D_i), D_i = Hess f_i(w) - H_i, and both sides add alpha S_i to their H_i. `compressor` is
    any of mpinewton/compress: on matrices `rank`, and on the triangle `top`, `random`, `natural`, `dithering`, ...
    """

    compressor: str = setting("rank", help="C; or rank:r=1, top:r=123, dithering:levels=11, ...")
    r: int | None = setting(None, help="the r of the compressor; None for its own")
    hessian_start: Literal["exact", "zero"] = setting(
        "exact", help="H_i at first: Hess f_i(w), sent once, or 0, nothing sent"
    )
    alpha: float | None = setting(
        None, gt=0, le=1, help="the step of learning; None for 1 where C contracts, 1 / (omega + 1) where unbiased"
    )
    mu: float | None = setting(None, gt=0, help="least eigenvalue of the matrix that is solved with; None for l2")
    products: int = setting(
        3, ge=0, help="of D_i and r + 5 vectors, at most, for C = rank where |D_i| is not sent; 0 to form D_i"
    )
    accuracy: float = setting(
        0.3, ge=0, help="|D_i v - e v| / |e| of an eigenvector v that is good enough; 0 to use all the products"
    )

    needs = ("gradient", "hessian", "hvp")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.C  # a compressor that cannot be made is refused here

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        self.C.validate(problem.dim)
        if self.mu is None and not problem.l2 > 0:
            raise ConfigError(f"{self.name}: with l2 = 0 the least eigenvalue mu must be given: --set mu=1e-3 for one")

    @property
    def C(self) -> Compressor:
        return make_compressor(self.compressor, self.r, matrices=True)

    # -- on the driver ----------------------------------------------------------------------------------------------

    def begin(self, fleet: Fleet) -> Array:
        """The first H, shape (d, d), of workers that stand at the first w."""
        if self.hessian_start == "exact":
            return unpack_triangle(fleet.mean(self.start_exactly))
        fleet.send(self.start_at_zero)
        return np.zeros((fleet.dim, fleet.dim))

    def after(self, fleet: Fleet, H: Array, messages: list[tuple[AnyArray, ...]]) -> Array:
        """H with what the workers have learnt."""
        return H + self.step_of_learning(fleet.dim) * self.C.mean(messages, fleet.worker_share, fleet.dim)

    def direction(self, fleet: Fleet, H: Array, g: Array) -> Array:
        """-[H + l2 I]_mu^-1 g: NaN where H or g is not finite."""
        mu = fleet.problem.l2 if self.mu is None else self.mu
        if not np.isfinite(H).all():
            return np.full_like(g, np.nan)
        return -solve_positive(project_spectrum(ridged(fleet, H), mu), g).x

    def step_of_learning(self, size: int) -> float:
        return self.C.rate(size) if self.alpha is None else self.alpha

    # -- on the workers ---------------------------------------------------------------------------------------------

    def start_exactly(self, worker: Worker) -> Array:
        H = worker.point.hessian()
        self.keep(worker, GrowingMatrix(np.zeros(0), np.zeros((0, len(H))), H))
        return pack_triangle(H)

    def start_at_zero(self, worker: Worker) -> None:
        self.keep(worker, GrowingMatrix(np.zeros(0), np.zeros((0, len(worker.w)))))

    def keep(self, worker: Worker, H: GrowingMatrix) -> None:
        worker.memory |= vars(H)

    def learn(self, worker: Worker) -> tuple[AnyArray, ...]:
        """S_i where the worker stands; H_i has learnt it."""
        if not (isinstance(self.C, Eigenpairs) and self.products):
            return self.learn_dense(worker)[1:]
        H = GrowingMatrix(*(worker.memory[name] for name in ("e", "V", "base")))
        d, point, start = len(worker.w), linear_point(worker), worker.memory.get("start")
        sent, worker.memory["start"] = self.C.pack_product(
            lambda V: point.hvps(V) - H.times(V),
            worker.rng().standard_normal((d, min(self.C.r + MORE, d))) if start is None else start,
            self.products,
            self.accuracy,
        )
        if sent:
            e, V = sent
            self.keep(worker, H.plus(self.step_of_learning(d) * e, V.astype(np.float64)))
        return sent

    def learn_dense(self, worker: Worker) -> tuple[float, *tuple[AnyArray, ...]]:
        """|D_i| and S_i where the worker stands; H_i has learnt it."""
        D = worker.point.hessian() - self.estimate(worker)
        message = self.C.compress(D, worker.rng())
        worker.memory["base"] = self.estimate(worker) + self.step_of_learning(len(D)) * message.value
        return float(np.linalg.norm(D)), *message.arrays

    def learn_at(self, worker: Worker, w: Array) -> tuple[AnyArray, ...]:
        worker.move_to(w)
        return self.learn(worker)

    def learn_dense_at(self, worker: Worker, w: Array) -> tuple[float, *tuple[AnyArray, ...]]:
        worker.move_to(w)
        return self.learn_dense(worker)

    def estimate(self, worker: Worker) -> Array:
        """H_i where it is kept dense, shape (d, d)."""
        H, d = worker.memory["base"], len(worker.w)
        return H if H.size else np.zeros((d, d))


def ridged(fleet: Fleet, H: Array, more: float = 0.0) -> Array:
    """H + l2 I + more I; an intercept has no l2."""
    return np.asarray(H + np.diag(fleet.problem.l2_vector + more))


@dataclass(frozen=True)
class FedNL(HessianLearner[FedNLState]):
    """FedNL (Safaryan, Islamov, Qian and Richtarik 2021, Algorithm 1): smooth convex objectives, near the optimum.

    Every worker sends its gradient and S_i, a compressed part of what its estimate H_i lacks, and the driver steps with
    the mean H of the estimates before they learn: option 1, w - [H + l2 I]_mu^-1 g, no eigenvalue below mu; option 2,
    w - (H + (l + l2) I)^-1 g, l the mean of the |D_i|. There is no safeguard: `fednl-ls` goes on from anywhere.
    """

    option: Literal[1, 2] = setting(1, help="")

    name = "fednl"
    cost = Cost("3", "d", "2*d + 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.option == 2 or self.hessian_start == "exact",
            "hessian_start",
            "exact with option=1, whose first step with H = 0 would be g / mu; option=2, fednl-ls and fednl-cr can do",
        )

    def start(self, fleet: Fleet, w: Array) -> FedNLState:
        fleet.send(stand, w)
        return FedNLState(w, H=self.begin(fleet))

    def step(self, fleet: Fleet, now: FedNLState) -> FedNLState:
        if self.option == 1:
            messages = fleet.gather(self.learn_at, now.w)
            p = self.direction(fleet, now.H, fleet.mean(current_gradient))
        else:
            messages, lack = apart(fleet, fleet.gather(self.learn_dense_at, now.w))
            solved = solve_positive(ridged(fleet, now.H, lack), fleet.mean(current_gradient))
            if solved.status != "solved":
                return fail(now, "H + (l + l2) I is not positive definite: fednl needs a convex objective")
            p = -solved.x
        return replace(now, w=now.w + p, step=1.0, H=self.after(fleet, now.H, messages))


@dataclass(frozen=True)
class FedNLSearch(HessianLearner[FedNLState]):
    """FedNL-LS (Safaryan et al. 2021, Algorithm 3), from anywhere: FedNL's direction of option 1 and Armijo's rule.

    H_i starts at 0: no Hessian ever travels, and neither do rows. With C = rank, a worker sends a rough eigenvector: it
    follows the six largest by subspace iteration, mostly one product of D_i with six vectors, and H_i stays in factors:
    no d^2 on a worker. Iterations to 1e-12, and with exact eigenvectors: a2a 33 for 36 (l2 1e-3), 46 for 61 (1e-4);
    w8a 22 to 29, by seed, for 26.
    """

    hessian_start: Literal["exact", "zero"] = setting("zero", help="")
    search: Backtracking = setting(factory=Backtracking, help="")

    name = "fednl-ls"
    cost = Cost("5", "d + 1", "2*d + 10")

    def start(self, fleet: Fleet, w: Array) -> FedNLState:
        at = initial_state(fleet, w)
        return FedNLState(w, at.loss, at.gradient, H=self.begin(fleet))

    def step(self, fleet: Fleet, now: FedNLState) -> FedNLState:
        p = self.direction(fleet, now.H, now.gradient)
        a = self.search(fleet, now, p)
        if not a:
            return fail(now, no_step(now, p))
        H = self.after(fleet, now.H, fleet.gather(self.learn))  # at w, before the step
        f, g = fleet.mean(advance, a)
        return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, H=H)


@dataclass(frozen=True, eq=False)
class FedNLCubicState(FedNLState):
    """An iterate, what has been learnt of the Hessian, and how fast that can change."""

    M: float = 0.0  # a Lipschitz constant of the Hessian


@dataclass(frozen=True)
class FedNLCubic(HessianLearner[FedNLCubicState]):
    """FedNL-CR (Safaryan et al. 2021, Algorithm 4), from anywhere: cubic steps with H + (l + l2) I, no line search.

    l, the mean of the |D_i|, makes the model an upper bound of the objective, whose steps descend; it is a cautious
    one: `fednl-ls` takes a fifth of the rounds. M is the mean of nu |a|^3 over the rows a, nu of the loss.
    """

    M: float | None = setting(
        None, gt=0, help="a Lipschitz constant of the Hessian; None asks the workers, one float each, once"
    )

    name = "fednl-cr"
    cost = Cost("3", "d", "2*d + 2")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.M is None and "hessian_lipschitz" not in loss.provides:
            raise ConfigError(f"{self.name}: the third derivative of {loss.name} has no bound; set M, or use fednl-ls")

    def start(self, fleet: Fleet, w: Array) -> FedNLCubicState:
        fleet.send(stand, w)
        return FedNLCubicState(w, H=self.begin(fleet), M=fleet.mean(third_derivative) if self.M is None else self.M)

    def step(self, fleet: Fleet, now: FedNLCubicState) -> FedNLCubicState:
        messages, lack = apart(fleet, fleet.gather(self.learn_dense_at, now.w))
        g, H = fleet.mean(current_gradient), ridged(fleet, now.H, lack)
        s = cubic_step(H, g, now.M).s if np.isfinite(H).all() and np.isfinite(g).all() else np.full_like(g, np.nan)
        return replace(now, w=now.w + s, step=1.0, H=self.after(fleet, now.H, messages))


def apart(fleet: Fleet, replies: list[Any]) -> tuple[list[tuple[AnyArray, ...]], float]:
    """The messages, and the mean of the numbers before them."""
    return [arrays for _, *arrays in replies], float(fleet.worker_share @ np.array([lack for lack, *_ in replies]))


def stand(worker: Worker, w: Array) -> None:
    """Go to w."""
    worker.move_to(w)


def linear_point(worker: Worker) -> LinearPoint:
    """Where the worker stands. TypeError where its model is not linear_model, as all are that provide a Hessian."""
    if not isinstance(worker.point, LinearPoint):
        raise TypeError(f"{type(worker.point).__name__} has no products of a Hessian with many vectors")
    return worker.point


def third_derivative(worker: Worker) -> float:
    """A Lipschitz constant of the Hessian of f_i, the mean of nu |a|^3 over the rows a; above 0 for quadratics too."""
    model = linear_model(worker)
    return max(LEAST, float(model.mean(model.loss.hessian_lipschitz(model.t) * model.rows.squares**1.5)))
