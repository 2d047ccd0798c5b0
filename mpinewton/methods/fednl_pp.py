"""FedNL with partial participation: some workers an iteration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import solve_positive
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.fednl import FedNLState, HessianLearner, ridged
from mpinewton.methods.support.method import Cost, fail
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class FedNLPartialState(FedNLState):
    """An iterate, and the means over all workers of what each of them last said."""

    pull: Array = field(default_factory=lambda: np.zeros(0))  # mean of the (H_i + l_i I) w_i - grad f_i (w_i), (d,)
    lack: float = 0.0  # mean of the l_i = |Hess f_i (w_i) - H_i|


@dataclass(frozen=True)
class FedNLPartial(HessianLearner[FedNLPartialState]):
    """FedNL-PP (Safaryan, Islamov, Qian and Richtarik 2021, Algorithm 2): tau workers an iteration, drawn at random.

    The driver minimises the mean of the models that the workers last sent, w = (H + (l + l2) I)^-1 mean of
    (H_i + l_i I) w_i - grad f_i (w_i), and tau workers move their w_i to it and send how their parts have changed.
    Smooth convex objectives, near the optimum; no safeguard. The floats are those of a worker that is drawn.
    """

    tau: int | None = setting(None, ge=1, help="workers an iteration; None for half of those that have rows")

    name = "fednl-pp"
    cost = Cost("2", "d", "2*d + 2")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        if (self.tau or 1) > (count := int(np.count_nonzero(problem.worker_share))):
            raise ConfigError(f"{self.name}: tau = {self.tau}, but {count} workers have rows; set tau to fewer")

    def start(self, fleet: Fleet, w: Array) -> FedNLPartialState:
        lack, pull, *triangle = fleet.mean(self.begin_at, w)
        H = unpack_triangle(triangle[0]) if triangle else np.zeros((len(w), len(w)))
        return FedNLPartialState(w, H=H, pull=pull, lack=lack)

    def step(self, fleet: Fleet, now: FedNLPartialState) -> FedNLPartialState:
        solved = solve_positive(ridged(fleet, now.H, now.lack), now.pull)
        if solved.status != "solved":
            return fail(now, "H + (l + l2) I is not positive definite: fednl-pp needs a convex objective")
        seated = np.flatnonzero(fleet.worker_share)
        tau = self.tau or -(-len(seated) // 2)
        drawn = np.sort(fleet.rng().choice(seated, tau, replace=False))
        replies = fleet.gather(self.take_part, solved.x, among=drawn)
        shares = fleet.worker_share[drawn]
        lacks, pulls, messages = zip(*((lack, pull, arrays) for lack, pull, *arrays in replies))
        learnt = self.step_of_learning(fleet.dim) * self.C.mean(messages, shares, fleet.dim)
        return replace(
            now,
            w=solved.x,
            step=1.0,
            H=now.H + learnt,
            pull=now.pull + shares @ np.array(pulls),
            lack=now.lack + float(shares @ np.array(lacks)),
        )

    def begin_at(self, worker: Worker, w: Array) -> tuple[Any, ...]:
        """l_i and the pull at the first w, and the triangle of H_i where it is not 0."""
        worker.move_to(w)
        if self.hessian_start == "exact":
            self.start_exactly(worker)
        else:
            self.start_at_zero(worker)
        first = self.subset(worker)
        return (*first, pack_triangle(self.estimate(worker))) if self.hessian_start == "exact" else first

    def take_part(self, worker: Worker, w: Array) -> tuple[float, Array, *tuple[AnyArray, ...]]:
        """Move to w and learn there: how l_i and the pull have changed, and S_i."""
        lack, pull = float(worker.memory["lack"]), worker.memory["pull"]
        worker.move_to(w)
        arrays = self.learn_dense(worker)[1:]
        after = self.subset(worker)
        return after[0] - lack, after[1] - pull, *arrays

    def subset(self, worker: Worker) -> tuple[float, Array]:
        """l_i and (H_i + l_i I) w_i - grad f_i (w_i), without the ridge; kept for the differences to come."""
        H, point = self.estimate(worker), worker.point
        lack = float(np.linalg.norm(point.hessian() - H))
        pull = H @ worker.w + lack * worker.w - point.gradient()
        worker.memory |= {"lack": np.array(lack), "pull": pull}
        return lack, pull
