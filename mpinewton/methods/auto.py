"""`auto`: a rule that chooses a method, for users who do not want to choose one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mpinewton.fleet import Problem
from mpinewton.losses import Loss
from mpinewton.losses.linear import LinearLoss
from mpinewton.methods.lazy_newton import LazyNewton
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.methods.newton_cg import NewtonCG
from mpinewton.methods.preconditioned_lbfgs import PRODUCTS, PreconditionedLbfgs
from mpinewton.methods.support.method import AnyMethod, Rule
from mpinewton.settings import setting

# A typical run to a relative gap of 1e-8: rounded medians over the problems of jobs/auto.toml (docs/papers/auto.md).
NEWTON_STEPS = 7  # iterations of newton
# Rounds, triangles of Hessians that are sent, gradients and Hessians of all rows, and Cholesky factors of lazy-newton
# (a9a, w8a, ijcnn1), with a start on own samples of the workers; on the mean over samples; without a sample; `levels`.
LAZY_OWN, LAZY_MEAN = (15.0, 3.0, 7.5, 3.5, 7.0), (24.0, 7.0, 7.5, 3.5, 7.0)
LAZY_WHOLE, LAZY_CODED = (27.0, 3.5, 12.0, 3.5, 3.5), (23.0, 2.0, 10.0, 2.0, 2.0)
CG_STEPS, CG_PRODUCTS = 9, 80  # iterations of newton-cg, and products with the Hessian in all of them
LBFGS_STEPS, LBFGS_SEARCHES = 48, 4  # iterations of lbfgs, and those of them in which step 1 is refused
PAIRS = 12  # iterations of preconditioned-lbfgs
LEVELS, REFRESH = 2**14, 0.6  # of lazy-newton in few bits: few levels fail where columns are correlated
CODED, CODED_STORED = 12 / 64, 18 / 64  # length of an entry of such a Hessian in floats; of one of few that are not 0

LEAST_L2 = 10.0  # in units of 1 / rows; with less, and with softmax, lbfgs took up to 2.3 times as long as newton-cg
LARGEST = 5000  # weights up to which a Hessian of d x d is formed: 0.2 GB
# Operations a second of one rank: products with the rows, pairs of stored entries, multiply-adds of dense rows and of
# Cholesky factors, entries of a Hessian in Rice's code. Round numbers below those of today's cores.
SPEED, PAIRS_SPEED, DENSE_SPEED, CHOLESKY, CODING = 3e9, 8e8, 6e9, 1e10, 4e6
EIGENVECTORS = 27  # time of eigenvalues and eigenvectors, in Cholesky factors
FAN = 16  # messages that a rank sends or receives one after the other: the tree of the fleet


class Cost(NamedTuple):
    """What a typical run costs: rounds, floats per worker, seconds of computing."""

    rounds: float
    floats: float
    seconds: float


@dataclass(frozen=True)
class Auto(Rule):
    """A rule that chooses a method by the problem and the network.

    It chooses among `newton` and `newton-cg`; `lazy-newton`, where the loss is convex, also with Hessians in few bits
    (levels=16384, refresh=0.6); `lbfgs`, where the loss is convex, but not huber or softmax, and l2 >= 10 / rows; and
    `preconditioned-lbfgs`, where the loss is not convex or d > 5000, since the number of its iterations depends on how
    alike the shards are. Those that form Hessians are left out for d > 5000. For a loss without a diagonal of the
    Hessian it is `lbfgs`. goal=rounds and goal=bits take the one that needs fewest of them in a typical run,
    goal=seconds the one for which

        rounds * latency + min(m, 16) * bits / rate + time of computing

    is least, for m workers: a rank sends to at most 16 others, one after the other. A typical run is one to a relative
    gap of 1e-8. Its numbers of iterations and products are medians of measured runs; floats and operations follow from
    them, d, the rows of the largest worker and the share of stored entries. docs/auto.md has the constants, and what
    the rule costs beside the best method.

    The choice depends on the problem and these settings alone, so that it is the same on any number of ranks.
    """

    goal: Literal["seconds", "rounds", "bits"] = setting("seconds", help="what to save")
    latency: float = setting(
        2e-4, ge=0, unit="seconds", help="time of one round; default: on one node", only_if={"goal": "seconds"}
    )
    rate: float = setting(
        4e10, gt=0, unit="bits per second", help="of one link; default: on one node", only_if={"goal": "seconds"}
    )

    name = "auto"

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        for method in self.candidates(loss, 1, quasi_newton=loss.convex):
            method.validate_loss(loss)

    def choose(self, problem: Problem) -> AnyMethod:
        def price(method: AnyMethod) -> float:
            cost = typical_cost(method, problem)
            if self.goal == "seconds":
                links = min(problem.n_workers, FAN)
                return cost.rounds * self.latency + links * 64 * cost.floats / self.rate + cost.seconds
            return cost.rounds if self.goal == "rounds" else cost.floats

        return min(self.candidates(problem.loss, problem.dim, suits_lbfgs(problem)), key=price)

    def candidates(self, loss: Loss, dim: int, quasi_newton: bool) -> list[AnyMethod]:
        """The methods to choose from for a loss with d weights; with quasi_newton lbfgs, too."""
        if not {"hvp", "hessian_diagonal"} <= loss.provides:
            return [Lbfgs()]
        found: list[AnyMethod] = [NewtonCG()]
        if quasi_newton:
            found.append(Lbfgs())
        small = "hessian" in loss.provides and dim <= LARGEST
        if small:
            found.append(Newton())
        if small and loss.convex:
            return [*found, LazyNewton(), LazyNewton(levels=LEVELS, refresh=REFRESH)]
        return [*found, PreconditionedLbfgs(likely=1 if self.goal == "bits" else 4)]


def suits_lbfgs(problem: Problem) -> bool:
    """Whether the problem is of those on which lbfgs seldom took longer than newton-cg."""
    loss = problem.loss
    one_output = isinstance(loss, LinearLoss) and loss.outputs(problem.classes) == 1
    regularised = problem.l2 * sum(problem.rows) >= LEAST_L2
    return one_output and loss.convex and "majorant" not in loss.provides and regularised


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
        if method.levels:
            run = LAZY_CODED
        elif method.is_sampled(min(problem.rows), d, own=True):
            run = LAZY_OWN
        elif method.is_sampled(sum(problem.rows), d):
            run = LAZY_MEAN
        else:
            run = LAZY_WHOLE
        rounds, triangles, gradients, hessians, factors = run
        seconds = hessians * hessian + gradients * product / SPEED + factors * factor
        if method.levels:
            seconds += triangles * ((1 + problem.n_workers) * triangle / CODING + EIGENVECTORS * factor)
            triangle *= min(CODED, CODED_STORED * rows * density**2)
        return Cost(rounds, triangles * triangle + rounds * d, seconds)
    if isinstance(method, NewtonCG):
        products = CG_PRODUCTS + 2 * CG_STEPS
        return Cost(4 * CG_STEPS + 2 * CG_PRODUCTS, (2 * CG_PRODUCTS + 3 * CG_STEPS) * d, products * product / SPEED)
    if isinstance(method, Lbfgs):
        rounds, gradients = 2 * LBFGS_STEPS + 5 * LBFGS_SEARCHES, LBFGS_STEPS + 2 * LBFGS_SEARCHES
        return Cost(rounds, 2 * gradients * d, gradients * product / SPEED)
    if isinstance(method, PreconditionedLbfgs):
        local = PRODUCTS * product + 2 * PRODUCTS**2 * d  # products, and the orthogonalisation of a Krylov basis
        each = Cost(4, (method.likely + 3) * d, (local + 5 * product) / SPEED)
        return Cost(*(PAIRS * part for part in each))
    raise TypeError(f"{method.name} is no candidate")
