"""Quantised BFGS: the rows stay, and what travels is only what the driver could not have guessed, in few bits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import NAN, Array, Bytes
from mpinewton.compress.rice import packed_integers, unpacked_integers
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.lbfgs import bfgs_inverse
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.support.method import Cost, Method, State
from mpinewton.settings import setting

Integers8 = NDArray[np.int8]
UNKNOWN = 32767  # exponent of a gradient that is not finite


@dataclass(frozen=True, eq=False)
class QuantisedBfgsState(State):
    """An iterate, what is known of the gradient there, and the inverse of the learned Hessian."""

    g: Array = field(default_factory=lambda: np.zeros(0))  # of the objective at w, as decoded, shape (d,)
    inverse: Array = field(default_factory=lambda: np.zeros((0, 0)))  # of the Hessian, shape (d, d)
    scale: Array = field(default_factory=lambda: np.zeros(0))  # in which surprises are measured, shape (d,)


@dataclass(frozen=True)
class QuantisedBfgs(Method[QuantisedBfgsState]):
    """BFGS at the driver from one coarse Hessian, gradients coded as surprises: convex losses, any split; rows stay.

    Once, at the start, worker i sends the triangle of D_i^-1 H_i D_i^-1, D_i powers of two, dithered to `levels` steps
    between 0 and 1; the errors of m workers average out, and what is left of them shows in the negative eigenvalues of
    the mean: no eigenvalue is taken to be smaller than the largest of these. Then BFGS, step 1, from that Hessian. It
    expects a gradient of 0 where it goes, so a worker sends what is left of g_i after the mean gradient is taken off
    what it sent before: a remainder of second order, rounded at random to steps of `coarse` times its own size. So
    every gradient costs 3 to 4 bits a weight, whatever the accuracy, and the errors vanish with the remainders.

    A step that meets a slope above `overshoot` times the one it set out with is not taken, and still teaches: BFGS
    has learned the curvature on it, at least 1 + `overshoot` times what it believed; the gradient is asked for once
    more where the step began, which takes most of the noise from it. No loss is ever sent.

    All integers go in Rice's code: the set-up 1 to 2 bits an entry of the triangle.
    """

    levels: int = setting(
        0, ge=0, help="of the dithered triangle; 0: 8 sqrt(d / m), m the number of workers of equal size"
    )
    coarse: float = setting(0.5, gt=0, le=2, help="step of the gradients' code, in root mean squares of the remainder")
    overshoot: float = setting(0.5, gt=0, lt=1, help="")

    name = "quantised-bfgs"
    needs = ("gradient", "hessian")
    convex_only = True
    cost = Cost("2", "2*d + 1", "0")

    # -- set-up ---------------------------------------------------------------------------------------------------

    def start(self, fleet: Fleet, w: Array) -> QuantisedBfgsState:
        ridge, shares = fleet.problem.l2_vector, fleet.worker_share[having_rows(fleet)]
        levels = self.levels or int(np.ceil(8 * np.sqrt(fleet.dim * (shares @ shares))))
        H = np.zeros((fleet.dim, fleet.dim))
        messages = fleet.gather(self.coarse_hessian, w, float(levels), among=having_rows(fleet))
        for share, (exponents, data) in zip(shares, messages):
            H += share * self.decoded_hessian(exponents, data, levels)
        H = without_noise(H) + np.diag(ridge)
        scale = np.sqrt(np.diagonal(H))
        fleet.send(self.prepare, scale)
        now = QuantisedBfgsState(
            w, g=ridge * w, inverse=np.asarray(np.linalg.inv(H)), scale=scale
        )  # nothing told of the losses
        return replace(now, g=self.heard(fleet, now, w, np.zeros_like(w))[0])

    def coarse_hessian(self, worker: Worker, w: Array, levels: float) -> tuple[Integers8, Bytes]:
        """Exponents of D_i, shape (d,), and the packed levels of the triangle of D_i^-1 H_i D_i^-1."""
        worker.move_to(w)
        H = worker.point.hessian()
        exponents = np.clip(np.frexp(np.sqrt(np.diagonal(H)))[1], -120, 120).astype(np.int8)
        x = pack_triangle(scaled(H, -exponents))  # between -1 and 1: |H_jk|^2 <= H_jj H_kk
        dithered = np.sign(x) * np.floor(np.abs(x) * levels + worker.rng(0).random(len(x)))
        return exponents, packed_integers(dithered.astype(np.int64))

    def decoded_hessian(self, exponents: Integers8, data: Bytes, levels: int) -> Array:
        """What the driver makes of such a message, shape (d, d)."""
        d = len(exponents)
        return scaled(unpack_triangle(unpacked_integers(data, d * (d + 1) // 2) / levels), exponents)

    def prepare(self, worker: Worker, scale: Array) -> None:
        worker.memory |= {"scale": scale, "told": np.zeros_like(scale), "tried": np.zeros_like(scale)}

    # -- iterations -----------------------------------------------------------------------------------------------

    def step(self, fleet: Fleet, now: QuantisedBfgsState) -> QuantisedBfgsState:
        if now.step == 0.0:  # what is known of the gradient here may be all noise: ask again, and most of that is gone
            g, _ = self.heard(fleet, now, now.w, now.g)
            return replace(now, g=g, step=NAN, note="asked again")
        s = -(now.inverse @ now.g)
        g, finite = self.heard(fleet, now, now.w + s, np.zeros_like(s))
        if not finite:
            return replace(now, inverse=now.inverse / 16, step=0.0, note="not finite there: shorter steps")
        inverse = bfgs_inverse(now.inverse, s, g - now.g)
        if g @ s > self.overshoot * abs(now.g @ s):
            return replace(now, inverse=inverse, step=0.0, note="overshot: learned from, not taken")
        return replace(now, w=now.w + s, g=g, inverse=inverse, step=1.0, note="")

    def heard(self, fleet: Fleet, now: QuantisedBfgsState, w: Array, expected: Array) -> tuple[Array, bool]:
        """The gradient at w as decoded, told what is expected of it, and whether it is finite."""
        change = (expected - now.g) - fleet.problem.l2_vector * (w - now.w)  # of the mean gradient of the losses
        taken = float(now.step != 0.0)
        messages = fleet.gather(self.surprise, w, change, taken, among=having_rows(fleet))
        surprises = [np.ldexp(unpacked_integers(data, len(w)).astype(np.float64), e) for e, data in messages]
        g = expected + now.scale * np.einsum("i,ij->j", fleet.worker_share[having_rows(fleet)], surprises)
        return g, all(e != UNKNOWN for e, _ in messages)

    def surprise(self, worker: Worker, w: Array, change: Array, taken: float) -> tuple[np.int16, Bytes]:
        """What g_i differs by from what was told plus this change: exponent of the step, and packed levels."""
        worker.move_to(w)
        if taken:
            worker.memory["told"] = worker.memory["tried"]
        scale, expected = worker.memory["scale"], worker.memory["told"] + change
        x = (worker.point.gradient() - expected) / scale
        size = self.coarse * float(np.sqrt(x @ x / len(x)))
        if not np.isfinite(size):
            return np.int16(UNKNOWN), packed_integers(np.zeros(len(x), dtype=np.int64))
        exponent = int(np.rint(np.log2(size))) if size > 0 else 0
        levels = np.floor(np.ldexp(x, -exponent) + worker.rng(1).random(len(x)))
        worker.memory["tried"] = expected + scale * np.ldexp(levels, exponent)
        return np.int16(exponent), packed_integers(levels.astype(np.int64))


def having_rows(fleet: Fleet) -> NDArray[np.intp]:
    """The workers that have a say."""
    return np.flatnonzero(fleet.worker_share)


def scaled(H: Array, exponents: Integers8) -> Array:
    """D H D, D the powers of two of these exponents; exact."""
    e = exponents.astype(np.int32)
    return np.asarray(np.ldexp(H, e[:, None] + e))


def without_noise(H: Array) -> Array:
    """The nearest matrix to a noisy H (d, d) >= 0 whose eigenvalues are above the noise, in units of its diagonal.

    True eigenvalues are not negative: the most negative one tells how large the noise is.
    """
    size = np.sqrt(np.maximum(np.diagonal(H), 0.0))
    size[size == 0] = 1.0
    e, Q = np.linalg.eigh(H / size[:, None] / size)
    noise = max(-e[0], 1e-12 * max(e[-1], 1.0))
    return np.asarray((Q * np.maximum(e, noise)) @ Q.T * size[:, None] * size)
