"""NL1 and NL2: Newton's method with an estimated Hessian, of which workers update a few coefficients in every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import solve_semidefinite, solve_with_stale_factor
from mpinewton.linalg.triangle import add_diagonal, pack_triangle, unpack_triangle
from mpinewton.methods.support.learning import Learning, LearningState
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, State, fail
from mpinewton.methods.support.tasks import current_gradient, gradient_at, linear_model, move, value_at
from mpinewton.settings import setting


@dataclass(frozen=True)
class Nl1(Learning[LearningState]):
    """NL1 (Islamov, Qian and Richtarik 2021, Algorithm 1): convex losses of one logit, l2 > 0.

    x^{k+1} = x^k - (H^k + l2 I)^-1 grad P(x^k), where H^k holds the coefficients sent before this round. The start
    sends H^0, d (d + 1)/2 floats. As published the method is local. With `search` and hessian_start=quarter it
    converged from every start tried.
    """

    search: Backtracking | None = setting(None, help="line search; none: steps of length 1, a local method")
    fresh: bool = setting(False, help="step with H^{k+1}, which includes the coefficients sent at x^k, in place of H^k")

    name = "nl1"
    matrices = 5.0
    convex_only = True
    cost = Cost("3", "d", "2*d + 1")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if not problem.l2 > 0:
            raise ConfigError(
                "nl1: l2 = 0: expected a value greater than 0, since H^k alone may be singular; "
                "set --l2, or use nl2 or newton"
            )

    def start(self, fleet: Fleet, w: Array) -> LearningState:
        rows = self.initial_rows(fleet)
        with self.setup(fleet):
            H = unpack_triangle(fleet.mean(self.initial_hessian, *self.setup_arguments(w)))
        value = fleet.mean(value_at, w) if self.search else None
        return LearningState(w, H=H, factor=None, value=value, **rows)

    def step(self, fleet: Fleet, now: LearningState) -> LearningState:
        g = fleet.mean(current_gradient) if self.search else fleet.mean(gradient_at, now.w)
        later = self.update_hessian(fleet, now, fleet.gather(self.coefficient_update))
        H = (later if self.fresh else now).H
        solved, L = solve_with_stale_factor(add_diagonal(H, fleet.problem.l2_vector), g, now.factor)
        if solved.status != "solved":
            return fail(now, "H^k + l2 I is not numerically positive definite: increase l2, or use newton")
        p = -solved.x
        if self.search is None or now.value is None:
            return replace(later, w=now.w + p, factor=L, step=1.0)
        here = State(now.w, now.value, g, now.step)
        a, f = self.search.find_step(fleet, here, p)
        if not a:
            return fail(now, no_step(here, p))
        fleet.send(move, a)
        return replace(later, w=now.w + a * p, factor=L, step=a, value=f)

    def initial_hessian(self, worker: Worker, *w: Array) -> Array:
        """The upper triangle of H_i^0, d (d + 1)/2 floats."""
        h, model = self.initial_coefficients(worker, *w), linear_model(worker)
        return pack_triangle(model.rows.gram(model.row_weight_array * h))


@dataclass(frozen=True, eq=False, kw_only=True)
class Nl2State(LearningState):
    """The state of NL2, where H is A^k = sum (h_ij + 2 gamma) a_ij a_ij'.

    Attributes
    ----------
    C : array, shape (d, d)
        Sum of 2 gamma a_ij a_ij'.
    """

    C: Array


N = TypeVar("N", bound=Nl2State)


@dataclass(frozen=True)
class Majorising(Learning[N]):
    """Base of NL2 and CNL: H^k = beta A^k - C majorises the Hessian at x^k.

    beta is the maximum of (h(x^k) + 2 gamma) / (h^k + 2 gamma) over all rows of positive weight, gamma the bound on
    |h|.
    """

    needs = (*Learning.needs, "hessian_bound")

    def initial_fields(self, fleet: Fleet, w: Array) -> dict[str, Any]:
        """Fields of the first state: rows, A^0 and C. Where h^0 = gamma, A^0 = 3/2 C and is not sent."""
        rows = self.initial_rows(fleet)
        with self.setup(fleet):
            if self.hessian_start == "quarter":
                C = unpack_triangle(fleet.mean(self.initial_bound))
                return {"H": 1.5 * C, "C": C, "factor": None, **rows}
            A, C = map(unpack_triangle, fleet.mean(self.initial_pair, w))
            return {"H": A, "C": C, "factor": None, **rows}

    def majorant(self, fleet: Fleet, now: N, ratios: Sequence[float]) -> Array:
        """beta A^k - C + l2 I, shape (d, d); beta is the largest of the workers' ratios."""
        return add_diagonal(max(ratios) * now.H - now.C, fleet.problem.l2_vector)

    def initial_bound(self, worker: Worker) -> Array:
        """The upper triangle of C_i, d (d + 1)/2 floats; sets h_i^0."""
        self.initial_coefficients(worker)
        return pack_triangle(self.bound(worker))

    def initial_pair(self, worker: Worker, w: Array) -> tuple[Array, Array]:
        """The upper triangles of A_i^0 and C_i, d (d + 1) floats; sets h_i^0 = h_i(w)."""
        h, model, C = self.initial_coefficients(worker, w), linear_model(worker), self.bound(worker)
        return pack_triangle(model.rows.gram(model.row_weight_array * h) + C), pack_triangle(C)

    def bound(self, worker: Worker) -> Array:
        """C_i, the sum of 2 gamma a a' over the rows of a worker, shape (d, d)."""
        model = linear_model(worker)
        return model.rows.gram(model.row_weight_array * 2.0 * model.loss.hessian_bound(model.t))

    def ratio_and_update(self, worker: Worker) -> tuple[float, Array, Bytes, NDArray[Any]]:
        """The worker's largest ratio, 1 float, and its update of coefficients, r floats and new rows."""
        model = linear_model(worker)
        twice = 2.0 * model.loss.hessian_bound(model.t)
        ratio = (worker.point.second_derivatives() + twice) / (worker.memory["h"] + twice)
        return float(ratio[model.row_weight_array > 0].max(initial=0.0)), *self.coefficient_update(worker)


@dataclass(frozen=True)
class Nl2(Majorising[Nl2State]):
    """NL2 (Islamov, Qian and Richtarik 2021, Algorithm 2): losses of one logit with a bounded second derivative.

    x^{k+1} = x^k - (beta A^k - C + l2 I)^-1 grad P(x^k). P must be convex along the iterates; the loss itself
    need not be if gamma bounds |phi''|. beta is a maximum over all rows, so one outdated coefficient shortens
    the step. Local, as published.
    """

    name = "nl2"
    matrices = 5.0
    cost = Cost("3", "d", "2*d + 2")

    def start(self, fleet: Fleet, w: Array) -> Nl2State:
        return Nl2State(w, value=None, **self.initial_fields(fleet, w))

    def step(self, fleet: Fleet, now: Nl2State) -> Nl2State:
        g = fleet.mean(gradient_at, now.w)
        ratios, *updates = zip(*fleet.gather(self.ratio_and_update))
        H = self.majorant(fleet, now, ratios)
        solved, L = solve_with_stale_factor(H, g, now.factor)
        solved = solved if solved.status == "solved" else solve_semidefinite(H, g)
        if solved.status != "solved":
            return fail(now, "P is not convex here: beta A - C + l2 I has a negative eigenvalue; use dino")
        later = self.update_hessian(fleet, now, list(zip(*updates)))
        return replace(later, w=now.w - solved.x, factor=L, step=1.0)
