"""Newton's method with lazy Hessians, BFGS updates between them, and a start on a sample of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mpinewton.arrays import Array, Bytes, Vectors
from mpinewton.compress.hessian import Integers8, encode_hessian, mean_hessian
from mpinewton.fleet import Fleet, Worker, batched
from mpinewton.linalg.cholesky import factor_semidefinite, forward_substitute, solve_factored, solve_semidefinite
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.linalg.triangle import add_diagonal, unpack_triangle
from mpinewton.methods.support.linesearch import Backtracking, no_step, search_or_descend
from mpinewton.methods.support.method import UNKNOWN, Cost, Method, State, fail
from mpinewton.methods.support.tasks import (
    advance,
    majorant_hessian,
    majorant_triangle,
    minibatch,
    move_to,
    value_and_gradient,
    value_gradient_hessian,
    workers_with_rows,
)
from mpinewton.settings import setting

# Newton's method on a sample ends where a step promises less than this part of the decrease so far: the minimiser of
# the sample is not that of all rows. It has at most so many steps, each halved at most so many times.
REST = 1e-2
STEPS, HALVINGS = 20, 10
# Fewer rows than this for each weight determine no start: in all samples, and in a worker's own.
ROWS_PER_WEIGHT, OWN_ROWS_PER_WEIGHT = 4, 10
ALIKE = 0.25  # part of the decrease expected at the minimisers of workers that their mean may lack
PAIRS = 20  # pairs kept at most; a new Hessian comes after fewer


@dataclass(frozen=True, eq=False, kw_only=True)
class LazyNewtonState(State):
    """State of Newton's method with lazy Hessians.

    Attributes
    ----------
    L : array, shape (d, d)
        Lower Cholesky factor of the last Hessian; `UNKNOWN` where a new one is due.
    S, Y : tuples of k arrays, shape (d,)
        Changes of w and of the gradient since that Hessian, oldest first.
    from_samples : array, shape (1 + d + d (d + 1) / 2,)
        At the start, mean over the workers of what `minimise` finds on a worker's own sample: value, minimiser and
        triangle of the Hessian. `UNKNOWN` later, and where samples have few rows.
    """

    L: Array
    S: Vectors
    Y: Vectors
    from_samples: Array


@dataclass(frozen=True)
class LazyNewton(Method[LazyNewtonState]):
    """Newton's method with few Hessians: corrected by BFGS pairs, after a start on a sample of the rows.

    The first iteration starts on a sample of every worker's rows. With the first f_i and g_i each worker sends the
    minimiser of f_i on its own sample, by Newton's method, and the driver averages the minimisers. Where the average
    decreases the objective far less than the workers expect, because their rows are unlike, or where a worker's sample
    has few rows, the driver minimises the mean over all samples, with a round trip for every step. If the objective on
    all rows is smaller at the point found, it takes from there one step with the gradient of all rows and the Hessian
    of the samples. Then it computes the Hessian of all rows.

    Later iterations apply the L-BFGS recursion to the exact gradient, with the pairs since the last Hessian, and with
    its Cholesky factor L in place of a multiple of the identity. They try step 1, and receive f_i and g_i in the same
    round trip. If |L^-1 g| is then not below `refresh` times its last value, or the line search fails, a new Hessian is
    computed and the pairs are dropped; with refresh=0 this is Newton's method.

    With `levels`, Hessians are sent in few bits: scaled to a unit diagonal, rounded, and coded with Rice's code, which
    takes few bits for small correlations. Gradients are exact.

    Lazy Hessians: Doikov, Chayti and Jaggi (2023). Start on a sample: Daneshmand, Lucchi and Hofmann (2016). Average of
    the workers' minimisers: Zhang, Duchi and Wainwright (2013). The combination with BFGS pairs is ours.
    """

    refresh: float = setting(0.3, ge=0, lt=1, help="new Hessian if a step leaves |L^-1 g| above this fraction")
    sample: float = setting(
        0.125, ge=0, lt=1, help="share of every worker's rows in the sample; 0: no sample", only_if={"levels": (0,)}
    )
    levels: int = setting(0, ge=0, lt=2**31, help="number of levels to which Hessians are rounded; 0: exact")
    search: Backtracking = setting(factory=Backtracking, help="line search, where step 1 is refused")

    name = "lazy-newton"
    any_units = True
    matrices = 4.0
    needs = ("gradient", "hessian")
    convex_only = True
    cost = Cost("2", "d", "d + 1", "a new Hessian takes 2 more rounds and d*(d + 1)/2 more floats up")

    def start(self, fleet: Fleet, w: Array) -> LazyNewtonState:
        if not self.levels and self.is_sampled(min(fleet.problem.rows), fleet.dim, own=True):
            f, g, *own = fleet.mean(self.value_gradient_and_own_minimum, w)
            return LazyNewtonState(w, f, g, L=UNKNOWN, S=(), Y=(), from_samples=np.hstack(own))
        f, g = fleet.mean(value_and_gradient, w)
        return LazyNewtonState(w, f, g, L=UNKNOWN, S=(), Y=(), from_samples=UNKNOWN)

    def step(self, fleet: Fleet, now: LazyNewtonState) -> LazyNewtonState:
        if fleet.iteration == 1 and not self.levels and self.is_sampled(sum(fleet.problem.rows), fleet.dim):
            return self.start_on_sample(fleet, now)
        if not now.L.size:
            now = with_factor(now, self.hessian(fleet))
            if now.trouble:
                return now
        p, a = -apply_inverse(now.S, now.Y, now.gradient, lambda q: solve_factored(now.L, q)), 1.0
        f, g = fleet.mean(value_and_gradient, now.w + a * p)
        if not self.search.accepts(a, f, now, p):
            fleet.send(move_to, now.w)
            if len(now.S):
                return self.step(fleet, without_factor(now))
            if "majorant" in fleet.problem.loss.provides:
                p = -solve_semidefinite(self.hessian(fleet, of_majorant=True), now.gradient).x
            a, p = search_or_descend(fleet, self.search, now, p)
            if not a:
                return fail(now, no_step(now, p))
            f, g = fleet.mean(advance, a)
        S, Y = append_pair(now.S, now.Y, a * p, g - now.gradient, PAIRS)
        after = replace(now, w=now.w + a * p, loss=f, gradient=g, step=a, S=S, Y=Y)
        before, left = (np.linalg.norm(forward_substitute(now.L, v)) for v in (now.gradient, g))
        return after if left < self.refresh * before else without_factor(after)

    def hessian(self, fleet: Fleet, of_majorant: bool = False) -> Array:
        """The Hessian at the workers' weights, or that of the loss's majorant there, shape (d, d)."""
        if not self.levels:
            return unpack_triangle(fleet.mean(majorant_triangle if of_majorant else current_hessian))
        among = workers_with_rows(fleet)
        messages = fleet.gather(self.encode_majorant if of_majorant else self.encode_hessian, among=among)
        H = mean_hessian(fleet.worker_share[among], messages, self.levels)
        return add_diagonal(H, fleet.problem.l2_vector)

    def encode_hessian(self, worker: Worker) -> tuple[Integers8, Bytes]:
        """The Hessian of f_i without l2 at the worker's weights, in few bits: no floats."""
        return encode_hessian(worker.point.hessian(), self.levels)

    def encode_majorant(self, worker: Worker) -> tuple[Integers8, Bytes]:
        """The same of the Hessian of the loss's majorant."""
        return encode_hessian(majorant_hessian(worker), self.levels)

    def is_sampled(self, rows: int, d: int, own: bool = False) -> bool:
        """Whether a sample of so many rows determines a start, with d weights; own: if they are those of a worker."""
        return self.sample * rows >= (OWN_ROWS_PER_WEIGHT if own else ROWS_PER_WEIGHT) * d

    def start_on_sample(self, fleet: Fleet, now: LazyNewtonState) -> LazyNewtonState:
        """The first iteration: a step from a minimiser on samples, or none; and a Hessian of all rows."""
        there, H = now, None
        if now.from_samples.size:
            (expected,), w, own = np.split(now.from_samples, [1, 1 + fleet.dim])
            there = move_if_lower(fleet, now, w)
            if there.loss - expected <= ALIKE * (now.loss - expected):
                H = own
        if H is None:
            _, w, H = minimise(partial(fleet.mean, self.derivatives_of_sample), there.w)
            there = move_if_lower(fleet, there, w)
        if there is not now:
            p = -solve_semidefinite(unpack_triangle(H), there.gradient, there.loss, convex=True).x
            new = fleet.mean(value_gradient_hessian, there.w + p)
            if self.search.accepts(1.0, new[0], there, p):
                return state_at(now, there.w + p, *new)
        return state_at(now, there.w, *fleet.mean(value_gradient_hessian, there.w))

    def value_gradient_and_own_minimum(self, worker: Worker, w: Array) -> tuple[float, Array, float, Array, Array]:
        """f_i and gradient at w, and `minimise` for f_i on a sample of its rows: 2 + 2 d + d (d + 1) / 2 floats."""
        own = minimise(partial(self.derivatives_of_sample, worker), w)
        return *value_and_gradient_of_all(worker, w), *own

    def derivatives_of_sample(self, worker: Worker, w: Array) -> tuple[float, Array, Array]:
        """f_i, gradient and upper triangle of its Hessian at w from the sample: 1 + d + d (d + 1) / 2 floats.

        The sample is the same in every call of an iteration.
        """
        if "sample" not in worker.scratch:
            worker.scratch["sample"] = minibatch(worker, self.sample)
        return value_gradient_hessian(worker.scratch["sample"], w)


