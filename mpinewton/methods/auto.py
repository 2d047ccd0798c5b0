"""`auto`: a rule that chooses a method, for users who do not want to choose one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Problem
from mpinewton.losses import Loss
from mpinewton.methods.lazy_newton import ROWS_PER_WEIGHT, LazyNewton
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.methods.newton_cg import NewtonCG
from mpinewton.methods.preconditioned_lbfgs import PRODUCTS, PreconditionedLbfgs
from mpinewton.methods.support.method import AnyMethod, Method, State
from mpinewton.settings import setting

# A typical run to a relative gap of 1e-8: rounded medians over the problems of docs/papers/auto.md.
NEWTON_STEPS = 7  # iterations of newton
# Rounds, triangles of Hessians that are sent, gradients and Hessians of all rows of lazy-newton (a9a, w8a, ijcnn1).
LAZY_ROUNDS, LAZY_TRIANGLES, LAZY_GRADIENTS, LAZY_HESSIANS = 27, 7, 9, 2.3
LAZY_WHOLE = 27, 3.5, 12, 3.5  # the same without a sample
CG_STEPS, CG_PRODUCTS = 9, 80  # iterations of newton-cg, and products with the Hessian in all of them
PAIRS = 12  # iterations of preconditioned-lbfgs

LARGEST = 5000  # weights up to which a Hessian of d x d is formed: 0.2 GB
# Operations a second of one rank: products with the rows, pairs of stored entries, multiply-adds of dense rows and of
# Cholesky factors. Round numbers below those of today's cores.
SPEED, PAIRS_SPEED, DENSE_SPEED, CHOLESKY = 2e9, 8e8, 6e9, 1e10


class Cost(NamedTuple):
    """What a typical run costs: rounds, floats per worker, seconds of computing."""

    rounds: float
    floats: float
    seconds: float


@dataclass(frozen=True)
class Auto(Method[State]):
    """`auto`: not a method, but a rule that chooses one by the loss, the number of weights and rows, and the network.

    It chooses among `newton` and `lazy-newton`, where the loss is convex and d at most 5000; `newton-cg`, where the
    loss is convex; and `preconditioned-lbfgs`. For a loss without a diagonal of the Hessian it is `lbfgs`. goal=rounds
    and goal=bits take the one that needs fewest of them in a typical run, goal=seconds the one for which

        rounds * latency + bits / rate + time of computing

    is least. A typical run is one to a relative gap of 1e-8. Its numbers of iterations and products are medians of
    measured runs; floats and operations follow from them, d, the rows of the largest worker and the share of stored
    entries. The source has these constants.

    The choice depends on the problem and these settings alone, so that it is the same on any number of ranks.
    """

    goal: Literal["seconds", "rounds", "bits"] = setting("seconds", help="what to save")
    latency: float = setting(
        2e-4, ge=0, unit="seconds", help="time of one round; default: on one node", only_if={"goal": "seconds"}
    )
    rate: float = setting(
        1e10, gt=0, unit="bits per second", help="of one link; default: on one node", only_if={"goal": "seconds"}
    )

    name = "auto"

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        for method in self.candidates(loss, 1):
            method.validate_loss(loss)

    def validate(self, problem: Problem) -> None:
        self.choose(problem).validate(problem)

    def choose(self, problem: Problem) -> AnyMethod:
        def price(method: AnyMethod) -> float:
            cost = typical_cost(method, problem)
            if self.goal == "seconds":
                return cost.rounds * self.latency + 64 * cost.floats / self.rate + cost.seconds
            return cost.rounds if self.goal == "rounds" else cost.floats

        return min(self.candidates(problem.loss, problem.dim), key=price)

    def candidates(self, loss: Loss, dim: int) -> list[AnyMethod]:
        """The methods to choose from for a loss with d weights."""
        if not {"hvp", "hessian_diagonal"} <= loss.provides:
            return [Lbfgs()]
        found: list[AnyMethod] = [PreconditionedLbfgs(likely=1 if self.goal == "bits" else 4)]
        if loss.convex:
            found.append(NewtonCG())
        if loss.convex and "hessian" in loss.provides and dim <= LARGEST:
            found += [Newton(), LazyNewton()]
        return found

    def start(self, fleet: Fleet, w: Array) -> State:
        raise TypeError("auto is a rule: run the method that auto.choose(problem) returns")

    def step(self, fleet: Fleet, now: State) -> State:
        raise TypeError("auto is a rule: run the method that auto.choose(problem) returns")


def typical_cost(method: AnyMethod, problem: Problem) -> Cost:
    """What a typical run of one of the candidates costs on this problem."""
    d, rows, density = problem.dim, max(problem.rows), problem.density
    product = 4.0 * rows * d * density  # operations
    hessian = rows * d**2 / 2 * min(density**2 / PAIRS_SPEED, 1 / DENSE_SPEED)  # seconds
    triangle, factor = d * (d + 1) / 2, d**3 / 3 / CHOLESKY
    if isinstance(method, Newton):
        each = Cost(2, triangle + 2 * d, hessian + product / SPEED + factor)
        return Cost(*(NEWTON_STEPS * part for part in each))
    if isinstance(method, LazyNewton):
        sampled = method.sample * sum(problem.rows) >= ROWS_PER_WEIGHT * d
        lazy = (LAZY_ROUNDS, LAZY_TRIANGLES, LAZY_GRADIENTS, LAZY_HESSIANS) if sampled else LAZY_WHOLE
        rounds, triangles, gradients, hessians = lazy
        seconds = hessians * hessian + gradients * product / SPEED + triangles * factor
        return Cost(rounds, triangles * triangle + rounds * d, seconds)
    if isinstance(method, NewtonCG):
        products = CG_PRODUCTS + 2 * CG_STEPS
        return Cost(4 * CG_STEPS + 2 * CG_PRODUCTS, (2 * CG_PRODUCTS + 3 * CG_STEPS) * d, products * product / SPEED)
    if isinstance(method, PreconditionedLbfgs):
        local = PRODUCTS * product + 2 * PRODUCTS**2 * d  # products, and the orthogonalisation of a Krylov basis
        each = Cost(4, (method.likely + 3) * d, (local + 5 * product) / SPEED)
        return Cost(*(PAIRS * part for part in each))
    return Cost(0, 0, 0)  # the only candidate
