"""L-BFGS whose initial matrix comes from the workers' own Hessians."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mpinewton.arrays import NAN, Array, Vectors
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.krylov import lanczos
from mpinewton.linalg.lbfgs import append_pair, apply_inverse
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, State, fail
from mpinewton.methods.support.tasks import advance, value_and_gradient
from mpinewton.settings import setting

# The constants were chosen by trial on the problems of tests/papers/test_preconditioned_lbfgs.py.
LOCAL_STEPS = (3, 1)  # Newton steps of the workers before the first and the second average
PRODUCTS, FLOOR = 50, 1e-3  # of a worker's Krylov space; smallest eigenvalue, relative to the largest
MEMORY = 30  # pairs
SEARCH = Backtracking(largest=2.0, choose="least", first=10)
POOR = 1 / 64  # product of two consecutive steps from which on the workers' Hessians are no longer used


@dataclass(frozen=True, eq=False, kw_only=True)
class PreconditionedLbfgsState(State):
    """State of preconditioned L-BFGS.

    Attributes
    ----------
    phase : str
        "models", "Hessians" or "pairs".
    averages : int
        Number of averages of models so far.
    best : array, shape (d,)
        Average of models with the least known objective.
    least : float
        Objective there; infinite before any is known.
    S, Y : tuples of k arrays, shape (d,)
        Changes of w and of the gradient, oldest first.
    pending : float
        Step that the workers take with the next call; 0 for none.
    """

    phase: str
    averages: int
    best: Array
    least: float
    S: Vectors
    Y: Vectors
    pending: float


@dataclass(frozen=True)
class PreconditionedLbfgs(Method[PreconditionedLbfgsState]):
    """L-BFGS preconditioned by the workers' Hessians: any smooth loss, any split of the data.

    The method has three phases; the history's note names the phase.

    `models`, for convex losses: the workers take Newton steps on their own rows, three and then one, and the driver
    averages their models (LocalNewton). Each average costs two rounds and serves as a start.

    `Hessians`: L-BFGS whose initial matrix is the mean of the workers' |H_i|^-1 in Krylov spaces (GIANT), so that
    nothing need be convex. Each worker scales its Hessian to a diagonal of 1, so that the units of the features do not
    matter. The pairs correct the errors of these Hessians.

    `pairs`: plain L-BFGS with the same pairs, once two consecutive steps are so short that the workers' Hessians must
    be misleading, because shards are unlike or have few rows.

    The gradients at the first `likely` steps are sent with the losses of the search, so that such a step costs no more
    rounds. The cost below is that of `Hessians` with likely=4; an iteration of `models` or `pairs` takes 2 rounds.
    """

    likely: int = setting(
        4, ge=1, le=10, help="number of steps whose gradients are sent with the losses: 2, 1, 1/2, ..."
    )

    name = "preconditioned-lbfgs"
    any_units = True
    needs = ("gradient", "hvp", "hessian_diagonal")
    cost = Cost("4", "2*d + 2", "5*d + 10")

    def start(self, fleet: Fleet, w: Array) -> PreconditionedLbfgsState:
        if not fleet.problem.loss.convex:
            return self.start_hessians(fleet, w)
        return PreconditionedLbfgsState(w, phase="models", averages=0, best=w, least=np.inf, S=(), Y=(), pending=0.0)

    def start_hessians(self, fleet: Fleet, w: Array) -> PreconditionedLbfgsState:
        """The state at w in phase `Hessians`, without pairs. 2 rounds."""
        f, g = fleet.mean(value_and_gradient, w)
        return PreconditionedLbfgsState(w, f, g, phase="Hessians", averages=0, best=w, least=f, S=(), Y=(), pending=0.0)

    def step(self, fleet: Fleet, now: PreconditionedLbfgsState) -> PreconditionedLbfgsState:
        if now.phase == "models":
            if now.averages < len(LOCAL_STEPS):
                return self.average(fleet, now)
            last = self.start_hessians(fleet, now.w)
            now = last if last.loss < now.least else self.start_hessians(fleet, now.best)
        initial = None
        if now.phase == "Hessians":
            initial = partial(fleet.mean, self.advance_and_solve, now.pending)
            now = replace(now, pending=0.0)  # the workers take the step with this call
        p = -apply_inverse(now.S, now.Y, now.gradient, initial)
        if not now.gradient @ p < 0:  # Krylov spaces of different right-hand sides need not make one definite matrix
            p = -apply_inverse(now.S, now.Y, now.gradient)
        return self.search(fleet, now, p)

    # -- models ---------------------------------------------------------------------------------------------------

    def average(self, fleet: Fleet, now: PreconditionedLbfgsState) -> PreconditionedLbfgsState:
        """Average the workers' own models; the objective at now.w comes with them. 2 rounds."""
        f, w = fleet.mean(self.take_newton_steps, now.w, LOCAL_STEPS[now.averages])
        now = replace(now, best=now.w, least=f) if f < now.least else now
        return replace(now, w=w, averages=now.averages + 1, note="models")

    def take_newton_steps(self, worker: Worker, w: Array, steps: int) -> tuple[float, Array]:
        """f_i at w, and the worker's model (d,) after some Newton steps on its own rows: d + 1 floats."""
        worker.move_to(w)
        f = worker.value()
        for _ in range(steps):
            g = worker.gradient()
            if a := Backtracking().search_locally(worker, g, -self.solve(worker, g)):
                worker.advance(a)
        return f, worker.w

    # -- Hessians and pairs ---------------------------------------------------------------------------------------

    def advance_and_solve(self, worker: Worker, pending: float, q: Array) -> Array:
        """Take the pending step; |H_i|^-1 q there, shape (d,): d floats."""
        if pending:
            worker.advance(pending)
        return self.solve(worker, q)

    def solve(self, worker: Worker, q: Array) -> Array:
        """|H_i|^-1 q in a Krylov space of the scaled H_i, shape (d,)."""
        diagonal = np.abs(worker.hessian_diagonal())
        root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        space = lanczos(lambda v: worker.hvp(v / root) / root, q / root, PRODUCTS)
        return space.solve_absolute(FLOOR) / root

    def search(self, fleet: Fleet, now: PreconditionedLbfgsState, p: Array) -> PreconditionedLbfgsState:
        """Search along p (d,) and take the step. 2 rounds if the step is one of the likely ones, else 4 or 6."""
        derivative, grid = float(now.gradient @ p), SEARCH.grid
        losses, gradients = fleet.mean(self.try_first, p, now.pending)
        now = replace(now, pending=0.0)
        a = SEARCH.select(grid[: SEARCH.first], losses, now.loss, derivative, now.step)
        if not a:
            a = SEARCH.select(grid[SEARCH.first :], fleet.mean(self.try_others), now.loss, derivative, now.step)
        if not a:
            return self.drop_pairs(now, p)
        if a >= grid[self.likely - 1]:
            k = int(np.flatnonzero(grid == a)[0])
            f, g, pending = float(losses[k]), gradients[k], a
        else:
            (f, g), pending = fleet.mean(advance, a), 0.0
        S, Y = append_pair(now.S, now.Y, a * p, g - now.gradient, MEMORY)
        poor = now.phase == "Hessians" and now.step * a <= POOR
        return replace(
            now, w=now.w + a * p, loss=f, gradient=g, step=a, S=S, Y=Y, pending=pending,
            phase="pairs" if poor else now.phase, note=now.phase,
        )  # fmt: skip

    def drop_pairs(self, now: PreconditionedLbfgsState, p: Array) -> PreconditionedLbfgsState:
        """The state after a search along p without a step: no pairs and no Hessians; a failure if none were in use."""
        if now.phase == "pairs" and not len(now.S):
            return fail(now, no_step(now, p))
        return replace(now, phase="pairs", S=(), Y=(), step=NAN, note="no step: pairs dropped")

    def try_first(self, worker: Worker, p: Array, pending: float) -> tuple[Array, Array]:
        """Set the direction p; f_i at the first 10 steps and gradients (likely, d) at the first of them:
        likely d + 10 floats."""
        if pending:
            worker.advance(pending)
        worker.set_direction(p)
        return worker.losses(SEARCH.grid[: SEARCH.first]), worker.gradients(SEARCH.grid[: self.likely])

    def try_others(self, worker: Worker) -> Array:
        """f_i at the other steps of the grid: 42 floats."""
        return worker.losses(SEARCH.grid[SEARCH.first :])
