"""RANL: Newton Zero with workers that send some regions of their gradients a round, as many as they can afford."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes, Integers, Mask
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import project_spectrum, solve_factored
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses.loss import Shape
from mpinewton.methods.newton_zero import NewtonZeroState, factored
from mpinewton.methods.support.method import Method, fail
from mpinewton.methods.support.regions import Split, affordable, in_turn, largest, region_numbers
from mpinewton.methods.support.submodel import SubModel
from mpinewton.methods.support.tasks import linear_model, minibatch
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class RanlState(NewtonZeroState):
    """An iterate, the matrix of its steps, and what the driver has heard of every worker that has rows."""

    memory: Array = field(default_factory=lambda: np.zeros((0, 0)))  # latest gradients C_i^q, shape (m, d)
    age: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((0, 0), np.int64)
    )  # rounds since worker i has last sent region q, shape (m, Q)


@dataclass(frozen=True)
class Ranl(Method[RanlState]):
    """RANL, resource-adaptive Newton learning (its paper's Algorithm 1), repaired: any loss with a Hessian.

    The weights are cut in Q regions. A round, every worker sends the gradient of its own choice of them, and Q bits
    that say which; the driver remembers the latest block of every worker and region, and goes
    x^{t+1} = x^t - step [H]_mu^-1 g with the project_spectrum Hessian of x^0. The first gradient is a whole one.

    As printed (`as_printed=true`), a worker takes the gradient at the pruned x.m, and g is the mean over those who
    sent the region: with any partial masks this does not come to the optimum, nor near it. x*.m is not stationary for
    the pruned losses, and H^-1 amplifies what differs between workers and between blocks: after the first step the
    objective rises. Here, x is not pruned, only what is sent, and g is the mean of the memory over all workers. Both
    are needed, and with them convergence is linear_model, at the rate of Newton Zero or somewhat slower; where a region may
    go unheard for long the step must be smaller. It is local, as Newton Zero is. No repair is exact where regions of a
    worker are never heard: with fixed masks, and with those by magnitude as long as the same weights stay large.

    Work and memory: at an unpruned x a worker needs the logits X x of all weights, and saves of the other half, X'r,
    what it does not keep; as printed both products shrink. Nothing is copied: parts of the data are views.

    Policies: `full` masks are Newton Zero; `fixed` keeps the same regions for good; `bernoulli` keeps each with chance
    `keep`; `round-robin` so many neighbouring ones, one on a round; `magnitude` those with the largest weights;
    `resources` as many in turn as the worker's budget allows, so that all are heard within a bounded time.

    The history's note: coverage is the share of all the gradients' weights that was sent, fewest (tau*) how many
    workers sent the region that the fewest sent, of those sent at all, staleness (kappa) the most rounds that a worker
    has left a region out.

    2 rounds an iteration; floats per worker: d down, d up the first time, and later the regions it keeps.
    """

    policy: Literal["full", "fixed", "bernoulli", "round-robin", "magnitude", "resources"] = setting(
        "bernoulli", help=""
    )
    keep: float = setting(
        0.5, gt=0, le=1, help="share of the regions, rounded up; chance of each with bernoulli; resources: see budget"
    )
    regions: int | None = setting(None, ge=1, help="Q; none: 8, or one a weight where there are fewer")
    split: Split = setting(
        "blocks", help="of neighbouring weights; features: with all outputs; layers: one a layer or output"
    )
    groups: str = setting("", help="split=features: how many every region has, as 5,8,16, in place of Q")
    step_size: float | None = setting(
        None,
        gt=0,
        help="Of what H^-1 g says, `step` for short; none: min(1, 2 keep), keep being the coverage with policy=resources, and 1 as printed.",
    )
    as_printed: bool = setting(False, help="")
    mu: float | None = setting(
        None, gt=0, help="least eigenvalue of [H]_mu; none: l2, no change on convex losses without an intercept"
    )
    refresh: int = setting(0, ge=0, help="the Hessian anew after so many rounds; 0: that of x^0 for good")
    batch: float | None = setting(
        None, gt=0, help="rows drawn for every gradient and Hessian; below 1 a share of them; none: all"
    )
    budget: str = setting(
        "",
        help="policy=resources: floats a worker may send in a round, as 123,31, of the workers in turn; none: keep d each.",
    )
    deadline: float = setting(
        0.0,
        ge=0,
        help="In place of a budget, seconds that a gradient may take, by the worker's own clock: no two runs are then alike.",
    )
    slowdown: str = setting(
        "",
        help="An experiment's device, for slow workers where all are equally fast: seconds that a worker sleeps a whole gradient, of the workers in turn; less in proportion where it does less of the products.",
    )

    name = "ranl"
    needs = ("gradient", "hessian")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("groups", "budget", "slowdown"):
            self.require(listed(getattr(self, name)) is not None, name, "numbers, 0 or more, as 123,31")
        self.require(not self.groups or self.split == "features", "split", "features where groups are given")
        self.require(not self.groups or self.regions is None, "regions", "left out where groups are given")
        whole = all(size >= 1 and size % 1 == 0 for size in self.each("groups"))
        self.require(whole, "groups", "whole numbers, 1 or more, as 5,8,16")
        given = self.budget or self.deadline
        self.require(not given or self.policy == "resources", "policy", "resources where a budget or deadline is given")
        self.require(not (self.budget and self.deadline), "deadline", "left out where a budget is given")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        sizes = np.bincount(self.numbers(problem.shapes))
        if self.budget and min(self.each("budget")) < sizes.max():
            raise ConfigError(
                f"ranl: budget = {self.budget!r}, but a region has up to {sizes.max()} weights, and a worker sends one "
                "at least: a larger budget, or more regions"
            )

    # -- on the driver ------------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> RanlState:
        return RanlState(w, factor=self.learnt(fleet, w))

    def step(self, fleet: Fleet, now: RanlState) -> RanlState:
        first = not now.memory.size
        if self.refresh and not first and (fleet.iteration - 1) % self.refresh == 0:
            now = replace(now, factor=self.learnt(fleet, now.w))
        if not now.factor.size:
            return fail(now, "the Hessian has no Cholesky factor: set l2 > 0 or mu > 0, or take newton")
        having_rows = np.flatnonzero(fleet.worker_share)
        replies = fleet.gather(self.whole if first else self.pruned, now.w, among=having_rows)
        numbers = self.numbers(fleet.problem.shapes)
        masks = np.array([np.unpackbits(bits, count=numbers[-1] + 1).astype(bool) for _, bits in replies])
        kept, sent = masks[:, numbers], np.zeros((len(replies), fleet.dim))
        sent[kept] = np.concatenate([blocks for blocks, _ in replies])
        shares = fleet.worker_share[having_rows]
        memory = sent if first else np.where(kept, sent, now.memory)
        age = np.where(masks, 0, (0 if first else now.age) + 1)
        heard = over_senders(shares, kept, sent, now.memory) if self.as_printed and not first else shares @ memory
        coverage = float(shares @ kept.mean(axis=1))
        a = self.length(coverage)
        note = f"coverage {coverage:.2f}, fewest {fewest(masks)}, staleness {age.max()}"
        x = now.w - a * solve_factored(now.factor, heard)
        return replace(now, w=x, step=a, memory=memory, age=age, note=note)

    def learnt(self, fleet: Fleet, w: Array) -> Array:
        """The Cholesky factor of [H]_mu, H the Hessian at w; (0, 0) where there is none."""
        H = unpack_triangle(fleet.mean(self.curvature, w))
        # Short of l2 by more than rounding: where l2 is the least eigenvalue, H is to pass as it is.
        mu = (1 - 1e-6) * fleet.problem.l2 if self.mu is None else self.mu
        return factored(project_spectrum(H, mu) if mu and np.isfinite(H).all() else H)

    def length(self, coverage: float) -> float:
        """The step, where such a share of the gradients has been sent."""
        if self.step_size is not None:
            return self.step_size
        if self.as_printed or self.policy == "full":
            return 1.0
        return min(1.0, 2 * (coverage if self.policy == "resources" else self.keep))

    # -- on the workers -----------------------------------------------------------------------------------------------

    def curvature(self, worker: Worker, w: Array) -> Array:
        """The upper triangle of the Hessian of f_i, of a minibatch where there is one."""
        part = minibatch(worker, self.batch)
        part.move_to(w)
        return pack_triangle(part.hessian())

    def whole(self, worker: Worker, w: Array) -> tuple[Array, Bytes]:
        """The gradient of f_i, shape (d,), and a mask that keeps all."""
        count = self.numbers(worker.shapes)[-1] + 1
        worker.memory["next"] = np.array(worker.index % count)
        return self.timed(worker, w, np.ones(count, dtype=bool))

    def pruned(self, worker: Worker, w: Array) -> tuple[Array, Bytes]:
        """The blocks of the gradient that the worker keeps, one behind the other, and its mask in Q bits."""
        return self.timed(worker, w, self.mask(worker, w))

    def timed(self, worker: Worker, w: Array, mask: Mask) -> tuple[Array, Bytes]:
        """The blocks and the mask, and seconds a weight where there is a deadline."""
        begun = time.perf_counter()
        blocks = self.blocks(worker, w, mask)
        if self.deadline:
            worker.memory["pace"] = np.array((time.perf_counter() - begun) / len(blocks))
        return blocks, np.packbits(mask)

    def blocks(self, worker: Worker, w: Array, mask: Mask) -> Array:
        """The kept blocks of the gradient of f_i at w, or at the pruned w as printed; products with them alone."""
        part = minibatch(worker, self.batch)
        model = linear_model(part)
        kept = mask[self.numbers(worker.shapes)]
        if not kept.any():
            return np.zeros(0)
        some = SubModel(model, kept)
        z = some.logits(np.where(kept, w, 0.0)) if self.as_printed else model.logits(w)
        if self.slowdown:
            time.sleep(self.own("slowdown", worker) * (some.work if self.as_printed else (1 + some.work) / 2))
        return some.gradient(z) + worker.l2_vector[kept] * w[kept]

    def mask(self, worker: Worker, w: Array) -> Mask:
        """Which regions the worker keeps in this round, shape (Q,)."""
        numbers = self.numbers(worker.shapes)
        count = int(numbers[-1]) + 1
        kept = int(np.ceil(self.keep * count - 1e-9))
        match self.policy:
            case "full":
                return np.ones(count, dtype=bool)
            case "fixed":
                return in_turn(count, worker.index, kept)
            case "bernoulli":
                return worker.rng(0).random(count) < self.keep
            case "round-robin":
                return in_turn(count, worker.index + worker.iteration - 1, kept)
            case "magnitude":
                return largest(w, numbers, kept)
        first = int(worker.memory["next"])
        kept = affordable(np.bincount(numbers), first, self.affords(worker))
        worker.memory["next"] = np.array((first + kept) % count)
        return in_turn(count, first, kept)

    def affords(self, worker: Worker) -> float:
        """How many floats the worker may send in this round."""
        if self.deadline:
            return self.deadline / float(worker.memory["pace"])
        return self.own("budget", worker) if self.budget else self.keep * len(worker.l2_vector)

    # -- settings -----------------------------------------------------------------------------------------------------

    def numbers(self, shapes: tuple[Shape, ...]) -> Integers:
        """The region of every weight, shape (d,)."""
        return region_numbers(self.split, self.regions, tuple(map(int, self.each("groups"))), shapes)

    def each(self, setting: str) -> tuple[float, ...]:
        return listed(getattr(self, setting)) or ()

    def own(self, setting: str, worker: Worker) -> float:
        """What a setting of the workers in turn is for this one."""
        values = self.each(setting)
        return values[worker.index % len(values)]


def over_senders(shares: Array, kept: Mask, sent: Array, memory: Array) -> Array:
    """Mean of what was sent over those who sent it; of the memory (m, d) over all where nobody did. Shape (d,)."""
    mass = shares @ kept
    return np.where(mass > 0, shares @ sent / np.where(mass > 0, mass, 1.0), shares @ memory)


def fewest(masks: Mask) -> int:
    """tau*: how many workers kept the region that the fewest kept, of those kept at all."""
    counts = masks.sum(axis=0)
    return int(counts[counts > 0].min(initial=len(masks))) if counts.any() else 0


def listed(text: str) -> tuple[float, ...] | None:
    """The numbers of a text such as "123,31", () of an empty one; none where it is no list of numbers, 0 or more."""
    try:
        values = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        return None
    return values if all(0 <= value < np.inf for value in values) else None