def value_and_gradient_of_all(worker: Worker, w: Array) -> tuple[float, Array]:
    """f_i and gradient at w from all rows: 1 + d floats."""
    worker.scratch.clear()
    return value_and_gradient(worker, w)


def move_if_lower(fleet: Fleet, now: LazyNewtonState, w: Array) -> LazyNewtonState:
    """The state at w (d,), if the objective is not larger there; else the state as it is."""
    f, g = fleet.mean(value_and_gradient_of_all, w)
    return replace(now, w=w, loss=f, gradient=g) if f <= now.loss else now


def minimise(derivatives: Callable[[Array], tuple[float, Array, Array]], w: Array) -> tuple[float, Array, Array]:
    """Newton's method from w (d,) for a convex function, as exactly as a sample is worth.

    Parameters
    ----------
    derivatives : callable
        The function, its gradient and the upper triangle of its Hessian at weights (d,).

    Returns
    -------
    f : float
        The value that is expected at the minimiser.
    w : array, shape (d,)
    H : array, shape (d (d + 1) / 2,)
        The last triangle of a Hessian.
    """
    f, g, H = derivatives(w)
    first = f
    for _ in range(STEPS):
        p = -solve_semidefinite(unpack_triangle(H), g, f, convex=True).x
        expected = -float(g @ p) / 2
        if not expected > REST * (first - f):
            return (f - expected, w + p, H) if expected > 0 else (f, w, H)
        for _ in range(HALVINGS):
            new = derivatives(w + p)
            if new[0] <= f - 1e-4 * expected:
                break
            p /= 2
        else:
            break
        w, (f, g, H) = w + p, new
    return f, w, H


def state_at(now: LazyNewtonState, w: Array, f: float, g: Array, H: Array) -> LazyNewtonState:
    """The state at w with the objective, the gradient and the triangle of the Hessian there."""
    return with_factor(replace(now, w=w, loss=f, gradient=g, step=1.0, from_samples=UNKNOWN), unpack_triangle(H))


def with_factor(now: LazyNewtonState, H: Array) -> LazyNewtonState:
    """The state with the factor of the Hessian there, shape (d, d)."""
    L = factor_semidefinite(H)
    return fail(now, "the Hessian has a negative eigenvalue or is not finite") if L is None else replace(now, L=L)


def without_factor(now: LazyNewtonState) -> LazyNewtonState:
    """The state for which a new Hessian is due."""
    return replace(now, L=UNKNOWN, S=(), Y=())


@batched
def current_hessian(worker: Worker) -> Array:
    """The upper triangle of the Hessian of f_i at the worker's weights: d (d + 1) / 2 floats."""
    return worker.hessian_triangle()
