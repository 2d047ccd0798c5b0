"""The line search all methods share: many trial steps on one ray, in one reduction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import State, fail
from mpinewton.methods.support.tasks import advance
from mpinewton.settings import Configured, setting

# Losses that differ by less than this many ulps are the same: near the optimum a test without slack fails on rounding.
# Where they are all the same, the largest step up to the last one is taken: a longer one would go to and fro for ever.
SLACK = 8 * np.finfo(np.float64).eps

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Backtracking(Configured):
    """Armijo's rule on the grid largest, largest/2, ..., 2^-50: f(w + a p) <= f(w) + a rho <p, g> + slack.

    The workers evaluate the `first` steps of the grid at once, on the ray of their logits, and send that many losses;
    the others only if none of these passes, in two more rounds. (Crane and Roosta 2020 send all 51: first = 51.)
    """

    rho: float = setting(0.0001, gt=0, lt=1, help="part of the promised decrease that is asked for")
    largest: float = setting(1.0, ge=1, help="")
    choose: Literal["largest", "least"] = setting(
        "largest", help="among the steps that pass: the largest, or the one of least loss"
    )
    first: int = setting(8, ge=1, help="")

    name = "search"

    @property
    def grid(self) -> Array:
        steps = self.largest * 0.5 ** np.arange(200.0)
        return steps[steps >= 0.5**50]

    def __call__(self, fleet: Fleet, now: State, p: Array, last: float | None = None) -> float:
        """The step along p; 0 where no step of the grid passes. 2 rounds, or 4. `last` is the last step, now.step."""
        return self.found(fleet, now, p, last)[0]

    def found(self, fleet: Fleet, now: State, p: Array, last: float | None = None) -> tuple[float, float]:
        """The step as of a call, and the loss that the workers found there; NaN for step 0."""
        steps, slope = self.grid, float(now.gradient @ p)
        last = now.step if last is None else last
        if not slope < 0:
            return 0.0, NAN
        losses = fleet.mean(self.try_first, p)
        a = self.passing(steps[: self.first], losses, now.loss, slope, last)
        if not a and self.first < len(steps):
            losses, steps = fleet.mean(self.try_others, float(self.first)), steps[self.first :]
            a = self.passing(steps, losses, now.loss, slope, last)
        return a, float(losses[np.flatnonzero(steps == a)[0]]) if a else NAN

    def alone(self, worker: Worker, g: Array, p: Array) -> float:
        """The same search by one worker on its own loss, g its gradient there: no message. 0 where no step passes."""
        steps, slope = self.grid, float(g @ p)
        if not slope < 0:
            return 0.0
        worker.set_direction(p)
        f = worker.value()
        a = self.passing(steps[: self.first], worker.losses(steps[: self.first]), f, slope)
        return a or self.passing(steps[self.first :], worker.losses(steps[self.first :]), f, slope)

    def passing(self, steps: Array, losses: Array, f: float, slope: float, last: float = np.inf) -> float:
        """The step to take among these, given their losses; 0 where none passes."""
        noise = SLACK * max(1.0, abs(f))
        good = losses <= f + steps * self.rho * slope + noise
        blind = bool(np.all(losses[good] >= f - noise))
        if blind:
            good &= ~(steps > last)
        if not good.any():
            return 0.0
        largest = blind or self.choose == "largest"
        best = np.argmax(good) if largest else np.argmin(np.where(good, losses, np.inf))
        return float(steps[best])

    def try_first(self, worker: Worker, p: Array) -> Array:
        worker.set_direction(p)
        return worker.losses(self.grid[: self.first])

    def try_others(self, worker: Worker, first: float) -> Array:
        return worker.losses(self.grid[int(first) :])


def descend(fleet: Fleet, search: Backtracking, now: S, p: Array, last: float | None = None) -> S:
    """Search along p and go there; workers step too, so that one float goes down, not d. 4 rounds."""
    a = search(fleet, now, p, last)
    if not a:
        return fail(now, no_step(now, p))
    f, g = fleet.mean(advance, a)
    return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, note="", trouble="")


def no_step(now: State, p: Array) -> str:
    """Why a search failed, in a sentence."""
    slope = float(now.gradient @ p)
    if not slope < 0:
        return f"the direction does not descend: <p, g> = {slope:.3g}"
    return f"the line search found no step that lowers the objective, although <p, g> = {slope:.3g}"
