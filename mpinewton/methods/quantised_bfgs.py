"""Quantised BFGS: BFGS on the driver from gradients and one Hessian in few bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpinewton.arrays import NAN, Array, Bytes
from mpinewton.compress.hessian import Integers8, encode_hessian, mean_hessian
from mpinewton.compress.rice import pack_integers, unpack_integers
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.lbfgs import bfgs_inverse
from mpinewton.linalg.triangle import add_diagonal
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.methods.support.tasks import workers_with_rows
from mpinewton.settings import setting

NOT_FINITE = 32767  # exponent that stands for a gradient that is not finite


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedBfgsState(State):
    """State of quantised BFGS. A `step` of 0 says that the last trial step was not taken.

    Attributes
    ----------
    g : array, shape (d,)
        Gradient of the objective at w, as decoded.
    inverse : array, shape (d, d)
        Inverse of the approximate Hessian.
    scale : array, shape (d,)
        Unit of every component in the code of the gradients.
    """

    g: Array
    inverse: Array
    scale: Array


@dataclass(frozen=True)
class QuantisedBfgs(Method[QuantisedBfgsState]):
    """Quantised BFGS (a method of this project): convex losses, any split of the data; no rows are sent.

    At the start worker i sends the upper triangle of D_i^-1 H_i D_i^-1, where D_i holds powers of two, dithered to
    `levels` steps between 0 and 1. The errors of the m workers average out. The most negative eigenvalue of the mean
    shows the size of the remaining error, and eigenvalues are raised to at least that size.

    BFGS with steps of 1 starts from that Hessian. It predicts a gradient of 0 at the next iterate, so a worker adds the
    predicted change of the mean gradient to what it sent before and sends only the difference of g_i from that. The
    difference is of second order. It is rounded at random to steps of `coarse` times its root mean square. So a
    gradient costs 3 to 4 bits a weight at any accuracy, and the rounding errors vanish with the differences.

    A trial step at whose end the directional derivative exceeds `overshoot` times the modulus of the one at its start
    is not taken. BFGS is still updated with it: the curvature along it is at least 1 + `overshoot` times the model's.
    The gradient at the start of the step is then sent once more, which removes most of its rounding error. No loss is
    ever sent.

    All integers are sent in Rice's code; the initial Hessian takes 1 to 2 bits an entry of the triangle.
    """

    levels: int = setting(0, ge=0, help="levels of the dithered Hessian; 0: 8 sqrt(d / m) for m workers of equal size")
    coarse: float = setting(0.5, gt=0, le=2, help="step of the gradients' code", unit="root mean squares")
    overshoot: float = setting(0.5, gt=0, lt=1, help="relative directional derivative above which a step is not taken")

    name = "quantised-bfgs"
    any_units = True
    matrices = 5.0
    needs = ("gradient", "hessian")
    convex_only = True
    cost = Cost("2", "2*d + 1", "0")

    # -- set-up ---------------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> QuantisedBfgsState:
        l2, shares = fleet.problem.l2_vector, fleet.worker_share[workers_with_rows(fleet)]
        levels = self.levels or int(np.ceil(8 * np.sqrt(fleet.dim * (shares @ shares))))
        messages = fleet.gather(self.encode_hessian, w, float(levels), among=workers_with_rows(fleet))
        H = add_diagonal(mean_hessian(shares, messages, levels), l2)
        scale = np.sqrt(np.diagonal(H))
        fleet.send(self.prepare, scale)
        now = QuantisedBfgsState(w, g=l2 * w, inverse=np.asarray(np.linalg.inv(H)), scale=scale)  # losses count as 0
        return replace(now, g=self.collect_gradient(fleet, now, w, np.zeros_like(w))[0])

    def encode_hessian(self, worker: Worker, w: Array, levels: float) -> tuple[Integers8, Bytes]:
        """Exponents of D_i, shape (d,), and the packed levels of the triangle of D_i^-1 H_i D_i^-1: no floats."""
        worker.move_to(w)
        return encode_hessian(worker.point.hessian(), levels, worker.rng(0))

    def prepare(self, worker: Worker, scale: Array) -> None:
        """Keep the scale (d,), and 0 as the gradients sent; no reply."""
        worker.memory |= {"scale": scale, "sent": np.zeros_like(scale), "trial": np.zeros_like(scale)}

    # -- iterations -----------------------------------------------------------------------------------------------

    def step(self, fleet: Fleet, now: QuantisedBfgsState) -> QuantisedBfgsState:
        if now.step == 0.0:  # the known gradient may be all rounding error; a second message removes most of it
            g, _ = self.collect_gradient(fleet, now, now.w, now.g)
            return replace(now, g=g, step=NAN, note="gradient sent again")
        s = -(now.inverse @ now.g)
        g, finite = self.collect_gradient(fleet, now, now.w + s, np.zeros_like(s))
        if not finite:  # shorter by an arbitrary factor
            return replace(now, inverse=now.inverse / 16, step=0.0, note="trial gradient not finite: shorter steps")
        inverse = bfgs_inverse(now.inverse, s, g - now.g)
        if g @ s > self.overshoot * abs(now.g @ s):
            return replace(now, inverse=inverse, step=0.0, note="overshoot: step not taken")
        return replace(now, w=now.w + s, g=g, inverse=inverse, step=1.0, note="")

    def collect_gradient(self, fleet: Fleet, now: QuantisedBfgsState, w: Array, expected: Array) -> tuple[Array, bool]:
        """The decoded gradient at w, shape (d,), where `expected` (d,) is predicted; and whether it is finite."""
        change = (expected - now.g) - fleet.problem.l2_vector * (w - now.w)  # of the mean gradient of the losses
        taken, among = float(now.step != 0.0), workers_with_rows(fleet)
        messages = fleet.gather(self.encode_gradient, w, change, taken, among=among)
        differences = [np.ldexp(unpack_integers(data, len(w)).astype(np.float64), e) for e, data in messages]
        g = expected + now.scale * np.einsum("i,ij->j", fleet.worker_share[among], differences)
        return g, all(e != NOT_FINITE for e, _ in messages)

    def encode_gradient(self, worker: Worker, w: Array, change: Array, taken: float) -> tuple[np.int16, Bytes]:
        """Move to w; g_i less (what was sent + change): exponent of the unit, and packed integers. No floats.

        `taken` says whether the last trial step was taken, so that its gradient counts as sent.
        """
        worker.move_to(w)
        if taken:
            worker.memory["sent"] = worker.memory["trial"]
        scale, expected = worker.memory["scale"], worker.memory["sent"] + change
        x = (worker.point.gradient() - expected) / scale
        size = self.coarse * float(np.sqrt(x @ x / len(x)))
        if not np.isfinite(size):
            return np.int16(NOT_FINITE), pack_integers(np.zeros(len(x), dtype=np.int64))
        exponent = int(np.rint(np.log2(size))) if size > 0 else 0
        levels = np.floor(np.ldexp(x, -exponent) + worker.rng(1).random(len(x)))
        worker.memory["trial"] = expected + scale * np.ldexp(levels, exponent)
        return np.int16(exponent), pack_integers(levels.astype(np.int64))
