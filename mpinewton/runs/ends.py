"""Ends of a run that no limit sets: convergence without units, rounding, no minimiser, divergence. See docs/ends.md.

What is measured here is for the record: outside the ledger and the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from math import inf, isfinite, isnan, sqrt
from typing import Any

import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import GRADIENT_NOISE, solve_semidefinite, split_semidefinite
from mpinewton.linalg.krylov import EXHAUSTED, cg
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.methods.support.linesearch import polyak
from mpinewton.methods.support.method import UNKNOWN, AnyMethod, State
from mpinewton.methods.support.tasks import majorant_triangle
from mpinewton.runs.history import Row

EPS = float(np.finfo(np.float64).eps)
SLACK = 8 * EPS  # losses that differ by at most this, relative to their size, are equal: some ulps of a sum
FLAT_ROWS = 15  # rows without progress before the objective is examined; twice as many after every examination
LESS = 0.9  # a gradient norm counts as progress below this multiple of the least so far: random errors rarely do
HIGH = 10.0  # an objective is high if it exceeds the first by this multiple of max(|first|, first - least)
HIGH_ROWS = 80  # rows in which the objective is high and does not fall below its least before a run has diverged
SLOW = 1e-9  # the gap is first estimated when a step decreases the objective by at most this part of the whole decrease
SMALL = 1e-12  # least size of the objective, as a part of the decrease, that the estimated gap is compared with
GRADIENT = 1e-8  # relative gradient norm in place of the estimated gap, where there are no second derivatives
DENSE = 300  # up to this dimension Newton's model uses the Hessian matrix, above it conjugate gradients
CG_STEPS, CG_TOLERANCE = 30, 0.01
FAR = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # Newton steps along which a minimiser is looked for
NO_MINIMISER = (
    f"no finite minimiser: the objective falls along a ray of {FAR[-1]:g} steps, and the weights depend on when the "
    "run ended; separated classes, or counts that are all 0, cause this; l2 > 0 prevents it"
)
STEADY = 1e-3  # relative change of a weight that is not rounding error: that is far smaller
FLAT = 1e-12  # curvature along a step, relative to that of its coordinates, that is rounding error
POLISH = 5  # Newton steps after which that search is given up


@dataclass
class Memory:
    """What the rules remember of the rows before; saved in checkpoints. NaN: not known yet."""

    loss: float = NAN  # first
    norm: float = NAN
    last: float = NAN
    least: float = inf
    least_norm: float = inf
    flat: int = 0
    patience: int = FLAT_ROWS
    high: int = 0
    least_high: float = inf
    ask_below: float = inf  # estimate the gap when the gradient norm is at most this,
    ask_from: int = 0  # or from this iteration on
    asked: bool = False
    best: int = 0  # iteration of the best row


class Ends:
    """Follows the rows of a run.

    Attributes
    ----------
    best : (Row, State)
        The measured iterate of least objective; of those equal to rounding, the last.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.memory = fleet, Memory()
        self.best: tuple[Row, State] | None = None

    def saved(self, state: State) -> dict[str, Array]:
        """What a checkpoint at `state` needs: the memory, and the best weights; shape (0,) where they are its own."""
        other = self.best is not None and self.best[1] is not state
        best = self.best[1].w if self.best is not None and other else UNKNOWN
        return {"ends/memory": np.array(astuple(self.memory), dtype=np.float64), "ends/best": best}

    def restore(self, saved: Mapping[str, Any], rows: Iterable[Row], state: State) -> None:
        """Continue where `saved` was called at this state, with the rows of the run.

        Raises
        ------
        TypeError, ValueError
            If what was saved does not fit.
        """
        if "ends/memory" in saved:
            known, best = asdict(self.memory), saved["ends/best"]
            if best.shape not in ((0,), state.w.shape):
                raise ValueError(f"the best weights have shape {best.shape}")
            numbers = zip(known, saved["ends/memory"].tolist(), strict=True)
            self.memory = Memory(**{name: type(known[name])(x) for name, x in numbers})
            row = next((row for row in rows if row.iteration == self.memory.best), None)
            if row is None:
                raise ValueError(f"the history has no row {self.memory.best}")
            self.best = row, State(best) if best.size else state

    def see(self, row: Row, state: State, measured: bool) -> None:
        """Take note of a new row; `measured` says whether its loss was evaluated, be it NaN."""
        m = self.memory
        if not measured:
            return
        loss = inf if isnan(row.loss) else row.loss
        if isnan(m.loss):
            m.loss, m.norm = loss, row.grad_norm
        if self.best is None or loss <= m.least + SLACK * abs(m.least):
            self.best, m.best = (row, state), row.iteration
        m.flat += 1
        if loss < m.least - SLACK * abs(m.least) or row.grad_norm < LESS * m.least_norm:
            m.flat = 0
        m.least = min(m.least, loss)
        m.least_norm = min(m.least_norm, row.grad_norm)
        if self.is_high(loss):
            m.high += 1
            if loss < m.least_high:
                m.high, m.least_high = 0, loss
        else:
            m.high, m.least_high = 0, inf

    def is_high(self, loss: float) -> bool:
        """Whether the objective is far above the first, in units of the larger of that and the decrease since."""
        m = self.memory
        return not loss - m.loss <= HIGH * max(abs(m.loss), m.loss - m.least)

    def converged(self, row: Row, state: State, ftol: float) -> str:
        """Why the estimated gap is small enough, in a sentence; "" where it is not, or not due to be estimated."""
        m = self.memory
        before, m.last = m.last, row.loss
        if row.grad_norm == 0:
            return "the gradient is 0"
        gain = m.loss - row.loss
        if not isfinite(row.loss) or not row.grad_norm > 0 or not gain > 0:
            return ""
        small = row.grad_norm <= GRADIENT * m.norm
        below = f"gradient norm {row.grad_norm:.3g} is at most {GRADIENT:g} times the first, {m.norm:.3g}"
        if "hvp" not in self.fleet.problem.loss.provides:
            return below if small else ""
        due = row.grad_norm <= m.ask_below or row.iteration >= m.ask_from
        size = min(gain, max(abs(row.loss), SMALL * gain))
        if not (due if m.asked else small or abs(before - row.loss) <= SLOW * size):
            return ""
        model = examine(self.fleet, state.w)
        if not model.known:
            m.asked, m.ask_below, m.ask_from = True, row.grad_norm / 2, 2 * row.iteration
            return below if small else ""
        goal = max(ftol * size, 2 * model.rounding)
        if model.decrease <= goal:
            of = f"{ftol:g} times {'the decrease so far' if size == gain else 'the objective'}"
            of = of if goal > 2 * model.rounding else "twice the rounding errors in the objective"
            return f"estimated gap {model.decrease:.3g} is at most {goal:.3g}, {of}"
        # Near the optimum the gap falls with the square of the gradient norm; a factor 2 for what is not yet so near.
        m.asked, m.ask_below = True, row.grad_norm * sqrt(2 * goal / model.decrease)
        m.ask_from = 2 * row.iteration
        return ""

    def diverged(self, method: AnyMethod) -> str:
        """Why the run has diverged, in a sentence; "" where it has not."""
        return self.divergence(method) if self.memory.high >= HIGH_ROWS else ""

    def divergence(self, method: AnyMethod) -> str:
        """The sentence on a run whose objective is high."""
        m = self.memory
        rise = f"the objective has risen to {m.least_high:.3g}, from {m.loss:.3g} at the start"
        return f"diverged: {rise}; {method.remedy or 'use a method with a line search, such as auto or lbfgs'}"

    def precise(self, state: State) -> str:
        """Why no further progress is possible, in a sentence; "" where it is, or is not to be asked yet."""
        m = self.memory
        if m.flat < m.patience:
            return ""
        m.flat, m.patience = 0, 2 * m.patience
        return at_rounding(self.fleet, state.w)


