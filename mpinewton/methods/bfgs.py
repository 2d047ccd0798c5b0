"""BFGS at the driver: the whole inverse Hessian, learnt from gradients alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet
from mpinewton.linalg.lbfgs import FLAT, bfgs_inverse
from mpinewton.linalg.lowrank import combined
from mpinewton.linalg.triangle import unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.support.linesearch import Backtracking, descend
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import gradient_at, hessian_triangle, initial_state, smoothness_constant
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class BfgsState(State):
    """An iterate, the inverse Hessian that has been learnt, and the last place whose gradient is known."""

    B: Array = field(default_factory=lambda: np.zeros((0, 0)))  # shape (d, d); empty before anything is known
    place: Array = field(default_factory=lambda: np.zeros(0))  # shape (d,); empty at the start
    slope: Array = field(default_factory=lambda: np.zeros(0))  # the gradient there, shape (d,)


@dataclass(frozen=True)
class Bfgs(Method[BfgsState]):
    """BFGS (Broyden, Fletcher, Goldfarb and Shanno 1970) on the whole objective: any smooth loss; no view of the split.

    The driver keeps the inverse Hessian B, d^2 floats that never travel. At first it is `scaled`, <s, y> / <y, y> I
    from the first step, which is of length 1 at the most; or `exact`, from the Hessian at the first w, sent once; or
    `bound`, I / (L + l2), L from a bound of the loss' second derivative, one float a worker. With search=none steps are
    1 and the gradient alone travels: 2 rounds, d floats down and up. The default search takes the step of least loss.
    """

    hessian_start: Literal["scaled", "exact", "bound"] = setting("scaled", help="")
    smoothness: float | None = setting(None, gt=0, help="L of hessian_start=bound, where it is known")
    search: Backtracking | None = setting(
        factory=lambda: Backtracking(largest=4.0, choose="least", first=10), help="none: steps of 1, near the optimum"
    )

    name = "bfgs"
    cost = Cost("4", "d + 1", "d + 11")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.search is not None or self.hessian_start != "scaled",
            "hessian_start",
            "exact or bound with search=none, whose first step nothing else would limit",
        )

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.hessian_start == "exact" and "hessian" not in loss.provides:
            raise ConfigError(f"bfgs: {loss.name} has no Hessian to start with; hessian_start=scaled needs none")
        if self.hessian_start == "bound" and self.smoothness is None and "hessian_bound" not in loss.provides:
            raise ConfigError(
                f"bfgs: the second derivative of {loss.name} has no bound; set smoothness, or hessian_start=scaled"
            )

    def start(self, fleet: Fleet, w: Array) -> BfgsState:
        B = self.first(fleet, w)
        if self.search is None:
            return BfgsState(w, B=B)
        at = initial_state(fleet, w)
        return BfgsState(w, at.loss, at.gradient, B=B)

    def first(self, fleet: Fleet, w: Array) -> Array:
        """B at the start, shape (d, d); empty where the first step is to tell it."""
        if self.hessian_start == "exact":
            e, Q = np.linalg.eigh(unpack_triangle(fleet.mean(hessian_triangle, w)))
            e = np.abs(e)  # a direction of negative curvature is one to go far along, downhill
            return combined(1.0 / np.maximum(e, FLAT * e.max(initial=1e-300)), Q.T)
        if self.hessian_start == "bound":
            L = fleet.mean(smoothness_constant) if self.smoothness is None else self.smoothness
            return np.diag(1.0 / (L + fleet.problem.l2_vector))
        return np.zeros((0, 0))

    def step(self, fleet: Fleet, now: BfgsState) -> BfgsState:
        if self.search is None:
            now = learnt(now, now.w, fleet.mean(gradient_at, now.w))
            return replace(now, w=now.w - now.B @ now.slope, step=1.0)
        g = now.gradient
        p = -(now.B @ g) if now.B.size else -g / max(1.0, float(np.sqrt(g @ g)))
        after = descend(fleet, self.search, replace(now, place=now.w, slope=g), p)
        return after if after.trouble else learnt(after, after.w, after.gradient)


def learnt(now: BfgsState, w: Array, g: Array) -> BfgsState:
    """The state whose B has learnt from the way to w and to the gradient g there."""
    after = replace(now, place=w, slope=g)
    if not now.place.size:
        return after
    return replace(after, B=bfgs_inverse(now.B, w - now.place, g - now.slope))
