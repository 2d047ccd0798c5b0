"""CNL: a learnt Hessian and cubic steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cubic import cubic_step
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.nl import Majorising, Nl2State
from mpinewton.methods.support.linesearch import SLACK
from mpinewton.methods.support.method import Cost, fail
from mpinewton.methods.support.tasks import gradient_at, linear_model, value_at
from mpinewton.settings import setting

# Where the second derivative is constant, M would be 0, and a cubic step is made for M > 0.
LEAST = 1e-12
DOUBLINGS = 100


@dataclass(frozen=True, eq=False)
class CnlState(Nl2State):
    """With the cube's factor."""

    cube: float = NAN  # M^k


@dataclass(frozen=True)
class Cnl(Majorising[CnlState]):
    """CNL (Islamov, Qian and Richtarik 2021, Algorithm 3): losses of one logit with a bounded second derivative.

    s = argmin <g, s> + s'(H^k + l2 I) s / 2 + M/6 |s|^3 with NL2's H^k, which majorises the Hessian; so does the model
    the objective where M is a Lipschitz constant of the Hessian, and P never rises, from any start, convex or not.
    The paper's experiments have p = 1/20. The set-up of M: `tight` sends another triangle, `radius` a number;
    `adaptive` none, but the objective after every trial step, one float and one round trip more.
    """

    M: Literal["tight", "radius", "adaptive"] = setting(
        "tight",
        help="tight: the largest eigenvalue of the mean of nu |a| a a'; radius: nu max |a|^3, the paper's; adaptive: halved after a step that keeps below its model, doubled and tried again after one that does not, from 1 on.",
    )

    name = "cnl"
    cost = Cost("3", "d", "2*d + 2")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.M != "adaptive":
            self.need(loss, "hessian_lipschitz", f"M={self.M}", "M=adaptive needs none")

    def start(self, fleet: Fleet, w: Array) -> CnlState:
        now = self.begun(fleet, CnlState(w))
        if self.M == "adaptive":
            return replace(now, cube=1.0, value=fleet.mean(value_at, w))
        if self.M == "radius":
            return replace(now, cube=max(LEAST, *fleet.gather(self.radius_cubed)))
        third = unpack_triangle(fleet.mean(self.third_derivative))
        return replace(now, cube=max(LEAST, float(np.linalg.eigvalsh(third)[-1])))

    def step(self, fleet: Fleet, now: CnlState) -> CnlState:
        g = fleet.mean(gradient_at, now.w)
        lessons = fleet.gather(self.ratio_and_lesson)
        H = self.majorised(fleet, now, [lesson[0] for lesson in lessons])
        if not (np.isfinite(H).all() and np.isfinite(g).all()):
            return fail(now, "the gradient or the curvature is not finite: start nearer, or scale the features")
        later = self.learnt(fleet, now, [lesson[1:] for lesson in lessons])
        if self.M != "adaptive":
            s = cubic_step(H, g, now.cube).s
            return replace(later, w=now.w + s, step=float(np.sqrt(s @ s)))
        cube, noise = now.cube, SLACK * max(1.0, abs(now.value))
        for _ in range(DOUBLINGS):
            found = cubic_step(H, g, cube)
            w = now.w + found.s
            value = fleet.mean(value_at, w)
            if value <= now.value + found.model + noise:
                return replace(later, w=w, step=found.t, value=value, cube=max(LEAST, cube / 2))
            cube *= 2
        return fail(now, f"no cubic step lowers the objective as its model says, up to M = {cube:.3g}")

    def third_derivative(self, worker: Worker) -> Array:
        """The mean of nu |a| a a' over the rows of a worker: its upper triangle."""
        model = linear_model(worker)
        nu = model.loss.hessian_lipschitz(model.t)
        return pack_triangle(model.rows.gram(model.row_weight_array * nu * np.sqrt(model.rows.squares)))

    def radius_cubed(self, worker: Worker) -> float:
        """max nu |a|^3 over the rows of a worker."""
        model = linear_model(worker)
        return float((model.loss.hessian_lipschitz(model.t) * model.rows.squares**1.5).max(initial=0.0))
