"""The line search of all methods: Armijo's rule, with many trial steps on one ray in one round trip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt
from typing import Literal, TypeVar

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker, batched
from mpinewton.methods.support.method import State, fail
from mpinewton.methods.support.tasks import advance, move_to, value_and_gradient
from mpinewton.settings import Configured, setting

# Losses that differ by at most this, relative to |f|, or to 1 for 1e-3 <= |f| <= 1, count as equal: near the optimum a
# test without slack fails on rounding errors, of some ulps in a sum. Where all losses are equal, the largest step up to
# the last step is taken: longer ones would let the iterates oscillate for ever.
SLACK = 8 * np.finfo(np.float64).eps
SMALL = 1e3  # an objective that is smaller than 1 by more than this has small units, and its terms are as small

STEEP = 0.9  # a step is too short if the derivative along it is still above this part of the first
TRIALS = 0.1, 4.0  # least and largest second step
AFTER_SEARCH = "2 rounds more where step 1 is refused, 7 where the second step is"  # for `step_or_descend`

Trial = Literal["one", "search"]  # what an iteration of a quasi-Newton method begins with
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Backtracking(Configured):
    """Armijo's rule on the grid largest, largest/2, ..., 2^-50: f(w + a p) <= f(w) + a rho <p, g> + slack.

    The workers evaluate the `first` steps of the grid along the ray of their logits and send that many losses. Only if
    none of these steps satisfies the rule they send the others, in two more rounds. Crane and Roosta (2020) send all 51
    at once: first = 51.
    """

    rho: float = setting(0.0001, gt=0, lt=1, help="fraction of the predicted decrease that a step must achieve")
    largest: float = setting(1.0, ge=1, help="largest step of the grid")
    choose: Literal["largest", "least"] = setting("largest", help="which step: the largest, or the one of least loss")
    first: int = setting(8, ge=1, help="number of steps that are evaluated in the first round trip")

    name = "search"

    @property
    def grid(self) -> Array:
        """The trial steps, decreasing."""
        steps = self.largest * 0.5 ** np.arange(200.0)
        return steps[steps >= 0.5**50]

    def __call__(self, fleet: Fleet, now: State, p: Array, last: float | None = None) -> float:
        """The step along p; 0 where no step of the grid satisfies the rule. 2 rounds, or 4.

        Parameters
        ----------
        fleet : Fleet
        now : State
            With loss and gradient.
        p : array, shape (d,)
            Direction.
        last : float
            The last step; default now.step.
        """
        return self.find_step(fleet, now, p, last)[0]

    def find_step(self, fleet: Fleet, now: State, p: Array, last: float | None = None) -> tuple[float, float]:
        """The step, as `__call__` returns it, and the objective there; NaN for a step of 0."""
        steps, derivative = self.grid, float(now.gradient @ p)
        last = now.step if last is None else last
        if not derivative < 0:
            return 0.0, NAN
        losses = fleet.mean(self.try_first, p)
        a = self.select(steps[: self.first], losses, now.loss, derivative, last)
        if not a and self.first < len(steps):
            losses, steps = fleet.mean(self.try_others, float(self.first)), steps[self.first :]
            a = self.select(steps, losses, now.loss, derivative, last)
        return a, float(losses[np.flatnonzero(steps == a)[0]]) if a else NAN

    def accepts(self, step: float, loss: float, now: State, p: Array, last: float | None = None) -> bool:
        """Whether the step along p (d,) to a point with this loss satisfies the rule, without a look at others.

        last: as for `__call__`.
        """
        last = now.step if last is None else last
        return bool(self.select(np.array([step]), np.array([loss]), now.loss, float(now.gradient @ p), last))

    def search_locally(self, worker: Worker, g: Array, p: Array, last: float = np.inf) -> float:
        """The same search by one worker on its own f_i, with gradient g (d,), along p (d,), without messages."""
        steps, derivative = self.grid, float(g @ p)
        if not derivative < 0:
            return 0.0
        worker.set_direction(p)
        f = worker.value()
        a = self.select(steps[: self.first], worker.losses(steps[: self.first]), f, derivative, last)
        return a or self.select(steps[self.first :], worker.losses(steps[self.first :]), f, derivative, last)

    def select(self, steps: Array, losses: Array, f: float, derivative: float, last: float = np.inf) -> float:
        """The step to take among `steps`, decreasing, shape (k,); 0 where none satisfies the rule.

        Parameters
        ----------
        steps, losses : arrays, shape (k,)
            Trial steps, and the objective at each.
        f, derivative : float
            Objective and directional derivative at step 0.
        last : float
            The last step; where all losses are equal to rounding, no step is longer.
        """
        noise = SLACK * max(min(1.0, SMALL * abs(f)), abs(f))
        good = losses <= f + steps * self.rho * derivative + noise
        flat = bool(np.all(losses[good] >= f - noise))
        if flat:
            good &= ~(steps > last)
        if not good.any():
            return 0.0
        largest = flat or self.choose == "largest"
        best = np.argmax(good) if largest else np.argmin(np.where(good, losses, np.inf))
        return float(steps[best])

    @batched
    def try_first(self, worker: Worker, p: Array) -> Array:
        """Set the direction p; f_i at the first steps of the grid along p: `first` floats."""
        worker.set_direction(p)
        return worker.losses(self.grid[: self.first])

    @batched
    def try_others(self, worker: Worker, first: float) -> Array:
        """f_i at the other steps of the grid: 51 floats or more, less the first."""
        return worker.losses(self.grid[int(first) :])


def least_loss_search() -> Backtracking:
    """The default search of quasi-Newton methods: the step of least loss among 4, 2, 1, 1/2, ..."""
    return Backtracking(largest=4.0, choose="least", first=10)


def descend(fleet: Fleet, search: Backtracking, now: S, p: Array, last: float | None = None) -> S:
    """Search along p (d,) and take the step. The workers take it too: one float is sent, not d. 4 rounds."""
    a = search(fleet, now, p, last)
    if not a:
        return fail(now, no_step(now, p))
    f, g = fleet.mean(advance, a)
    return replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, note="", trouble="")


def step_or_descend(fleet: Fleet, search: Backtracking, now: S, p: Array) -> S:
    """Take a step along p (d,), of a quasi-Newton method, that satisfies Wolfe's conditions, else search along p.

    Step 1 is tried, and then the minimiser of the cubic through the losses and derivatives at steps 0 and 1. The
    gradient is sent with the loss: 2 rounds, 4 with a second step, 9 with a search.
    """
    derivative, a = float(now.gradient @ p), 1.0
    if not derivative < 0:
        return fail(now, no_step(now, p))
    for _ in range(2):
        w = now.w + a * p
        f, g = fleet.mean(value_and_gradient, w)
        if search.accepts(a, f, now, p, last=1.0) and g @ p >= STEEP * derivative:
            return replace(now, w=w, loss=f, gradient=g, step=a, note="", trouble="")
        a = float(np.clip(minimise_cubic(now.loss, derivative, f, float(g @ p)), *TRIALS))
    fleet.send(move_to, now.w)
    return descend(fleet, search, now, p, last=1.0)


def minimise_cubic(f: float, df: float, f1: float, df1: float) -> float:
    """The minimiser beyond 0 of the cubic with value f and slope df < 0 at 0, f1 and df1 at 1; infinite without one.

    0 where f1 or df1 is too large. Nocedal and Wright (2006), equation 3.59.
    """
    c = df + df1 - 3.0 * (f1 - f)
    root = c * c - df * df1
    if not isfinite(root):
        return 0.0
    if root < 0:
        return inf
    below = df1 - df + 2.0 * sqrt(root)
    step = 1.0 - (df1 + sqrt(root) - c) / below if below else inf
    return step if step > 0 else inf


def search_or_descend(fleet: Fleet, search: Backtracking, now: State, p: Array) -> tuple[float, Array]:
    """The step along p (d,), and p; if there is none, the step along -g, scaled as Polyak does, and that direction.

    Where the curvature nearly vanishes, as in the tails of a loss, a Newton step is longer than any step of the grid.
    """
    a = search(fleet, now, p)
    return (a, p) if a else descend_by_gradient(fleet, search, now)


def descend_by_gradient(fleet: Fleet, search: Backtracking, now: State) -> tuple[float, Array]:
    """The step along -g, scaled as Polyak does, and that direction."""
    p = polyak(now.loss, now.gradient, now.gradient)
    return search(fleet, now, p), p


def polyak(f: float, g: Array, p: Array, noise: float = 0.0) -> Array:
    """Polyak's step along -p, shape (d,), after which the linear model of the objective is f - |f|; g is the gradient.

    0 where <g, p> is 0, or rounding error: at most noise^2 |f|.
    """
    slope = float(g @ p)
    return -p * (abs(f) / slope) if slope > noise**2 * abs(f) else np.zeros_like(p)


def no_step(now: State, p: Array) -> str:
    """Why a search along p (d,) failed, in a sentence."""
    derivative = float(now.gradient @ p)
    if not derivative < 0:
        return f"the direction is no descent direction: <p, g> = {derivative:.3g}"
    return f"the line search found no step that decreases the objective, although <p, g> = {derivative:.3g}"
