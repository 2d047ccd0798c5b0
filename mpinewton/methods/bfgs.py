"""BFGS on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import FLAT, bfgs_inverse, has_curvature
from mpinewton.linalg.lowrank import outer_sum
from mpinewton.linalg.triangle import unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.support.linesearch import (
    AFTER_SEARCH,
    Backtracking,
    Trial,
    descend,
    least_loss_search,
    step_or_descend,
)
from mpinewton.methods.support.method import UNKNOWN, Cost, Method, State
from mpinewton.methods.support.tasks import gradient_at, hessian_triangle, initial_state, smoothness_constant
from mpinewton.methods.support.units import is_time_to_look, measure_units, provides_units
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class BfgsState(State):
    """State of BFGS.

    Attributes
    ----------
    B : array, shape (d, d), or None
        Inverse Hessian; None before the first pair with hessian_start=scaled.
    last : array, shape (2, d), or None
        The last weights and the gradient there, with search=none; None at the start, and with a search.
    """

    B: Array | None
    last: Array | None


@dataclass(frozen=True)
class Bfgs(Method[BfgsState]):
    """BFGS (Broyden, Fletcher, Goldfarb and Shanno 1970) on the whole objective: any smooth loss, any split.

    The driver keeps the inverse Hessian B, d^2 floats that are never sent. The initial B is `scaled`, <s, y> / <y, y> I
    from the first step, whose length is at most 1; or `exact`, from the Hessian at the first w, which is sent once; or
    `bound`, I / (L + l2) with L from a bound of the loss's second derivative, one float a worker.

    The step is 1, or the minimiser of the cubic through losses and derivatives at steps 0 and 1 (from 0.1 to 4),
    whichever first satisfies Wolfe's conditions (with 0.9 for the second one); the workers send the gradient there with
    the loss. If neither does, and in the first iteration with `scaled`, it is the one of least loss among those of 4,
    2, 1, 1/2, ... that satisfy Armijo's rule. With trial=search all steps are, which takes 4 rounds an iteration. With
    search=none all steps are 1 and only gradients are sent.

    With `scaled`, where entries of diag(B) differ by a factor 1e4 or more in iteration 20, the workers send diag(H), if
    the loss provides it. Where its entries differ by more than a factor 1e6, that is where the units of the features
    differ, B starts again from diag(H)^-1; likewise where a search fails.
    """

    hessian_start: Literal["scaled", "exact", "bound"] = setting("scaled", help="initial inverse Hessian")
    smoothness: float | None = setting(
        None, gt=0, help="L; none: computed from the data", only_if={"hessian_start": "bound"}
    )
    trial: Trial = setting("one", help="what an iteration begins with: step 1 and its gradient, or the line search")
    search: Backtracking | None = setting(factory=least_loss_search, help="line search; none: all steps are 1")

    name = "bfgs"
    any_units = True
    matrices = 5.0
    cost = Cost("2", "d", "d + 1", AFTER_SEARCH)

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded = self.search is not None or self.hessian_start != "scaled"
        self.require(self.search is not None or self.trial == "one", "trial", "one with search=none")
        self.require(bounded, "hessian_start", "exact or bound with search=none, as nothing else limits the first step")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.hessian_start == "exact":
            self.need(loss, "hessian", "hessian_start=exact", "set hessian_start=scaled")
        if self.hessian_start == "bound" and self.smoothness is None:
            for what in ("rows", "hessian_bound"):
                self.need(loss, what, "hessian_start=bound", "set smoothness, or hessian_start=scaled")

    def start(self, fleet: Fleet, w: Array) -> BfgsState:
        B = self.first_inverse(fleet, w)
        at = State(w) if self.search is None else initial_state(fleet, w)
        return BfgsState(w, at.loss, at.gradient, B=B, last=None)

    def first_inverse(self, fleet: Fleet, w: Array) -> Array | None:
        """B at the start, shape (d, d); None where it takes the first step to know it."""
        if self.hessian_start == "exact":
            e, Q = np.linalg.eigh(unpack_triangle(fleet.mean(hessian_triangle, w)))
            e = np.abs(e)  # along a direction of negative curvature too the step goes downhill
            return outer_sum(1.0 / np.maximum(e, FLAT * e.max(initial=1e-300)), Q.T)
        if self.hessian_start == "bound":
            L = fleet.mean(smoothness_constant) if self.smoothness is None else self.smoothness
            return np.diag(1.0 / (L + fleet.problem.l2_vector))
        return None

    def step(self, fleet: Fleet, now: BfgsState) -> BfgsState:
        if self.search is None:
            g, B = fleet.mean(gradient_at, now.w), now.B
            assert B is not None  # search=none requires exact or bound
            if now.last is not None:
                B = bfgs_inverse(B, now.w - now.last[0], g - now.last[1])
            return replace(now, w=now.w - B @ g, B=B, last=np.array([now.w, g]), step=1.0)
        g, B = now.gradient, now.B
        if self.hessian_start == "scaled" and B is not None:
            known = np.diagonal(B)
            if is_time_to_look(fleet, known.max(), known.min()) and (D := measure_units(fleet)).size:
                B = np.diag(1.0 / D)
        p = -g / max(1.0, float(np.sqrt(g @ g))) if B is None else -(B @ g)
        move = step_or_descend if B is not None and self.trial == "one" else descend
        after = move(fleet, self.search, now, p)
        if after.trouble and now.B is not None:  # start again
            D = measure_units(fleet) if provides_units(fleet) else UNKNOWN
            B = np.diag(1.0 / D) if D.size else None
            after = descend(fleet, self.search, now, -g / D if D.size else -g / max(1.0, float(np.sqrt(g @ g))))
        return after if after.trouble else replace(after, B=update(B, after.w - now.w, after.gradient - g))


def update(B: Array | None, s: Array, y: Array) -> Array | None:
    """B after the pair s, y of shape (d,); the first B is <s, y> / <y, y> I before its update."""
    if B is None and has_curvature(s, y):
        B = float(s @ y) / (y @ y) * np.eye(len(s))
    return None if B is None else bfgs_inverse(B, s, y)
