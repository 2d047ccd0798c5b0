"""CNL: cubic regularisation with the estimated Hessian of NL2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cubic import cubic_step
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.losses import Loss
from mpinewton.methods.nl import Majorising, Nl2State
from mpinewton.methods.support.linesearch import SLACK
from mpinewton.methods.support.method import Cost, fail
from mpinewton.methods.support.tasks import gradient_at, linear_model, value_at
from mpinewton.settings import setting

SMALLEST_M = 1e-12  # where the second derivative is constant the Lipschitz constant is 0, and `cubic_step` needs M > 0
DOUBLINGS = 100  # of M in one step with M=adaptive: up to 2^100 M, far beyond what float64 resolves


@dataclass(frozen=True, eq=False, kw_only=True)
class CnlState(Nl2State):
    """The state of NL2 and the cubic coefficient.

    Attributes
    ----------
    cube : float
        M^k, the coefficient of |s|^3 / 6 in the model.
    """

    cube: float


@dataclass(frozen=True)
class Cnl(Majorising[CnlState]):
    """CNL (Islamov, Qian and Richtarik 2021, Algorithm 3): losses of one logit with a bounded second derivative.

    s = argmin <g, s> + s'(H^k + l2 I) s / 2 + M/6 |s|^3, with H^k of NL2, which majorises the Hessian. If M is a
    Lipschitz constant of the Hessian, the model majorises the objective, and P never increases, from any start, convex
    or not. The experiments of the paper use p = 1/20.

    M=tight is the largest eigenvalue of the mean of nu |a| a a', and the start sends one more triangle, d (d + 1)/2
    floats. M=radius is the maximum of nu |a|^3, as in the paper, and the start sends one more float. M=adaptive needs
    no nu: it starts at 1, is doubled until a step decreases P as its model predicts, and then halved. Every trial
    step costs one float and one round trip.
    """

    M: Literal["tight", "radius", "adaptive"] = setting("tight", help="how M is found: eigenvalue, row norms or trial")

    name = "cnl"
    matrices = 5.0
    cost = Cost("3", "d", "2*d + 2")

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.M != "adaptive":
            self.need(loss, "hessian_lipschitz", f"M={self.M}", "use M=adaptive")

    def start(self, fleet: Fleet, w: Array) -> CnlState:
        known = self.initial_fields(fleet, w)
        if self.M == "adaptive":
            return CnlState(w, cube=1.0, value=fleet.mean(value_at, w), **known)
        if self.M == "radius":
            return CnlState(w, cube=max(SMALLEST_M, *fleet.gather(self.radius_cubed)), value=None, **known)
        e = np.linalg.eigvalsh(unpack_triangle(fleet.mean(self.third_derivative)))
        return CnlState(w, cube=max(SMALLEST_M, float(e[-1])), value=None, **known)

    def step(self, fleet: Fleet, now: CnlState) -> CnlState:
        g = fleet.mean(gradient_at, now.w)
        ratios, *updates = zip(*fleet.gather(self.ratio_and_update))
        H = self.majorant(fleet, now, ratios)
        if not (np.isfinite(H).all() and np.isfinite(g).all()):
            return fail(now, "the gradient or Hessian is not finite: start closer to the optimum, or scale features")
        later = self.update_hessian(fleet, now, list(zip(*updates)))
        if now.value is None:
            s = cubic_step(H, g, now.cube).s
            return replace(later, w=now.w + s, step=float(np.sqrt(s @ s)))
        cube, noise = now.cube, SLACK * max(1.0, abs(now.value))
        for _ in range(DOUBLINGS):
            found = cubic_step(H, g, cube)
            value = fleet.mean(value_at, w := now.w + found.s)
            if value <= now.value + found.model + noise:
                return replace(later, w=w, step=found.t, value=value, cube=max(SMALLEST_M, cube / 2))
            cube *= 2
        return fail(now, f"no cubic step lowers the objective as its model says, up to M = {cube:.3g}")

    def third_derivative(self, worker: Worker) -> Array:
        """The upper triangle of the mean of nu |a| a a' over the rows of a worker, d (d + 1)/2 floats."""
        model = linear_model(worker)
        nu = model.loss.hessian_lipschitz(model.t)
        return pack_triangle(model.rows.gram(model.row_weight_array * nu * np.sqrt(model.rows.squares)))

    def radius_cubed(self, worker: Worker) -> float:
        """The maximum of nu |a|^3 over the rows of positive weight of a worker, 1 float."""
        model = linear_model(worker)
        cubes = model.loss.hessian_lipschitz(model.t) * model.rows.squares**1.5
        return float(cubes[model.row_weight_array > 0].max(initial=0.0))