@dataclass(frozen=True, eq=False)
class Model:
    """Newton's model of the objective at w.

    Attributes
    ----------
    decrease : float
        By how much the objective falls along its step, or along the gradient: an estimate of the gap.
    rounding : float
        Size of the rounding errors in the objective.
    known : bool
        Whether there is a Newton step: the loss has second derivatives, and no direction of negative curvature was met.
    """

    decrease: float
    rounding: float
    known: bool


def examine(fleet: Fleet, w: Array) -> Model:
    """Newton's model at w (d,)."""
    f, g = fleet.mean(evaluate, w)
    directions = newton_steps(fleet, w, f, g, np.ones(len(w), dtype=bool))
    known = bool(directions)
    steps = np.append(0.0, 4.0 ** np.arange(3.0, -13.0 if known else -37.0, -1.0))
    directions = [*directions, polyak(f, g, g), *majorant_steps(fleet, w, g)]
    rays = [fleet.mean(losses_along, w, p, steps) for p in directions]
    return Model(max(0.0, *(float(ray[0] - ray.min()) for ray in rays)), rounding_errors(fleet, w, f), known)


def majorant_steps(fleet: Fleet, w: Array, g: Array) -> list[Array]:
    """The step of a quadratic majorant from w (d,), where the loss provides one."""
    if "majorant" not in fleet.problem.loss.provides or fleet.dim > DENSE:
        return []
    return [-solve_semidefinite(unpack_triangle(fleet.mean(majorant_at, w)), g).x]


