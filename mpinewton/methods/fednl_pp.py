"""FedNL-PP: FedNL with partial participation, some workers in every iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import solve_positive
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.fednl import FedNLState, HessianLearner, add_l2
from mpinewton.methods.support.method import Cost, fail
from mpinewton.methods.support.tasks import workers_with_rows
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class FedNLPartialState(FedNLState):
    """The state of FedNL and the means over all workers of what each one sent last.

    Attributes
    ----------
    pull : array, shape (d,)
        Mean of the (H_i + l_i I) w_i - grad f_i(w_i).
    lack : float
        Mean of the l_i = |Hess f_i(w_i) - H_i|.
    """

    pull: Array
    lack: float


@dataclass(frozen=True)
class FedNLPartial(HessianLearner[FedNLPartialState]):
    """FedNL-PP (Safaryan, Islamov, Qian and Richtarik 2021, Algorithm 2): tau random workers in every iteration.

    The driver minimises the mean of the workers' latest models, w = (H + (l + l2) I)^-1 mean of
    (H_i + l_i I) w_i - grad f_i(w_i). Then tau workers set w_i = w and send how their terms changed. Smooth convex
    objectives, near the optimum; there is no safeguard. The floats per worker are those of a participating worker.
    """

    tau: int | None = setting(None, ge=1, help="number of workers in an iteration; none: half of those that have rows")

    name = "fednl-pp"
    matrices = 6.5
    cost = Cost("2", "d", "2*d + 2")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if (self.tau or 1) > (count := int(np.count_nonzero(problem.worker_share))):
            raise ConfigError(
                f"{self.name}: tau = {self.tau}, but {count} workers have rows; set tau to at most {count}"
            )

    def start(self, fleet: Fleet, w: Array) -> FedNLPartialState:
        lack, pull, *triangle = fleet.mean(self.start_at, w)
        H = unpack_triangle(triangle[0]) if triangle else np.zeros((len(w), len(w)))
        return FedNLPartialState(w, H=H, pull=pull, lack=lack)

    def step(self, fleet: Fleet, now: FedNLPartialState) -> FedNLPartialState:
        solved = solve_positive(add_l2(fleet, now.H, now.lack), now.pull)
        if solved.status != "solved":
            return fail(now, "H + (l + l2) I is not positive definite: fednl-pp needs a convex objective")
        with_rows = workers_with_rows(fleet)
        tau = self.tau or -(-len(with_rows) // 2)
        active = np.sort(fleet.rng().choice(with_rows, tau, replace=False))
        replies = fleet.gather(self.participate, solved.x, among=active)
        shares = fleet.worker_share[active]
        lacks, pulls, messages = zip(*((lack, pull, arrays) for lack, pull, *arrays in replies))
        return replace(
            now,
            w=solved.x,
            step=1.0,
            H=now.H + self.learning_rate(fleet.dim) * self.C.mean(messages, shares, fleet.dim),
            pull=now.pull + shares @ np.array(pulls),
            lack=now.lack + float(shares @ np.array(lacks)),
        )

    def start_at(self, worker: Worker, w: Array) -> tuple[Any, ...]:
        """l_i and the pull at w, d + 1 floats; with hessian_start=exact also the triangle of H_i."""
        worker.move_to(w)
        exact = self.hessian_start == "exact"
        (self.start_exactly if exact else self.start_at_zero)(worker)
        terms = self.local_terms(worker)
        return (*terms, pack_triangle(self.estimate(worker))) if exact else terms

    def participate(self, worker: Worker, w: Array) -> tuple[float, Array, *tuple[AnyArray, ...]]:
        """Set w_i = w and learn there: the changes of l_i and of the pull, d + 1 floats, and S_i."""
        lack, pull = float(worker.memory["lack"]), worker.memory["pull"]
        arrays = self.learn(worker, w)[1:]
        after = self.local_terms(worker)
        return after[0] - lack, after[1] - pull, *arrays

    def local_terms(self, worker: Worker) -> tuple[float, Array]:
        """l_i and (H_i + l_i I) w_i - grad f_i(w_i), shape (d,), without l2; kept in the worker's memory."""
        H, point = self.estimate(worker), worker.point
        lack = float(np.linalg.norm(point.hessian() - H))
        pull = H @ worker.w + lack * worker.w - point.gradient()
        worker.memory |= {"lack": np.array(lack), "pull": pull}
        return lack, pull
