"""Checks of a method alone: settings, needs, states, optimum. Each raises CheckFailed, or returns what it measured."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, NamedTuple, get_origin, get_type_hints

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, WorkerError
from mpinewton.fleet.local import LocalFleet
from mpinewton.methods.support.method import Algorithm, AnyMethod, State
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, GradientBelow, Iterations
from mpinewton.testing.problems import ZOO, Problem, on_many, on_one
from mpinewton.testing.report import CheckFailed
from mpinewton.testing.simulation import NotProvided, WithoutRows, rebuild, restrict

TOLERANCE = 1e-8  # gradient norm of a method that arrives
WHERE = {False: "five workers, one of them without rows", True: "one worker"}


class Expected(NamedTuple):
    """What may be expected of a method on the problems of the zoo.

    Attributes
    ----------
    limit : int
        Maximum number of iterations to an optimum.
    gap : float
        Where a method does not reach the optimum exactly, the part of P(start) - P* that it may leave; 0: the gradient
        norm must fall to 1e-8.
    not_on : tuple of str
        Losses on which it need not arrive.
    monotone : bool
        Whether the objective never rises, not even for losses that are not convex.
    warm_up : int
        Number of iterations before the cost of an iteration is the declared one.
    """

    limit: int = 200
    gap: float = 0.0
    not_on: tuple[str, ...] = ()
    monotone: bool = False
    warm_up: int = 0


def takes(method: Algorithm, problem: Problem) -> bool:
    """Whether the method accepts the loss of the problem."""
    try:
        method.validate_loss(problem.loss)
    except ConfigError:
        return False
    return True


def started(method: AnyMethod, fleet: LocalFleet, w: Array) -> State:
    """The first state, on a fleet that has adopted the method."""
    fleet.adopt(method)
    fleet.iteration = 0
    return method.start(fleet, w)  # type: ignore[no-any-return]


def check_settings(method: Algorithm) -> str:
    """The class is a frozen dataclass, and its settings reach other ranks unchanged."""
    kind, known = type(method), {field.name for field in dataclasses.fields(method)}
    lost = [
        name for name, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar and name not in known
    ]
    if lost:
        raise CheckFailed(
            f"{lost[0]} is no setting, since {kind.__name__} is no dataclass",
            expected="@dataclass(frozen=True) above the class",
            found="no decorator",
        )
    again = rebuild(method)
    for field in dataclasses.fields(method):
        sent, received = getattr(method, field.name), getattr(again, field.name)
        if sent != received:
            raise CheckFailed(
                f"the setting {field.name} changes on its way to other ranks",
                expected=repr(sent),
                found=repr(received),
                cause="a type that JSON cannot hold; settings are numbers, texts, None, and dataclasses of these",
            )
    return f"{len(dataclasses.fields(method))} settings"


def check_choice(method: Algorithm) -> str:
    """A rule, as `auto`, chooses a method that accepts the problem."""
    chosen = set()
    for problem in ZOO.values():
        if takes(method, problem):
            one = method.choose(on_many(problem).problem)
            one.validate(on_many(problem).problem)
            chosen.add(one.name)
    return f"chooses {', '.join(sorted(chosen))}"


def needed(method: AnyMethod, problem: Problem) -> frozenset[str]:
    """The least that a loss must provide for the method to accept it."""

    def accepted(provides: frozenset[str]) -> bool:
        return takes(method, dataclasses.replace(problem, loss=restrict(problem.loss, provides)))

    every = problem.loss.provides
    found = frozenset(word for word in every if not accepted(every - {word}))
    for word in sorted(every - found):  # where one of two words would do
        if accepted(found):
            break
        found |= {word}
    return found


def check_needs(method: AnyMethod, problem: Problem) -> str:
    """It refuses a loss that lacks one of `needs`, and uses nothing of a loss that it does not ask for."""
    words = needed(method, problem)
    if forgotten := set(method.needs) - words:
        raise CheckFailed(
            f"a loss that lacks {forgotten.pop()} is accepted",
            expected="ConfigError from validate_loss",
            found="no error",
            cause="validate_loss does not call super().validate_loss(loss)",
        )
    fleet = on_many(dataclasses.replace(problem, loss=restrict(problem.loss, words)))
    try:
        state = started(method, fleet, problem.start)
        for fleet.iteration in range(1, 4):
            state = method.step(fleet, state)
            if state.trouble:
                break
    except WorkerError as error:
        kind, _, used = error.trace.strip().splitlines()[-1].partition(": ")
        if WithoutRows.__name__ in used:
            used = "rows"
        elif not kind.endswith(NotProvided.__name__):
            raise
        raise CheckFailed(
            f"the method uses {used} of the loss without asking for it",
            where=f"{problem.name}, task {error.task}",
            expected=f"only {', '.join(sorted(words))}",
            found=used,
            cause=f"`needs` lacks a word: needs = {method.needs}",
        ) from error
    return f"needs {', '.join(sorted(words))}"


def check_states(method: AnyMethod, problem: Problem) -> str:
    """States are of the class `method.state`, have the loss and gradient at w or none, and are not written to."""
    fleet, start = on_many(problem), problem.start.copy()
    states = [started(method, fleet, start)]
    for fleet.iteration in range(1, 5):
        now = states[-1]
        before = {name: np.copy(value) for name, value in vars(now).items() if isinstance(value, np.ndarray)}
        states.append(method.step(fleet, now))
        for name, value in before.items():
            if getattr(now, name).tobytes() != value.tobytes():
                raise CheckFailed(
                    f"step wrote into {name} of the state that it was given",
                    where=f"iteration {fleet.iteration}",
                    cause="an in-place operation, as `now.w += p`; write `w = now.w + p`",
                )
        if not np.array_equal(start, problem.start):
            raise CheckFailed("the array of the first weights was written to", cause="an in-place operation on w")
        if states[-1].trouble:
            states.pop()
            break
    known = 0
    for iteration, state in enumerate(states):
        if not isinstance(state, method.state):
            raise CheckFailed(
                "start or step returned another class than the method declares",
                expected=method.state.__name__,
                found=type(state).__name__,
                cause="name the class of the states in the base: class MyMethod(Method[MyState])",
            )
        known += _compare_with_truth(problem, state, f"iteration {iteration}")
    return f"{known} of {len(states)} states know loss and gradient"


def _compare_with_truth(problem: Problem, state: State, where: str) -> bool:
    """Whether the state knows its gradient; raises CheckFailed where loss or gradient are wrong."""
    value, gradient, _ = problem.objective(state.w)
    if not state.is_measured:
        if not np.isnan(state.loss):
            raise CheckFailed(
                "the state has a loss but no gradient",
                where=where,
                expected="both, or neither",
                found=f"loss {state.loss!r}, gradient UNKNOWN",
            )
        return False
    cause = "the state mixes w of one iterate with values of another, or averages without `fleet.mean`"
    if not abs(state.loss - value) <= 1e-13 * abs(value):
        raise CheckFailed("loss is not the objective at w", where=where, expected=value, found=state.loss, cause=cause)
    error = float(np.abs(state.gradient - gradient).max()) if state.gradient.shape == gradient.shape else np.inf
    if not error <= 1e-14 + 1e-13 * np.abs(gradient).max():
        raise CheckFailed(
            "gradient is not the gradient of the objective at w",
            where=f"{where}, largest error {error:.3g}",
            expected=gradient,
            found=state.gradient,
            cause=cause,
        )
    return True


def check_optimum(method: AnyMethod, problem: Problem, expected: Expected, one: bool = False) -> str:
    """It reaches the optimum of a convex problem."""
    assert problem.optimum is not None
    w, value = problem.optimum
    fleet = on_one(problem) if one else on_many(problem)
    fleet.adopt(method)
    goal = expected.gap * (problem.objective(problem.start)[0] - value)
    stops = [GapBelow(goal) if expected.gap else GradientBelow(TOLERANCE), Iterations(expected.limit)]
    ended = run(method, fleet, problem.start.copy(), stops, evaluation=Evaluation(optimum=value))
    # Where float64 allows no further progress the gradient norm may be a little larger; the objective decides, below.
    at_rounding = not expected.gap and ended.kind == "precision" and ended.row.grad_norm <= 10 * TOLERANCE
    if not (ended.converged or at_rounding):
        raise CheckFailed(
            "the method does not reach the optimum",
            where=WHERE[one],
            expected=f"gap at most {goal:.3g}" if expected.gap else f"gradient norm at most {TOLERANCE:g}",
            found=f"gap {ended.row.gap:.3g}, gradient norm {ended.row.grad_norm:.3g} at iteration "
            f"{ended.row.iteration}; the run ended because: {ended.reason}",
            cause="too few iterations (`limit`), a step size that does not suit the problem, or a method that does not "
            "converge exactly (`gap`) or not for this loss (`not_on`)",
        )
    error = float(np.linalg.norm(ended.state.w - w))
    # |w - w*| <= |gradient| / l2 by strong convexity
    if not expected.gap and (
        abs(ended.row.loss - value) > 1e-13 * max(1.0, abs(value))
        or error > 1.01 * max(TOLERANCE, ended.row.grad_norm) / problem.l2
    ):
        raise CheckFailed(
            "the point that was found is not the optimum",
            where=WHERE[one],
            expected=f"P* = {value!r}",
            found=f"P = {ended.row.loss!r}, |w - w*| = {error:.3g}",
        )
    return f"{ended.row.iteration} iterations, {ended.row.rounds} rounds"


def check_descent(method: AnyMethod, problem: Problem, one: bool = False) -> str:
    """The objective falls at every iteration."""
    fleet = on_one(problem) if one else on_many(problem)
    fleet.adopt(method)
    losses: list[float] = []
    stops = [GradientBelow(TOLERANCE), Iterations(40)]
    run(method, fleet, problem.start, stops, watchers=[lambda row, _: losses.append(row.loss)])
    for iteration, (before, after) in enumerate(itertools.pairwise(losses), start=1):
        if not after <= before + 1e-14 * abs(before):
            raise CheckFailed(
                "the objective rises",
                where=f"{WHERE[one]}, iteration {iteration}",
                expected=f"<= {before!r}",
                found=after,
            )
    if len(losses) <= 3 or not losses[-1] < losses[0]:
        raise CheckFailed(
            "the objective does not fall", where=WHERE[one], expected=f"< {losses[0]!r}", found=losses[-1]
        )
    return f"from {losses[0]:.6g} to {losses[-1]:.6g} in {len(losses) - 1} iterations"