def rounding_errors(fleet: Fleet, w: Array, f: float) -> float:
    """Size of the rounding errors in the objective at w (d,), where it is f: what changes of some ulps of w make."""
    signs = np.where(np.arange(len(w)) % 2, 1.0, -1.0)
    jitter = fleet.mean(losses_along, w, EPS * signs * w, np.arange(5.0))
    with np.errstate(invalid="ignore"):
        return max(float(np.ptp(jitter)), SLACK / 2 * abs(f))


def at_rounding(fleet: Fleet, w: Array) -> str:
    """Why the objective cannot be decreased from w (d,) in float64, in a sentence; "" where it can."""
    model = examine(fleet, w)
    if not model.decrease <= 2 * model.rounding:
        return ""
    return (
        f"no further progress is possible in float64: a {'Newton' if model.known else 'gradient'} step changes the "
        f"objective by {model.decrease:.2g}, and its rounding errors are {model.rounding:.2g}"
    )


def without_minimiser(fleet: Fleet, w: Array) -> str:
    """Why the objective has no finite minimiser, in a sentence; "" where it seems to have one.

    Near a minimiser Newton steps shrink, and the objective rises beyond it. Where a convex objective falls along a
    thousand Newton steps, or a thousand times w, its infimum is at infinity; likewise where a Newton step gains no more
    than rounding errors, but a weight changes as much as in the step before.
    """
    problem = fleet.problem
    free, last = problem.l2_vector == 0, None
    if not problem.loss.convex or not free.any():
        return ""
    if _falls_for_ever(fleet, w, np.where(free, w, 0.0)):
        return NO_MINIMISER
    for _ in range(POLISH):
        f, g = fleet.mean(evaluate, w)
        steps = newton_steps(fleet, w, f, g, free)
        if not steps or not steps[0].any() or (last is not None and (np.abs(steps[0]) <= np.abs(last) / 2).all()):
            return ""
        if _falls_for_ever(fleet, w, steps[0]):
            return NO_MINIMISER
        if last is not None and abs(g @ steps[0]) <= SLACK * abs(f):
            steady = np.abs(steps[0] - last) <= 0.1 * np.abs(last)
            if (steady & (np.abs(steps[0]) > STEADY * np.abs(w))).any() and not _is_flat(fleet, w, steps[0]):
                return NO_MINIMISER
        w, last = w + steps[0], steps[0]
    return ""


def _is_flat(fleet: Fleet, w: Array, p: Array) -> bool:
    """Whether the Hessian at w is 0 to rounding along p (d,), as along the shift of all intercepts of softmax."""
    if not {"hvp", "hessian_diagonal"} <= fleet.problem.loss.provides:
        return False
    return bool(p @ fleet.mean(hvp_at, w, p) <= FLAT * (p * p) @ fleet.mean(diagonal_at, w))


