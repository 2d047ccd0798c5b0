"""RANL: Newton Zero with workers that send some regions of their gradients in each round, as their resources allow."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array, Bytes, Integers, Mask
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import factor_semidefinite, project_spectrum, solve_factored
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses.loss import Shape
from mpinewton.methods.support import tasks
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.regions import Split, consecutive, count_affordable, largest, region_numbers
from mpinewton.methods.support.schedules import BATCH
from mpinewton.methods.support.submodel import SubModel
from mpinewton.methods.support.tasks import linear_model, minibatch, workers_with_rows
from mpinewton.settings import setting

Policy = Literal["full", "fixed", "bernoulli", "round-robin", "magnitude", "resources"]
RESOURCES = {"policy": "resources"}


@dataclass(frozen=True, eq=False, kw_only=True)
class RanlState(State):
    """The weights, the matrix of the steps, and the latest gradient blocks of the workers that have rows.

    Attributes
    ----------
    factor : array, shape (d, d), or None
        Lower Cholesky factor of [H]_mu; None where there is none.
    memory : array, shape (m, d), or None
        Latest gradient blocks C_i^q of the m workers with rows; None before the first step.
    age : int array, shape (m, Q), or None
        Number of rounds since worker i last sent region q; None before the first step.
    """

    factor: Array | None
    memory: Array | None = None
    age: Integers | None = None


@dataclass(frozen=True)
class Ranl(Method[RanlState]):
    """RANL, resource-adaptive Newton learning (Algorithm 1 of its paper), corrected: losses with a Hessian and rows.

    The weights are partitioned into Q regions. In each round every worker sends the gradient of some regions and a mask
    of Q bits. The driver remembers the latest block of every worker and region, and steps
    x^{t+1} = x^t - step_size [H]_mu^-1 g, with the projected Hessian H of x^0. The first gradient is complete.

    As printed in the paper (`as_printed=true`), a worker computes the gradient at the pruned weights x.m, and g is the
    mean over the workers that sent the region. With partial masks this does not converge to the optimum: x*.m is not
    stationary for the pruned losses, and H^-1 amplifies the differences between workers and blocks, so that the
    objective increases after the first step. Here x is not pruned, only the gradient, and g is the mean of the memory
    over all workers. With both changes convergence is linear, at the rate of Newton Zero or somewhat slower; the step
    must be smaller where a region may be left out for long. The method is local, as Newton Zero. It does not converge
    to the optimum where a worker never sends a region: with policy=fixed, and with policy=magnitude while the same
    weights stay large.

    At unpruned x a worker computes the logits X x with all weights and saves only half of the work, the part of X'r for
    regions it leaves out; as printed both products are smaller. Regions of the data are views, not copies.

    Policies: `full` sends all regions, which is Newton Zero. `fixed` always sends the same ones. `bernoulli` sends each
    with probability `keep`. `round-robin` sends neighbouring regions, shifted by one in each round. `magnitude` sends
    those with the largest weights. `resources` sends as many in turn as the budget or deadline of the worker allows, so
    that every region is sent within a bounded number of rounds. A deadline is measured with the worker's clock, so that
    no two runs are equal. The default step is min(1, 2 keep), with policy=resources min(1, 2 coverage).

    With `batch_size` the Hessian is that of the minibatch of iteration 0, and the first gradient that of iteration 1;
    the paper has one sample for both.

    The note in the history gives the coverage (mean share of the gradient that was sent), the fewest (tau*, smallest
    number of workers that sent the same region, among regions that were sent) and the staleness (kappa, largest number
    of rounds for which a worker has left out a region).
    """

    policy: Policy = setting("bernoulli", help="which regions a worker sends in a round")
    keep: float = setting(0.5, gt=0, le=1, help="share of the regions that are sent; bernoulli: probability of each")
    regions: int | None = setting(None, ge=1, help="number Q of regions; none: 8, or d where d < 8")
    split: Split = setting("blocks", help="regions: blocks of neighbouring weights, blocks of features, or layers")
    groups: str = setting("", only_if={"split": "features"}, help="number of features in each region, as 5,8,16")
    step_size: float | None = setting(None, gt=0, alias="step", help="step size; none: min(1, 2 keep), 1 as printed")
    as_printed: bool = setting(False, help="the algorithm as printed, which does not converge to the optimum")
    mu: float | None = setting(None, gt=0, help="smallest eigenvalue of [H]_mu; none: l2")
    refresh: int = setting(0, ge=0, help="number of rounds between new Hessians; 0: always that of x^0")
    batch_size: float | None = setting(None, gt=0, alias="batch", help=BATCH)
    budget: str = setting("", only_if=RESOURCES, help="floats sent per round, as 123,31 for the workers in turn")
    deadline: float = setting(0.0, ge=0, unit="seconds", only_if=RESOURCES, help="time for a gradient; 0: no limit")
    slowdown: str = setting("", unit="seconds", help="simulated time of a gradient, as 1,3 for the workers in turn")

    name = "ranl"
    matrices = 3.0
    needs = ("gradient", "hessian", "rows")
    cost = Cost("2", "d", "d", "after the first iteration: up only the regions that a worker sends")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("groups", "budget", "slowdown"):
            self.require(parse_numbers(getattr(self, name)) is not None, name, "numbers of at least 0, as 123,31")
        free = not self.groups and self.split != "layers"
        self.require(free or self.regions is None, "regions", "none if groups are given, or with split=layers")
        whole = all(size >= 1 and size % 1 == 0 for size in self.numbers_in("groups"))
        self.require(whole, "groups", "whole numbers of at least 1, as 5,8,16")
        self.require(not (self.budget and self.deadline), "deadline", "0 if budget is given")
        limited = self.policy == "full" or self.budget or self.deadline
        self.require(
            not limited or self.keep == 0.5, "keep", "0.5, as it has no effect with policy=full, budget or deadline"
        )

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        largest_size = np.bincount(self.numbers(problem.shapes)).max()
        if self.budget and min(self.numbers_in("budget")) < largest_size:
            raise ConfigError(
                f"ranl: budget = {self.budget!r}: expected at least {largest_size}, the weights in the largest region; "
                " increase budget or regions"
            )

    def iterations_per_epoch(self, problem: Problem) -> int:
        return tasks.iterations_per_epoch(problem, self.batch_size)

    # -- on the driver ------------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> RanlState:
        return RanlState(w, factor=self.factor(fleet, w))

    def step(self, fleet: Fleet, now: RanlState) -> RanlState:
        if self.refresh and now.memory is not None and (fleet.iteration - 1) % self.refresh == 0:
            now = replace(now, factor=self.factor(fleet, now.w))
        if now.factor is None:
            return fail(now, "the Hessian has a negative eigenvalue: set mu > 0, or use newton")
        with_rows = workers_with_rows(fleet)
        task = self.full_gradient if now.memory is None else self.masked_gradient
        replies = fleet.gather(task, now.w, among=with_rows)
        numbers = self.numbers(fleet.problem.shapes)
        masks = np.array([np.unpackbits(bits, count=numbers[-1] + 1).astype(bool) for _, bits in replies])
        kept, sent = masks[:, numbers], np.zeros((len(replies), fleet.dim))
        sent[kept] = np.concatenate([blocks for blocks, _ in replies])
        shares = fleet.worker_share[with_rows]
        memory = sent if now.memory is None else np.where(kept, sent, now.memory)
        age = np.where(masks, 0, (0 if now.age is None else now.age) + 1)
        g = shares @ memory
        if self.as_printed and now.memory is not None:
            g = mean_over_senders(shares, kept, sent, now.memory)
        coverage = float(shares @ kept.mean(axis=1))
        a = self.step_length(coverage)
        note = f"coverage {coverage:.2f}, fewest {fewest_senders(masks)}, staleness {age.max()}"
        x = now.w - a * solve_factored(now.factor, g)
        return replace(now, w=x, step=a, memory=memory, age=age, note=note)

    def factor(self, fleet: Fleet, w: Array) -> Array | None:
        """The Cholesky factor of [H]_mu, shape (d, d), H the Hessian at w; None where there is none."""
        H = unpack_triangle(fleet.mean(self.hessian, w))
        # Slightly less than l2: where l2 is the smallest eigenvalue, rounding must not change H.
        mu = (1 - 1e-6) * fleet.problem.l2 if self.mu is None else self.mu
        return factor_semidefinite(project_spectrum(H, mu) if mu and np.isfinite(H).all() else H)

    def step_length(self, coverage: float) -> float:
        """The step size where this share of the gradients was sent."""
        if self.step_size is not None:
            return self.step_size
        if self.as_printed or self.policy == "full":
            return 1.0
        return min(1.0, 2 * (coverage if self.policy == "resources" else self.keep))

    # -- on the workers -----------------------------------------------------------------------------------------------

    def hessian(self, worker: Worker, w: Array) -> Array:
        """The upper triangle of the Hessian of f_i at w on a minibatch, d (d + 1)/2 floats."""
        part = minibatch(worker, self.batch_size)
        part.move_to(w)
        return pack_triangle(part.hessian())

    def full_gradient(self, worker: Worker, w: Array) -> tuple[Array, Bytes]:
        """The gradient of f_i at w, d floats, and a mask of Q bits, all set."""
        count = self.numbers(worker.shapes)[-1] + 1
        worker.memory["next"] = np.array(worker.index % count)
        return self.measure(worker, w, np.ones(count, dtype=bool))

    def masked_gradient(self, worker: Worker, w: Array) -> tuple[Array, Bytes]:
        """The gradient of f_i at w in the regions of the worker's mask, as many floats, and the mask of Q bits."""
        return self.measure(worker, w, self.mask(worker, w))

    def measure(self, worker: Worker, w: Array, mask: Mask) -> tuple[Array, Bytes]:
        """The gradient blocks and the packed mask; with a deadline, stores the seconds per weight."""
        began = time.perf_counter()
        blocks = self.blocks(worker, w, mask)
        if self.deadline:
            worker.memory["pace"] = np.array((time.perf_counter() - began) / len(blocks))
        return blocks, np.packbits(mask)

    def blocks(self, worker: Worker, w: Array, mask: Mask) -> Array:
        """The blocks of the gradient of f_i that the mask (Q,) keeps, concatenated; as printed at the pruned w."""
        part = minibatch(worker, self.batch_size)
        model = linear_model(part)
        kept = mask[self.numbers(worker.shapes)]
        if not kept.any():
            return np.zeros(0)
        some = SubModel(model, kept)
        z = some.logits(np.where(kept, w, 0.0)) if self.as_printed else model.logits(w)
        if self.slowdown:
            time.sleep(self.number_of("slowdown", worker) * (some.work if self.as_printed else (1 + some.work) / 2))
        return some.gradient(z) + worker.l2_vector[kept] * w[kept]

    def mask(self, worker: Worker, w: Array) -> Mask:
        """The regions that the worker sends in this round, shape (Q,)."""
        numbers = self.numbers(worker.shapes)
        count = int(numbers[-1]) + 1
        kept = int(np.ceil(self.keep * count - 1e-9))
        match self.policy:
            case "full":
                return np.ones(count, dtype=bool)
            case "fixed":
                return consecutive(count, worker.index, kept)
            case "bernoulli":
                return worker.rng(0).random(count) < self.keep
            case "round-robin":
                return consecutive(count, worker.index + worker.iteration - 1, kept)
            case "magnitude":
                return largest(w, numbers, kept)
        first = int(worker.memory["next"])
        kept = count_affordable(np.bincount(numbers), first, self.affordable_floats(worker))
        worker.memory["next"] = np.array((first + kept) % count)
        return consecutive(count, first, kept)

    def affordable_floats(self, worker: Worker) -> float:
        """The number of floats that the worker may send in this round."""
        if self.deadline:
            return self.deadline / float(worker.memory["pace"])
        return self.number_of("budget", worker) if self.budget else self.keep * len(worker.l2_vector)

    # -- settings -----------------------------------------------------------------------------------------------------

    def numbers(self, shapes: tuple[Shape, ...]) -> Integers:
        """The region of every weight, shape (d,)."""
        return region_numbers(self.split, self.regions, tuple(map(int, self.numbers_in("groups"))), shapes)

    def numbers_in(self, setting: str) -> tuple[float, ...]:
        """The numbers in a setting that is a list."""
        return parse_numbers(getattr(self, setting)) or ()

    def number_of(self, setting: str, worker: Worker) -> float:
        """The number for this worker in a setting that lists numbers for the workers in turn."""
        values = self.numbers_in(setting)
        return values[worker.index % len(values)]


def mean_over_senders(shares: Array, kept: Mask, sent: Array, memory: Array) -> Array:
    """The mean of `sent` (m, d) over the workers that sent an entry, of `memory` (m, d) where none did; shape (d,)."""
    total = shares @ kept
    return np.where(total > 0, shares @ sent / np.where(total > 0, total, 1.0), shares @ memory)


def fewest_senders(masks: Mask) -> int:
    """tau*: the smallest number of workers that sent the same region, among the regions that were sent; 0 if none."""
    counts = masks.sum(axis=0)
    return int(counts[counts > 0].min(initial=len(masks))) if counts.any() else 0


def parse_numbers(text: str) -> tuple[float, ...] | None:
    """The numbers in a text such as "123,31"; None where it is not a list of finite numbers of at least 0."""
    try:
        values = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        return None
    return values if all(0 <= value < np.inf for value in values) else None