def _falls_for_ever(fleet: Fleet, w: Array, p: Array) -> bool:
    if not (FAR[-1] * np.abs(p) > np.abs(w)).any():  # a step of rounding size, near a minimiser
        return False
    losses = fleet.mean(losses_along, w, p, np.array(FAR))
    noise = 2 * rounding_errors(fleet, w, float(losses[0]))
    return bool(losses[-1] < losses[0] - noise and losses[-1] <= losses.min() + noise)


def newton_steps(fleet: Fleet, w: Array, f: float, g: Array, free: Array) -> list[Array]:
    """The Newton step from w in the variables `free`, shape (d,) each; and Polyak's in those without curvature.

    None where the loss has no second derivatives, or a direction of negative curvature is met.
    """
    loss, g = fleet.problem.loss, np.where(free, g, 0.0)
    if fleet.dim <= DENSE and "hessian" in loss.provides:
        H = unpack_triangle(fleet.mean(hessian_at, w))[np.ix_(free, free)]
        solved, outside, _ = split_semidefinite(H, g[free], loss.convex)
        both = [np.zeros(len(w)), np.zeros(len(w))]
        both[0][free], both[1][free] = -solved.x, polyak(f, g[free], outside, GRADIENT_NOISE)
        return [p for p in both if p.any() or p is both[0]] if solved.status == "solved" else []
    if "hvp" not in loss.provides:
        return []
    D = fleet.mean(diagonal_at, w) if "hessian_diagonal" in loss.provides else np.ones(len(w))
    root = np.sqrt(np.where(D > 0, D, 1.0))

    def product(v: Array) -> Array:
        return np.where(free, fleet.mean(hvp_at, w, v / root) / root, 0.0)

    solved = cg(product, g / root, CG_STEPS, CG_TOLERANCE, EXHAUSTED)
    if solved.status != "negative curvature":
        return [-solved.x / root]
    # The curvature of a convex loss is 0 to rounding there.
    return [-solved.x / root, polyak(f, g, g / root**2, GRADIENT_NOISE)] if loss.convex else []


def gap_bound(problem: Problem, grad_norm: float) -> float:
    """|g|^2 / (2 l2), a bound of the gap where l2 > 0 applies to all weights of a convex objective; else NaN."""
    l2 = float(problem.l2_vector.min())
    return grad_norm**2 / (2 * l2) if l2 > 0 and problem.loss.convex else NAN


def evaluate(worker: Worker, w: Array) -> tuple[float, Array]:
    """Worker task: f_i and its gradient at w."""
    return worker.evaluate(w)


def is_finite(worker: Worker, w: Array) -> bool:
    """Worker task: whether f_i and its gradient are finite at w."""
    f, g = worker.evaluate(w)
    return bool(np.isfinite(f) and np.isfinite(g).all())


def losses_along(worker: Worker, w: Array, p: Array, steps: Array) -> Array:
    """Worker task: f_i at w + a p for every a of `steps`, inf where it is not finite; the worker stays where it is."""
    with np.errstate(all="ignore"):
        there = _moved(worker, w)
        there.set_direction(p)
        losses = there.losses(steps)
    return np.where(np.isfinite(losses), losses, inf)


def hessian_at(worker: Worker, w: Array) -> Array:
    """Worker task: upper triangle of the Hessian of f_i at w."""
    return pack_triangle(_moved(worker, w).hessian())


def majorant_at(worker: Worker, w: Array) -> Array:
    """Worker task: upper triangle of the Hessian of a majorant of f_i at w."""
    return majorant_triangle(_moved(worker, w))


def diagonal_at(worker: Worker, w: Array) -> Array:
    """Worker task: diagonal of the Hessian of f_i at w."""
    return _moved(worker, w).hessian_diagonal()


def hvp_at(worker: Worker, w: Array, v: Array) -> Array:
    """Worker task: Hessian of f_i at w times v."""
    return _moved(worker, w).hvp(v)


def _moved(worker: Worker, w: Array) -> Worker:
    there = worker.subset()
    there.move_to(w)
    return there
